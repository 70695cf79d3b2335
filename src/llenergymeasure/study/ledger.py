"""What has happened in a study so far, so that it goes on after whatever ended it?

One JSON object a line, only ever appended, each on the disk before the next step is taken. A last line that
was cut off by a killed process is not a record, and is removed before the next one is written.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, TypeAdapter, ValidationError

from llenergymeasure.exceptions import ResultError
from llenergymeasure.measure.budget import RunCost
from llenergymeasure.records import FailureKind

NAME = "ledger.jsonl"
LOCK = "ledger.lock"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, slots=True)
class Planned:
    """An experiment of the plan: its identity, what it is called, and how often it is repeated at least."""

    hash: str
    label: str
    names: tuple[str, ...]
    repeats: int


@dataclass(frozen=True, slots=True)
class Opened:
    """A process took the study up, with this plan and these versions."""

    identity: str
    plan: tuple[Planned, ...]
    versions: dict[str, str]
    resumed: bool
    event: Literal["opened"] = "opened"
    at: str = field(default_factory=_now)


@dataclass(frozen=True, slots=True)
class Begun:
    """A run was started."""

    experiment: str
    repeat: int
    attempt: int
    where: str
    event: Literal["begun"] = "begun"
    at: str = field(default_factory=_now)


@dataclass(frozen=True, slots=True)
class Done:
    """A run was measured; `files` are the size, the time of change and the SHA-256 of each of its files."""

    experiment: str
    repeat: int
    cost: RunCost
    files: dict[str, tuple[int, int, str]]
    seconds: float
    event: Literal["done"] = "done"
    at: str = field(default_factory=_now)


@dataclass(frozen=True, slots=True)
class Failed:
    """A run ended without a measurement. `final`: it is not tried again."""

    experiment: str
    repeat: int
    attempt: int
    kind: FailureKind
    message: str
    final: bool
    event: Literal["failed"] = "failed"
    at: str = field(default_factory=_now)


@dataclass(frozen=True, slots=True)
class Closed:
    """The study ended: `finished`, or why it did not."""

    why: str
    event: Literal["closed"] = "closed"
    at: str = field(default_factory=_now)


Record: TypeAlias = Opened | Begun | Done | Failed | Closed
_RECORD: TypeAdapter[Record] = TypeAdapter(Annotated[Record, Field(discriminator="event")])


class Ledger:
    """The records of one study's folder; `append` returns once the record is on the disk."""

    def __init__(self, path: Path, handle: int) -> None:
        self._path, self._handle = path, handle

    def append(self, record: Record) -> None:
        line = json.dumps(asdict(record), separators=(",", ":")).encode() + b"\n"
        size = os.fstat(self._handle).st_size
        try:
            left = line
            while left:
                left = left[os.write(self._handle, left) :]
            os.fsync(self._handle)
        except OSError as error:
            # Half a line would hide the next one.
            os.ftruncate(self._handle, size)
            raise ResultError(
                f"the ledger {self._path} can't be written: {error.strerror}",
                hint="free space, then go on with --resume",
            ) from error


@contextmanager
def opened(folder: Path) -> Iterator[Ledger]:
    """The ledger of a study's folder, for this process alone. ResultError where another process has it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    with _locked(folder / LOCK, path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            _cut_half_a_line(handle)
            yield Ledger(path, handle)
        finally:
            os.close(handle)


@contextmanager
def _locked(lock: Path, ledger: Path) -> Iterator[None]:
    handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(handle, 200, 0).decode(errors="replace").strip() or "another process"
            raise ResultError(
                f"{ledger.parent} is being run already, by {owner}",
                hint="wait for it, or end it; llem list shows how far it is",
            ) from error
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)


def is_running(folder: Path) -> bool:
    """Whether a process of this host runs the study."""
    try:
        handle = os.open(folder / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(handle)


def read(folder: Path) -> Iterator[Record]:
    """The records in their order; a last line that is cut off is none.

    ResultError names a line that is not a record: somebody edited the file, or a disk lost a part of it.
    """
    path = folder / NAME
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    return
                yield _parsed(line, f"{path}, line {number}")
    except FileNotFoundError:
        return
    except OSError as error:
        raise ResultError(f"{path} can't be read: {error.strerror}") from error


def _parsed(line: bytes, where: str) -> Record:
    try:
        return _RECORD.validate_json(line)
    except ValidationError as error:
        raise ResultError(
            f"{where} is not a record of a study",
            hint="restore the file from a copy, or start the study in another directory",
        ) from error


def _cut_half_a_line(handle: int) -> None:
    size = os.fstat(handle).st_size
    at = size
    while at > 0:
        start = max(0, at - 4096)
        chunk = os.pread(handle, at - start, start)
        if (found := chunk.rfind(b"\n")) >= 0:
            at = start + found + 1
            break
        at = start
    if at < size:
        os.ftruncate(handle, at)
