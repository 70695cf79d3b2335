from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from caches import own_cache

from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import PreFlightError
from llenergymeasure.models.resolve import resolve, weights_path
from llenergymeasure.workload.prepared import check_prompts, prepared

SMALL = {"model": "smollm2-135m", "n": 3, "max_input_tokens": 64, "max_output_tokens": 4}
WITHOUT_TRANSFORMERS = """
import sys
sys.modules["transformers"] = None
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.workload.prepared import prepared
print(prepared(ExperimentConfig.model_validate_json(sys.argv[1])).hash)
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Token ids of one experiment, as its first run leaves them."""
    folder = own_cache(tmp_path_factory.mktemp("cache"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLEM_CACHE_DIR", str(folder))
        prepared(ExperimentConfig.model_validate(SMALL))
    return folder


@pytest.fixture
def in_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLEM_CACHE_DIR", str(cache))
    return cache


def config(**changes: object) -> ExperimentConfig:
    return ExperimentConfig.model_validate({**SMALL, **changes})


@pytest.mark.real
def test_what_can_not_be_prepared_is_refused_by_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLEM_CACHE_DIR", str(own_cache(tmp_path)))
    path = tmp_path / "two.jsonl"
    path.write_text('"one"\n"two"\n')
    asked = config(n=2, dataset={"name": str(path), "chat_template": "off"})
    check_prompts(asked)
    (kept,) = (tmp_path / "workloads").iterdir()
    assert json.loads(kept.read_text())["hash"] == prepared(asked).hash
    with pytest.raises(PreFlightError, match="no system") as caught:
        check_prompts(config(n=1, model=f"random:{broken_template(tmp_path)}"))
    assert "dataset.chat_template=off" in str(caught.value.hint)
    assert list((tmp_path / "workloads").iterdir()) == [kept]


def broken_template(folder: Path) -> Path:
    """The small model's shape and tokenizer, with a chat template that raises."""
    whole = weights_path(resolve("smollm2-135m"))
    assert whole is not None
    copy = folder / "model"
    copy.mkdir()
    for file in whole.iterdir():
        if file.suffix == ".json":
            (copy / file.name).write_bytes(file.read_bytes())
    (copy / "chat_template.jinja").write_text("{{ raise_exception('no system') }}")
    return copy


def test_every_engine_gets_the_token_ids_that_the_first_made(in_cache: Path) -> None:
    (kept,) = (in_cache / "workloads").iterdir()
    works = [prepared(config(backend=name)) for name in ("pytorch", "vllm", "llamacpp")]
    assert len({work.hash for work in works}) == 1
    assert json.loads(kept.read_text())["hash"] == works[0].hash
    assert list((in_cache / "workloads").iterdir()) == [kept]
    assert len(works[0].tokenizer_hash) == 64


def test_kept_token_ids_need_no_tokenizer(in_cache: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TRANSFORMERS, config(backend="llamacpp").model_dump_json()],
        env={**os.environ, "LLEM_CACHE_DIR": str(in_cache)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == prepared(config()).hash


def test_what_the_run_wants_of_a_prompt_is_not_kept_with_its_ids(in_cache: Path) -> None:
    longer = prepared(config(max_output_tokens=9, output_length="natural"))
    assert {(one.max_output_tokens, one.exact) for one in longer.workload.requests} == {(9, False)}
    assert longer.hash == prepared(config()).hash


def test_another_seed_or_limit_makes_other_ids(in_cache: Path) -> None:
    hashes = {
        prepared(asked).hash for asked in (config(), config(random_seed=1), config(max_input_tokens=48))
    }
    assert len(hashes) == 3


@pytest.mark.parametrize("damage", ["", "{}", '{"hash": "x", "prompts": [[1]], "cut": 0}'])
def test_damaged_token_ids_are_made_again(in_cache: Path, damage: str) -> None:
    before = prepared(config())
    for path in (in_cache / "workloads").iterdir():
        path.write_text(damage)
    assert prepared(config()) == before
    assert prepared(config()) == before


def test_a_change_of_one_token_id_is_noticed(in_cache: Path) -> None:
    before = prepared(config())
    for path in (in_cache / "workloads").iterdir():
        content = json.loads(path.read_text())
        content["prompts"][0][0] += 1
        path.write_text(json.dumps(content))
    assert prepared(config()) == before
