"""Where do results live, and how is one written so that it is whole or absent?"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version as installed
from itertools import repeat
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from llenergymeasure.exceptions import ResultError
from llenergymeasure.records import Block
from llenergymeasure.results.folder import (
    RUNS,
    aside,
    holds_runs,
    made,
    sync_folder,
    unwritable,
    write_synced,
)
from llenergymeasure.results.models import RESULT_SCHEMA_VERSION, ExperimentResult, Stored
from llenergymeasure.results.upgrade import result_1_to_2

File = TypeVar("File", bound=Stored)
RESULT_FILE, REQUESTS_FILE = "result.json", "requests.parquet"
if TYPE_CHECKING:
    import pyarrow as pa

_OF_PASS = ("block", "kind", "pass")
_COLUMNS = (
    *("block", "kind", "pass", "walk", "index", "batch", "prompt_tokens", "output_tokens"),
    *("local_prompt_tokens", "local_output_tokens", "t_scheduled_ns", "t_sent_ns", "t_first_ns", "t_end_ns"),
    "finish",
)
ROOM_BYTES = 50_000_000
CHANGED = "it was changed after it was written; take it from a copy, or measure again"
WHAT_TO_GIVE = "give a result.json, or the folder that holds one"
UNTRACED = "no traces are kept with this result: it can't be computed again (an output directory keeps them)"


def save(result: ExperimentResult, output_dir: Path) -> Path:
    """Write `result.json` to `output_dir/<experiment_id>/` and return that folder."""
    return save_in(output_dir / result.experiment_id, result)


def save_in(folder: Path, result: ExperimentResult) -> Path:
    """Write `result.json` to the folder, where the files of its runs are if any were kept, and return that.

    It is written aside and renamed; where this very result is there already nothing is done. ResultError when
    another one is there, or it can't be written: then nothing of it is left.
    """
    try:
        _save(result, folder)
    except FileExistsError as error:
        raise ResultError(
            f"{error.filename} {error.strerror}", hint="choose another --output, or move what is there"
        ) from error
    except OSError as error:
        raise unwritable("the result", folder / RESULT_FILE, error) from error
    except ValueError as error:
        raise ResultError(f"the result can't be written to {folder}: {error}") from error
    return folder


def _save(result: ExperimentResult, folder: Path) -> None:
    text = as_text(result if (folder / RUNS).is_dir() else untraced(result))
    if os.path.lexists(folder.parent) and not folder.parent.is_dir():
        raise FileExistsError(errno.EEXIST, "is not a directory", str(folder.parent))
    with made(folder):
        if not _holds(folder / RESULT_FILE, text):
            write_aside(folder / RESULT_FILE, text)


def save_or_rescue(result: ExperimentResult, output_dir: Path) -> Path:
    """`save`; where that fails write the result to the temporary folder, and raise ResultError with what was
    measured and the command that finishes the job.
    """
    try:
        return save(result, output_dir)
    except ResultError as error:
        folder, message = output_dir / result.experiment_id, error.message
        hint = f"free space there, then: llem recompute --save {shlex.quote(str(folder))}"
        with contextlib.suppress(OSError):
            rescued = Path(tempfile.mkdtemp(prefix="llem-result-")) / RESULT_FILE
            write_aside(rescued, as_text(result))
            message += f"; it is whole in {rescued}"
            make = "" if folder.is_dir() else f"mkdir -p {shlex.quote(str(folder))} && "
            hint = (
                f"free space there, then: {make}{shlex.join(['mv', str(rescued), str(folder / RESULT_FILE)])}"
            )
        raise ResultError(message, hint=hint, result=result) from error


def untraced(result: ExperimentResult) -> ExperimentResult:
    """The same with a note that there are no traces to compute it from again."""
    return result.model_copy(update={"notes": tuple(dict.fromkeys((*result.notes, UNTRACED)))})


def load(path: Path) -> ExperimentResult:
    """Read a `result.json` or the folder that holds one; ResultError names the file and what is wrong."""
    file, text = read_text(path)
    return from_data(parse(text, file), text, file)


def from_data(data: object, text: str, file: Path) -> ExperimentResult:
    """The result in a file that was read and parsed; ResultError as `load` has it."""
    if not isinstance(data, dict) or "schema_version" not in data:
        raise ResultError(f"{file} is not a result of llem: it has no schema_version", hint=WHAT_TO_GIVE)
    if data.get("kind", "inference") != "inference":
        raise ResultError(f"{file} is a result of windows or a command, not of a model's run")
    if data["schema_version"] == "1":
        try:
            text = json.dumps(result_1_to_2(data))
        except (KeyError, TypeError, AttributeError) as error:
            raise ResultError(
                f"{file} does not fit schema 1: {error} is missing or of another kind", hint=CHANGED
            ) from error
    else:
        check_version(data, file, newest=RESULT_SCHEMA_VERSION)
    return validated(ExperimentResult, text, file, data)


def check_version(data: Mapping[str, Any], file: Path, *, newest: str) -> None:
    """ResultError where the file is of another schema than the newest that this llem reads."""
    version = data.get("schema_version")
    if version == newest:
        return
    newer = isinstance(version, str) and version.isdecimal() and int(version) > int(newest)
    written = "was written by a newer llem" if newer else "has a schema that llem never wrote"
    raise ResultError(
        f"{file} {written}: schema_version {version!r}, this llem reads up to {newest!r}",
        hint=_install(_writer(data)) if newer else WHAT_TO_GIVE,
    )


def validated(model: type[File], text: str, file: Path, data: Mapping[str, Any]) -> File:
    """The value that the text of a file holds. ResultError where it does not fit: it was changed, or a newer
    llem wrote it, which the file itself says.
    """
    try:
        return model.model_validate_json(text, strict=True, context={"stored": True})
    except ValidationError as error:
        shown = [f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}" for one in error.errors()[:3]]
        more = f" (and {error.error_count() - 3} more)" if error.error_count() > len(shown) else ""
        writer = _writer(data)
        newer = writer is not None and _numbers(writer) > _numbers(own_version())
        who = f" of this llem v{own_version()}; llem v{writer} wrote it" if newer else ""
        raise ResultError(
            f"{file} does not fit schema {model.model_fields['schema_version'].default}{who}: "
            f"{'; '.join(shown)}{more}",
            hint=_install(writer) if newer else CHANGED,
        ) from error


def own_version() -> str:
    return installed("llenergymeasure")


def _writer(data: Mapping[str, Any]) -> str | None:
    """The version of llem that wrote a file, where it says so in the form of one."""
    facts = data.get("environment")
    version = facts.get("llem") if isinstance(facts, dict) else data.get("llem")
    return version if isinstance(version, str) and _numbers(version) else None


def _numbers(version: str) -> tuple[int, ...]:
    """To compare versions by; empty where it begins with no number."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()


