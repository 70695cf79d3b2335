"""The plan of a dry run: how often, and how long at the least and most."""

from __future__ import annotations

import subprocess
import sys

import pytest

from llenergymeasure.cli._plan import expected_s, steps
from llenergymeasure.config.models import ExperimentConfig


def planned(**changes: object) -> ExperimentConfig:
    return ExperimentConfig.model_validate(
        {"model": "any", "backend": "simulated", "n": 4, "simulated": {"load_s": 1.0}} | changes
    )


def test_every_process_loads_and_idles_again() -> None:
    passes = {"seconds": 10.0, "minimum": 3, "budget": {"passes": 15, "seconds": 400.0}}
    config = planned(cycles=5, passes=passes, baseline={"seconds": 10.0, "cooling_seconds": 60.0})
    found = {step.name: (step.low_s, step.high_s) for step in steps(config)}
    assert found["load"] == (5.0, 5.0)
    assert found["idle, bare"] == (10.0, 10.0)
    assert found["idle, loaded"] == found["idle, after"] == (50.0, 50.0)
    assert found["cooling"] == (0.0, 300.0)
    assert found["passes"] == (150.0, 400.0)
    assert expected_s(config)[0] == pytest.approx(5 + 10 + 100 + 150)


def test_a_minimum_over_the_budget_is_told() -> None:
    note = next(step.note for step in steps(planned(passes={"minimum": 50})) if step.name == "passes")
    assert note.startswith("30 (50 by passes.minimum, capped by passes.budget.passes)")


def test_python_m_is_llem() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "llenergymeasure", "--help"], capture_output=True, text=True, check=True
    )
    assert "Usage" in said.stdout
