"""Which keys are there, what does each take, and what is it when it is not given?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llenergymeasure.config import plugins
from llenergymeasure.config.engines import brought_section
from llenergymeasure.config.schema import experiment_schema, study_schema
from llenergymeasure.config.section import Section
from llenergymeasure.config.study import OTHER_KEYS, STUDY_KEYS
from llenergymeasure.exceptions import LLEMError

_WORDS = {
    "boolean": "true, false",
    "object": "names with values",
    "string": "text",
    "array": "a list",
    "null": "",
}


@dataclass(frozen=True, slots=True)
class Key:
    """A dotted key; `default` is None where there is none, or nothing."""

    name: str
    values: str
    default: str | None
    about: str


def all_keys() -> tuple[Key, ...]:
    """Every key of an experiment, the options of each engine that is installed included."""
    schema = experiment_schema()
    brought: list[Key] = []
    for name in sorted(plugins.BACKENDS.names() - schema["properties"].keys()):
        try:
            section = brought_section(name)
        except LLEMError:
            continue  # a run of that engine says what is wrong with it
        brought += _keys(section.model_json_schema(), f"{name}.") if section is not None else []
    return (*_keys(schema, ""), *brought)


def study_keys() -> tuple[Key, ...]:
    """Those of a study file alone."""
    schema = study_schema()
    own = {name: schema["properties"][name] for name in (*STUDY_KEYS, *OTHER_KEYS)}
    # What a sweep holds are the keys of an experiment.
    own["sweep"].pop("properties")
    return tuple(_keys({**schema, "properties": own}, ""))


def keys_of(section: type[Section]) -> tuple[Key, ...]:
    """Those of one section, by their names within it."""
    return tuple(_keys(section.model_json_schema(), ""))


def _keys(schema: Mapping[str, Any], prefix: str) -> Iterator[Key]:
    defined: Mapping[str, Any] = schema.get("$defs", {})

    def walk(properties: Mapping[str, Any], within: str) -> Iterator[Key]:
        for name, facts in properties.items():
            parts = [
                defined.get(part.get("$ref", "").rpartition("/")[2], part)
                for part in (facts, *facts.get("anyOf", []))
            ]
            inner = [part["properties"] for part in parts if "properties" in part]
            if not inner or any(part.get("type") == "null" for part in parts):
                about = facts.get("description", "").replace("\n", " ")
                yield Key(f"{within}{name}", _values(facts), _default(facts), about)
            for properties_inside in inner:
                yield from walk(properties_inside, f"{within}{name}.")

    yield from walk(schema["properties"], prefix)


def _values(facts: Mapping[str, Any]) -> str:
    """What a key takes, in words, from its JSON Schema."""
    if "anyOf" in facts:
        kinds = [_values(one) for one in facts["anyOf"] if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in facts:
        return ", ".join(facts["enum"])
    if "const" in facts:
        return str(facts["const"])
    if "exclusiveMinimum" in facts:
        return f"{facts['type']} above {facts['exclusiveMinimum']}"
    if "minimum" in facts:
        return f"{facts['type']} from {facts['minimum']}"
    # What has no type is a section of its own.
    kind = facts.get("type", "the options below")
    return _WORDS.get(kind, str(kind))


def _default(facts: Mapping[str, Any]) -> str | None:
    default = facts.get("default")
    if default is None or default == {}:
        return None
    return str(default).lower() if isinstance(default, bool) else str(default)
