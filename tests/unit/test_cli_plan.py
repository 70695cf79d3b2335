"""The plan of a dry run: how often, and how long at the least and most."""

from __future__ import annotations

import subprocess
import sys

import pytest

from llenergymeasure.cli._plan import Step, expected_s, steps
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
    many = by_name(planned(passes={"minimum": 50, "seconds": 1.0}))["passes"]
    assert many.note.startswith("30 (50 by passes.minimum, capped by passes.budget.passes)")
    long = by_name(planned(passes={"seconds": 50.0, "budget": {"seconds": 120.0}}))["passes"]
    assert long.note.startswith("3 (5 by passes.minimum, capped by passes.budget.seconds)")
    assert (long.low_s, long.high_s) == (150.0, 150.0)


def test_one_pass_is_always_run_though_it_be_longer_than_the_budget() -> None:
    one = by_name(planned(passes={"seconds": 30.0, "budget": {"seconds": 3.0}}))["passes"]
    assert one.note.startswith("1 (5 by passes.minimum, capped by passes.budget.seconds)")
    assert (one.low_s, one.high_s) == (30.0, 30.0)


def test_cycles_that_the_budget_does_not_allow_for_are_told() -> None:
    found = by_name(planned(cycles=5, passes={"seconds": 1.0, "minimum": 5, "budget": {"passes": 8}}))
    assert found["load"].note == "in each of 2 processes, the budget being too small for 5"
    assert (found["load"].low_s, found["load"].high_s) == (2.0, 2.0)


def by_name(config: ExperimentConfig) -> dict[str, Step]:
    return {step.name: step for step in steps(config)}


def test_python_m_is_llem() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "llenergymeasure", "--help"], capture_output=True, text=True, check=True
    )
    assert "Usage" in said.stdout
