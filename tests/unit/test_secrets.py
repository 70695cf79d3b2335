"""A secret is refused wherever a configuration could hold one, without being shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from example_result import example_result
from pydantic import ValidationError
from typer.testing import CliRunner

from llenergymeasure.cli import app
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.config.secrets import is_secret

VALUE = "hf_AbCdEfGh"


@pytest.fixture(autouse=True)
def _nothing_of_this_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)


SECRETS = (
    "token",
    "hf_token",
    "HF-TOKEN",
    "use_auth_token",
    "api_key",
    "apiKey",
    "openai-api-key",
    "password",
    "Authorization",
    "client_secret",
)
OTHERS = (
    "max_tokens",
    "tokenizer",
    "pad_token_id",
    "pad_token",
    "token_ids",
    "eos_token",
    "key",
    "keys",
    "sort_key",
    "max_num_batched_tokens",
    "authors",
    "tokens",
)


def test_which_names_are_those_of_secrets() -> None:
    assert [name for name in SECRETS if not is_secret(name)] == []
    assert [name for name in OTHERS if is_secret(name)] == []


def nested(key: str) -> list[dict[str, Any]]:
    return [{key: VALUE}, {"a": {"b": {key: VALUE}}}, {"a": [1, {key: VALUE}]}, {key: [VALUE]}, {key: 123456}]


@pytest.mark.parametrize(
    ("backend", "place"),
    [
        ("pytorch", "passthrough_kwargs"),
        ("vllm", "engine"),
        ("vllm", "sampling"),
        ("vllm", "beam_search"),
    ],
)
@pytest.mark.parametrize("key", ["token", "API-Key", "Authorization"])
def test_a_secret_at_any_depth_is_refused(backend: str, place: str, key: str) -> None:
    for values in nested(key):
        given = {place: values} if place == "passthrough_kwargs" else {backend: {place: values}}
        with pytest.raises(ValidationError) as caught:
            ExperimentConfig.model_validate({"model": "gpt2", "backend": backend, **given})
        assert key in str(caught.value)
        assert "environment variable" in str(caught.value)
        assert VALUE not in str(caught.value)


def test_true_and_null_name_no_secret_and_other_names_stay() -> None:
    kwargs = {"token": True, "use_auth_token": None, "max_tokens": 3, "pad_token": "<pad>"}
    assert ExperimentConfig.model_validate({"model": "x", "passthrough_kwargs": kwargs}).passthrough_kwargs


@pytest.mark.parametrize(
    ("arguments", "variable"),
    [
        (["--set", f"passthrough_kwargs.hf_token={VALUE}"], "HF_TOKEN"),
        (["--set", f"passthrough_kwargs={{headers: {{api_key: {VALUE}}}}}"], "OPENAI_API_KEY"),
        (["--set", f"hf_token={VALUE}"], "HF_TOKEN"),
        (["--set", f"pytorch.token={VALUE}"], "HF_TOKEN"),
        (["--set", f"decoder.hf_token={VALUE}", "-v"], "HF_TOKEN"),
        (["--set", f"passthrough_kwargs.hf_token={VALUE}", "-v"], "HF_TOKEN"),
        (["--set", f"vllm.engine.hf_token={VALUE}", "-b", "vllm", "-v"], "HF_TOKEN"),
        (["--set", f"vllm.engine.n_{{={VALUE}", "--set", f"hf_token={VALUE}"], "HF_TOKEN"),
    ],
)
def test_the_command_line_names_the_variable_and_never_the_value(arguments: list[str], variable: str) -> None:
    outcome = CliRunner().invoke(app, ["run", "-m", "gpt2", *arguments])
    assert outcome.exit_code == 2
    assert variable in outcome.output
    assert VALUE not in outcome.output


def test_the_environment_and_a_file_are_no_way_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(f"model: gpt2\npassthrough_kwargs:\n  nested: {{password: {VALUE}}}\n")
    for arguments in (["run", str(path)], ["run", "-m", "gpt2"]):
        outcome = CliRunner().invoke(app, arguments)
        assert (outcome.exit_code, VALUE in outcome.output) == (2, False)
        monkeypatch.setenv("LLEM_PASSTHROUGH_KWARGS__HF_TOKEN", VALUE)


def test_a_variable_of_a_container_is_given_by_name() -> None:
    with pytest.raises(ValidationError) as caught:
        ExperimentConfig.model_validate(
            {
                "model": "x",
                "runner": {"kind": "container", "image": "i", "env": [f"HF_TOKEN={VALUE}"]},
            }
        )
    assert VALUE not in str(caught.value)


def test_a_result_that_holds_one_can_still_be_read() -> None:
    stored = example_result().config.model_dump(mode="json")
    stored |= {"passthrough_kwargs": {"token": VALUE}}
    assert (
        ExperimentConfig.model_validate(stored, context={"stored": True}).passthrough_kwargs["token"] == VALUE
    )
