from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from typer.testing import CliRunner

from llenergymeasure.cli import app
from llenergymeasure.cli._errors import format_validation_error
from llenergymeasure.config import yaml
from llenergymeasure.config.engines import backend_names
from llenergymeasure.config.loader import load_experiment_config
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import ConfigError

BILLION = "\n".join(
    [
        "a: &a [x, x, x, x, x, x, x, x, x]",
        *(f"{k}: &{k} [{', '.join(9 * [f'*{j}'])}]" for j, k in zip("abcdefgh", "bcdefghi", strict=True)),
    ]
)
DEEP_BY_ALIAS = "\n".join(["a0: &a0 [x]", *(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 200))])

BROKEN = {
    "empty": ("", "is empty"),
    "comments": ("# nothing\n", "is empty"),
    "list": ("- model: gpt2\n", "holds a list, not a mapping"),
    "scalar": ("gpt2\n", "holds the single value 'gpt2'"),
    "syntax": ("model: [gpt2\n", "line 2: "),
    "two documents": ("model: a\n---\nmodel: b\n", "another document"),
    "duplicate": ("model: gpt2\nn: 1\nn: 2\n", "line 3: duplicate key 'n'"),
    "nested duplicate": ("pytorch:\n  compile: true\n  compile: false\n", "line 3: duplicate key 'compile'"),
    "number as key": ("model: gpt2\n7: x\n", "line 2: a key must be a word"),
    "list as key": ("? [a]\n: b\n", "a key must be a word"),
    "nan": ("model: gpt2\ndecoder: {temperature: .nan}\n", "line 2: .nan is not a finite number"),
    "infinity": ("model: gpt2\nn: -.inf\n", "-.inf is not a finite number"),
    "overflow": ("model: gpt2\nn: 1e999\n", "1e999 is not a finite number"),
    "endless digits": ("model: gpt2\nn: " + "9" * 6000 + "\n", "is not a usable number"),
    "bomb": (BILLION, "more than 20,000 values"),
    "deep": ("model: " + "[" * 100_000, "nested more than 32 deep"),
    "deep by alias": (DEEP_BY_ALIAS, "nested more than 32 deep"),
    "self": ("model: &a [*a]\n", "*a is unknown or refers to itself"),
    "object": (
        "model: !!python/object/apply:os.system ['touch owned']\n",
        "is not allowed in a configuration",
    ),
    "tag": ("model: !!binary aGk=\n", "is not allowed in a configuration"),
    "control": ("model: gp\x07t2\n", "special characters are not allowed"),
    "unknown": ("model: gpt2\nprecison: fp16\n", "precison"),
}


def test_a_json_file_is_json(tmp_path: Path) -> None:
    file = tmp_path / "one.json"
    file.write_text('{"model": "gpt2",\n "n": 4}')
    assert load_experiment_config(file).n == 4
    file.write_text('{"model": "gpt2",\n "n": 4,}')
    with pytest.raises(ConfigError, match="line 2: not JSON"):
        load_experiment_config(file)


