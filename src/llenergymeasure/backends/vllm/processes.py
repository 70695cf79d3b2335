"""Which processes does vLLM run, do they live, and is nothing of them left?"""

from __future__ import annotations

import os
import re
import select
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from llenergymeasure.backends import is_out_of_memory
from llenergymeasure.exceptions import BackendError

GRACE_S, KILL_S = 2.0, 5.0
# vLLM ends its own workers within this, so that a cancelled run is over before its parent loses patience.
_SHUTDOWN_S = 3

_NO_ROOM = (
    "No available memory for the cache",
    "than the available KV cache memory",
    "is less than desired",
)
ENDED_HINT = "the worker's log may say why; when memory is short, the kernel kills without a word"
_ROOT_CAUSE = re.compile(r"^(?:\(.*?\) )?(?:[A-Z]+ \S+ \S+ \[\S+\] )?((?:\w+\.)*\w*(?:Error|Exception): .+)$")
_SHARED = re.compile(r"/dev/shm/(?:psm_|sem\.mp-|vllm_)\S+$", re.MULTILINE)  # noqa: S108  nothing is made there
_AFTERMATH = (
    "Engine core initialization failed",
    "EngineCore encountered",
    "WorkerProc initialization failed",
)


def lacks_memory(message: str) -> bool:
    return is_out_of_memory(message) or any(text in message for text in _NO_ROOM)


def is_aftermath(message: str) -> bool:
    """Whether an error only says that another process had one."""
    return any(text in message for text in _AFTERMATH)


def engine_environment() -> dict[str, str]:
    """What vLLM reads from the environment, where the user has not set it.

    Everything stays on this machine: its sockets are bound to loopback, and no usage report is sent.
    """
    return _unset(
        {
            "VLLM_HOST_IP": "127.0.0.1",
            "VLLM_NO_USAGE_STATS": "1",
            # A fork of a process with threads, as a worker is, may inherit a lock that nobody will release.
            "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
            "VLLM_WORKER_SHUTDOWN_TIMEOUT_SECONDS": str(_SHUTDOWN_S),
        }
    )


def cpu_cache(gib: int) -> dict[str, str]:
    """The same for the size of the cache on a CPU, of which vLLM would else take most of the memory."""
    return _unset({"VLLM_CPU_KVCACHE_SPACE": str(gib)})


@contextmanager
def environment(wanted: Mapping[str, str]) -> Iterator[None]:
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name in wanted:
            os.environ.pop(name, None)


def children() -> list[psutil.Process]:
    """All processes below this one, less the tracker of shared memory, which serves this process itself."""
    return [child for child in psutil.Process().children(recursive=True) if not _is_tracker(child)]


def end_all(processes: Sequence[psutil.Process]) -> None:
    """None of them is alive after this."""
    _, alive = psutil.wait_procs(processes, timeout=GRACE_S)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=KILL_S)


def shared_memory(processes: Sequence[psutil.Process]) -> set[Path]:
    """The files of memory and semaphores that they share through multiprocessing or vLLM's own means.

    Whoever made them frees them, unless it is killed; nothing else would before the machine starts anew.
    """
    found: set[Path] = set()
    for process in processes:
        with suppress(OSError):
            maps = Path(f"/proc/{process.pid}/maps").read_text(errors="replace")
            found |= {Path(name) for name in _SHARED.findall(maps)}
    return found


class Watch:
    """Tells when a process of the engine ends: vLLM itself waits for ever for the answer of a dead one.

    Whoever waits inside `guarded` is interrupted by SIGINT to the main thread, as by a cancel.
    """

    def __init__(self, processes: Sequence[psutil.Process]) -> None:
        self._names = {process.pid: _name(process) for process in processes}
        self._stop_read, self._stop_write = os.pipe()
        self._lock = threading.Lock()
        self._waits = False
        self._dead: str | None = None
        self._thread = threading.Thread(target=self._wait, daemon=True)
        self._thread.start()

    def close(self) -> None:
        os.close(self._stop_write)
        self._thread.join()

    @contextmanager
    def guarded(self, doing: str) -> Iterator[None]:
        """BackendError when a process of the engine has ended, or ends before the work in here is done."""
        try:
            try:
                with self._lock:
                    self._waits = True
                self._check(doing)
                yield
            finally:
                with self._lock:  # the interrupt may come as late as here
                    self._waits = False
        except KeyboardInterrupt:
            self._check(doing)
            raise

    def _check(self, doing: str) -> None:
        if self._dead is not None:
            raise BackendError(
                f"the engine's process {self._dead} ended while {doing}",
                hint=ENDED_HINT,
            )

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._stop_read, select.POLLIN | select.POLLHUP)
        opened: dict[int, int] = {}
        try:
            for pid in self._names:
                try:
                    opened[os.pidfd_open(pid)] = pid
                except ProcessLookupError:
                    self._tell(pid)
                    return
            for descriptor in opened:
                poll.register(descriptor, select.POLLIN)
            ready = {descriptor for descriptor, _ in poll.poll()}
            if self._stop_read not in ready:
                self._tell(opened[ready.pop()])
        finally:
            for descriptor in (*opened, self._stop_read):
                os.close(descriptor)

    def _tell(self, pid: int) -> None:
        with self._lock:
            self._dead = f"{self._names[pid]} (pid {pid})"
            main_thread = threading.main_thread().ident
            if self._waits and main_thread is not None:
                signal.pthread_kill(main_thread, signal.SIGINT)


class Said:
    """What the engine's processes write to our stdout and stderr from now on, where these are files: only
    there do they say why they could not start.
    """

    def __init__(self) -> None:
        outputs = [Path(f"/proc/self/fd/{descriptor}") for descriptor in (1, 2)]
        files = {path.stat().st_ino: path for path in outputs if path.is_file()}
        self._starts = {path: path.stat().st_size for path in files.values()}

    def root_cause(self) -> str | None:
        """The first error that no other one caused."""
        for path, start in self._starts.items():
            with path.open("rb") as log:
                log.seek(start)
                lines = log.read().decode(errors="replace").splitlines()
            found = [match[1] for line in lines if (match := _ROOT_CAUSE.match(line))]
            cause = next((one for one in found if not is_aftermath(one)), None)
            if cause is not None:
                return cause
        return None


def _unset(wanted: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in wanted.items() if name not in os.environ}


def _is_tracker(process: psutil.Process) -> bool:
    try:
        return any("resource_tracker" in word for word in process.cmdline())
    except psutil.Error:
        return False


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.Error:
        return "of an unknown name"