def _install(version: str | None) -> str:
    if version is None:
        return "pip install --upgrade llenergymeasure"
    return f"pip install 'llenergymeasure>={'.'.join(map(str, _numbers(version)))}'"


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

    passes = [
        (number, block.kind, at, each.generation.completions)
        for number, block in enumerate(blocks)
        for at, each in enumerate(block.passes)
    ]
    lengths = [len(done) for *_, done in passes]

    def column(name: str) -> Iterator[object]:
        if name in _OF_PASS:
            for each, length in zip(passes, lengths, strict=True):
                yield from repeat(each[_OF_PASS.index(name)], length)
            return
        for *_, done in passes:
            yield from map(attrgetter(name), done)

    types: dict[str, pa.DataType] = {"kind": pa.string(), "finish": pa.string()}
    types |= {name: pa.int64() for name in _COLUMNS if name.endswith("_ns")}
    return pa.table(
        {name: pa.array(column(name), types.get(name, pa.int32()), size=sum(lengths)) for name in _COLUMNS}
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


def _holds(file: Path, text: str) -> bool:
    """Whether the file is there with that text; FileExistsError where it is there with another one."""
    if not os.path.lexists(file):
        return False
    if not file.is_file() or file.read_text(encoding="utf-8", errors="replace") != text:
        raise FileExistsError(errno.EEXIST, "exists already", str(file))
    return True


def write_aside(path: Path, text: str) -> None:
    """The whole file or none of it; FileExistsError where there is one."""
    with aside(path) as part:
        write_synced(part, text)
        _move(part, path)
        sync_folder(path.parent)


def _move(part: Path, path: Path) -> None:
    """Never over another file, where the file system has hard links."""
    try:
        path.hardlink_to(part)
    except OSError as error:
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, "exists already", str(path)) from error
        part.rename(path)


def as_text(result: Stored) -> str:
    return json.dumps(result.as_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_text(path: Path) -> tuple[Path, str]:
    file = path
    try:
        file = path / RESULT_FILE if path.is_dir() else path
        odd = file.exists() and not file.is_file()
        text = "" if odd else file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        hint = WHAT_TO_GIVE
        if holds_runs(path):
            hint = f"it holds files of runs; llem recompute {path} computes what is in them"
        elif any(path.glob(f"*/{RESULT_FILE}")):
            hint = f"give those in it, such as '{path}/*' to compare or export; llem list {path} names them"
        raise ResultError(f"there is no result at {file}", hint=hint) from error
    except UnicodeDecodeError as error:
        raise ResultError(
            f"{file} is not a result of llem: it is not UTF-8 text", hint=WHAT_TO_GIVE
        ) from error
    except (OSError, ValueError) as error:
        raise ResultError(f"{file} can't be read: {error}", hint=WHAT_TO_GIVE) from error
    if odd:
        raise ResultError(f"{file} is not a regular file", hint=WHAT_TO_GIVE)
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
