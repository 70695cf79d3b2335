"""`llem run` as its user starts it: real processes, the real small model, real Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import psutil
import pyarrow.parquet as pq
import pytest

from llenergymeasure import ExperimentResult
from llenergymeasure.analysis.metrics import metrics
from llenergymeasure.energy.joules.pool import added, estimate
from llenergymeasure.energy.joules.silence import block_energy
from llenergymeasure.energy.recording.trace import read_trace
from llenergymeasure.measure.launch import is_worker
from llenergymeasure.measure.replay import read_measurements
from llenergymeasure.records import FailedRun
from llenergymeasure.results.schema import result_schema

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

LLEM = Path(sys.executable).with_name("llem")
QUICK = ["--set", "passes.seconds=0.5", "--set", "passes.count=2", "--set", "repeats.count=1"]
QUICK += ["--set", "baseline.seconds=0.3", "--set", "max_output_tokens=32"]


def repeated(count: int) -> list[str]:
    return [word if word != "repeats.count=1" else f"repeats.count={count}" for word in QUICK]


BOARD = "gpu:GPU-simulated-0"
SIMULATED = ["run", "-b", "simulated", "--model", "any", "-n", "4"]


def llem(*arguments: str, cwd: Path, scratch: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ if scratch is None else {**os.environ, "TMPDIR": str(scratch)}
    return subprocess.run(
        [LLEM, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def saved(directory: Path) -> Path:
    (folder,) = directory.iterdir()
    return folder


def test_the_real_small_model_is_measured_and_saved(tmp_path: Path) -> None:
    # One thread: two of them spin against whatever else the machine does.
    settings = (
        *("passes.seconds=0.2", "passes.count=1", "repeats.count=3", "baseline.seconds=0.3"),
        *("max_input_tokens=32", "max_output_tokens=8", "pytorch.threads=1"),
        *("warmup.max_seconds=0.5", "warmup.min_batches=1", "warmup.window=3"),
    )
    done = llem(
        *("run", "--model", "smollm2-135m", "-n", "2", "--batch-size", "2", "-o", "out"),
        *(word for one in settings for word in ("--set", one)),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    folder = saved(tmp_path / "out")
    assert f"Saved: out/{folder.name}" in done.stderr
    assert "estimated, not measured" in done.stdout
    result = ExperimentResult.load(folder)
    assert result.tokens.output == result.tokens.requests * 8
    assert result.tokens.pinned_ok is True
    assert result.session.parameters == 134_515_008
    assert result.energy.method == "modelled"
    assert result.energy.total.value is not None
    assert result.energy.total.systematic is not None
    assert result.energy.per_output_token.low is not None
    assert [run.outcome for run in result.runs] == ["measured"] * 3
    assert len({run.started_at.monotonic_ns for run in result.runs if run.started_at}) == 3
    assert result.energy.replicates is not None
    assert (result.energy.replicates.unit, result.energy.replicates.count) == ("run", 3)
    assert result.energy.prefill.value is not None
    assert 0 < result.energy.prefill.value < (result.energy.decode.value or 0)
    assert result.performance.output_tokens_per_second.value is not None
    assert result.performance.flops.total is not None
    assert result.memory.peak_bytes is not None
    assert result.memory.peak_bytes > 269_000_000
    assert result.origins["model"] == "flag"
    jsonschema.validate(json.loads((folder / "result.json").read_text()), result_schema())


def test_json_is_all_that_stdout_holds(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    done = llem(*SIMULATED, *QUICK, "--json", cwd=tmp_path, scratch=scratch)
    assert done.returncode == 0, done.stderr
    assert list(scratch.iterdir()) == []
    scratch.rmdir()
    result = json.loads(done.stdout)
    assert result["simulated"] is True
    assert result["energy"]["boundary"] == "gpu"
    assert list(tmp_path.iterdir()) == []


def test_the_stored_trace_gives_the_stored_energy_again(tmp_path: Path) -> None:
    assert llem(*SIMULATED, *repeated(2), "-o", "out", cwd=tmp_path).returncode == 0
    folder = saved(tmp_path / "out")
    result = ExperimentResult.load(folder)
    assert {path.name for path in folder.iterdir()} == {"result.json", "runs"}
    measurements = read_measurements(folder, [1, 2])
    spent = []
    for run in measurements:
        files = folder / "runs" / str(run.index)
        assert {path.name for path in files.iterdir()} == {
            "power.parquet",
            "events.jsonl",
            "requests.parquet",
            "worker.log",
        }
        walked = [one for block in run.blocks for each in block.passes for one in each.generation.completions]
        assert pq.read_table(files / "requests.parquet").num_rows == len(walked)
        trace = read_trace(files / "power.parquet")
        for block in run.blocks:
            assert block.before is not None
            assert block.after is not None
            if block.kind == "full":
                windows = [one.window for one in block.passes]
                spent.append(
                    block_energy(trace, BOARD, before=block.before, passes=windows, after=block.after)
                )
    assert estimate(added(spent)) == result.energy.total
    assert metrics(measurements) == result
    told = llem("recompute", str(folder), cwd=tmp_path)
    assert told.returncode == 0
    assert "values are the same" in told.stdout
    requests = folder / "runs" / "2" / "requests.parquet"
    table = pq.read_table(requests)
    pq.write_table(table.slice(1), requests)
    told = llem("recompute", str(folder), cwd=tmp_path)
    assert told.returncode == 1
    assert "runs/2/requests.parquet does not hold" in told.stderr
    pq.write_table(table, requests)
    changed = json.loads((folder / "result.json").read_text())
    changed["tokens"]["output"] += 1
    (folder / "result.json").write_text(json.dumps(changed))
    told = llem("recompute", str(folder / "result.json"), cwd=tmp_path)
    assert f"tokens.output: {result.tokens.output + 1} → {result.tokens.output}" in told.stdout
    assert told.returncode == 1
    assert "do not belong together" in told.stderr
    changed["environment"]["llem"] = "0.0.1"
    (folder / "result.json").write_text(json.dumps(changed))
    assert llem("recompute", str(folder), cwd=tmp_path).returncode == 1  # its events know better
    version = result.environment.llem
    for events in folder.glob("runs/*/events.jsonl"):
        events.write_text(events.read_text().replace(f'"llem":"{version}"', '"llem":"0.0.1"'))
    told = llem("recompute", str(folder), cwd=tmp_path)
    assert "(it was written by v0.0.1)" in told.stdout
    assert told.returncode == 0


def test_a_run_without_its_files_can_t_be_computed_again(tmp_path: Path) -> None:
    assert llem(*SIMULATED, "--preset", "smoke", "-o", "out", cwd=tmp_path).returncode == 0
    folder = saved(tmp_path / "out")
    run = folder / "runs" / "1"
    events = run / "events.jsonl"
    whole = events.read_text()
    events.write_text(whole.replace("\n", "\n{torn\n", 1))
    told = llem("recompute", str(folder), cwd=tmp_path)
    assert (told.returncode, "events.jsonl is damaged in line 2" in told.stderr) == (1, True)
    events.write_text(whole)
    for missing in ("events.jsonl", "power.parquet"):
        aside = (run / missing).rename(tmp_path / missing)
        told = llem("recompute", str(folder), cwd=tmp_path)
        assert told.returncode == 1
        assert missing in told.stderr
        aside.rename(run / missing)


@pytest.mark.parametrize(
    ("at", "kind", "code"), [("open", "oom", 1), ("warmup", "error", 1), ("pass", "crash", 1)]
)
def test_a_fault_in_the_engine_is_one_clear_error(tmp_path: Path, at: str, kind: str, code: int) -> None:
    done = llem(
        *SIMULATED,
        *QUICK,
        *("-o", "out", "--set", f"simulated.fault.kind={kind}", "--set", f"simulated.fault.at={at}"),
        cwd=tmp_path,
    )
    assert done.returncode == code
    assert "ExperimentError: " in done.stderr
    assert "Traceback" not in done.stderr
    if kind == "crash":
        assert "in its measure stage" in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "out").exists()


def test_a_hang_ends_at_the_timeout_with_124(tmp_path: Path) -> None:
    done = llem(
        *SIMULATED,
        *QUICK,
        *("--set", "timeout_s=4", "--set", "simulated.fault.kind=hang", "--set", "simulated.fault.at=pass"),
        cwd=tmp_path,
    )
    assert done.returncode == 124
    assert done.stderr.splitlines()[-2].startswith("ExperimentTimeout: ")


def test_a_run_that_crashes_after_another_was_measured_is_named_and_exits_1(tmp_path: Path) -> None:
    """Another process ends the worker of the second run as soon as there is one."""
    with subprocess.Popen(
        [LLEM, *SIMULATED, *repeated(3), "-o", "out"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        second = nth_worker(run.pid, 2)
        second.send_signal(signal.SIGKILL)
        _, err = run.communicate(timeout=90)
    assert run.returncode == 1, err
    assert "run 2 failed" in err
    assert "Traceback" not in err
    result = ExperimentResult.load(saved(tmp_path / "out"))
    assert [one.outcome for one in result.runs] == ["measured", "failed", "measured"]
    assert "signal 9" in (result.runs[1].reason or "")
    assert result.energy.per_output_token.value is not None
    assert result.energy.per_output_token.reason == "2 repetitions: an interval needs 3"
    assert (
        metrics(
            read_measurements(saved(tmp_path / "out"), [1, 3]),
            failed=[FailedRun(2, result.runs[1].reason or "")],
        )
        == result
    )


def nth_worker(parent: int, number: int) -> psutil.Process:
    """The worker that is the `number`th of those that this process starts one after another."""
    seen: dict[int, psutil.Process] = {}
    until = time.monotonic() + 60
    while time.monotonic() < until:
        for child in psutil.Process(parent).children():
            if child.pid not in seen and is_worker(child.pid):
                seen[child.pid] = child
        if len(seen) >= number:
            return list(seen.values())[number - 1]
        time.sleep(0.02)
    raise AssertionError(f"{len(seen)} workers were seen")


def test_a_worker_whose_parent_is_killed_in_a_silence_goes_with_it(tmp_path: Path) -> None:
    settings = ("baseline.seconds=0", "warmup.max_seconds=0.1", "simulated.counter_step_s=60")
    with subprocess.Popen(
        [LLEM, *SIMULATED, "-o", "out", *(word for one in settings for word in ("--set", one))],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as run:
        worker = nth_worker(run.pid, 1)
        log = wait_for_event(tmp_path / "out", '"say":"edge"')
        assert '"do":"go"' not in log.read_text()
        run.kill()
    gone, _ = psutil.wait_procs([worker], timeout=10)
    assert gone == [worker]


def wait_for_event(out: Path, event: str) -> Path:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        for log in out.glob("*/runs/1.part/events.jsonl"):
            if event in log.read_text():
                return log
        time.sleep(0.01)
    raise AssertionError(f"no {event}")


@pytest.mark.parametrize(
    ("phase", "settings"),
    [
        ("bare idle", {"baseline.seconds": "60"}),
        ("loading", {"baseline.seconds": "0", "simulated.load_s": "60"}),
        ("warming up", {"baseline.seconds": "0", "warmup.variation": "1e-9", "warmup.max_seconds": "60"}),
        ("a pass", {"baseline.seconds": "0", "warmup.max_seconds": "0.1", "passes.seconds": "60"}),
        (
            "a silence",
            {"baseline.seconds": "0", "warmup.max_seconds": "0.1", "simulated.counter_step_s": "60"},
        ),
    ],
)
def test_ctrl_c_ends_with_130_and_leaves_nothing(
    tmp_path: Path, phase: str, settings: dict[str, str]
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    pairs = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    with subprocess.Popen(
        [LLEM, *SIMULATED, "-o", "out", *pairs],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(scratch)},
        text=True,
    ) as run:
        time.sleep(3)
        workers = psutil.Process(run.pid).children(recursive=True)
        run.send_signal(signal.SIGINT)
        out, err = run.communicate(timeout=20)
    assert run.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    assert bool(workers) == (phase != "bare idle")
    assert not any(worker.is_running() for worker in workers)
    assert list(scratch.iterdir()) == []
    assert not (tmp_path / "out").exists()


def test_two_runs_into_one_directory_keep_apart(tmp_path: Path) -> None:
    arguments: list[str | Path] = [LLEM, *SIMULATED, *QUICK, "-o", "out"]
    runs = [
        subprocess.Popen(arguments, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    errors = [run.communicate(timeout=60)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], errors
    results = [ExperimentResult.load(folder) for folder in (tmp_path / "out").iterdir()]
    assert len({result.experiment_id for result in results}) == 2
    assert len({result.config_hash for result in results}) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_request_to_end_cleans_up_too(tmp_path: Path, number: signal.Signals) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with subprocess.Popen(
        [LLEM, *SIMULATED, "--set", "simulated.load_s=60", "--set", "baseline.seconds=0"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(scratch)},
        text=True,
    ) as run:
        time.sleep(3)
        workers = psutil.Process(run.pid).children(recursive=True)
        run.send_signal(number)
        _, err = run.communicate(timeout=20)
    assert run.returncode == 128 + number
    assert number.name in err
    assert workers
    assert not any(worker.is_running() for worker in workers)
    assert list(scratch.iterdir()) == []


def test_a_stdout_that_is_full_is_an_error_and_no_bug(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [LLEM, *SIMULATED, "--dry-run"], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 1
    assert done.stderr.startswith(b"ResultError: stdout can't be written: No space left on device")


@pytest.mark.parametrize(("arguments", "code"), [(["-n", "1000"], 2), (["-d", "nofile.jsonl"], 2)])
def test_a_dry_run_refuses_a_dataset_that_the_run_would_refuse(
    tmp_path: Path, arguments: list[str], code: int
) -> None:
    done = llem("run", "-b", "simulated", "-m", "any", "--dry-run", *arguments, cwd=tmp_path)
    assert done.returncode == code
    assert done.stderr.startswith("ConfigError: ")


def test_a_dry_run_tells_what_the_backend_would_refuse(tmp_path: Path) -> None:
    asked = ("--set", "pytorch.compile_mode=default")
    done = llem("run", "-m", "random:gpt2", *asked, "--dry-run", cwd=tmp_path)
    assert done.returncode == 0
    assert (
        "This run would be refused: backend pytorch: pytorch.compile_mode is default, but pytorch.compile"
        in done.stdout
    )
