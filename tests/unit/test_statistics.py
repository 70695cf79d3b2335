from __future__ import annotations

import math
import random
from statistics import fmean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llenergymeasure.analysis.statistics import (
    correlated,
    drift,
    is_steady,
    relative_half_width,
    stein_count,
    t_quantile,
)


def autoregression(draw: random.Random, count: int, phi: float) -> list[float]:
    at, found = draw.gauss(0.0, 1.0), []
    for _ in range(count):
        found.append(1.0 + 0.03 * at)
        at = phi * at + math.sqrt(1 - phi**2) * draw.gauss(0.0, 1.0)
    return found


def coverage(count: int, phi: float, *, runs: int = 1500) -> float:
    draw = random.Random(count)
    held = 0
    for _ in range(runs):
        values = autoregression(draw, count, phi)
        half = relative_half_width(values)
        assert half is not None
        held += abs(fmean(values) - 1.0) <= half * fmean(values)
    return held / runs


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [
        (1, 12.706205),
        (1.5, 6.016663),
        (2, 4.302653),
        (2.5, 3.574655),
        (3, 3.182446),
        (4, 2.776445),
        (7.7, 2.321737),
        (9, 2.262157),
        (30, 2.042272),
        (120, 1.979930),
        (math.inf, 1.959964),
    ],
)
def test_t_quantile_agrees_with_printed_tables(degrees: float, expected: float) -> None:
    assert t_quantile(0.975, degrees) == pytest.approx(expected, abs=2e-6)


@given(st.floats(0.51, 0.9999), st.sampled_from([1, 2, 4]))
def test_t_quantile_agrees_with_the_closed_forms(probability: float, degrees: int) -> None:
    t = t_quantile(probability, degrees)
    root = t / math.sqrt(degrees + t * t)
    below = {
        1: 0.5 + math.atan(t) / math.pi,
        2: 0.5 + root / 2,
        4: 0.5 + 0.75 * (root - root**3 / 3),
    }
    assert below[degrees] == pytest.approx(probability, abs=1e-12)


def test_t_quantile_falls_without_a_step_where_its_formula_changes() -> None:
    degrees = (2.0, 2.5, 3.0, 50.0, 5e5, 999_999.0, 1e6, 1e9, math.inf)
    quantiles = [t_quantile(0.975, one) for one in degrees]
    assert quantiles == sorted(quantiles, reverse=True)
    assert quantiles[5] == pytest.approx(quantiles[6], rel=1e-9)


def test_t_quantile_of_the_middle_is_zero() -> None:
    assert t_quantile(0.5, 7) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(("probability", "degrees"), [(0.4, 3), (1.0, 3), (0.975, 0)])
def test_t_quantile_refuses_what_has_no_answer(probability: float, degrees: int) -> None:
    with pytest.raises(ValueError, match="no t quantile"):
        t_quantile(probability, degrees)


def test_half_width_worked_by_hand() -> None:
    # mean 10, s = 1, n = 3, t(2) = 4.302653: 4.302653 / sqrt(3) / 10
    assert relative_half_width([9.0, 10.0, 11.0]) == pytest.approx(0.2484138, rel=1e-6)


def test_two_passes_give_no_interval() -> None:
    assert relative_half_width([9.0, 11.0]) is None


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_a_cost_that_is_no_finite_number_is_refused(odd: float) -> None:
    with pytest.raises(ValueError, match=f"finite number, and one is {odd}"):
        relative_half_width([1.0, odd, 1.0])
    with pytest.raises(ValueError, match=f"finite number, and one is {odd}"):
        stein_count([1.0, odd], target=0.02, minimum=2)


@pytest.mark.parametrize("costs", [[], [5.0]])
def test_a_first_stage_without_scatter_is_refused(costs: list[float]) -> None:
    with pytest.raises(ValueError, match=f"at least 2 repetitions, and has {len(costs)}"):
        stein_count(costs, target=0.02, minimum=1)


def test_the_second_stage_uses_the_scatter_of_the_first() -> None:
    first = [9.0, 10.0, 11.0]
    quiet = [10.0] * 97
    expected = t_quantile(0.975, 2) * 1.0 / math.sqrt(100) / 10
    assert relative_half_width([*first, *quiet], first_stage=3) == pytest.approx(expected)


def test_stein_asks_for_no_more_where_passes_agree() -> None:
    assert stein_count([10.0, 10.001, 9.999, 10.0, 10.0], target=0.02, minimum=5) == 5


def test_stein_worked_by_hand() -> None:
    costs = [9.0, 10.0, 11.0, 10.0, 10.0]
    s = stdev(costs) / 10
    assert stein_count(costs, target=0.02, minimum=5) == math.ceil((2.776445 * s / 0.02) ** 2)


def test_the_number_that_stein_asks_for_meets_the_target_whatever_comes() -> None:
    costs = [0.99, 1.0, 1.01, 1.0, 1.02]
    wanted = stein_count(costs, target=0.007, minimum=5)
    assert 5 < wanted < 30
    for later in (0.9, 1.0, 1.1):
        half = relative_half_width([*costs, *([later] * (wanted - 5))], first_stage=5)
        assert half is not None
        assert half <= 0.007


def test_stein_intervals_hold_the_truth_in_95_of_100_runs() -> None:
    draw = random.Random(1)
    runs, held = 4000, 0
    for _ in range(runs):
        costs = [draw.gauss(1.0, 0.03) for _ in range(5)]
        wanted = stein_count(costs, target=0.02, minimum=5)
        costs += [draw.gauss(1.0, 0.03) for _ in range(wanted - 5)]
        half = relative_half_width(costs, first_stage=5)
        assert half is not None
        held += abs(fmean(costs) - 1.0) <= half * fmean(costs)
    assert 0.94 <= held / runs <= 0.975


