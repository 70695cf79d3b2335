"""Real worker processes with the simulated engine: how a run may end, and what is left of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.energy.cgroup import Cgroups
from llenergymeasure.exceptions import ConfigError, ExperimentError, ExperimentTimeout
from llenergymeasure.measure.child import ChildWorker


def config(*, simulated: Mapping[str, object] | None = None, **changes: object) -> ExperimentConfig:
    return ExperimentConfig.model_validate(
        {
            "model": "any",
            "backend": "simulated",
            "n": 4,
            "dataset": {"name": "synthetic", "prompt_tokens": 16},
            "max_output_tokens": 8,
            "passes": {"seconds": 0.05},
            "warmup": {"max_seconds": 1.0},
            "simulated": {"load_s": 0.0, "decode_s_per_step": 1e-4, **(simulated or {})},
            **changes,
        }
    )


def worker(asked: ExperimentConfig, directory: Path) -> ChildWorker:
    return ChildWorker(asked, run_id="run", directory=directory)


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid)


def test_a_whole_run_in_a_process_of_its_own(tmp_path: Path) -> None:
    asked_to_go: list[int] = []
    with worker(config(), tmp_path) as child:
        ready = child.open()
        warm_up = child.warm_up()
        done = child.run_pass(1, lambda: asked_to_go.append(time.monotonic_ns()))
        facts = child.close()
        (pid,) = child.pids()
    assert pid != os.getpid()
    assert ready.facts.device == facts.device == "simulated"
    assert len(warm_up.batch_s) >= 3
    assert done.window.duration_s >= 0.05
    assert done.generation.output_tokens == done.walks * 4 * 8
    assert asked_to_go[0] <= done.window.start_ns
    assert not alive(pid)


def test_a_worker_has_a_cgroup_of_its_own_where_it_may_and_nothing_of_it_is_left(tmp_path: Path) -> None:
    if (probe := Cgroups().make()) is None:
        pytest.skip("no cgroup can be made here")
    probe.remove()
    with worker(config(), tmp_path) as child:
        child.open()
        (pid,) = child.pids()
        found = Cgroups().of_their_own([pid], [pid])
        assert found is not None
        assert found.pids() == {pid}
        assert 0.0 < (found.used_s() or 0.0) < 30.0
        child.fresh()
        assert not found.directory.exists()
        child.open()
    assert not list(found.directory.parent.glob(f"llem-{os.getpid()}-*"))


def test_walks_are_numbered_over_the_same_requests(tmp_path: Path) -> None:
    with worker(config(), tmp_path) as child:
        child.open()
        done = child.run_pass(1, lambda: None)
    assert done.walks > 1
    assert [(one.walk, one.index) for one in done.generation.completions[:8]] == [
        (walk, index) for walk in range(2) for index in [one.index for one in done.generation.completions[:4]]
    ]


def test_every_message_is_kept_in_order_with_its_time(tmp_path: Path) -> None:
    with worker(config(), tmp_path) as child:
        child.open()
        child.run_pass(1, lambda: None)
        child.close()
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    said = [event["message"].get("say") or event["message"]["do"] for event in events]
    assert said == ["hello", "open", "ready", "pass", "edge", "go", "pass_done", "close", "closed"]
    assert [event["t_ns"] for event in events] == sorted(event["t_ns"] for event in events)


def test_what_the_engine_prints_does_not_reach_the_protocol(tmp_path: Path) -> None:
    asked = config(simulated={"fault": {"kind": "error", "at": "open"}})
    with worker(asked, tmp_path) as child, pytest.raises(ExperimentError):
        child.open()
    assert "Traceback" in (tmp_path / "worker.log").read_text()


@pytest.mark.parametrize(
    ("kind", "expected", "says"),
    [("crash", "crash", "signal 9"), ("oom", "oom", "out of memory"), ("error", "error", "failed at open")],
)
def test_a_fault_while_loading_is_a_failure_of_its_kind(
    tmp_path: Path, kind: str, expected: str, says: str
) -> None:
    with worker(config(simulated={"fault": {"kind": kind, "at": "open"}}), tmp_path) as child:
        with pytest.raises(ExperimentError, match=says) as caught:
            child.open()
        (pid,) = child.pids()
    assert caught.value.failure is not None
    assert (caught.value.failure.kind, caught.value.failure.stage) == (expected, "load")
    assert not alive(pid)


def test_a_crash_in_the_middle_of_a_pass_names_the_stage(tmp_path: Path) -> None:
    with worker(config(simulated={"fault": {"kind": "crash", "at": "pass"}}), tmp_path) as child:
        child.open()
        child.warm_up()
        with pytest.raises(ExperimentError) as caught:
            child.run_pass(1, lambda: None)
    assert caught.value.failure is not None
    assert (caught.value.failure.kind, caught.value.failure.stage) == ("crash", "measure")


def test_a_hang_ends_at_the_timeout_and_leaves_nothing(tmp_path: Path) -> None:
    asked = config(timeout_s=2.0, simulated={"fault": {"kind": "hang", "at": "pass"}})
    with worker(asked, tmp_path) as child:
        child.open()
        child.warm_up()
        with pytest.raises(ExperimentTimeout, match="longer than 2 s"):
            child.run_pass(1, lambda: None)
        (pid,) = child.pids()
    assert not alive(pid)


def test_more_prompts_than_there_are_is_a_configuration_error_from_the_child_too(tmp_path: Path) -> None:
    with worker(config(n=100_000, dataset="mixed"), tmp_path) as child, pytest.raises(ConfigError):
        child.open()


def test_a_cancel_interrupts_a_long_sleep_at_once(tmp_path: Path) -> None:
    asked = config(simulated={"load_s": 60.0})
    began = time.monotonic()
    with worker(asked, tmp_path) as child:
        threading.Timer(0.8, os.kill, [os.getpid(), signal.SIGINT]).start()
        with pytest.raises(KeyboardInterrupt):
            child.open()
    assert time.monotonic() - began < 6
    assert not alive(child.pids()[0])


def test_the_worker_dies_with_its_parent(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import sys, pathlib
        from llenergymeasure.config.models import ExperimentConfig
        from llenergymeasure.measure.child import ChildWorker
        config = ExperimentConfig.model_validate(
            {"model": "any", "backend": "simulated", "n": 1, "simulated": {"load_s": 0.0}}
        )
        child = ChildWorker(config, run_id="run", directory=pathlib.Path(sys.argv[1]))
        child.open()
        print(child.pids()[0], flush=True)
        sys.stdin.read()
        """
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.kill()
        gone, _ = psutil.wait_procs([psutil.Process(pid)], timeout=10)
    assert [process.pid for process in gone] == [pid] or not alive(pid)
