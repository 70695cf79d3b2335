"""Which requests does a trace file hold: when each came, and how long it and its answer were?"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from math import ceil, isfinite
from pathlib import Path

from llenergymeasure.exceptions import ConfigError
from llenergymeasure.workload.files import opened

# Of Mooncake's traces: each of hash_ids stands for so many tokens, the last one for what is left.
BLOCK_TOKENS = 512
# Of each form the names of the time, the input length and the output length.
_NAMES = {
    "llem": ("at_s", "input_tokens", "output_tokens"),
    "Mooncake": ("timestamp", "input_length", "output_length"),
    "Azure": ("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
}
_PER_SECOND = {"llem": 1, "Mooncake": 1_000, "Azure": 1_000_000}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FORMS = (
    'write JSON lines such as {"at_s": 0.5, "input_tokens": 128, "output_tokens": 64}, or take a trace of '
    "Mooncake (timestamp, input_length, output_length, hash_ids) or a CSV file of Azure "
    "(TIMESTAMP,ContextTokens,GeneratedTokens)"
)


@dataclass(frozen=True, slots=True)
class TraceRecord:
    """A request that came `at_s` seconds after the first of its file; `place` is where in it, as "line 3".

    `blocks` are Mooncake's hash_ids: where two records begin with the same ones, so do their prompts.
    """

    place: str
    at_s: float
    input_tokens: int
    output_tokens: int
    blocks: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Trace:
    form: str
    records: tuple[TraceRecord, ...]


def read_trace(path: Path, *, most: int) -> Trace:
    """The first `most` requests of a trace. ConfigError names the file, the line and the way out."""
    path = path.expanduser()
    records: list[TraceRecord] = []
    form, first, before = "", None, 0.0
    for place, values in islice(_rows(path), most):
        form = form or _form(path, place, values)
        time, *lengths = _NAMES[form]
        if missing := [name for name in _NAMES[form] if values.get(name, "") in (None, "")]:
            raise _refused(path, place, f"{missing[0]} is missing", "give every record all of them")
        moment = _moment(path, place, form, values[time])
        first = moment if first is None else first
        at_s = (moment - first) / _PER_SECOND[form]
        if at_s < before:
            raise _refused(
                path, place, f"{time} {values[time]} is before that of the record before", "sort it by time"
            )
        before = at_s
        prompt, output = (_length(path, place, name, values[name]) for name in lengths)
        blocks = _blocks(path, place, values.get("hash_ids"), prompt) if form == "Mooncake" else None
        records.append(TraceRecord(place, at_s, prompt, output, blocks))
    if not records:
        raise ConfigError(f"load.trace {path} holds no requests", hint=_FORMS)
    return Trace(form, tuple(records))


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise ConfigError(
            f"load.trace {path} can't be read: {error.strerror}", hint="check its path and mode"
        ) from error
    # Whatever its name: JSON, by line or gzipped, else a table.
    is_json = head[:2] == b"\x1f\x8b" or head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in {b"", b"{", b"["}
    return _objects(path) if is_json else _table(path)


def _objects(path: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    try:
        with opened(path) as read:
            for number, value in read.values:
                place = f"{read.numbered_by} {number}"
                if not isinstance(value, dict):
                    raise _refused(path, place, "is not an object", _FORMS)
                yield place, value
    except ConfigError as error:
        if error.message.startswith("load.trace"):
            raise
        raise ConfigError(f"load.trace: {error.message}", hint=_FORMS) from error


def _table(path: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file, skipinitialspace=True)
            for row in table:
                place = f"line {table.line_num}"
                if None in row:
                    raise _refused(path, place, "has more columns than the header", "mend it")
                yield place, row
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"load.trace {path} is not a table: {error}", hint=_FORMS) from error


def _form(path: Path, place: str, values: Mapping[str, object]) -> str:
    """Whose format it is: that which has most of the names of its first record."""
    form = max(_NAMES, key=lambda form: len(values.keys() & set(_NAMES[form])))
    if not values.keys() & set(_NAMES[form]):
        seen = ", ".join(str(name)[:40] for name in list(values)[:6]) or "nothing"
        raise _refused(path, place, f"the names {seen} are of no known trace", _FORMS)
    return form


def _moment(path: Path, place: str, form: str, value: object) -> float:
    """In the units of the form; a date without a zone is taken for UTC."""
    try:
        if form == "Azure":
            date = datetime.fromisoformat(str(value))
            return ((date if date.tzinfo else date.replace(tzinfo=UTC)) - _EPOCH) / timedelta(microseconds=1)
        if isfinite(number := _number(value)):
            return number
    except ValueError:
        pass
    raise _refused(path, place, f"{_NAMES[form][0]} {value!r} is not a time", "mend or remove it")


def _length(path: Path, place: str, name: str, value: object) -> int:
    try:
        number = _number(value)
    except ValueError:
        number = 0.0
    if not (isfinite(number) and number > 0 and number == int(number)):
        raise _refused(path, place, f"{name} {value!r} is not a positive whole number", "mend or remove it")
    return int(number)


def _number(value: object) -> float:
    """ValueError where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError from error


def _blocks(path: Path, place: str, value: object, length: int) -> tuple[int, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(type(one) is int for one in value):
        raise _refused(path, place, "hash_ids is not a list of whole numbers", "mend it, or leave it out")
    if len(value) != ceil(length / BLOCK_TOKENS):
        raise _refused(
            path,
            place,
            f"{len(value)} hash_ids, each for {BLOCK_TOKENS} tokens, do not fit input_length {length}",
            "mend it, or leave hash_ids out",
        )
    return tuple(value)


def _refused(path: Path, place: str, why: str, way_out: str) -> ConfigError:
    return ConfigError(f"load.trace {path}, {place}: {why}", hint=way_out)
