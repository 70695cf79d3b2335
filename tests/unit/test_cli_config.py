"""`llem config`: what is wrong with a file, what is in force, which keys there are, and the schemas."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from docs.generate import configuration_page
from typer.testing import CliRunner, Result

from llenergymeasure.cli import app
from llenergymeasure.config import schema
from llenergymeasure.config.keys import all_keys, study_keys
from llenergymeasure.config.presets import PRESET_VALUES
from llenergymeasure.config.suggest import known_keys, section_of

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").rglob("*.yaml"))


@pytest.fixture(autouse=True)
def _nothing_of_this_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


def llem(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["config", *map(str, arguments)])


def written(folder: Path, text: str) -> Path:
    file = folder / "one.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def wrong_lines(result: Result) -> list[tuple[str, int]]:
    """The key and the line of each error."""
    found = re.findall(r"^  (?:unknown key: )?(\S+?)[: ].*line (\d+)", result.stderr, re.MULTILINE)
    return [(key, int(line)) for key, line in found]


def test_all_that_is_wrong_with_an_experiment_is_said_at_once_with_its_line(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        "model: gpt2\nprecison: bf16\nn: -3\npytorch:\n  bacth: 2\n"
        "decoder: {temperature: 99}\nvllm: {batch_size: 3}\n",
    )
    result = llem("validate", file)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert wrong_lines(result) == [
        ("precison", 2),
        ("pytorch.bacth", 5),
        ("n", 3),
        ("decoder.temperature", 6),
        ("vllm", 7),
    ]


def test_a_value_in_place_of_a_section_leads_to_its_keys(tmp_path: Path) -> None:
    result = llem("validate", written(tmp_path, "model: gpt2\npasses:\n  budget: 5\n"))
    assert wrong_lines(result) == [("passes.budget", 3)]
    assert "passes.budget.passes" in result.stderr


def test_a_number_with_a_unit_is_asked_for_without(tmp_path: Path) -> None:
    result = llem("validate", written(tmp_path, "model: gpt2\npasses: {seconds: 10s}\nn: few\n"))
    assert set(wrong_lines(result)) == {("passes.seconds", 2), ("n", 3)}
    assert result.stderr.count("without its unit") == 1


def test_what_two_values_make_wrong_together_has_the_line_of_one(tmp_path: Path) -> None:
    file = written(tmp_path, "model: gpt2\nn: 2\npytorch:\n  batch_size: 4\n")
    assert wrong_lines(llem("validate", file)) == [("configuration", 4)]


def test_all_that_is_wrong_with_a_study_is_said_at_once_with_its_line(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        "model: gpt2\ntop: 3\ndecoder: {temperature: 99}\nsweep:\n  precision: [bf16, fp23]\n"
        "  nothing.like.it: [1, 2]\nexperiments:\n  - {precision: int8}\n  - {n: -1}\n"
        "execution: {order: shufled}\n",
    )
    result = llem("validate", file)
    assert result.exit_code == 2
    assert set(wrong_lines(result)) == {
        ("sweep", 6),
        ("execution.order", 10),
        ("top", 2),
        ("decoder.temperature", 3),
        ("precision", 5),
        ("n", 9),
    }


def test_combinations_that_an_engine_does_not_take_are_no_mistake_of_a_study(tmp_path: Path) -> None:
    text = "model: gpt2\nn: 8\nsweep:\n  pytorch.batch_size: [{}]\n"
    some_run = llem("validate", written(tmp_path, text.format("1, 64")))
    assert some_run.exit_code == 0
    assert "batch_size=64 is not valid" in some_run.stdout
    many = llem("validate", written(tmp_path, text.format(", ".join(map(str, range(8, 20))))))
    assert "and 6 more" in many.stdout
    assert llem("validate", written(tmp_path, text.format("32, 64"))).exit_code == 2


def test_several_files_are_looked_at_and_one_that_is_wrong_decides(tmp_path: Path) -> None:
    result = llem("validate", EXAMPLES[0], tmp_path / "none.yaml", EXAMPLES[1])
    assert result.exit_code == 2
    assert len(result.stdout.splitlines()) == 2


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_an_example_is_valid_here_and_in_an_editor(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert llem("validate", file).exit_code == 0
    named = re.match(r"# yaml-language-server: \$schema=(\S+)\n", text)
    assert named is not None
    of_editor = (file.parent / named[1]).resolve()
    assert of_editor == (schema.STUDY_SCHEMA if "sweep:" in text else schema.EXPERIMENT_SCHEMA)
    jsonschema.validate(yaml.safe_load(text), json.loads(of_editor.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("file", "made"),
    [(schema.EXPERIMENT_SCHEMA, schema.experiment_schema), (schema.STUDY_SCHEMA, schema.study_schema)],
)
def test_the_schemas_are_current(file: Path, made: Any) -> None:
    text = file.read_text(encoding="utf-8")
    assert text == schema.as_file(made()), "run: python -m llenergymeasure.config.schema"
    jsonschema.Draft202012Validator.check_schema(json.loads(text))


def test_the_page_of_keys_is_current() -> None:
    page = ROOT / "docs" / "reference" / "configuration.md"
    assert page.read_text(encoding="utf-8") == configuration_page(), "run: python docs/generate.py"


@pytest.mark.parametrize(
    ("content", "fits"),
    [
        ({"model": "gpt2", "pytorch.batch_size": 4, "dataset": "mixed"}, True),
        ({"energy": {"gpus": [0]}, "openai": {"request_timeout_s": 2}, "some_plug_in": {"a": 1}}, True),
        ({"model": "gpt2", "precison": "bf16"}, False),
        ({"passes": {"secs": 1}}, False),
        ({"n": 0}, False),
        ({"openai": {"request_timeout": 2}}, False),
    ],
)
def test_an_editor_sees_what_the_loader_sees(content: dict[str, Any], fits: bool) -> None:
    validator = jsonschema.Draft202012Validator(schema.experiment_schema())
    assert validator.is_valid(content) is fits


@pytest.mark.parametrize("option", [(), ("--study",), ("--result",)])
def test_a_schema_is_json_on_stdout(option: tuple[str, ...]) -> None:
    assert json.loads(llem("schema", *option).stdout)["$schema"] == schema.DIALECT


def test_each_value_is_shown_with_where_it_comes_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLEM_N", "7")
    file = written(tmp_path, "model: gpt2\npreset: smoke\nprecision: fp32\n")
    shown = json.loads(llem("show", file, "--set", "passes.count=2", "--json").stdout)
    assert shown["n"] == {"value": 7, "origin": "environment LLEM_N"}
    assert shown["precision"]["origin"] == f"file {file}"
    assert shown["passes.count"] == {"value": 2, "origin": "flag"}
    assert shown["repeats.count"] == {"value": 1, "origin": "preset smoke"}
    assert shown["max_output_tokens"]["origin"] == "default"
    # Only the engine in force, and every value of it.
    assert "pytorch.batch_size" in shown
    assert not [key for key in shown if key.startswith(("vllm", "llamacpp", "simulated"))]
    assert len(llem("show", file).stdout.splitlines()) >= len(shown)


def test_what_is_in_force_can_be_asked_without_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLEM_BACKEND", "openai")
    shown = json.loads(llem("show", "--json").stdout)
    assert shown["backend"] == {"value": "openai", "origin": "environment LLEM_BACKEND"}
    assert "model" not in shown


def test_every_key_is_listed_with_a_line_that_explains_it() -> None:
    assert [key.name for key in study_keys() if not key.about] == []
    keys = {key.name: key for key in all_keys()}
    values = {name for name, field in known_keys().items() if section_of(field) is None}
    assert values <= keys.keys()
    assert [name for name, key in keys.items() if not key.about] == []
    assert {name for preset in PRESET_VALUES.values() for name in preset} - {"batch_size"} <= keys.keys()
    assert (keys["n"].values, keys["n"].default) == ("integer above 0", "100")


def test_keys_are_found_by_a_word() -> None:
    found = json.loads(llem("keys", "penalty", "--json").stdout)
    assert [key["name"] for key in found] == ["decoder.repetition_penalty"]
    assert "decoder.temperature" in llem("keys", "temperature").stdout
    of_study = json.loads(llem("keys", "retries", "--json").stdout)
    assert [key["name"] for key in of_study] == ["execution.retries", "execution.ray.retries"]
    assert llem("keys", "sweep").stdout.startswith("sweep  ")
    missed = llem("keys", "temprature")
    assert missed.exit_code == 2
    assert "decoder.temperature" in missed.stderr
