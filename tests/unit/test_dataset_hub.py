"""Is a dataset of the hub named, read and refused as the guide says? The hub itself is not asked."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import ConfigError, LLEMError, PreFlightError
from llenergymeasure.workload import Prompt, load_prompts
from llenergymeasure.workload.hub import HubName, parse_name

installed = pytest.mark.skipif(find_spec("datasets") is None, reason="the extra `datasets` is not installed")


def config(dataset: str, n: int = 1) -> ExperimentConfig:
    return ExperimentConfig.model_validate({"model": "any", "n": n, "dataset": dataset})


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("hf:squad", HubName("squad")),
        ("hf:openai/gsm8k:main", HubName("openai/gsm8k", "main")),
        ("hf:openai/gsm8k:main:test:question", HubName("openai/gsm8k", "main", "test", "question")),
        ("hf:tatsu-lab/alpaca::train", HubName("tatsu-lab/alpaca", None, "train")),
        ("hf:a/b:::text", HubName("a/b", None, None, "text")),
        ("hf:a/b::train[10:200]:text", HubName("a/b", None, "train[10:200]", "text")),
    ],
)
def test_a_name_has_up_to_three_parts_more_of_which_each_may_be_empty(text: str, name: HubName) -> None:
    assert parse_name(text) == name


@pytest.mark.parametrize("text", ["hf:", "hf::main", "hf:a:b:c:d:e"])
def test_a_name_of_another_form_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_name(text)
    assert "hf:<name>[:<config>]" in str(caught.value.hint)


@pytest.mark.skipif(find_spec("datasets") is not None, reason="the extra `datasets` is installed")
def test_without_the_package_the_extra_is_named() -> None:
    with pytest.raises(PreFlightError) as caught:
        load_prompts(config("hf:openai/gsm8k"))
    assert "[datasets]" in str(caught.value.hint)


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset as a folder, which `datasets` reads by the same call as one of the hub."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    folder = tmp_path / "riddles"
    folder.mkdir()
    for split, texts in {"train": ["a", "", "c"], "test": ["d"]}.items():
        lines = [json.dumps({"question": text, "answer": f"{text}!"}) + "\n" for text in texts]
        (folder / f"{split}.jsonl").write_text("".join(lines))
    return folder


@installed
def test_its_rows_are_records_like_those_of_a_file(rows: Path) -> None:
    found = load_prompts(config(f"hf:{rows}::train", n=2))
    assert {prompt.text for prompt in found.prompts} == {"a", "c"}
    assert [(one.count, one.first) for one in found.facts.skipped] == [(1, (2,))]
    assert (found.facts.records, found.facts.numbered_by) == (3, "record")
    assert found.facts.source.startswith(f"{rows}, train")


@installed
def test_without_a_split_it_is_the_test_split_and_a_column_is_the_one_named(rows: Path) -> None:
    assert load_prompts(config(f"hf:{rows}")).prompts == (Prompt("1", "d"),)
    assert load_prompts(config(f"hf:{rows}:::answer")).prompts == (Prompt("1", "d!"),)
    assert load_prompts(config(f"hf:{rows}::train[1:2]:answer")).prompts == (Prompt("1", "!"),)


@installed
@pytest.mark.parametrize(
    ("more", "kind", "says"),
    [
        (":nope", ConfigError, "nope"),
        ("::nope", ConfigError, "nope"),
        (":::nope", ConfigError, "without nope"),
    ],
)
def test_a_part_that_does_not_exist_is_refused_by_name(
    rows: Path, more: str, kind: type[LLEMError], says: str
) -> None:
    with pytest.raises(kind, match=says):
        load_prompts(config(f"hf:{rows}{more}"))


@installed
def test_the_prompts_of_ai_energy_score_are_its_own_where_they_lie_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "datasets--EnergyStarAI--text_generation"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc123")
    (repository / "snapshots" / "abc123").mkdir(parents=True)
    (repository / "snapshots" / "abc123" / "train.jsonl").write_text('{"text": "own", "question": "no"}\n')
    found = load_prompts(config("ai-energy-score"))
    assert found.prompts == (Prompt("1", "own"),)
    assert found.facts.remark is None
    assert "abc123" in found.facts.source
