"""Where do a run and its engine put what nobody keeps, and who clears it after a run that was killed?"""

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
from pathlib import Path

from llenergymeasure.exceptions import PreFlightError

PREFIX, EVENTS_NAME = "llem-run-", "events.jsonl"
# What mkdtemp makes of it; a folder that somebody named by hand is left alone.
_NAME = re.compile(rf"{PREFIX}[a-z0-9_]{{8}}")
LEFT_BEHIND_S = 86_400.0
# A socket's path has 108 bytes at most, and engines put names of 40 and more into their temporary folder.
# Where that has a longer path, a link to it is made here.
LONGEST_BYTES = 60
SHORT = Path("/tmp")  # noqa: S108  folders in it are made by mkdtemp


@contextmanager
def scratch() -> Iterator[Path]:
    """A new folder in the system's temporary one, after `sweep` has cleared that; gone on leaving.

    It is locked, by which other runs know that somebody needs it.
    """
    sweep()
    try:
        directory = Path(tempfile.mkdtemp(prefix=PREFIX))
    except OSError as error:
        raise PreFlightError(
            f"no folder for temporary files can be made: {error.strerror}",
            hint="free space in /tmp, or set TMPDIR to a folder on another disk",
        ) from error
    with _held(directory):
        yield directory


@contextmanager
def _held(directory: Path) -> Iterator[None]:
    lock = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(lock)


def sweep() -> None:
    """Remove the folders of this user's runs that were killed a day ago or earlier; a younger one can still
    be read.
    """
    for place in {Path(tempfile.gettempdir()), SHORT}:
        with suppress(OSError):
            for found in place.glob(f"{PREFIX}*"):
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

    Where its path would be too long for the sockets that engines make there, a link to it in `SHORT`, and
    None where none can be made.
    """
    folder = directory / "tmp"
    folder.mkdir()
    with _held(folder):
        if len(os.fsencode(folder)) <= LONGEST_BYTES:
            yield folder
            return
        try:
            short = Path(tempfile.mkdtemp(prefix=PREFIX, dir=SHORT))
        except OSError:
            yield None
            return
        with _held(short):
            link = short / "tmp"
            link.symlink_to(folder)
            yield link
