"""Studies as their user starts them: real processes that crash, hang, are killed and interrupted."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

import llenergymeasure
from llenergymeasure.config.flat import leaves
from llenergymeasure.results import ExperimentResult
from llenergymeasure.results.study import StudyResult
from llenergymeasure.study import ledger, start
from llenergymeasure.study.ledger import Begun, Done

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

LLEM = Path(sys.executable).with_name("llem")
BASE = """\
model: any
backend: simulated
n: 2
max_input_tokens: 16
max_output_tokens: 8
passes: {seconds: 0.3, count: 1, prefill: 0}
repeats: {count: 1}
baseline: {seconds: 0}
warmup: {min_batches: 0, window: 3}
simulated: {counter_step_s: 0.01, load_s: 0.05}
"""
SEEDS = f"{BASE}sweep:\n  random_seed: [1, 2, 3]\n"
FAULTS = f"""\
{BASE}timeout_s: 15
execution: {{retries: 0}}
experiments:
- {{name: whole, random_seed: 1}}
- {{name: crash, simulated.fault: {{kind: crash}}}}
- {{name: hang, simulated.fault: {{kind: hang}}}}
- {{name: oom, simulated.fault: {{kind: oom}}}}
- {{name: error, simulated.fault: {{kind: error}}}}
"""


def llem(*arguments: str, cwd: Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [LLEM, *arguments], cwd=cwd, input=stdin, capture_output=True, text=True, check=False
    )


@contextmanager
def begun(*arguments: str, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [LLEM, *arguments], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def written(folder: Path, text: str) -> Path:
    (folder / "grid.yaml").write_text(text)
    return folder / "results" / "grid"


def wait(is_so: Callable[[], bool]) -> None:
    while not is_so():
        time.sleep(0.05)


def done(folder: Path) -> list[tuple[str, int]]:
    return [(one.experiment, one.repeat) for one in ledger.read(folder) if isinstance(one, Done)]


def children(folder: Path) -> list[int]:
    """The processes of runs of the study in that folder."""
    return [
        process.info["pid"]
        for process in psutil.process_iter(["pid", "cmdline"])
        if any(word.startswith(str(folder / "tasks")) for word in process.info["cmdline"] or ())
    ]


def test_every_kind_of_failure_is_told_apart_and_takes_no_other_run_away(tmp_path: Path) -> None:
    folder = written(tmp_path, FAULTS)
    ran = llem("run", "grid.yaml", "-o", str(folder.parent), "--json", cwd=tmp_path)
    assert ran.returncode == 3, ran.stderr
    rows = json.loads(ran.stdout)["rows"]
    assert {row["label"]: [one["kind"] for one in row["failures"]] for row in rows} == {
        "whole": [],
        "crash": ["crash"],
        "hang": ["timeout"],
        "oom": ["oom"],
        "error": ["error"],
    }
    assert [row["outcome"] for row in rows] == ["done", *["failed"] * 4]
    assert children(folder) == []
    shown = llem("show", "results/grid", "--format", "csv", cwd=tmp_path).stdout.splitlines()
    assert len(shown) == 6
    (entry,) = json.loads(llem("list", "--json", cwd=tmp_path).stdout)
    assert (entry["kind"], entry["state"], entry["what"]) == (
        "study",
        "done, 4 failed",
        "1 of 5 runs of 5 experiments",
    )


def test_a_study_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    folder = written(tmp_path, SEEDS)
    with begun("run", "grid.yaml", "-o", str(folder.parent), "-q", cwd=tmp_path) as process:
        wait(lambda: bool(done(folder)))
        wait(lambda: bool(children(folder)))
        process.send_signal(signal.SIGKILL)
        process.wait()
    # The run in flight ends with the process that started it.
    wait(lambda: children(folder) == [])
    assert 1 <= len(done(folder)) < 3
    again = llem("run", "grid.yaml", "-o", str(folder.parent), "-q", cwd=tmp_path)
    assert (again.returncode, "--resume" in again.stderr) == (1, True)
    resumed = llem("run", "grid.yaml", "-o", str(folder.parent), "-q", "--resume", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert len(done(folder)) == len(set(done(folder))) == 3
    for row in StudyResult.load(folder).rows:
        assert row.outcome == "done"
        assert len(ExperimentResult.load(folder / str(row.folder)).measured) == 1
    assert not list(folder.rglob("*.part"))


def test_ctrl_c_ends_the_run_in_flight_and_a_running_study_can_be_watched(tmp_path: Path) -> None:
    # Long enough for the others to look.
    folder = written(tmp_path, SEEDS.replace("seconds: 0.3", "seconds: 4"))
    with begun("run", "grid.yaml", "-o", str(folder.parent), cwd=tmp_path) as process:
        wait(lambda: bool(done(folder)))
        (entry,) = json.loads(llem("list", "--json", cwd=tmp_path).stdout)
        assert (entry["name"], entry["state"]) == ("grid", "running")
        assert entry["what"] in {"1 of 3 runs of 3 experiments", "2 of 3 runs of 3 experiments"}
        second = llem("run", "grid.yaml", "-o", str(folder.parent), "--resume", cwd=tmp_path)
        assert second.returncode == 1
        assert f"process {process.pid} on " in second.stderr
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
        assert process.returncode == 130
    assert "--resume" in err
    assert children(folder) == []
    assert 1 <= len(done(folder)) < 3
    outcomes = Counter(row.outcome for row in StudyResult.load(folder).rows)
    assert outcomes == {"done": len(done(folder)), "pending": 3 - len(done(folder))}
    assert llem("run", "grid.yaml", "-o", str(folder.parent), "-q", "--resume", cwd=tmp_path).returncode == 0
    assert len(done(folder)) == len(set(done(folder))) == 3


def test_what_the_interface_gives_is_what_the_command_line_gives(tmp_path: Path) -> None:
    written(tmp_path, f"{SEEDS}output_dir: {tmp_path}/api\n")
    steps: list[str] = []
    study = llenergymeasure.run_study(
        tmp_path / "grid.yaml", progress=lambda step: steps.append(step.said), remark=steps.append
    )
    assert [step.partition(" ")[0] for step in steps] == ["begins", "measured"] * 3
    ran = llem("run", "grid.yaml", "-o", "results", "-q", "--json", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    theirs = StudyResult.load(tmp_path / "results" / "grid")
    assert study == StudyResult.load(tmp_path / "api" / "grid")
    assert (theirs.identity, theirs.name, theirs.left_out) == (study.identity, study.name, study.left_out)
    assert [(row.label, row.hash, row.varied, row.outcome) for row in theirs.rows] == [
        (row.label, row.hash, row.varied, row.outcome) for row in study.rows
    ]


def test_a_part_of_a_study_in_another_order_ends_well(tmp_path: Path) -> None:
    folder = written(tmp_path, SEEDS.replace("count: 1}\nbase", "count: 2}\nbase"))
    ran = llem(
        *("run", "grid.yaml", "-o", "results", "--only", "random_seed=[13]", "--order", "sequential"),
        cwd=tmp_path,
    )
    assert ran.returncode == 0, ran.stderr
    assert "2 of 3 experiments done" in ran.stdout
    labels = {one.hash: one.label for one in StudyResult.load(folder).rows}
    turns = [(labels[one.experiment], one.repeat) for one in ledger.read(folder) if isinstance(one, Begun)]
    assert turns == [(f"random_seed={seed}", repeat) for seed in (1, 3) for repeat in (1, 2)]


def test_nothing_is_run_or_written_for_a_preview(tmp_path: Path) -> None:
    written(tmp_path, f"{SEEDS}exclude: [{{random_seed: 2}}]\n")
    ran = llem("run", "grid.yaml", "-o", "results", "--dry-run", "--json", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert [one["label"] for one in found["experiments"]] == ["random_seed=1", "random_seed=3"]
    assert [one["kind"] for one in found["left_out"]] == ["excluded"]
    assert found["expected_s"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["grid.yaml"]


def test_a_study_that_could_not_be_stored_does_not_begin(tmp_path: Path) -> None:
    written(tmp_path, SEEDS)
    ran = llem("run", "grid.yaml", cwd=tmp_path)
    assert (ran.returncode, ran.stdout, "--output" in ran.stderr) == (2, "", True)


@pytest.mark.parametrize(
    "flags",
    [
        ["--no-gaps", "--set", "execution.gaps=5"],
        ["--order", "shuffled", "--set", "execution.order=balanced"],
        ["--executor", "ray", "--set", "execution.executor=slurm"],
        ["--executor", "ray", "--set", "execution.parallel=per-gpu"],
        ["--set", "random_seed=4"],
    ],
)
def test_flags_that_contradict_each_other_or_the_study_are_refused(tmp_path: Path, flags: list[str]) -> None:
    written(tmp_path, SEEDS)
    ran = llem("run", "grid.yaml", "-o", "results", *flags, cwd=tmp_path)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert not (tmp_path / "results").exists()


def test_a_study_may_come_on_stdin(tmp_path: Path) -> None:
    text = SEEDS.replace("[1, 2, 3]", "[1]")
    ran = llem("run", "-", "-o", "results", "-q", "--json", cwd=tmp_path, stdin=text)
    assert ran.returncode == 0, ran.stderr
    (folder,) = (tmp_path / "results").iterdir()
    assert folder.name == f"study-{json.loads(ran.stdout)['identity'][:8]}"
    again = llem("run", "-", "-o", "results", "-q", "--resume", cwd=tmp_path, stdin=text)
    assert again.returncode == 0, again.stderr
    assert len(done(folder)) == 1


@pytest.mark.parametrize(
    ("flags", "key", "values"),
    [
        (["--set", "n=2,4"], "n", [2, 4]),
        (["-n", "2,4", "--batch-size", "1"], "n", [2, 4]),
        (["-n", "[2, 4]"], "n", [2, 4]),
        (["-n", "2-8*2"], "n", [2, 4, 8]),
        (["--batch-size", "1,2"], "simulated.batch_size", [1, 2]),
        (["-p", "bf16,fp32", "-n", "4"], "precision", ["bf16", "fp32"]),
        (["--model", "one,two"], "model", ["one", "two"]),
        (["--backend", "simulated,pytorch", "--batch-size", "2"], "backend", ["simulated", "pytorch"]),
        (["--dataset", "mixed,synthetic"], "dataset.name", ["mixed", "synthetic"]),
    ],
)
def test_several_values_on_the_command_line_give_the_study_file_that_sweeps_them(
    tmp_path: Path, flags: list[str], key: str, values: list[object]
) -> None:
    (tmp_path / "one.yaml").write_text(BASE)
    refused = llem("run", "one.yaml", *flags, cwd=tmp_path)
    assert refused.returncode == 2
    (tmp_path / "study.yaml").write_text(refused.stdout)
    plan = start.planned(tmp_path / "study.yaml")
    settings = [dict(leaves(one.config.model_dump(mode="json"))) for one in plan.experiments]
    assert [one[key] for one in settings] == values
    assert not plan.left_out


def test_one_value_that_is_no_number_is_no_study(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(BASE)
    for flags in (["-n", "many"], ["-n", "1x"], ["-n", "4,"], ["--batch-size", "2", "--set", "n=0"]):
        refused = llem("run", "one.yaml", *flags, cwd=tmp_path)
        assert (refused.returncode, refused.stdout) == (2, ""), flags
