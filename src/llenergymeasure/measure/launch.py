"""How is a worker started, told from other processes, and ended with everything that it started?"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil

WORKER_MODULE = "llenergymeasure.measure.worker"


@dataclass(frozen=True, slots=True)
class Launch:
    """How one worker is started: `command` speaks the protocol on its stdin and stdout, and finds
    `variables` in its environment beside those of this process.

    `greeted` is called when the worker has said hello, `ended` when the process of the command is gone; it
    takes away what is left elsewhere, and says why it could not.
    """

    command: tuple[str, ...]
    greeted: Callable[[], None]
    ended: Callable[[], str | None]
    variables: Mapping[str, str] = field(default_factory=dict)


def local(temporary: Path | None = None) -> Launch:
    """The worker as a process of this host, with this interpreter; `temporary` is its folder for temporary
    files, where that is not the one of this process.
    """
    return Launch(
        (sys.executable, "-m", WORKER_MODULE),
        greeted=lambda: None,
        ended=lambda: None,
        variables={} if temporary is None else {"TMPDIR": str(temporary)},
    )


def is_worker(pid: int) -> bool:
    """Whether a process of that number is a worker, as this process sees processes."""
    try:
        return WORKER_MODULE in psutil.Process(pid).cmdline()
    except psutil.Error:
        return False


def has_ended(process: subprocess.Popen[bytes], within_s: float) -> bool:
    try:
        process.wait(timeout=within_s)
    except subprocess.TimeoutExpired:
        return False
    return True


def signal_group(leader: int, number: signal.Signals) -> None:
    try:
        os.killpg(leader, number)
    except ProcessLookupError:
        return


def kill_session(leader: int) -> None:
    """Kill every process of the session that `leader` began.

    More than its group: launchers of MPI give each process that they start a group of its own.
    """
    for pid in psutil.pids():
        try:
            if os.getsid(pid) == leader:
                os.kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue


def close_pipe(stream: IO[bytes]) -> None:
    """A pipe whose reader is gone can't be flushed, and nothing of it is wanted any more."""
    try:
        stream.close()
    except BrokenPipeError:
        return
