"""How is a worker started, recognised, and ended with everything that it started?"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil

TRACKER_S = 2.0
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


def adopt_orphans() -> None:
    """From here on processes below this one become its own children when their parent is gone (Linux)."""
    if sys.platform == "linux":
        # PR_SET_CHILD_SUBREAPER of linux/prctl.h; kernels before 3.4 refuse it.
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)


def has_ended(process: subprocess.Popen[bytes], within_s: float) -> bool:
    try:
        process.wait(timeout=within_s)
    except subprocess.TimeoutExpired:
        return False
    return True


def signal_group(leader: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(leader, number)


def kill_session(leader: int) -> None:
    """Kill every process of the session that `leader` began, this process excepted.

    More than its group: launchers of MPI give each process that they start a group of its own. The trackers
    of multiprocessing go last: they free the shared memory that the others leave, and then end by themselves.
    """
    trackers = []
    for pid in psutil.pids():
        with suppress(ProcessLookupError, PermissionError, psutil.Error):
            if os.getsid(pid) == leader and pid != os.getpid():
                process = psutil.Process(pid)
                if _is_tracker(process):
                    trackers.append(process)
                else:
                    os.kill(pid, signal.SIGKILL)
    if leader == os.getpid():
        return  # the trackers also wait for this process
    until = time.monotonic() + TRACKER_S
    while any(map(_is_alive, trackers)) and time.monotonic() < until:
        time.sleep(0.01)
    for tracker in filter(_is_alive, trackers):
        tracker.kill()


def _is_tracker(process: psutil.Process) -> bool:
    return any("multiprocessing.resource_tracker" in word for word in process.cmdline())


def _is_alive(process: psutil.Process) -> bool:
    """A zombie whose reaper is slow is dead all the same."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def close_pipe(stream: IO[bytes]) -> None:
    """A pipe whose reader is gone can't be flushed, and nothing of it is wanted any more."""
    with suppress(BrokenPipeError):
        stream.close()
