"""Does another process of this host measure the same device already?"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Self

from llenergymeasure.exceptions import PreFlightError
from llenergymeasure.records import Domain

if TYPE_CHECKING:
    from llenergymeasure.config.models import ExperimentConfig

# One place for all users of a host; TMPDIR differs from user to user and from job to job. No link is followed
# there and nothing that a file says is trusted.
_DIRECTORY = Path("/tmp")  # noqa: S108  its dangers are met as said above


class DomainLocks:
    """The power domains that this process has to itself. Leaving the context, or the process's end however
    it comes, frees them: the kernel holds the locks, and no child inherits them.

    Each is a lock on `llem-<domain>.lock` in `directory` (`LLEM_LOCK_DIR`, else /tmp), a file that any user
    may lock and that stays behind. Containers share their locks only where they share that folder.
    """

    def __init__(self, *, owner: str, directory: Path | None = None) -> None:
        """`owner` names this run to other processes."""
        self._owner = owner
        self._directory = directory or Path(os.environ.get("LLEM_LOCK_DIR") or _DIRECTORY)
        self._held = ExitStack()
        self._names: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._held.close()

    def take(self, domains: Iterable[str]) -> None:
        """Lock these too. PreFlightError at once, naming the process that measures one of them."""
        # In one order for all, or two processes could each refuse the other.
        for name in sorted(set(domains) - self._names):
            self._take(name)
            self._names.add(name)

    def _take(self, name: str) -> None:
        path = self._directory / f"llem-{re.sub(r'[^A-Za-z0-9.]+', '-', name)}.lock"
        try:
            lock = _opened(path)
        except OSError as error:
            raise PreFlightError(
                f"{path}, which keeps other runs off {_spoken(name)}, can't be opened: {error.strerror}",
                hint="set LLEM_LOCK_DIR to a folder that every run on this host can write to",
            ) from error
        with ExitStack() as opened:
            opened.callback(os.close, lock)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise _taken(name, _holder(lock)) from None
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()} ({self._owner})".encode(), 0)
            self._held.enter_context(opened.pop_all())


def run_domains(domains: Sequence[Domain], config: ExperimentConfig) -> list[str]:
    """Of what the meters see, the devices that this run is to use, as far as that is known beforehand.

    Not a model of power, which no other run disturbs. Of GPUs those that `energy.gpus` names; with `auto` as
    many of the visible ones as the engine will take, which begins with the first.
    """
    physical = [domain for domain in domains if domain.model is None]
    gpus = [domain.name for domain in physical if domain.kind == "gpu"]
    used = gpus if config.energy.gpus != "auto" else gpus[: config.engine.gpus]
    return [
        domain.name
        for domain in physical
        if domain.kind not in {"gpu", "module"} or domain.name.replace("module:", "gpu:") in used
    ]


def _opened(path: Path) -> int:
    """The file, made where it is missing. Never both in one call: with `fs.protected_regular` the kernel
    refuses to open another user's file in /tmp for somebody who would also create it.
    """
    flags = os.O_RDWR | os.O_NOFOLLOW
    while True:
        try:
            return os.open(path, flags)
        except FileNotFoundError:
            pass
        try:
            made = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            continue
        # The umask took others' right to write.
        os.fchmod(made, 0o666)
        return made


def _holder(lock: int) -> str:
    """What the process that has the lock wrote of itself; any user could have written it."""
    written = os.pread(lock, 200, 0).decode(errors="replace")
    return "".join(character for character in written if character.isprintable()) or "(unknown)"


def _taken(name: str, holder: str) -> PreFlightError:
    kind = "GPU" if name.startswith(("gpu:", "module:")) else "CPU"
    return PreFlightError(
        f"{_spoken(name)} is being measured by process {holder}: two runs on one {kind} disturb each other",
        hint="wait until it has ended, or take another GPU: CUDA_VISIBLE_DEVICES=… llem run …"
        if kind == "GPU"
        else "wait until it has ended, or leave the CPU out: --meter nvml",
    )


def _spoken(name: str) -> str:
    return name.partition(":")[2] if name.startswith(("gpu:", "module:")) else name
