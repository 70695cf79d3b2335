"""Where do the files of a run lie, which runs are whole, and which disk is full?"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from llenergymeasure.exceptions import ResultError
from llenergymeasure.records.figures import plain

RUNS, PART = "runs", ".part"
# What a disk answers, as against a mistake of ours.
OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}


@contextlib.contextmanager
def made(folder: Path) -> Iterator[Path]:
    """`folder` and its parents; of those that are made here, the empty ones are removed on leaving."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
    finally:
        for one in missing:
            with contextlib.suppress(OSError):
                one.rmdir()


@contextlib.contextmanager
def experiment_folder(folder: Path) -> Iterator[Path]:
    """`folder` for the runs of an experiment, locked while they go on; removed where no run leaves a file."""
    with explained("the runs", folder), made(folder), contextlib.ExitStack() as held:
        handle = os.open(folder, os.O_RDONLY)
        held.callback(os.close, handle)
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield folder


@contextlib.contextmanager
def run_folder(experiment: Path, number: int, *, keep: Callable[[Path], bool]) -> Iterator[Path]:
    """`runs/<number>.part` of an experiment, `runs/<number>` once the context is left without an error.

    Else it is removed, unless `keep` finds something in it. An error of the disk becomes a ResultError.
    """
    final = experiment / RUNS / str(number)
    part = final.with_name(final.name + PART)
    with explained("the run", part), made(part.parent):
        part.mkdir()
        try:
            yield part
            part.rename(final)
            sync_folder(final.parent)
        except BaseException:
            if not keep(part):
                shutil.rmtree(part, ignore_errors=True)
            raise


def whole_runs(experiment: Path) -> tuple[int, ...]:
    """The numbers of the runs that ended well."""
    return tuple(sorted(int(one.name) for one in _runs(experiment) if one.name.isdecimal()))


def parts(experiment: Path) -> tuple[Path, ...]:
    """The folders of runs that did not end: they failed or were killed."""
    found = [one for one in _runs(experiment) if one.suffix == PART and one.stem.isdecimal()]
    return tuple(sorted(found, key=lambda one: int(one.stem)))


def is_run(folder: Path) -> bool:
    """Whether it is the folder of a run, whole or not, rather than of an experiment."""
    at = folder.absolute()
    return at.parent.name == RUNS and at.stem.isdecimal() and at.suffix in {"", PART}


def holds_runs(folder: Path) -> bool:
    """Whether there are files of runs in it, and it should have a result."""
    return is_run(folder) or (folder / RUNS).is_dir()


def is_live(experiment: Path) -> bool:
    """Whether a process is still at the runs of an experiment."""
    handle = os.open(experiment, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno == errno.EWOULDBLOCK
    finally:
        os.close(handle)
    return False


def unwritable(what: str, path: Path, error: OSError, *, hint: str | None = None) -> ResultError:
    """That `what` can't be written to `path` and why; of a full disk which it is and how much it has left."""
    # pyarrow says in `strerror` what it was doing.
    reason = os.strerror(error.errno) if error.errno else str(error)
    disk = _disk(path) if error.errno in OF_THE_DISK else ""
    return ResultError(
        f"{what} can't be written to {path}: {reason}{disk}",
        hint=hint or "free space there, or choose another disk: --output (TMPDIR where nothing is kept)",
    )


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a power cut, where the file system can."""
    with contextlib.suppress(OSError):  # some network file systems can't; the files are written all the same
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def aside(path: Path) -> Iterator[Path]:
    """A name beside `path` for what is to take its place; gone on leaving, where it was not moved there."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PART}")
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """The whole file, on the disk, or the one that was there before. OSError as the disk has it."""
    with aside(path) as part:
        write_synced(part, text)
        part.replace(path)


def write_synced(path: Path, text: str) -> None:
    """A new file, on the disk when this returns."""
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _runs(experiment: Path) -> list[Path]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return [one for one in (experiment / RUNS).iterdir() if one.is_dir()]
    return []


@contextlib.contextmanager
def explained(what: str, path: Path) -> Iterator[None]:
    """What a disk refuses, or anything about the files beside `path`, becomes a ResultError."""
    try:
        yield
    except OSError as error:
        at = Path(error.filename) if isinstance(error.filename, str | Path) else None
        if error.errno not in OF_THE_DISK and (at is None or not at.is_relative_to(path.parent)):
            raise
        raise unwritable(what, at or path, error) from error


def _disk(path: Path) -> str:
    """The file system that holds `path` and its free bytes, where that can be found out."""
    import psutil

    try:
        at = next(one for one in (path.absolute(), *path.absolute().parents) if one.exists())
        mount = next(one for one in (at, *at.parents) if one.is_mount())
        free = shutil.disk_usage(mount).free
    except (OSError, ValueError, StopIteration):
        return ""
    seen = [one.device for one in psutil.disk_partitions(all=True) if one.mountpoint == str(mount)]
    name = f"disk {seen[-1]}, " if seen and seen[-1] else ""
    return f" ({name}mounted on {mount}, {plain(free, 'B') if free else 'nothing'} free)"
