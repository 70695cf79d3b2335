"""Where do results live, and how are they written so that they are whole or absent?"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from llenergymeasure.exceptions import ResultError
from llenergymeasure.records import Block
from llenergymeasure.results.models import RESULT_SCHEMA_VERSION, ExperimentResult
from llenergymeasure.results.upgrade import result_1_to_2

RESULT_FILE, REQUESTS_FILE, RUNS = "result.json", "requests.parquet", "runs"
if TYPE_CHECKING:
    import pyarrow as pa

_COLUMNS = (
    *("block", "kind", "pass", "walk", "index", "batch", "prompt_tokens", "output_tokens"),
    *("local_prompt_tokens", "local_output_tokens", "t_scheduled_ns", "t_sent_ns", "t_first_ns", "t_end_ns"),
    "finish",
)
ROOM_BYTES = 50_000_000
CHANGED = "it was changed after it was written; take it from a copy, or measure again"
WHAT_TO_GIVE = "give a result.json, or the folder that holds one"


def save(result: ExperimentResult, output_dir: Path, *, files: Path | None) -> Path:
    """Write `output_dir/<experiment_id>/` and return it.

    It holds `result.json` and everything that lies in `files`, the folder of the runs, which is removed once
    all is in place. ResultError when the folder exists or can't be written: then nothing of it is left in
    `output_dir` and `files` is as it was.
    """
    target = output_dir / result.experiment_id
    kept = "" if files is None else f"; the files of the run are kept in {files}"
    try:
        with _room_for(target) as aside:
            _write_synced(aside / RESULT_FILE, _as_text(result))
            if files is not None:
                _bring(files, aside)
            _sync_folder(aside)
    except FileExistsError as error:
        raise ResultError(
            f"{error.filename} {error.strerror}{kept}", hint="choose another --output, or move what is there"
        ) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ResultError(
            f"the result can't be written to {target}: {reason}{kept}",
            hint="make room or choose another --output",
        ) from error
    if files is not None:
        # The result is whole by now; a stray temporary file does not make it lost.
        shutil.rmtree(files, ignore_errors=True)
    return target


def load(path: Path) -> ExperimentResult:
    """Read a `result.json` or the folder that holds one; ResultError names the file and what is wrong."""
    file, text = read_text(path)
    data = parse(text, file)
    if not isinstance(data, dict) or "schema_version" not in data:
        raise ResultError(f"{file} is not a result of llem: it has no schema_version", hint=WHAT_TO_GIVE)
    if data.get("kind", "inference") != "inference":
        raise ResultError(f"{file} is a result of windows or a command, not of a model's run")
    version = data["schema_version"]
    if version == "1":
        try:
            text = json.dumps(result_1_to_2(data))
        except (KeyError, TypeError, AttributeError) as error:
            raise ResultError(
                f"{file} does not fit schema 1: {error} is missing or of another kind", hint=CHANGED
            ) from error
    elif version != RESULT_SCHEMA_VERSION:
        newer = isinstance(version, str) and version.isdecimal() and int(version) > int(RESULT_SCHEMA_VERSION)
        written = "was written by a newer llem" if newer else "has a schema that llem never wrote"
        raise ResultError(
            f"{file} {written}: schema_version {version!r}, this llem reads up to {RESULT_SCHEMA_VERSION!r}",
            hint="pip install --upgrade llenergymeasure" if newer else WHAT_TO_GIVE,
        )
    try:
        return ExperimentResult.model_validate_json(text, strict=True, context={"stored": True})
    except ValidationError as error:
        shown = [f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}" for one in error.errors()[:3]]
        more = f" (and {error.error_count() - 3} more)" if error.error_count() > len(shown) else ""
        raise ResultError(
            f"{file} does not fit schema {RESULT_SCHEMA_VERSION}: {'; '.join(shown)}{more}",
            hint=CHANGED,
        ) from error


def write_requests(path: Path, blocks: Sequence[Block]) -> None:
    """One Parquet row per request, walk, pass and block (numbered from 0); times in monotonic ns.

    `local_…_tokens` are llem's own counts beside the engine's, null where there is none.
    """
    import pyarrow.parquet as pq

    pq.write_table(_requests(blocks), path)


def why_requests_differ(path: Path, blocks: Sequence[Block]) -> str | None:
    """In what the table at `path` is not the one of these blocks, or None."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        stored = pq.read_table(path)
    except FileNotFoundError:
        return "is missing"
    except (OSError, pa.ArrowException) as error:
        return f"can't be read: {error}"
    due = _requests(blocks)
    if stored.schema.names != due.schema.names or stored.num_rows != due.num_rows:
        return f"does not hold the {due.num_rows} requests of this run, with a column for each of their facts"
    odd = [name for name in due.schema.names if not stored.column(name).equals(due.column(name))]
    return f"holds other values than the events of the run, in {', '.join(odd)}" if odd else None


