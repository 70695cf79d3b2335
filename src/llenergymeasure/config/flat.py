"""Which single values does a nested mapping hold, and under which dotted keys?"""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import JsonValue


def leaves(
    value: JsonValue, key: str = "", *, lists: bool = False, empty: bool = False
) -> Iterator[tuple[str, JsonValue]]:
    """Every value that is not a mapping, with its dotted key. `lists` takes lists apart too, as `key[0]`;
    `empty` includes mappings that hold nothing.
    """
    if isinstance(value, dict) and (value or not key or not empty):
        for name, inner in value.items():
            yield from leaves(inner, f"{key}.{name}" if key else name, lists=lists, empty=empty)
    elif lists and isinstance(value, list):
        for number, inner in enumerate(value):
            yield from leaves(inner, f"{key}[{number}]", lists=lists, empty=empty)
    else:
        yield key, value
