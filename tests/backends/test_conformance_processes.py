"""What is left of a run, and what does it say, when it is interrupted, killed or too large?"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from pydantic import JsonValue
from tests.backends.engines import Engine, configured

from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.workload.prepared import prepared

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

LLEM = Path(sys.executable).with_name("llem")
MARK = "TESTED_RUN_OF_LLEM"
NO_IDLE: dict[str, JsonValue] = {"baseline": {"seconds": 0}}
# Each lasts until it is interrupted, and begins with this command of the parent.
ENDLESS: dict[str, tuple[str, dict[str, JsonValue]]] = {
    "load": ("open", {}),
    "warm_up": ("warm_up", {"warmup": {"variation": 1e-9, "max_seconds": 600}}),
    "pass": ("go", {"warmup": {"max_seconds": 0.01, "min_batches": 0}, "passes": {"seconds": 600}}),
}


@dataclass(frozen=True, slots=True)
class Run:
    """A run of llem, all of whose processes carry its mark, whoever their parent is by now."""

    process: subprocess.Popen[str]
    scratch: Path
    mark: str

    def processes(self) -> list[psutil.Process]:
        return [process for process in psutil.process_iter() if _has(process, self.mark)]

    def worker(self) -> psutil.Process:
        children = psutil.Process(self.process.pid).children()
        (worker,) = (child for child in children if os.getsid(child.pid) == child.pid)
        return worker

    def wait_for(self, command: str) -> None:
        """Return once the parent has given the worker this command."""

        def given() -> bool:
            assert self.process.poll() is None, self.process.communicate()[1]
            logs = self.scratch.glob("llem-*/*/runs/*/events.jsonl")
            return any(f'"do":"{command}"' in log.read_text() for log in logs)

        until(given, within_s=300)

    def end(self) -> tuple[int, str]:
        """Its exit code and what it said on stderr. Nothing of it is left."""
        _, err = self.process.communicate(timeout=120)
        until(lambda: not self.processes(), within_s=5)
        assert list(self.scratch.glob("llem-*")) == []
        return self.process.returncode, err


def _has(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get(MARK) == mark
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return False


def until(holds: Callable[[], bool], *, within_s: float) -> None:
    end = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end, f"it did not come to that within {within_s} s"
        time.sleep(0.05)


@contextmanager
def running(config: ExperimentConfig, folder: Path, *arguments: str) -> Iterator[Run]:
    scratch, file, mark = folder / "scratch", folder / "run.json", uuid.uuid4().hex
    scratch.mkdir()
    file.write_text(config.model_dump_json(exclude_defaults=True))
    with subprocess.Popen(
        [LLEM, "run", file, *arguments],
        env={**os.environ, MARK: mark, "TMPDIR": str(scratch)},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        run = Run(process, scratch, mark)
        try:
            yield run
        finally:
            for left in run.processes():
                left.kill()


def assert_one_error(err: str) -> None:
    assert len(re.findall(r"^\w+Error: ", err, flags=re.MULTILINE)) == 1, err
    assert "Traceback" not in err


@pytest.mark.parametrize("phase", ENDLESS)
def test_ctrl_c_ends_with_130_and_leaves_nothing(
    engine: Engine, model: str, tmp_path: Path, phase: str
) -> None:
    command, endless = ENDLESS[phase]
    with running(configured(engine, model, **NO_IDLE, **endless), tmp_path) as run:
        run.wait_for(command)
        time.sleep(engine.load_s / 2 if phase == "load" else 0.5)
        worker = run.worker()
        run.process.send_signal(signal.SIGINT)
        code, err = run.end()
    assert not worker.is_running()
    assert code == 130, err
    assert "Traceback" not in err


def test_a_worker_that_is_killed_is_one_clear_error(engine: Engine, model: str, tmp_path: Path) -> None:
    command, endless = ENDLESS["pass"]
    with running(configured(engine, model, **NO_IDLE, **endless), tmp_path) as run:
        run.wait_for(command)
        run.worker().kill()
        code, err = run.end()
    assert code == 1
    assert "ExperimentError: the worker was killed (signal 9)" in err
    assert_one_error(err)


def test_an_engine_s_own_process_that_is_killed_is_one_clear_error(
    engine: Engine, model: str, tmp_path: Path
) -> None:
    if not engine.own_processes:
        pytest.skip("it runs in the worker's own process")
    command, endless = ENDLESS["pass"]
    with running(configured(engine, model, **NO_IDLE, **endless), tmp_path) as run:
        run.wait_for(command)
        children = run.worker().children(recursive=True)
        assert children
        max(children, key=lambda child: child.memory_info().rss).kill()
        code, err = run.end()
    assert code == 1
    assert "ExperimentError: " in err
    assert_one_error(err)


def test_nothing_outlives_a_parent_that_is_killed(engine: Engine, model: str, tmp_path: Path) -> None:
    command, endless = ENDLESS["pass"]
    with running(configured(engine, model, **NO_IDLE, **endless), tmp_path) as run:
        run.wait_for(command)
        assert len(run.processes()) >= 2
        run.process.kill()
        until(lambda: not run.processes(), within_s=20)


def test_what_is_far_too_large_is_refused_or_runs_out_of_memory(
    engine: Engine, model: str, tmp_path: Path
) -> None:
    config = configured(engine, model, **NO_IDLE, **engine.too_large)
    with running(config, tmp_path) as run:
        code, err = run.end()
    assert code == 1
    assert "memory" in err or "trained for 8192 tokens" in err
    assert_one_error(err)


def test_a_whole_run_does_the_work_that_was_asked_for(engine: Engine, model: str, tmp_path: Path) -> None:
    short: dict[str, JsonValue] = {"passes": {"seconds": 0.1, "count": 2}, "repeats": {"count": 1}}
    config = configured(
        engine, model, **NO_IDLE, **short, n=2, max_output_tokens=3, warmup={"max_seconds": 0.01}
    )
    with running(config, tmp_path, "--json") as run:
        out, err = run.process.communicate(timeout=300)
        assert run.process.returncode == 0, err
        assert run.processes() == []
    result = json.loads(out)
    work = prepared(config)
    walks = result["tokens"]["requests"] // 2
    assert result["tokens"]["input"] == walks * sum(len(one.prompt) for one in work.workload.requests)
    assert result["tokens"]["output"] == walks * 2 * 3
    assert result["tokens"]["pinned_ok"] is True
    assert result["workload_hash"] == work.hash
