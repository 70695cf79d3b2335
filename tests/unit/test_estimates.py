from __future__ import annotations

import math

import pytest

from llenergymeasure.analysis.estimates import ratio_over_passes, total
from llenergymeasure.records import Estimate


def measured(value: float, half: float, *, systematic: tuple[float, float] | None = None) -> Estimate:
    return Estimate(value, "J", value - half, value + half, systematic)


def test_a_sum_over_sensors_adds_half_widths_in_quadrature_and_ranges_as_they_are() -> None:
    both = total([measured(100, 3, systematic=(90, 110)), measured(50, 4)], unit="J", why_none="none")
    assert (both.value, both.low, both.high) == (150, 145, 155)
    assert both.systematic == (140, 160)


def test_a_sum_with_a_missing_part_is_missing_and_says_which() -> None:
    both = total([measured(100, 1), Estimate.missing("J", "dram can't be read")], unit="J", why_none="none")
    assert both.value is None
    assert both.reason == "dram can't be read"


def test_a_sum_of_nothing_is_missing_not_zero() -> None:
    assert total([], unit="J", why_none="no meter") == Estimate(None, "J", reason="no meter")


def test_a_sum_where_one_interval_is_unknown_has_none() -> None:
    both = total([measured(100, 1), Estimate(5.0, "J", reason="one read")], unit="J", why_none="none")
    assert (both.value, both.low, both.reason) == (105, None, "one read")


def test_scaling_keeps_the_three_kinds_of_doubt() -> None:
    per_token = measured(100, 2, systematic=(80, 120)).times(1 / 50, "J/token")
    assert (per_token.value, per_token.low, per_token.high) == (2.0, 1.96, 2.04)
    assert per_token.systematic == (1.6, 2.4)


def test_the_ratio_is_of_sums_not_a_mean_of_ratios() -> None:
    ratio = ratio_over_passes([10.0, 30.0], [10.0, 10.0], unit="J/token")
    assert ratio.value == 2.0
    uneven = ratio_over_passes([10.0, 60.0], [10.0, 20.0], unit="J/token")
    assert uneven.value == pytest.approx(70 / 30)


def test_two_passes_have_a_value_and_a_reason_for_no_interval() -> None:
    ratio = ratio_over_passes([10.0, 30.0], [10.0, 10.0], unit="J/token")
    assert ratio.low is None
    assert ratio.reason == "2 repetitions: an interval needs 3"


def test_the_larger_of_scatter_and_resolution_is_stated() -> None:
    costs = [10.0, 10.0, 10.0]
    ratio = ratio_over_passes(costs, [10.0] * 3, unit="J/token", resolution=0.05)
    assert (ratio.low, ratio.high) == (0.95, 1.05)


def test_what_is_common_to_all_is_added_to_the_larger_of_the_two() -> None:
    ratio = ratio_over_passes([10.0] * 3, [10.0] * 3, unit="J/token", resolution=0.05, common=0.02)
    assert [ratio.low, ratio.high] == pytest.approx([0.93, 1.07])
    # scatter: mean 10, s = 1, n = 3, t(2) = 4.302653
    chance = 0.2484138
    wide = ratio_over_passes([9.0, 10.0, 11.0], [1.0] * 3, unit="J/token", resolution=0.05, common=0.02)
    assert wide.high == pytest.approx(10 * (1 + chance + 0.02), rel=1e-6)


def test_the_scatter_of_a_first_stage_holds_for_all() -> None:
    costs = [9.0, 10.0, 11.0, *[10.0] * 9]
    whole = ratio_over_passes(costs, [1.0] * 12, unit="J/token", first_stage=3)
    assert whole.high == pytest.approx(10 + 4.302653 / 12**0.5, rel=1e-6)


def test_nothing_to_divide_by_is_missing_with_a_reason() -> None:
    assert ratio_over_passes([1.0], [0], unit="J/token").value is None


def test_where_one_pass_has_nothing_to_divide_by_the_ratio_of_sums_has_no_interval() -> None:
    ratio = ratio_over_passes([2.0, 4.0, 6.0], [3, 0, 3], unit="J/request")
    assert (ratio.value, ratio.low) == (2.0, None)
    assert ratio.reason


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_estimate_refuses_what_is_not_finite(bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        Estimate(bad, "J", reason="x")


def test_a_missing_value_needs_a_reason() -> None:
    with pytest.raises(ValueError, match="reason"):
        Estimate(None, "J")


def test_few_passes_that_climb_say_that_their_interval_is_a_lower_bound() -> None:
    climbing = ratio_over_passes([1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7], [1.0] * 8, unit="J/token")
    assert climbing.low is not None
    assert climbing.reason == "passes resemble their neighbours: the interval is a lower bound"


def test_passes_at_zero_have_no_interval_and_are_not_called_few() -> None:
    nothing = ratio_over_passes([0.0, 0.0, 0.0], [1.0, 1.0, 1.0], unit="J/token")
    assert (nothing.value, nothing.low) == (0.0, None)
    assert nothing.reason == "all of them are at 0, where scatter has no relative size"
