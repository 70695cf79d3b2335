"""Which points does a sweep consist of?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

from pydantic import JsonValue

from llenergymeasure.config.loader import first_unknown
from llenergymeasure.config.suggest import known_keys, nearest_key, section_of
from llenergymeasure.exceptions import ConfigError

# `1-8`, `1-64*2`, `8-32+8`
_RANGE = re.compile(r"(\d+)-(\d+)(?:([*+])(\d+))?")
FORMS = "a list such as [1, 4, 8], a range such as 1-64*2, {min: 1, max: 9, num: 3}, or {pow2: [1, 64]}"
# What says how well a cost is known, or where it is put: more of it is the same experiment.
NOT_SWEPT = ("output_dir", "repeats", "passes.target", "passes.budget")
# Figures that follow from others.
DERIVED = {"batch_size": "<engine>.batch_size, such as pytorch.batch_size", "max_tokens": "max_output_tokens"}

# Of one axis.
MOST_VALUES = 1_000_000

Settings = dict[str, JsonValue]


@dataclass(frozen=True, slots=True)
class Axis:
    """Alternatives of which a point takes one; each sets one key, or several together."""

    name: str
    choices: tuple[Settings, ...]


def axes(sweep: Mapping[str, JsonValue], *, where: str) -> tuple[Axis, ...]:
    """One axis for each key, nested sections included, for each `zip`, and for each of the `groups`.

    ConfigError names the axis that has no meaning, and one whose key another axis sets too.
    """
    found = tuple(_axes(sweep, "", where))
    if not found:
        raise ConfigError(f"{where}: the sweep is empty", hint=f"give an axis: a key with {FORMS}")
    owner: dict[str, str] = {}
    for axis in found:
        for key in dict.fromkeys(key for choice in axis.choices for key in choice):
            check_key(key, where=f"{where}: {axis.name}")
            if key in owner:
                raise ConfigError(f"{where}: {axis.name} and {owner[key]} both set {key}")
            owner[key] = axis.name
    return found


def size(found: Sequence[Axis]) -> int:
    return prod(len(axis.choices) for axis in found)


def points(found: Sequence[Axis]) -> Iterator[Settings]:
    """Every combination, the last axis fastest."""
    for chosen in product(*(axis.choices for axis in found)):
        yield {key: value for choice in chosen for key, value in choice.items()}


def check_key(key: str, *, where: str) -> None:
    """ConfigError where no experiment has that key, or where it is not something to vary."""
    if key in DERIVED:
        raise ConfigError(f"{where}: {key} follows from other keys", hint=f"give {DERIVED[key]}")
    if any(key == name or key.startswith(f"{name}.") for name in NOT_SWEPT):
        raise ConfigError(
            f"{where}: {key} sets how well or where an experiment is measured, and can't be swept",
            hint=f"give {key} outside of the sweep",
        )
    if first_unknown(key) is not None:
        meant = nearest_key(key)
        raise ConfigError(f"{where}: unknown key {key}", hint=f"did you mean {meant}?" if meant else None)


def _axes(part: Mapping[str, JsonValue], prefix: str, where: str) -> Iterator[Axis]:
    for name, value in part.items():
        key = f"{prefix}{name}"
        if not prefix and name == "zip":
            yield from _zips(value, where)
        elif not prefix and name == "groups":
            yield from _groups(value, where)
        elif isinstance(value, dict) and not _is_form(value):
            field = known_keys().get(key)
            if field is not None and section_of(field) is None and value:
                raise ConfigError(f"{where}: {key} is {_shown(value)}", hint=f"an axis is {FORMS}")
            yield from _axes(value, f"{key}.", where)
        else:
            spot = f"{where}: {key}"
            yield Axis(key, tuple(_choice(key, one, spot) for one in values(value, where=spot)))


def _choice(key: str, value: JsonValue, where: str) -> Settings:
    """A whole section as its keys, so that an unknown one is found."""
    field = known_keys().get(key)
    if isinstance(value, dict) and field is not None and section_of(field) is not None:
        return settings({key: value}, where=where)
    return {"dataset.name" if key == "dataset" else key: value}


def _is_form(value: Mapping[str, JsonValue]) -> bool:
    return bool(value) and value.keys() <= {"min", "max", "num", "pow2"}


def values(axis: JsonValue, *, where: str) -> list[JsonValue]:
    """The values that an axis takes, in order; ConfigError where it has another form or none."""
    found: list[JsonValue] | None = None
    if isinstance(axis, list):
        found = axis
    elif isinstance(axis, str) and (parts := _RANGE.fullmatch(axis.strip())):
        found = list(_range(*parts.groups(), where=where))
    elif isinstance(axis, dict) and axis.keys() == {"min", "max", "num"}:
        found = _spaced(axis, where)
    elif isinstance(axis, dict) and axis.keys() == {"pow2"}:
        found = _powers(axis["pow2"], where)
    if found is None:
        raise ConfigError(f"{where} is {_shown(axis)}", hint=f"an axis is {FORMS}")
    if not found:
        raise ConfigError(f"{where} has no values", hint=f"an axis is {FORMS}")
    return found


def is_range(text: str) -> bool:
    return _RANGE.fullmatch(text.strip()) is not None


def _range(first: str, last: str, how: str | None, step: str | None, *, where: str) -> Iterator[JsonValue]:
    at, end, by = int(first), int(last), int(step or 1)
    stuck = by < 1 if how != "*" else by < 2 or at < 1
    if stuck or at > end:
        raise ConfigError(
            f"{where}: the range {first}-{last}{how or ''}{step or ''} never ends or is empty",
            hint="such as 1-64*2",
        )
    if how != "*" and (end - at) // by >= MOST_VALUES:
        raise ConfigError(f"{where}: the range {first}-{last} has over {MOST_VALUES:,} values")
    while at <= end:
        yield at
        at = at * by if how == "*" else at + by


def _spaced(axis: dict[str, JsonValue], where: str) -> list[JsonValue]:
    low, high, count = axis["min"], axis["max"], axis["num"]
    numbers = [one for one in (low, high) if isinstance(one, int | float) and not isinstance(one, bool)]
    if len(numbers) < 2 or not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ConfigError(
            f"{where}: min and max are numbers and num is a count of values, got {_shown(axis)}"
        )
    first, last = numbers
    if first > last or (count == 1 and first != last) or count > MOST_VALUES:
        raise ConfigError(
            f"{where}: {_shown(axis)} has no such values", hint="such as {min: 1, max: 9, num: 3}"
        )
    step = (last - first) / (count - 1) if count > 1 else 0.0
    spaced = [float(f"{first + step * at:.12g}") for at in range(count)]
    whole = isinstance(low, int) and isinstance(high, int)
    return [int(one) if whole and one.is_integer() else one for one in spaced]


def _powers(ends: JsonValue, where: str) -> list[JsonValue]:
    if not isinstance(ends, list) or len(ends) != 2 or not all(type(one) is int and one > 0 for one in ends):
        raise ConfigError(
            f"{where}: pow2 takes its two ends, got {_shown(ends)}", hint="such as {pow2: [1, 64]}"
        )
    low, high = (int(one) for one in ends if isinstance(one, int))
    return [1 << at for at in range(high.bit_length()) if low <= 1 << at <= high]


def _zips(part: JsonValue, where: str) -> Iterator[Axis]:
    """Keys that change together: `zip: {a: [1, 2], b: [3, 4]}` gives (1, 3) and (2, 4)."""
    for each in part if isinstance(part, list) else [part]:
        if not isinstance(each, dict) or not each:
            raise ConfigError(
                f"{where}: zip is {_shown(each)}", hint="such as zip: {n: [8, 16], precision: [bf16, fp32]}"
            )
        columns = {key: values(value, where=f"{where}: zip.{key}") for key, value in each.items()}
        if len({len(column) for column in columns.values()}) > 1:
            counts = ", ".join(f"{key} has {len(column)}" for key, column in columns.items())
            raise ConfigError(f"{where}: the keys of a zip have equally many values; {counts}")
        rows = zip(*columns.values(), strict=True)
        yield Axis(
            f"zip of {', '.join(columns)}", tuple(dict(zip(columns, row, strict=True)) for row in rows)
        )


def _groups(part: JsonValue, where: str) -> Iterator[Axis]:
    """Named axes whose choices set several keys each."""
    hint = "such as groups: {engine: [{backend: vllm}, {backend: pytorch, pytorch.batch_size: 4}]}"
    if not isinstance(part, dict) or not part:
        raise ConfigError(f"{where}: groups is {_shown(part)}", hint=hint)
    for name, choices in part.items():
        if not isinstance(choices, list) or not choices:
            raise ConfigError(f"{where}: groups.{name} is {_shown(choices)}", hint=hint)
        yield Axis(f"groups.{name}", tuple(settings(one, where=f"{where}: groups.{name}") for one in choices))


def settings(part: JsonValue, *, where: str) -> Settings:
    """Keys with single values, sections flattened to dotted keys; ConfigError for what is not a mapping."""
    if not isinstance(part, dict) or not part:
        raise ConfigError(f"{where}: {_shown(part)} is not a mapping of keys to values")
    flat: Settings = {}
    for key, value in part.items():
        field = known_keys().get(key)
        nested = isinstance(value, dict) and (field is None or section_of(field) is not None)
        inner = settings(value, where=where) if nested else {"": value}
        for name, one in inner.items():
            whole = f"{key}.{name}" if name else key
            if whole in flat:
                raise ConfigError(f"{where}: {whole} is given twice")
            flat[whole] = one
    return flat


def _shown(value: JsonValue) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
