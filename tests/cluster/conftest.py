"""Clusters on this machine, and the study that runs on them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

STUDY = """\
model: any
backend: simulated
n: 2
max_input_tokens: 16
max_output_tokens: 8
passes: {seconds: 0.4, count: 3, prefill: 0}
repeats: {count: 2}
baseline: {seconds: 0}
warmup: {min_batches: 0, window: 3}
simulated: {counter_step_s: 0.01, load_s: 0.05}
sweep:
  random_seed: [1, 2]
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(STUDY)
    return path


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    from slurm import cluster, why_not

    if (why := why_not()) is not None:
        pytest.skip(why)
    pytest.importorskip("submitit")
    with cluster(tmp_path_factory.mktemp("slurm")) as found, pytest.MonkeyPatch.context() as patch:
        for name, value in found.environment.items():
            patch.setenv(name, value)
        yield found
