"""Where do the runs of a study take place?"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from llenergymeasure.config.study import Execution
from llenergymeasure.study.task import log_of

# From the request to end until the process of a run is killed: its worker has 15 s of its own.
GRACE_S = 25.0
# How often it is looked whether a run has ended.
LOOK_S = 0.02


@dataclass(frozen=True, slots=True)
class Ended:
    """A task whose process is gone. `note` says what is known of how it went."""

    task: Path
    note: str
    timed_out: bool = False


class Executor(Protocol):
    """Places whole runs, the recorder with its worker. A context manager; leaving it ends what still runs."""

    @property
    def slots(self) -> int:
        """How many runs it takes at once."""

    @property
    def where(self) -> str:
        """Its place in words."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...

    def start(self, tasks: Sequence[Path], *, limit_s: float) -> None:
        """Run the tasks, each for `limit_s` at most."""

    def ended(self) -> list[Ended]:
        """Those that have ended since; waits a moment where none has."""


@dataclass
class _Running:
    process: subprocess.Popen[bytes]
    until: float
    gpu: str | None
    timed_out: bool = False
    asked: float | None = None


class LocalExecutor:
    """Each run in a process group of its own on this host; side by side on several `gpus` where asked."""

    def __init__(self, gpus: Sequence[str] = ()) -> None:
        self._free = list(gpus)
        self._slots = max(1, len(gpus))
        self._running: dict[Path, _Running] = {}
        self._logs = ExitStack()

    @property
    def slots(self) -> int:
        return self._slots

    @property
    def where(self) -> str:
        return "this host"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for one in self._running.values():
            self._ask(one)
        while self._running:
            self.ended()

    def start(self, tasks: Sequence[Path], *, limit_s: float) -> None:
        for task in tasks:
            gpu = self._free.pop(0) if self._free else None
            env: Mapping[str, str] = os.environ | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu})
            with log_of(task).open("wb") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", "llenergymeasure.study.unit", str(task), "--tied"],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=env,
                    start_new_session=True,
                )
            self._running[task] = _Running(process, time.monotonic() + limit_s, gpu)

    def ended(self) -> list[Ended]:
        found = []
        for task, one in list(self._running.items()):
            code = one.process.poll()
            now = time.monotonic()
            if code is None and now > one.until and one.asked is None:
                one.timed_out = True
                self._ask(one)
            elif code is None and one.asked is not None and now > one.asked + GRACE_S:
                os.killpg(one.process.pid, signal.SIGKILL)
            elif code is not None:
                del self._running[task]
                self._free += [one.gpu] if one.gpu is not None else []
                found.append(Ended(task, _in_words(code), one.timed_out))
        if not found and self._running:
            time.sleep(LOOK_S)
        return found

    @staticmethod
    def _ask(one: _Running) -> None:
        one.asked = time.monotonic()
        if one.process.poll() is None:
            # The run ends its worker itself.
            one.process.send_signal(signal.SIGTERM)


def _in_words(code: int) -> str:
    if code < 0:
        return f"its process was ended by {signal.Signals(-code).name}"
    return f"its process ended with code {code}"


def executor_for(execution: Execution, folder: Path, *, gpus: Sequence[str] = ()) -> Executor:
    """The executor that was asked for; entering it says whether it can be had."""
    if execution.executor == "slurm":
        from llenergymeasure.study.slurm import SlurmExecutor

        return SlurmExecutor(execution.slurm, folder)
    if execution.executor == "ray":
        from llenergymeasure.study.ray import RayExecutor

        return RayExecutor(execution.ray)
    return LocalExecutor(gpus)
