from __future__ import annotations

import json
import subprocess
import sys
from importlib.resources import files

import pytest
from example_result import EnergyKind, example_result
from jsonschema import Draft202012Validator
from recordings import at, made, seen_by

from llenergymeasure.results.meanings import ANYWHERE, MEANINGS
from llenergymeasure.results.schema import result_schema
from llenergymeasure.simulation.waveform import Waveform

SHIPPED = files("llenergymeasure.results") / "result.schema.json"


def test_the_shipped_schema_is_what_the_model_produces() -> None:
    made = subprocess.run(
        [sys.executable, "-m", "llenergymeasure.results.schema"], capture_output=True, text=True, check=True
    )
    assert made.stdout == SHIPPED.read_text(encoding="utf-8"), (
        "run: python -m llenergymeasure.results.schema > schema.json, and put it in place of the shipped file"
    )


@pytest.mark.parametrize("kind", ["modelled", "measured", "missing"])
def test_a_result_fits_the_schema(kind: EnergyKind) -> None:
    schema = json.loads(SHIPPED.read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    written = json.loads(json.dumps(example_result(energy=kind).as_json()))
    Draft202012Validator(schema).validate(written)


def test_the_schema_refuses_a_missing_and_an_unknown_key() -> None:
    whole = example_result().as_json()
    validator = Draft202012Validator(result_schema())
    for key in whole:
        assert not validator.is_valid({name: value for name, value in whole.items() if name != key}), key
    assert not validator.is_valid({**whole, "surprise": 1})
    assert not validator.is_valid({**whole, "experiment_id": "../x"})


def test_a_result_of_windows_fits_the_same_schema_by_its_kind() -> None:
    validator = Draft202012Validator(result_schema())
    written = made(seen_by(Waveform(100.0), poll_ms=50), [at("x", 20, 5)]).as_json()
    validator.validate(json.loads(json.dumps(written)))
    assert not validator.is_valid({**written, "kind": "inference"})


def test_every_key_has_a_meaning_and_no_meaning_lacks_its_key() -> None:
    tables: dict[str, dict[str, dict[str, object]]] = {
        name: facts["properties"]
        for name, facts in json.loads(json.dumps(result_schema()))["$defs"].items()
        if "properties" in facts and not name.endswith("Config")
    }
    keys = {(table, key) for table, found in tables.items() for key in found}
    assert len(keys) > 300
    assert not [f"{table}.{key}" for table, key in keys if not tables[table][key].get("description")]
    written = {(table, key) for table, found in MEANINGS.items() for key in found}
    assert written <= keys
    assert set(ANYWHERE) <= {key for _, key in keys - written}
