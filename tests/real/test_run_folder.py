"""What is left, and what is said, where a run is interrupted or killed, or its disk fills: real processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from llenergymeasure import ExperimentResult, ResultError
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.results.folder import parts, whole_runs
from llenergymeasure.results.history import earlier_results

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

LLEM = Path(sys.executable).with_name("llem")
RUN = ["run", "-b", "simulated", "-m", "any", "-n", "4"]
SETTINGS = ("passes.seconds=1", "passes.count=2", "baseline.seconds=0", "simulated.load_s=0")
WARM, BLOCK = '"say":"warm"', '"say":"measured"'


@dataclass
class Ended:
    code: int
    out: str
    err: str


def arguments(repeats: int, *settings: str) -> list[str]:
    pairs = (*SETTINGS, f"repeats.count={repeats}", "warmup.max_seconds=1", *settings)
    return [*RUN, *(word for pair in pairs for word in ("--set", pair))]


@dataclass
class Running:
    """A run of llem, and the folder below which its files lie."""

    process: subprocess.Popen[str]
    root: Path

    def reach(self, event: str, *, run: int) -> Path:
        """Wait until that run has got so far; returns its folder."""
        until = time.monotonic() + 90
        while time.monotonic() < until:
            for log in self.root.rglob(f"runs/{run}.part/events.jsonl"):
                if event in log.read_text():
                    return log.parent
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.01)
        raise AssertionError(f"run {run} did not come to {event}")

    def end(self, number: signal.Signals | None = None) -> Ended:
        if number is not None:
            self.process.send_signal(number)
        out, err = self.process.communicate(timeout=120)
        return Ended(self.process.returncode, out, err)


def start(cwd: Path, *words: str, root: Path) -> Running:
    process = subprocess.Popen(
        [LLEM, *words],
        cwd=cwd,
        env={**os.environ, "TMPDIR": str(cwd)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return Running(process, root)


def llem(cwd: Path, *words: str | Path) -> Ended:
    done = subprocess.run([LLEM, *words], cwd=cwd, capture_output=True, text=True, check=False, timeout=120)
    return Ended(done.returncode, done.stdout, done.stderr)


def only(folder: Path) -> Path:
    (found,) = folder.iterdir()
    return found


@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")])
def test_an_interruption_in_a_later_run_keeps_those_that_were_whole(
    tmp_path: Path, number: signal.Signals, name: str
) -> None:
    out = tmp_path / "out"
    run = start(tmp_path, *arguments(3), "-o", "out", root=out)
    run.reach(WARM, run=2)
    done = run.end(number)
    folder = only(out)
    assert done.code == 128 + number
    assert f"Saved: out/{folder.name}" in done.err
    assert "Traceback" not in done.err
    result = ExperimentResult.load(folder)
    assert [(one.index, one.outcome, one.reason) for one in result.runs] == [
        (1, "measured", None),
        (2, "interrupted", name),
    ]
    assert "interrupted" in {one.code for one in result.warnings}
    assert result.energy.per_output_token.value is not None
    told = llem(tmp_path, "recompute", folder)
    assert (told.code, "values are the same" in told.out) == (0, True)
    assert str(folder / "runs" / "2.part") in told.err
    assert [one.name for one in tmp_path.iterdir()] == ["out"]


def test_without_an_output_directory_an_interruption_says_what_was_discarded(tmp_path: Path) -> None:
    run = start(tmp_path, *arguments(3), root=tmp_path)
    run.reach(WARM, run=2)
    done = run.end(signal.SIGINT)
    assert (done.code, done.out) == (130, "")
    assert "1 of 3" in done.err
    assert "--output" in done.err
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_in_the_first_run_leaves_its_whole_blocks_and_says_so(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = start(tmp_path, *arguments(1), "-o", "out", root=out)
    run.reach(BLOCK, run=1)
    done = run.end(signal.SIGINT)
    folder = only(out)
    assert done.code == 130
    assert f"llem recompute out/{folder.name}" in done.err
    assert [path.name for path in folder.iterdir()] == ["runs"]
    assert_a_block_is_read(tmp_path, folder)


def assert_a_block_is_read(cwd: Path, folder: Path) -> None:
    """From the folder of the experiment and from that of the run, which never become a result."""
    for place in (folder, folder / "runs" / "1.part"):
        told = llem(cwd, "recompute", place, "--json")
        assert told.code == 0, told.err
        shown = json.loads(told.out)
        (one,) = shown["runs"]
        assert len(one["window"]["passes"]) == 2
        assert shown["energy"]["per_output_token"]["value"] > 0
        assert "interrupted" in {warning["code"] for warning in shown["warnings"]}
        assert llem(cwd, "recompute", place, "--save").code == 1
    assert not list(folder.rglob("result.json"))


def test_what_a_killed_run_left_is_named_read_and_never_taken_for_a_result(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = start(tmp_path, *arguments(3), "-o", "out", root=out)
    part = run.reach(WARM, run=2)
    live = llem(tmp_path, "recompute", part.parents[1])
    assert (live.code, "go on" in live.err) == (1, True)
    assert run.end(signal.SIGKILL).code == -signal.SIGKILL
    folder = only(out)
    assert (whole_runs(folder), parts(folder)) == ((1,), (folder / "runs" / "2.part",))
    queries: list[list[str | Path]] = [["show", folder], ["show", part], ["compare", folder, folder]]
    for words in queries:
        refused = llem(tmp_path, *words)
        assert (refused.code, refused.out) == (1, "")
        assert "llem recompute" in refused.err
    with pytest.raises(ResultError):
        ExperimentResult.load(part)
    config = ExperimentConfig(model="any", backend="simulated", output_dir=out)
    assert earlier_results(config, os.uname().nodename) == ()

    beside = start(tmp_path, *arguments(1), "-o", "out", root=out).end()
    assert beside.code == 0, beside.err
    assert part.is_dir()
    assert len(earlier_results(config, os.uname().nodename)) == 1

    told = llem(tmp_path, "recompute", part)
    assert (told.code, "no whole block" in told.err) == (1, True)
    told = llem(tmp_path, "recompute", folder)
    assert (told.code, "2.part" in told.err) == (0, True)
    assert not (folder / "result.json").exists()
    assert llem(tmp_path, "recompute", folder, "--save").code == 0
    result = ExperimentResult.load(folder)
    assert [(one.index, one.outcome) for one in result.runs] == [(1, "measured"), (2, "interrupted")]
    told = llem(tmp_path, "recompute", folder)
    assert (told.code, "values are the same" in told.out) == (0, True)


def test_a_run_killed_after_a_block_can_be_read_up_to_there(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = start(tmp_path, *arguments(1), "-o", "out", root=out)
    run.reach(BLOCK, run=1)
    run.end(signal.SIGKILL)
    events = only(out) / "runs" / "1.part" / "events.jsonl"
    with events.open("a") as file:
        file.write('{"t_ns": 1, "from": "worker", "mess')
    assert_a_block_is_read(tmp_path, only(out))


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own that takes a run, and can be filled in a moment."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=56m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path) -> Path:
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return filler


def test_a_disk_that_fills_in_the_first_run_is_named_and_whole_blocks_are_read(
    tmp_path: Path, small: Path
) -> None:
    run = start(tmp_path, *arguments(1), "-o", "small/out", root=small)
    run.reach(BLOCK, run=1)
    filler = fill(small)
    done = run.end()
    assert (done.code, done.out) == (1, "")
    assert "No space left on device" in done.err
    assert f"mounted on {small}" in done.err
    assert "bug" not in done.err
    filler.unlink()
    assert_a_block_is_read(tmp_path, only(small / "out"))


def test_a_disk_that_fills_later_loses_no_whole_run_and_the_command_finishes_the_job(
    tmp_path: Path, small: Path
) -> None:
    run = start(tmp_path, *arguments(2), "-o", "small/out", "--json", root=small)
    run.reach(WARM, run=2)
    filler = fill(small)
    done = run.end()
    assert done.code == 1
    assert done.err.count("No space left on device") == 2  # of run 2, and of the result
    assert "bug" not in done.err
    shown = json.loads(done.out)
    assert [one["outcome"] for one in shown["runs"]] == ["measured", "failed"]
    filler.unlink()
    command = done.err.partition("hint: ")[2].partition("then: ")[2]
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    folder = only(small / "out")
    assert json.loads((folder / "result.json").read_text()) == shown
    assert llem(tmp_path, "recompute", folder).code == 0


FULL = """
from contextlib import contextmanager