def _requests(blocks: Sequence[Block]) -> pa.Table:
    import pyarrow as pa

    rows = [
        {"block": number, "kind": block.kind, "pass": at, **asdict(one)}
        for number, block in enumerate(blocks)
        for at, each in enumerate(block.passes)
        for one in each.generation.completions
    ]
    types: dict[str, pa.DataType] = {"kind": pa.string(), "finish": pa.string()}
    types |= {name: pa.int64() for name in _COLUMNS if name.endswith("_ns")}
    return pa.table(
        {name: pa.array([row[name] for row in rows], types.get(name, pa.int32())) for name in _COLUMNS}
    )


def preflight_output(output_dir: Path) -> str | None:
    """One sentence why nothing could be written to `output_dir`, or None; creates nothing."""
    try:
        at = _nearest(output_dir)
        if not at.is_dir():
            return f"the output directory {output_dir} can't be made: {at} is not a directory"
        if not os.access(at, os.W_OK | os.X_OK):
            return f"the output directory {output_dir} can't be written: no permission in {at}"
        free = shutil.disk_usage(at).free
    except (OSError, ValueError) as error:
        return f"the output directory {output_dir} can't be used: {error}"
    if free < ROOM_BYTES:
        return (
            f"the output directory {output_dir} has {free / 1e6:.0f} MB left; "
            f"a result needs up to {ROOM_BYTES / 1e6:.0f} MB"
        )
    return None


def _nearest(path: Path) -> Path:
    """`path` or the first of its parents that is there, be it only a dangling link."""
    for at in (path, *path.parents):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            at.lstat()
            return at
    raise FileNotFoundError(f"the working directory is gone, and {path} is relative to it")


@contextlib.contextmanager
def _room_for(target: Path) -> Iterator[Path]:
    """A folder beside `target`, renamed to it when the block ends well, else gone with all it held."""
    output_dir = target.parent
    if os.path.lexists(output_dir) and not output_dir.is_dir():
        raise FileExistsError(errno.EEXIST, "is not a directory", str(output_dir))
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, "exists already", str(target))
    missing = [folder for folder in (output_dir, *output_dir.parents) if not folder.exists()]
    aside = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        aside.mkdir()
        yield aside
        _rename(aside, target)
        _sync_folder(output_dir)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        for folder in missing:
            # What another run has put there in the meantime stays.
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _rename(aside: Path, target: Path) -> None:
    try:
        aside.rename(target)
    except OSError as error:
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, "exists already", str(target)) from error
        raise


def _bring(files: Path, into: Path) -> None:
    """Every file under `files` also under `into`, linked where one file system holds both, else copied."""
    if not files.is_dir():
        raise ValueError(f"the folder of the run is gone: {files}")
    for source in sorted(files.rglob("*")):
        copy = into / source.relative_to(files)
        if source.is_dir():
            copy.mkdir()
            continue
        try:
            copy.hardlink_to(source)
        except FileExistsError:
            raise
        except OSError:
            shutil.copyfile(source, copy)


def _write_synced(path: Path, text: str) -> None:
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a power cut, where the file system can."""
    with contextlib.suppress(
        OSError
    ):  # some network file systems cannot sync folders; the files are written all the same
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _as_text(result: ExperimentResult) -> str:
    return json.dumps(result.as_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_text(path: Path) -> tuple[Path, str]:
    file = path
    try:
        file = path / RESULT_FILE if path.is_dir() else path
        odd = file.exists() and not file.is_file()
        text = "" if odd else file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ResultError(f"there is no result at {file}", hint=WHAT_TO_GIVE) from error
    except UnicodeDecodeError as error:
        raise ResultError(
            f"{file} is not a result of llem: it is not UTF-8 text", hint=WHAT_TO_GIVE
        ) from error
    except (OSError, ValueError) as error:
        raise ResultError(f"{file} can't be read: {error}", hint=WHAT_TO_GIVE) from error
    if odd:
        raise ResultError(f"{file} is not an ordinary file", hint=WHAT_TO_GIVE)
    return file, text


def parse(text: str, file: Path) -> object:
    def refuse(name: str) -> float:
        raise ValueError(f"{name} is not a number in JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise ResultError(
            f"{file} is broken or cut short: {error.msg} in line {error.lineno}",
            hint="take it from a copy, or measure again",
        ) from error
    except (ValueError, RecursionError) as error:
        raise ResultError(f"{file} is not a result of llem: {error}", hint=WHAT_TO_GIVE) from error
