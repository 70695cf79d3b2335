from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# A machine that is busy with other tests makes inputs slowly; that says nothing of the code.
settings.register_profile("busy", suppress_health_check=[HealthCheck.too_slow], deadline=None)
settings.load_profile("busy")


@pytest.fixture(scope="session", autouse=True)
def locks_of_these_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Runs of tests that go on beside each other may share a device: what they measure is of no account."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLEM_LOCK_DIR", str(tmp_path_factory.mktemp("locks")))
        yield


@pytest.fixture(scope="module", autouse=True)
def what_is_loaded_is_no_garbage() -> None:
    """A run collects garbage before each block, and would look through every module that is loaded."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def lines_of_any_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest-xdist sets COLUMNS in its workers, and lines for a file are broken only where it is set."""
    monkeypatch.delenv("COLUMNS", raising=False)