@pytest.fixture(autouse=True)
def _nothing_of_this_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith("LLEM_"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_named_with_its_fault_and_exits_2(case: str, tmp_path: Path) -> None:
    text, said = BROKEN[case]
    path = tmp_path / "broken.yaml"
    path.write_text(text, encoding="utf-8")
    outcome = CliRunner().invoke(app, ["run", str(path)])
    assert outcome.exit_code == 2
    assert outcome.output.startswith("ConfigError: ")
    assert "broken.yaml" in outcome.output
    assert said in outcome.output
    assert "Traceback" not in outcome.output
    assert [entry.name for entry in tmp_path.iterdir()] == ["broken.yaml"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x7fELF\0\0\0", "binary file"),
        (b"model: caf\xe9\n", "not UTF-8 text (byte 0xe9 at offset 10)"),
        (b"#" * (yaml.MAX_BYTES + 1), "larger than 1,048,576 bytes"),
    ],
)
def test_bytes_that_are_no_text_are_refused(data: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_bytes(data)
    outcome = CliRunner().invoke(app, ["run", str(path)])
    assert (outcome.exit_code, said in outcome.output) == (2, True)


@pytest.mark.parametrize(
    ("data", "said"), [(b"\0\0", "is binary"), (b"model: caf\xe9\n", "is not UTF-8 text")]
)
def test_bytes_of_standard_input_are_refused_by_its_name(
    data: bytes, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(yaml, "_standard_input", lambda: data)
    outcome = CliRunner().invoke(app, ["run", "-"])
    assert outcome.exit_code == 2
    assert f"standard input {said}" in outcome.output
    assert "--model -" not in outcome.output


def test_a_path_that_is_no_file_says_what_it_is_and_how_to_name_a_model(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name, said in (
        ("gpt2", "llem run --model gpt2"),
        ("missing.yaml", "there is no configuration file missing.yaml"),
        ("folder", "folder is a directory"),
        ("pipe", "pipe is not a regular file"),
        ("loop", "loop can't be read: Too many levels"),
        ("n" * 300, "File name too long"),
    ):
        outcome = CliRunner().invoke(app, ["run", name])
        assert outcome.exit_code == 2, name
        assert said in outcome.output


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_bytes(b"\xef\xbb\xbfmodel: gpt2\n")
    assert load_experiment_config(path).model == "gpt2"


def test_anchors_and_merges_of_ordinary_size_are_fine() -> None:
    text = "a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  y: 3\n"
    assert yaml.parse(text, where="here") == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}}


@given(st.text(max_size=60) | st.text("[]{}&*!<>:,-?|#'\"% \n\tax1.", max_size=60))
def test_any_text_is_a_plain_value_or_a_configuration_error(text: str) -> None:
    try:
        value = yaml.parse(text, where="here")
    except ConfigError:
        return
    json.dumps(value, allow_nan=False)


@given(st.binary(max_size=80))
def test_any_bytes_make_a_configuration_or_an_error_that_llem_explains(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "experiment.yaml"
    path.write_bytes(data)
    with suppress(ConfigError, ValidationError):
        load_experiment_config(path, {"model": "gpt2"}, environ={}, user_config=path.with_name("none"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-n", "-5"], "n: should be greater than 0, got -5"),
        (["--set", "n=true"], "n: should be a number, not true or false, got True"),
        (["--batch-size", "8", "-n", "4"], "pytorch.batch_size 8 is larger than n 4"),
        (["-b", "simulated", "--batch-size", "8", "-n", "4"], "simulated.batch_size 8 is larger than n 4"),
        (
            ["-p", "bf17"],
            "precision: 'bf17' is not valid. Did you mean: bf16? Valid values: fp32, fp16, bf16",
        ),
        (
            ["--meter", "nvlm"],
            "energy.meter: 'nvlm' is not valid. Did you mean: nvml? Valid values: amd, apple, auto,",
        ),
        (["--preset", "quik"], "preset: 'quik' is not valid. Did you mean: quick?"),
        (["--set", "energy.gpus=3"], "energy.gpus: should be auto, all, or a list"),
        (["--set", "energy.gpus={a: 1}"], "energy.gpus"),
        (["--set", "pytorch=5"], "pytorch: "),
        (["--set", "simulated.fault.at=pass"], "simulated.fault.kind: required, but not given"),
        (["--set", "random_seed=-1"], "random_seed: should be greater than or equal to 0, got -1"),
        (["--set", "model=other"], "model: given twice, by a flag of its own and by --set"),
        (["--set", "nonsense"], "is not KEY=VALUE"),
        (["--set", "modle=x"], "did you mean model?"),
        (["--set", "cycles=5"], "cycles is now repeats.count"),
    ],
)
def test_a_bad_flag_exits_2_with_its_path(arguments: list[str], said: str) -> None:
    outcome = CliRunner().invoke(app, ["run", "--model", "gpt2", *arguments])
    assert outcome.exit_code == 2
    assert said in outcome.output
    assert "Traceback" not in outcome.output


def test_a_misspelt_environment_variable_exits_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLEM_PRECISON", "fp16")
    outcome = CliRunner().invoke(app, ["run", "--model", "gpt2"])
    assert outcome.exit_code == 2
    assert "unknown key: LLEM_PRECISON (environment); did you mean LLEM_PRECISION?" in outcome.output


def test_all_wrong_values_come_at_once_each_on_a_line() -> None:
    with pytest.raises(ValidationError) as caught:
        ExperimentConfig.model_validate(
            {"model": "", "backend": "pytorh", "pytorch": {"batchsize": 1}, "n": 1.5}
        )
    lines = format_validation_error(caught.value).splitlines()
    assert lines[0] == "Config validation failed (4 errors):"
    assert sorted(line.split(":")[0].strip() for line in lines[1:]) == [
        "backend",
        "model",
        "n",
        "pytorch.batchsize",
    ]
    assert (
        "  backend: 'pytorh' is not valid. Did you mean: pytorch? "
        f"Valid values: {', '.join(backend_names())}" in lines
    )
    assert "  pytorch.batchsize: unknown key. Did you mean: pytorch.batch_size?" in lines


@pytest.mark.parametrize(
    "url", ["http://me:sesame@h:1/v1", "https://h/v1?key=sesame", "http://h/v1#sesame", "ftp://me:sesame@h"]
)
def test_a_url_that_is_refused_is_shown_without_its_secret(url: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ExperimentConfig.model_validate({"model": "gpt2", "backend": "openai", "openai": {"base_url": url}})
    said = format_validation_error(caught.value)
    assert "openai.base_url" in said
    assert "***" in said
    assert "sesame" not in said


def test_a_renamed_field_is_refused_with_its_new_name() -> None:
    with pytest.raises(ValidationError) as caught:
        ExperimentConfig.model_validate({"model": "gpt2", "cycles": 3, "passes": {"minimum": 2}})
    lines = format_validation_error(caught.value).splitlines()
    assert "  cycles is now repeats.count" in lines
    assert "  passes.minimum is now passes.count" in lines


def test_a_stored_configuration_outlives_the_plug_in_that_it_names() -> None:
    data = {"model": "gpt2", "backend": "someones", "energy": {"meter": "theirs"}}
    with pytest.raises(ValidationError):
        ExperimentConfig.model_validate(data)
    assert ExperimentConfig.model_validate(data, context={"stored": True}).backend == "someones"


def test_a_home_directory_is_expanded() -> None:
    assert ExperimentConfig(model="gpt2", output_dir=Path("~/results")).output_dir == Path.home() / "results"


def test_an_empty_list_of_gpus_is_refused() -> None:
    with pytest.raises(ValidationError, match="auto, all, or a list of UUIDs or indices"):
        ExperimentConfig.model_validate({"model": "gpt2", "energy": {"gpus": []}})


@pytest.mark.parametrize(
    ("arguments", "variables", "said"),
    [
        ([""], {}, ["CONFIG", "empty"]),
        (["-m", "gpt2", "-o", ""], {}, ["output_dir", "empty"]),
        (["-m", "gpt2"], {"LLEM_CYCLES__COUNT": "3"}, ["LLEM_REPEATS__COUNT"]),
        (["-m", "gpt2"], {"LLEM_CACHEDIR": "/x"}, ["did you mean LLEM_CACHE_DIR?"]),
        (["-m", "gpt2"], {"LLEM_PRESISION": "fp16"}, ["did you mean LLEM_PRECISION?"]),
        (["-m", "gpt2", "--set", "passes.seconds=1e30"], {}, ["passes.seconds", "31536000"]),
        (["-m", "gpt2", "--set", "timeout_s=1e9"], {}, ["timeout_s", "31536000"]),
        (["-m", "gpt2", "--set", "passes.seconds.a=1"], {}, ["did you mean passes.seconds?"]),
        (["-m", "gpt2", "--set", "=3"], {}, ["'=3' is not KEY=VALUE"]),
        (["-m", "gpt2", "--set", ".=3"], {}, ["unknown key: ''"]),
    ],
)
def test_a_slip_is_refused_in_words_that_help(
    arguments: list[str], variables: dict[str, str], said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    outcome = CliRunner().invoke(app, ["run", *arguments])
    assert outcome.exit_code == 2
    assert [word for word in said if word not in outcome.output] == []


@pytest.mark.parametrize("command", [["show"], ["recompute"], ["compare", "x"], ["run"]])
def test_an_argument_from_a_variable_that_is_not_set_is_not_the_working_directory(
    command: list[str], tmp_path: Path
) -> None:
    (tmp_path / "result.json").write_text("{}")
    outcome = CliRunner().invoke(app, [*command, ""])
    assert outcome.exit_code == 2
    assert "empty" in outcome.output
