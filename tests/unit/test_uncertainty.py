"""The uncertainty budget: each row worked by hand, and rows that make up the stated interval."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from spent_runs import GPU, block, counted, run_of
from test_metrics import HOST
from virtual_result import virtual_result

from llenergymeasure.analysis.joules import energy
from llenergymeasure.analysis.run_energy import RunEnergy
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.energy.joules.spent import Spent, Term
from llenergymeasure.records import Domain
from llenergymeasure.results import models
from llenergymeasure.results.budget import combine_terms
from llenergymeasure.results.models import Energy

T_2 = 4.302653
TERMS = (
    Term("timing", 3.0),
    Term("quiet power", 4.0),
    Term("lag", 2.0, common=True),
    Term("tail", 1.0, common=True),
)


def asked(**changes: object) -> ExperimentConfig:
    return ExperimentConfig.model_validate(
        {
            "model": "any",
            "backend": "simulated",
            "n": 2,
            "max_output_tokens": 50,
            "baseline": {"seconds": 0},
            **changes,
        }
    )


def runs_of(
    *joules: float, terms: tuple[Term, ...] = TERMS, asking: ExperimentConfig | None = None
) -> list[RunEnergy]:
    """Runs of one pass of ten walks: 1,000 output tokens each."""
    found = asking or asked(repeats={"count": len(joules)})
    return [
        run_of(block("full", [10], counted(one, [one], terms=terms)), config=found, index=number)
        for number, one in enumerate(joules, start=1)
    ]


def rows(terms: tuple[models.Term, ...]) -> dict[str, models.Term]:
    return {term.name: term for term in terms}


def budget(found: Energy) -> models.Uncertainty:
    assert found.uncertainty is not None
    return found.uncertainty


def test_rows_of_the_total_are_the_sensor_s_over_all_runs() -> None:
    found = rows(budget(energy(runs_of(1000, 1100, 1200))).total)
    assert set(found) == {"timing", "quiet power", "lag", "tail"}
    assert found["timing"].half_width == pytest.approx(3 * math.sqrt(3))
    assert found["quiet power"].half_width == pytest.approx(4 * math.sqrt(3))
    assert found["lag"].half_width == pytest.approx(6.0)
    assert found["tail"].half_width == pytest.approx(3.0)
    assert [found[name].common for name in ("timing", "quiet power", "lag", "tail")] == [
        False,
        False,
        True,
        True,
    ]
    assert {term.kind for term in found.values()} == {"B"}
    assert not any(term.within_chance for term in found.values())


def test_the_rows_make_up_the_interval_of_the_total() -> None:
    found = energy(runs_of(1000, 1100, 1200))
    assert found.total.value is not None
    combined = combine_terms(found.total.value, budget(found).total)
    assert found.total.half_width == pytest.approx(combined.above)
    assert combined.above == pytest.approx(5 * math.sqrt(3) + 9)


def test_the_rows_of_the_cost_are_those_per_token_with_chance_over_runs() -> None:
    found = energy(runs_of(1000, 1100, 1200))
    cost = rows(budget(found).per_output_token)
    assert cost["timing"].half_width == pytest.approx(3 * math.sqrt(3) / 3000)
    assert cost["lag"].half_width == pytest.approx(6 / 3000)
    # s = 100 J of 1,000 tokens, n = 3
    chance = cost["random"]
    assert chance.half_width == pytest.approx(T_2 * 0.1 / math.sqrt(3), rel=1e-6)
    assert (chance.kind, chance.degrees, chance.common, chance.within_chance) == ("A", 2, False, False)
    # What is independent of the sensor scatters from run to run, and is in chance already.
    assert {name for name, term in cost.items() if term.within_chance} == {"timing", "quiet power"}


@pytest.mark.parametrize(
    ("joules", "holds"),
    [((1000, 1100, 1200), True), ((1000, 1000, 1000.01), False)],
    ids=["scatter is more", "the sensor is more"],
)
def test_the_rows_make_up_the_interval_of_the_cost_whichever_is_larger(
    joules: tuple[float, ...], *, holds: bool
) -> None:
    found = energy(runs_of(*joules))
    cost = budget(found).per_output_token
    assert found.per_output_token.value is not None
    combined = combine_terms(found.per_output_token.value, cost)
    assert found.per_output_token.half_width == pytest.approx(combined.above)
    assert rows(cost)["timing"].within_chance == holds
    assert rows(cost)["random"].within_chance != holds


def test_the_scatter_of_a_first_stage_is_the_chance_of_all_with_its_degrees() -> None:
    joules = (1000, 1100, 1200, 1100, 1100, 1100)
    found = energy(runs_of(*joules, asking=asked(repeats={"count": 3, "target": 0.05})))
    chance = rows(budget(found).per_output_token)["random"]
    assert chance.degrees == 2
    assert chance.half_width == pytest.approx(T_2 * 0.1 / math.sqrt(6), rel=1e-6)
    assert found.per_output_token.value is not None
    combined = combine_terms(found.per_output_token.value, budget(found).per_output_token)
    assert found.per_output_token.half_width == pytest.approx(combined.above)


def test_two_runs_have_no_chance_and_nothing_is_said_to_be_within_it() -> None:
    cost = rows(budget(energy(runs_of(1000, 1100))).per_output_token)
    assert "random" not in cost
    assert not any(term.within_chance for term in cost.values())


# What is systematic


def with_range(domain: Domain, spent: Spent) -> RunEnergy:
    return run_of(
        block("full", [10], {domain.name: spent}), domains=(domain,), config=asked(repeats={"count": 1})
    )


def test_gain_and_offset_stand_apart_and_only_the_gain_cancels_in_a_ratio() -> None:
    domain = replace(GPU, systematic_gain=(0.9, 1.2), systematic_offset_w=(-20.0, 10.0))
    found = rows(
        budget(
            energy(
                [with_range(domain, counted(1000, [1000], systematic=(0.9 * 1000 - 100, 1.2 * 1000 + 50)))]
            )
        ).total
    )
    assert (found["gain"].low, found["gain"].high) == pytest.approx((900, 1200))
    assert (found["offset"].low, found["offset"].high) == pytest.approx((900, 1050))
    assert (found["gain"].cancels_in_ratio, found["offset"].cancels_in_ratio) == (True, False)
    assert found["gain"].common
    assert found["offset"].common


def test_the_width_of_a_model_is_a_row_of_its_own() -> None:
    spent = replace(counted(100, [100], systematic=(75.0, 200.0)), method="modelled")
    found = rows(budget(energy([with_range(HOST, spent)])).total)
    assert set(found) == {"model of power"}
    assert (found["model of power"].low, found["model of power"].high) == (75.0, 200.0)
    assert found["model of power"].cancels_in_ratio


def test_a_calibrated_sensor_has_no_systematic_row() -> None:
    assert not {"gain", "offset"} & set(rows(budget(energy(runs_of(1000, 1001, 1002))).total))


def test_without_energy_there_is_no_budget() -> None:
    lost = run_of(
        block("full", [1], counted(None, reason="the counter stopped")), config=asked(repeats={"count": 1})
    )
    assert energy([lost]).uncertainty is None


# What should agree


def test_the_closure_is_computed_from_the_blocks_and_what_is_apart_from_nothing_is_unknown() -> None:
    """Two domains of one run, and a run that took nothing."""
    cpu = Domain("cpu:0", "cpu", GPU.quantities)
    one = run_of(
        block("full", [1, 1], {GPU.name: counted(900, [400, 490]), "cpu:0": counted(100, [50, 50])}),
        domains=(GPU, cpu),
        config=asked(repeats={"count": 1}),
    )
    (domains,) = budget(energy([one])).closures
    assert (domains.parts_j, domains.whole_j, domains.apart) == (1000, 1000, 0)
    nothing = run_of(
        block("full", [1, 1], {GPU.name: counted(0, [0, 0])}), config=asked(repeats={"count": 1})
    )
    (unknown,) = budget(energy([nothing])).closures
    assert (unknown.parts_j, unknown.whole_j, unknown.apart) == (0, 0, None)


def test_a_whole_experiment_s_budget_makes_up_its_intervals() -> None:
    found = virtual_result(simulated={"run_scatter": 0.02}).energy
    for estimate, terms in (
        (found.total, budget(found).total),
        (found.per_output_token, budget(found).per_output_token),
    ):
        assert estimate.value is not None
        sensor = [term for term in terms if term.name not in {"gain", "offset"}]
        assert combine_terms(estimate.value, sensor).above == pytest.approx(estimate.half_width, rel=1e-6)
        assert estimate.systematic is not None
        hidden = combine_terms(estimate.value, [term for term in terms if term.name in {"gain", "offset"}])
        ends = estimate.value - hidden.below, estimate.value + hidden.above
        assert ends == pytest.approx(estimate.systematic, rel=1e-6)
    (closure,) = budget(found).closures
    assert closure.apart == pytest.approx(0, abs=1e-6)