def test_equal_durations_are_steady() -> None:
    assert is_steady([1.0, 1.01, 0.99, 1.0, 1.005], count=5, variation=0.05)


def test_scatter_above_the_threshold_is_not_steady() -> None:
    assert not is_steady([1.0, 1.3, 0.8, 1.1, 0.9], count=5, variation=0.05)


def test_a_slow_decline_within_the_threshold_is_a_trend() -> None:
    assert not is_steady([1.06, 1.045, 1.03, 1.015, 1.0], count=5, variation=0.05)


def test_too_few_durations_are_not_steady() -> None:
    assert not is_steady([1.0, 1.0], count=5, variation=0.05)


@given(st.floats(1e-6, 1e3), st.integers(3, 20))
def test_steadiness_does_not_depend_on_the_unit(scale: float, count: int) -> None:
    draw = random.Random(count)
    durations = [draw.gauss(1.0, 0.04) for _ in range(count)]
    assert is_steady(durations, count=count, variation=0.05) == is_steady(
        [value * scale for value in durations], count=count, variation=0.05
    )


@pytest.mark.parametrize("phi", [0.0, 0.3, 0.6, 0.9])
def test_from_30_passes_on_the_interval_holds_whether_they_correlate_or_not(phi: float) -> None:
    assert 0.90 <= coverage(30, phi) <= 0.98


def test_a_steady_climb_is_called_correlated() -> None:
    assert correlated([1.0, 1.01, 1.02, 1.03, 1.04, 1.05, 1.06, 1.07])


def test_alternating_passes_are_not_called_correlated() -> None:
    assert not correlated([1.0, 1.1, 1.0, 1.1, 1.0, 1.1, 1.0, 1.1])


def test_equal_passes_are_not_called_correlated() -> None:
    assert not correlated([1.0] * 40)


def test_strong_correlation_is_seen_in_30_passes_and_chance_seldom() -> None:
    draw = random.Random(5)
    seen = sum(correlated(autoregression(draw, 30, 0.6)) for _ in range(500))
    false = sum(correlated(autoregression(draw, 30, 0.0)) for _ in range(500))
    assert seen >= 450
    assert false <= 110


def test_two_long_batches_worked_by_hand() -> None:
    # 15 passes at 1, then 15 at 3: two batches with means 1 and 3, sd √2, t(1) = 12.7062, mean 2.
    half = relative_half_width([1.0] * 15 + [3.0] * 15)
    assert half == pytest.approx(12.706205 * math.sqrt(2) / math.sqrt(2) / 2, rel=1e-6)


# Drift from the first pass to the last


def test_a_monotone_move_is_a_drift_of_its_size() -> None:
    assert drift([[1.00, 1.021, 1.039, 1.06, 1.08]]) == pytest.approx(0.08 / 1.04, rel=0.02)
    falling = drift([[1.08, 1.06, 1.041, 1.02, 1.0]])
    assert falling is not None
    assert falling < 0


@pytest.mark.parametrize(
    "costs",
    [
        [],
        [[1.0, 1.1, 1.2]],  # three passes of one run: too few to tell a move from scatter
        [[1.0, 1.2]] * 5,
        [[1.0] * 8],
        [[0.0] * 8],
        [[1.0, 1.05, 0.96, 1.04, 0.99]],
        [[1.0, 1.1, 1.0, 1.1, 1.0, 1.1]],
    ],
)
def test_what_is_too_little_or_no_move_is_no_drift(costs: list[list[float]]) -> None:
    assert drift(costs) is None


def test_a_drift_of_three_passes_shows_over_three_runs_and_not_in_one() -> None:
    """A slope of 1 % a pass, worked by hand: residuals of ± 0.1 %, each run at its own level."""
    runs = [
        [1.0 * level * (1 + 0.01 * at + 0.001 * off) for at, off in enumerate(offs)]
        for level, offs in ((1.0, (1, -2, 1)), (1.3, (-1, 2, -1)), (0.8, (1, -1, 0)))
    ]
    assert drift(runs[:1]) is None
    assert drift(runs) == pytest.approx(0.02, rel=0.06)


def test_ends_that_differ_alike_in_every_run_are_a_drift_whatever_lies_between() -> None:
    """Costs that swing by 10 % in between have no slope; the last is 3 % below the first in each run."""
    runs = [[1.03 + 0.001 * at, 0.9, 1.1, 0.9, 1.1, 0.9, 1.1, 1.0] for at in range(4)]
    assert drift(runs[:2]) is None
    assert drift(runs) == pytest.approx(-0.0315 / fmean(runs[1]), rel=0.02)


def test_drift_is_seen_where_lag_1_misses_it_and_chance_is_seldom_called_one() -> None:
    draw = random.Random(3)

    def runs(slope: float) -> list[list[list[float]]]:
        return [
            [[1 + slope * at + draw.gauss(0, 0.005) for at in range(5)] for _ in range(3)] for _ in range(400)
        ]

    moving, still = runs(0.006), runs(0.0)
    assert sum(drift(one) is not None for one in moving) >= 0.9 * 400
    assert sum(correlated(one[0]) for one in moving) <= 0.7 * 400
    assert sum(drift(one) is not None for one in still) <= 0.07 * 400
