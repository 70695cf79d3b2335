from __future__ import annotations

from pathlib import Path

import pytest
from tiny_models import save_tiny_llama


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama that no test writes to."""
    return save_tiny_llama(tmp_path_factory.mktemp("tiny"))