class Backend:
    def why_unavailable(self):
        return None
    def why_refused(self, config):
        return None
    @contextmanager
    def open(self, config):
        with open("/dev/full", "w") as file:
            file.write("kernels")
        yield
"""


def test_an_engine_whose_disk_is_full_names_that_disk(tmp_path: Path) -> None:
    about = tmp_path / "site" / "llem_full-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: llem-full\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[llenergymeasure.backends]\nfull = llem_full:Backend\n")
    (about.parent / "llem_full.py").write_text(FULL)
    path = os.pathsep.join(filter(None, [str(about.parent), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [
            LLEM,
            "run",
            "-b",
            "full",
            "-m",
            "random:gpt2",
            "-n",
            "2",
            "-o",
            "out",
            "--set",
            "baseline.seconds=0",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, "TMPDIR": str(about.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"can't be written to {about.parent}" in done.stderr
    assert "No space left on device (disk " in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("how", ["full", "closed"])
def test_a_stdout_that_takes_nothing_loses_no_result(tmp_path: Path, how: str) -> None:
    redirected = {"full": ">/dev/full", "closed": ">&-"}[how]
    line = f'"$@" {redirected}'
    done = subprocess.run(
        ["sh", "-c", line, "sh", LLEM, *arguments(1), "-o", "out", "--json"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == (1 if how == "full" else 0), done.stderr
    assert "Traceback" not in done.stderr
    assert ExperimentResult.load(only(tmp_path / "out")).energy.total.value is not None


def test_a_result_without_an_output_directory_says_that_its_traces_are_gone(tmp_path: Path) -> None:
    code = """
