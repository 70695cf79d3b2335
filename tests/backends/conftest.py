from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.backends.engines import ENGINES, MODEL, PICK, Engine, picked, small_context

from llenergymeasure.backends import load_backend


@pytest.fixture(scope="session", autouse=True)
def no_choice_for_the_runs() -> Iterator[None]:
    """A run of llem takes the variable for a setting that it doesn't know."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(PICK, raising=False)
        yield


@pytest.fixture(scope="module", params=picked()[0])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """Each engine that is to be tested. One that can't run is skipped, unless it was picked by name."""
    chosen = ENGINES[request.param]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in chosen.environ.items():
            patch.setenv(name, value)
        why = load_backend(chosen.name).why_unavailable()
        if why is not None and picked()[1]:
            pytest.fail(f"LLEM_TEST_BACKENDS names {chosen.name}, and it can't run: {why}")
        if why is not None:
            pytest.skip(why)
        yield chosen


@pytest.fixture(scope="module")
def model(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The small model in the form that the engine takes."""
    if engine.takes != "directory":
        return MODEL
    return str(small_context(tmp_path_factory.mktemp("small") / ""))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("datasets")
