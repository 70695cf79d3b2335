"""How are the runs of a study placed by Ray?

Each run is a task of an existing cluster, with the resources that the study asks for. Its files come home
with its answer, so that the nodes need no file system in common. Placement, and another try where a node is
lost, are Ray's.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from llenergymeasure.config.extras import install
from llenergymeasure.config.study import RayConfig
from llenergymeasure.exceptions import BackendError, ConfigError
from llenergymeasure.results.folder import PART, RUNS, sync_folder
from llenergymeasure.study.executors import GRACE_S, Ended
from llenergymeasure.study.task import Ending, Task, log_of, read_ending, read_task, write_ending, write_task

LOOK_S = 0.1
MOST_AT_ONCE = 1000
# Until a cluster has to answer. Ray itself tries for minutes.
ANSWER_S = 5.0


@dataclass(frozen=True, slots=True)
class Brought:
    """What comes home of a run: its files, how it ended, and what its process printed."""

    files: dict[str, bytes]
    ending: Ending | None
    log: bytes
    code: int
    node: str
    timed_out: bool


def make_run(task: Task, limit_s: float) -> Brought:
    """The run, in a folder of the node that is gone afterwards. Cancelled, it ends its process first."""
    import platform

    with tempfile.TemporaryDirectory(prefix="llem-ray-") as place:
        folder, path = Path(place) / task.experiment, Path(place) / "task.json"
        write_task(path, replace(task, folder=folder))
        command = [sys.executable, "-m", "llenergymeasure.study.unit", str(path), "--tied"]
        timed_out = False
        with (
            log_of(path).open("wb") as log,
            subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log) as process,
        ):
            try:
                # With a limit, as Ray interrupts no wait without one.
                process.wait(limit_s)
            except subprocess.TimeoutExpired:
                timed_out = True
            finally:
                _end(process)
        run = folder / RUNS / str(task.number)
        files = {one.name: one.read_bytes() for one in run.iterdir()} if run.is_dir() else {}
        ending, printed = read_ending(path), log_of(path).read_bytes()
        return Brought(files, ending, printed, process.returncode, platform.node(), timed_out)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()


def connected(address: str, *, hint: str) -> tuple[Any, bool]:
    """Ray, and whether it is connected only now. ConfigError without it, BackendError without a cluster."""
    try:
        import ray
    except ImportError as error:
        raise ConfigError("Ray is not installed", hint=install("ray")) from error
    if ray.is_initialized():
        return ray, False
    try:
        _reach(address)
        ray.init(address=address, log_to_driver=False, logging_level="error")
    except (OSError, ValueError, RuntimeError) as error:
        raise BackendError(f"there is no Ray cluster at {address}: {error}", hint=hint) from error
    return ray, True


class RayExecutor:
    """ConfigError without Ray, BackendError where there is no such cluster."""

    def __init__(self, asked: RayConfig) -> None:
        self._asked = asked
        self._running: dict[Any, tuple[Path, Task]] = {}
        self._ray: Any = None
        self._is_ours = False

    @property
    def slots(self) -> int:
        return MOST_AT_ONCE

    @property
    def where(self) -> str:
        return "Ray"

    def __enter__(self) -> Self:
        self._ray, self._is_ours = connected(
            self._asked.address, hint="start one (ray start --head), or give execution.ray.address"
        )
        self._check_room()
        return self

    def _check_room(self) -> None:
        """Ray lets a task for which no node is large enough wait for ever."""
        wanted = {"CPU": self._asked.cpus, "GPU": self._asked.gpus, **self._asked.resources}
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if not any(all(node.get(name, 0) >= count for name, count in wanted.items()) for node in nodes):
            text = ", ".join(f"{name} {count:g}" for name, count in wanted.items() if count)
            raise BackendError(
                f"no node of the Ray cluster has what one run asks for: {text}",
                hint="ask for less in execution.ray, or start such a node first",
            )

    def __exit__(self, *error: object) -> None:
        if self._running:
            left = list(self._running)
            for reference in left:
                self._ray.cancel(reference)
            _, left = self._ray.wait(left, num_returns=len(left), timeout=GRACE_S + ANSWER_S)
            for reference in left:
                self._ray.cancel(reference, force=True)
        self._running.clear()
        if self._is_ours:
            self._ray.shutdown()

    def start(self, tasks: Sequence[Path], *, limit_s: float) -> None:
        asked = self._asked
        place = self._ray.remote(
            num_cpus=asked.cpus,
            num_gpus=asked.gpus,
            resources=asked.resources or None,
            max_retries=asked.retries,
        )(make_run)
        for path in tasks:
            task = read_task(path)
            self._running[place.remote(task, limit_s)] = (path, task)

    def ended(self) -> list[Ended]:
        if not self._running:
            return []
        ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=LOOK_S)
        return [self._brought(reference) for reference in ready]

    def _brought(self, reference: Any) -> Ended:
        path, task = self._running.pop(reference)
        try:
            brought: Brought = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            return Ended(path, f"Ray: {type(error).__name__}: {str(error).strip().splitlines()[0]}")
        log_of(path).write_bytes(brought.log)
        if brought.ending is not None and brought.ending.cost is not None:
            _store(task, brought.files)
        if brought.ending is not None:
            write_ending(path, brought.ending)
        note = f"its process on {brought.node} ended with code {brought.code}"
        return Ended(path, note, timed_out=brought.timed_out)


def _reach(address: str) -> None:
    """OSError where nothing listens at an address of the form host:port."""
    if found := re.fullmatch(r"(?:ray://)?(.+):(\d+)", address):
        socket.create_connection((found[1], int(found[2])), ANSWER_S).close()


def _store(task: Task, files: dict[str, bytes]) -> None:
    """Write the run's folder, whole or not at all."""
    runs = task.folder / RUNS
    part = runs / f"{task.number}{PART}"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for name, data in files.items():
        (part / name).write_bytes(data)
    part.rename(runs / str(task.number))
    sync_folder(runs)