import llenergymeasure as llem
config = dict(model="any", backend="simulated", n=4, repeats={"count": 1}, baseline={"seconds": 0},
              passes={"seconds": 1.0, "count": 2}, warmup={"max_seconds": 1.0})
bare = llem.run_experiment(llem.ExperimentConfig(**config))
print(bare.save("later"))
kept = llem.run_experiment(llem.ExperimentConfig(**config, output_dir="kept"))
print(kept.save("kept"))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    later, kept = (tmp_path / line for line in done.stdout.split())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "later"]
    assert [path.name for path in later.iterdir()] == ["result.json"]
    assert sorted(path.name for path in kept.iterdir()) == ["result.json", "runs"]
    assert "no traces are kept" in " ".join(ExperimentResult.load(later).notes)
    assert "no traces are kept" not in " ".join(ExperimentResult.load(kept).notes)


# Queries


def snapshot(root: Path) -> dict[str, tuple[int, int]]:
    """Every path with its time and size: a file that comes and goes changes the time of its folder."""
    found = {str(path): path.lstat() for path in [root, *root.rglob("*")]}
    return {name: (one.st_mtime_ns, one.st_size) for name, one in found.items()}


@pytest.mark.parametrize(
    "words",
    [
        ["run", "-b", "simulated", "-m", "any", "--dry-run", "-o", "out"],
        ["run", "-m", "random:gpt2", "--dry-run", "--json"],
        ["run", "-b", "llamacpp", "-m", "random:gpt2", "--dry-run"],
        ["show", "a"],
        ["show", "a", "--uncertainty", "--json"],
        ["compare", "a", "b", "--allow", "single_process"],
        ["recompute", "a"],
        ["recompute", "a/runs/1"],
        ["doctor"],
        ["doctor", "--simulated", "--json"],
        ["--version"],
    ],
    ids=" ".join,
)
def test_a_query_writes_nothing_anywhere(tmp_path: Path, words: list[str], stored: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(stored, tmp_path / name)
    result = json.loads((tmp_path / "b" / "result.json").read_text())
    (tmp_path / "b" / "result.json").write_text(json.dumps({**result, "experiment_id": "other"}))
    places = ["HOME", "TMPDIR", "LLEM_LOCK_DIR", "LLEM_CACHE_DIR", "HF_HOME"]
    places += ["XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"]
    env = {**os.environ, **{name: str(tmp_path / name.lower()) for name in places}}
    for name in places[:2]:
        Path(env[name]).mkdir()
    before = snapshot(tmp_path)
    done = subprocess.run(
        [LLEM, *words],
        cwd=tmp_path,
        env={**env, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr
    assert snapshot(tmp_path) == before


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a saved result."""
    cwd = tmp_path_factory.mktemp("stored")
    assert llem(cwd, *arguments(1), "-o", "out").code == 0
    return only(cwd / "out")
