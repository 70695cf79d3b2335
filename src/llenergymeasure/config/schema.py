"""What may an editor expect in an experiment file, and in a study file?

Run as a module it writes the two schema files beside it, which editors read by the first line of a file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from llenergymeasure.config.engines import BACKENDS, brought_section
from llenergymeasure.config.models import BUILTIN_METERS, ENGINES, DatasetConfig, ExperimentConfig
from llenergymeasure.config.study import Execution, Search
from llenergymeasure.config.suggest import known_keys

DIALECT = "https://json-schema.org/draft/2020-12/schema"
EXPERIMENT_SCHEMA = Path(__file__).with_name("experiment.schema.json")
STUDY_SCHEMA = Path(__file__).with_name("study.schema.json")
_ALL = "#/$defs/{model}"


def experiment_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of what an experiment file may hold, dotted keys included.

    No key is required, since flags, the environment and the user's own configuration may give it. Sections
    of plug-ins are let through.
    """
    schema, definitions = _experiment()
    return {"$schema": DIALECT, "title": "llem experiment", **schema, "$defs": definitions}


def study_schema() -> dict[str, Any]:
    """The same of a study file: an experiment's keys, and what is varied, left out, and how it is run."""
    experiment, definitions = _experiment()
    for section in (Execution, Search):
        definitions[section.__name__] = TypeAdapter(section).json_schema(ref_template=_ALL)
        definitions |= definitions[section.__name__].pop("$defs", {})
    condition = {"type": "object", "description": "keys and the value, or list of values, that each has"}
    point = {**experiment, "properties": {"name": {"type": "string"}, **experiment["properties"]}}
    own = {
        "name": {"type": "string", "description": "names the folder of results; the file's name when absent"},
        "base": {
            "type": "string",
            "description": "experiment file, beside this one, that this one builds on",
        },
        "sweep": {
            "type": "object",
            "description": "axes: keys with several values each; every combination is an experiment",
            "properties": {
                **{key: {"description": field.description or ""} for key, field in known_keys().items()},
                "zip": {"description": "keys that change together"},
                "groups": {"description": "named axes whose choices set several keys each"},
            },
        },
        "experiments": {"type": "array", "items": point, "description": "experiments, one by one"},
        "exclude": {
            "anyOf": [condition, {"type": "array", "items": condition}],
            "description": "experiments that are left out",
        },
        "when": {
            "type": "object",
            "description": "for a key of the sweep the condition under which it is set",
        },
        "search": {"$ref": _ALL.format(model="Search"), "description": Search.__doc__},
        "execution": {"$ref": _ALL.format(model="Execution"), "description": Execution.__doc__},
    }
    schema = {**experiment, "properties": {**own, **experiment["properties"]}}
    return {"$schema": DIALECT, "title": "llem study", **schema, "$defs": definitions}


def as_file(schema: dict[str, Any]) -> str:
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def _experiment() -> tuple[dict[str, Any], dict[str, Any]]:
    schema = ExperimentConfig.model_json_schema(ref_template=_ALL)
    definitions: dict[str, Any] = schema.pop("$defs")
    properties: dict[str, Any] = schema["properties"]
    for name in BACKENDS.keys() - ENGINES.keys():
        if (section := brought_section(name)) is not None:
            own = section.model_json_schema(ref_template=_ALL)
            definitions |= own.pop("$defs", {})
            properties[name] = own
    # What a file may hold beside what the model holds: a dataset's bare name, GPUs by index.
    properties["dataset"] = {
        "anyOf": [{"type": "string"}, {"$ref": _ALL.format(model=DatasetConfig.__name__)}],
        "description": DatasetConfig.__doc__,
    }
    gpus = definitions["EnergyConfig"]["properties"]["gpus"]
    next(one for one in gpus["anyOf"] if one["type"] == "array")["items"] = {"type": ["string", "integer"]}
    properties["backend"] = _named(properties["backend"], sorted(BACKENDS))
    energy = definitions["EnergyConfig"]["properties"]
    energy["meter"] = _named(energy["meter"], list(BUILTIN_METERS))
    return {
        "type": "object",
        "properties": properties,
        "patternProperties": {r"\.": {}},
        "additionalProperties": {"type": "object"},
    }, definitions


def _named(field: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Of text that may be a plug-in's name: with those that an editor can propose."""
    kind = {key: field.pop(key) for key in ("type", "minLength") if key in field}
    return {"anyOf": [{"enum": names}, kind], **field}


if __name__ == "__main__":
    EXPERIMENT_SCHEMA.write_text(as_file(experiment_schema()), encoding="utf-8")
    STUDY_SCHEMA.write_text(as_file(study_schema()), encoding="utf-8")
