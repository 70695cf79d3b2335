"""When is the first pass after a silence another thing than those that follow it?"""

from __future__ import annotations

import random

import pytest

from llenergymeasure.analysis.lead_in import leads_in


def runs(
    draw: random.Random, *, first: float, count: int, passes: int = 4, sd: float = 0.005
) -> list[list[float]]:
    """Runs at levels of their own, whose first pass costs `first` of the others."""
    found = []
    for _ in range(count):
        level = draw.uniform(0.8, 1.2)
        costs = [level * (1 + draw.gauss(0, sd)) for _ in range(passes)]
        found.append([costs[0] * first, *costs[1:]])
    return found


@pytest.mark.parametrize("first", [1.05, 0.95])
def test_a_first_pass_that_costs_more_or_less_in_every_run_leads_in(first: float) -> None:
    assert leads_in(runs(random.Random(1), first=first, count=4))


def test_within_a_single_run_the_scatter_of_its_other_passes_decides() -> None:
    assert leads_in([[1.2, 1.0, 1.001, 0.999, 1.0]])
    assert not leads_in([[1.2, 1.1, 0.9, 1.15, 0.95]])


def test_less_than_a_fiftieth_is_not_worth_a_pass() -> None:
    assert not leads_in([[1.019, 1.0, 1.0, 1.0]] * 5)
    assert leads_in([[1.021, 1.0, 1.0, 1.0]] * 5)


def test_two_runs_tell_nothing() -> None:
    assert not leads_in([[1.5, 1.0, 1.0, 1.0]] * 2)


@pytest.mark.parametrize("costs", [[], [[1.5, 1.0]] * 5, [[0.0, 0.0, 0.0]], [[1.5]]])
def test_what_has_too_few_passes_or_no_cost_has_no_lead_in(costs: list[list[float]]) -> None:
    assert not leads_in(costs)


def test_chance_seldom_looks_like_a_lead_in_and_a_real_one_is_found() -> None:
    draw = random.Random(2)
    false = sum(leads_in(runs(draw, first=1.0, count=3, sd=0.03)) for _ in range(500))
    found = sum(leads_in(runs(draw, first=1.06, count=5, sd=0.005)) for _ in range(200))
    assert false <= 10
    assert found >= 190
