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
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
import pytest

from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.energy.meters.cgroup import Cgroups
from llenergymeasure.exceptions import ConfigError, ExperimentError, ExperimentTimeout
from llenergymeasure.measure.child import ChildWorker
from llenergymeasure.measure.launch import WORKER_MODULE, Launch
from llenergymeasure.records import BlockKind, Pass


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


def nothing() -> None:
    pass


def block(child: ChildWorker, kind: BlockKind = "full", passes: int = 1) -> tuple[Pass, ...]:
    return child.run_block(kind, passes, before=nothing, edge=nothing, after=nothing)


def open_and_run(child: ChildWorker) -> None:
    child.open()
    block(child)


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid)


def test_a_whole_run_in_a_process_of_its_own(tmp_path: Path) -> None:
    silences: list[int] = []
    edges: list[int] = []

    def note() -> None:
        silences.append(time.monotonic_ns())

    def edge() -> None:
        edges.append(time.monotonic_ns())

    with worker(config(), tmp_path) as child:
        ready = child.open()
        warm_up = child.warm_up()
        passes = child.run_block("full", 3, before=note, edge=edge, after=note)
        prefill = child.run_block("prefill", 2, before=note, edge=edge, after=note)
        facts = child.close()
        (pid,) = child.pids()
    assert pid != os.getpid()
    assert ready.facts.device == facts.device == "simulated"
    assert len(warm_up.batch_s) >= 3
    for done in passes:
        assert done.window.duration_s >= 0.05
        assert done.generation.output_tokens == done.walks * 4 * 8
    assert [one.window.start_ns for one in passes[1:]] == [one.window.end_ns for one in passes[:-1]]
    assert [one.generation.output_tokens for one in prefill] == [one.walks * 4 for one in prefill]
    for block_, (go_ns, rest_ns) in zip((passes, prefill), (silences[:2], silences[2:]), strict=True):
        assert go_ns <= block_[0].window.start_ns
        assert block_[-1].window.end_ns <= rest_ns
    for edge_ns, pass_ in zip(edges, (*passes[1:], *prefill[1:]), strict=True):
        assert pass_.window.start_ns <= edge_ns
    # Heard as they come, not once the block is over.
    assert edges[0] < passes[-1].window.end_ns
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
    assert not found.directory.exists()
    assert not list(found.directory.parent.glob(f"llem-{os.getpid()}-*"))


def test_walks_are_numbered_over_the_same_requests(tmp_path: Path) -> None:
    with worker(config(), tmp_path) as child:
        child.open()
        (done,) = block(child)
    assert done.walks > 1
    assert [(one.walk, one.index) for one in done.generation.completions[:8]] == [
        (walk, index) for walk in range(2) for index in [one.index for one in done.generation.completions[:4]]
    ]


ONE_BLOCK = ["block", "edge", "go", "rest", "report", "block_done"]


def test_every_message_is_kept_in_order_with_its_time(tmp_path: Path) -> None:
    with worker(config(), tmp_path) as child:
        child.open()
        block(child, passes=2)
        block(child, "prefill")
        child.close()
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    said = [event["message"].get("say") or event["message"]["do"] for event in events]
    two_passes = [*ONE_BLOCK[:3], "next_pass", *ONE_BLOCK[3:]]
    assert said == ["hello", "open", "ready", *two_passes, *ONE_BLOCK, "close", "closed"]
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


def test_the_way_out_of_an_error_comes_back_beside_its_message(tmp_path: Path) -> None:
    asked = config(simulated={"fault": {"kind": "error", "at": "open"}})
    with worker(asked, tmp_path) as child, pytest.raises(ExperimentError) as caught:
        child.open()
    assert caught.value.hint == "take simulated.fault out of the configuration"
    assert caught.value.failure is not None
    assert caught.value.failure.hint == caught.value.hint
    assert "hint" not in caught.value.failure.message


def test_a_crash_in_the_middle_of_a_pass_names_the_stage(tmp_path: Path) -> None:
    with worker(config(simulated={"fault": {"kind": "crash", "at": "pass"}}), tmp_path) as child:
        child.open()
        child.warm_up()
        with pytest.raises(ExperimentError) as caught:
            block(child)
    assert caught.value.failure is not None
    assert (caught.value.failure.kind, caught.value.failure.stage) == ("crash", "measure")


def test_a_crash_in_a_prefill_block_names_the_stage_and_leaves_nothing(tmp_path: Path) -> None:
    # Four batches of a walk that is long enough for a pass; the sixth is one of prefill.
    fault = {"kind": "crash", "at": "pass", "after_batches": 5}
    with worker(config(simulated={"fault": fault}, passes={"seconds": 1e-3}), tmp_path) as child:
        child.open()
        child.warm_up()
        (done,) = block(child)
        assert done.walks == 1
        with pytest.raises(ExperimentError, match="signal 9") as caught:
            block(child, "prefill")
        (pid,) = child.pids()
    assert caught.value.failure is not None
    assert (caught.value.failure.kind, caught.value.failure.stage) == ("crash", "measure")
    assert not alive(pid)


# Workers that do not keep to the protocol


