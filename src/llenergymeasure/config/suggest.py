"""What did the user mean by a name that does not exist?"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from functools import cache
from typing import Annotated, get_args, get_origin

from pydantic.fields import FieldInfo

from llenergymeasure.config.engines import brought_section
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.config.section import Section

# keys of earlier versions, and what they are now
RENAMED = {
    "cycles": "repeats.count",
    "cycles.count": "repeats.count",
    "cycles.target": "repeats.target",
    "passes.minimum": "passes.count",
}


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate most like `name`, None where none is close."""
    options = list(candidates)
    by_lower = {option.lower(): option for option in options}
    if close := get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6):
        return by_lower[close[0]]
    within = [option for option in options if len(name) > 2 and name.lower() in option.lower()]
    return min(within, key=len, default=None)


def section_of(field: FieldInfo) -> type[Section] | None:
    """The section that a field holds, `Section` and `Section | None` alike."""
    for kind in (field.annotation, *get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, Section):
            return kind
    return None


def is_free(field: FieldInfo) -> bool:
    """Whether a field is a mapping whose keys somebody else checks, such as an engine's arguments."""
    kinds = (field.annotation, *get_args(field.annotation))
    plain = (get_args(kind)[0] if get_origin(kind) is Annotated else kind for kind in kinds)
    return any(kind is dict or get_origin(kind) is dict for kind in plain)


@cache
def known_keys() -> dict[str, FieldInfo]:
    """Every dotted key of the configuration's own, sections included."""
    return dict(_walk(ExperimentConfig, ""))


def keys_beside(name: str) -> dict[str, FieldInfo]:
    """All `known_keys`, with those of the engine of that name where it brings its own section.

    ConfigError and BackendError where its plug-in is broken.
    """
    if name in known_keys() or (section := brought_section(name)) is None:
        return known_keys()
    whole = FieldInfo(annotation=section, default_factory=section)
    return known_keys() | {name: whole, **dict(_walk(section, f"{name}."))}


def _walk(model: type[Section], prefix: str) -> Iterable[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        yield prefix + name, field
        if section := section_of(field):
            yield from _walk(section, f"{prefix}{name}.")


def nearest_key(key: str) -> str | None:
    """The valid dotted key most like `key`: first among its siblings, then anywhere by its last word."""
    parent, _, last = key.rpartition(".")
    if parent in known_keys() and section_of(known_keys()[parent]) is None:
        return parent  # it holds a single value
    prefix = f"{parent}." if parent else ""
    known = keys_beside(key.partition(".")[0])
    siblings = [
        name.removeprefix(prefix)
        for name in known
        if name.startswith(prefix) and "." not in name.removeprefix(prefix)
    ]
    if (match := nearest(last, siblings)) is not None:
        return prefix + match
    by_last: dict[str, str] = {}
    for name in known:
        by_last.setdefault(name.rpartition(".")[2], name)
    match = nearest(last, by_last) if len(last) > 2 else None
    return by_last[match] if match is not None else None
