"""Where do the files of a run lie while it runs, and what becomes of them when nobody keeps them?"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PREFIX, EVENTS_NAME = "llem-run-", "events.jsonl"
# What mkdtemp makes of it; a folder that somebody named by hand is left alone.
_NAME = re.compile(rf"{PREFIX}[a-z0-9_]{{8}}")
LEFT_BEHIND_S = 86_400.0
# A socket's path has 108 bytes at most, and engines put names of 40 and more into their temporary folder.
LONGEST_BYTES = 60


@dataclass(slots=True)
class Files:
    """The folder of a run's files. It goes with the run unless somebody keeps it.

    `lock` is open on the folder and has it locked, by which other runs know that somebody needs it.
    """

    directory: Path
    lock: int
    kept: bool = False

    def keep(self) -> Path:
        """The folder, which is the caller's from now on, as is the call of `release`."""
        self.kept = True
        return self.directory

    def release(self) -> None:
        os.close(self.lock)


@contextmanager
def scratch() -> Iterator[Files]:
    """A new folder in the system's temporary one, after `sweep` has cleared that."""
    sweep()
    directory = Path(tempfile.mkdtemp(prefix=PREFIX))
    files = Files(directory, os.open(directory, os.O_RDONLY))
    fcntl.flock(files.lock, fcntl.LOCK_EX)
    try:
        yield files
    finally:
        if not files.kept:
            shutil.rmtree(directory, ignore_errors=True)
            files.release()


def sweep() -> None:
    """Remove the folders of this user's runs that were killed a day ago or earlier; a younger one can still
    be read.
    """
    with suppress(OSError):
        for found in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
            # A folder that goes meanwhile, or can't be opened, is nobody's to remove here.
            with suppress(OSError):
                _sweep(found)


def _sweep(folder: Path) -> None:
    seen = folder.lstat()
    is_own = stat.S_ISDIR(seen.st_mode) and seen.st_uid == os.getuid()
    if not _NAME.fullmatch(folder.name) or not is_own or time.time() - seen.st_mtime < LEFT_BEHIND_S:
        return
    handle = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(handle)


@contextmanager
def temporary_in(directory: Path) -> Iterator[Path | None]:
    """`directory/tmp`, for what a worker and its engine leave in their temporary folder; gone on leaving.

    None where its path would be too long for the sockets that engines make there.
    """
    folder = directory / "tmp"
    if len(os.fsencode(folder)) > LONGEST_BYTES:
        yield None
        return
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