def odd(directory: Path, change: str) -> Callable[[], Launch]:
    """Starts a worker of which `change` alters one thing."""
    script = directory / "odd_worker.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import sys, time
            from llenergymeasure.measure import worker

            {change}
            sys.exit(worker.main())
            """
        )
    )
    command = (sys.executable, str(script), WORKER_MODULE)
    return lambda: Launch(command, greeted=lambda: None, ended=lambda: None)


def test_a_worker_that_never_reports_is_ended_at_the_timeout(tmp_path: Path) -> None:
    hangs = odd(tmp_path, "worker.protocol.BlockDone = lambda *_: time.sleep(3600)")
    silences: list[str] = []
    with ChildWorker(config(timeout_s=3.0), run_id="run", directory=tmp_path, launch=hangs) as child:
        child.open()
        with pytest.raises(ExperimentTimeout, match="in its measure stage"):
            child.run_block(
                "full",
                1,
                before=lambda: silences.append("before"),
                edge=lambda: silences.append("edge"),
                after=lambda: silences.append("after"),
            )
        (pid,) = child.pids()
    assert silences == ["before", "after"]
    assert not alive(pid)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("worker.protocol.Edge = worker.protocol.Rest", "where Edge was due"),
        ("worker.protocol.Rest = worker.protocol.Edge", "where Rest was due"),
        ("worker.protocol.PROTOCOL_VERSION = 1", "speaks protocol 1, not 4"),
    ],
)
def test_a_worker_that_speaks_out_of_turn_is_ended(tmp_path: Path, change: str, says: str) -> None:
    launch = odd(tmp_path, change)
    with ChildWorker(config(), run_id="run", directory=tmp_path, launch=launch) as child:
        with pytest.raises(ExperimentError, match=says):
            open_and_run(child)
        (pid,) = child.pids()
    assert not alive(pid)


def test_a_hang_ends_at_the_timeout_and_leaves_nothing(tmp_path: Path) -> None:
    asked = config(timeout_s=2.0, simulated={"fault": {"kind": "hang", "at": "pass"}})
    with worker(asked, tmp_path) as child:
        child.open()
        child.warm_up()
        with pytest.raises(ExperimentTimeout, match="longer than 2 s"):
            block(child)
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


@pytest.mark.parametrize("phase", ["before", "passes", "after"])
def test_ctrl_c_ends_a_block_at_once_in_its_passes_and_in_its_silences(tmp_path: Path, phase: str) -> None:
    def here(now: str) -> Callable[[], None]:
        def silence() -> None:
            if now == "before" and phase == "passes":
                threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGINT]).start()
            if now == phase:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(30)

        return silence

    began = time.monotonic()
    seconds = 60.0 if phase == "passes" else 0.05
    with worker(config(passes={"seconds": seconds}), tmp_path) as child:
        child.open()
        with pytest.raises(KeyboardInterrupt):
            child.run_block("full", 1, before=here("before"), edge=nothing, after=here("after"))
    assert time.monotonic() - began < 9
    assert not alive(child.pids()[0])


@pytest.mark.parametrize("where", ["loaded", "in a silence", "in a pass"])
def test_the_worker_dies_with_its_parent(tmp_path: Path, where: str) -> None:
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

        def wait():
            print(child.pids()[0], flush=True)
            sys.stdin.read()

        def nothing():
            pass

        if sys.argv[2] == "loaded":
            wait()
        if sys.argv[2] == "in a pass":
            print(child.pids()[0], flush=True)
        before = wait if sys.argv[2] == "in a silence" else nothing
        child.run_block("full", 1, before=before, edge=nothing, after=nothing)
        """
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path), where],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        process = psutil.Process(pid)
        time.sleep(0.3)
        assert process.is_running()
        parent.kill()
        gone, _ = psutil.wait_procs([process], timeout=10)
    assert gone == [process]


DIES = "import os, sys; sys.stderr.write(sys.argv[1]); sys.stderr.flush(); os.kill(os.getpid(), 11)"


@pytest.mark.parametrize(
    "bar", ["Loading weights: 100%|######| 148/148 [00:00<00:00, 990.1it/s]", "Loading weights: 100%"]
)
@pytest.mark.parametrize("said", ["", "libgomp: Thread creation failed"])
def test_a_bar_of_progress_is_no_hint(tmp_path: Path, bar: str, said: str) -> None:
    command = (sys.executable, "-c", DIES, f"{said}\n{bar}\n")
    launch = Launch(command, greeted=nothing, ended=lambda: None)
    with (
        pytest.raises(ExperimentError, match="SIGSEGV") as caught,
        ChildWorker(config(), run_id="run", directory=tmp_path, launch=lambda: launch) as child,
    ):
        child.open()
    assert (caught.value.hint or "").endswith(said)
    assert (caught.value.hint is None) == (not said)


def test_what_keeps_a_reader_from_starting_is_what_is_said(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import pathlib, sys, threading
        from llenergymeasure.config.models import ExperimentConfig
        from llenergymeasure.measure.child import ChildWorker

        class Refused(threading.Thread):
            def start(self):
                raise RuntimeError("can't start new thread")

        threading.Thread = Refused
        config = ExperimentConfig.model_validate({"model": "any", "backend": "simulated", "n": 1})
        with ChildWorker(config, run_id="run", directory=pathlib.Path(sys.argv[1])) as child:
            child.open()
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stderr.splitlines()[-1] == "RuntimeError: can't start new thread"
    assert "cannot join" not in done.stderr
