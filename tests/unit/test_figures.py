from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llenergymeasure.records import Estimate
from llenergymeasure.records.figures import (
    about,
    amount,
    duration,
    led_by_range,
    percent,
    plain,
    relative,
    scale_for,
    span,
    two_figures,
)

UNITS = ["J", "W", "s", "J/token", "token/s", "request/s", "1", "bytes", "FLOP"]
finite = st.floats(allow_nan=False, allow_infinity=False)
ordinary = st.floats(1e-9, 1e9) | st.floats(-1e9, -1e-9)


def figures(text: str) -> int:
    return len(re.sub(r"e.*|[^0-9]", "", text).lstrip("0"))


@pytest.mark.parametrize(
    ("value", "low", "high", "unit", "shown"),
    [
        (0.01234, 0.01194, 0.01274, "J/token", "12.3 ± 0.4 mJ/token"),
        (7501.0, 7351.0, 7651.0, "J", "7.50 ± 0.15 kJ"),
        (999.6, 999.6, 999.6, "W", "1.00 ± 0.00 kW"),
        (0.00099951, 0.00099851, 0.00100051, "s", "1.00 ± <0.01 ms"),
        (51.2, 50.2, 52.2, "token/s", "51.2 ± 1.0 token/s"),
        (12345.6, 12000.0, 12500.0, "token/s", "12,300 ± 300 token/s"),
        (-3.25, -3.75, -2.75, "J", "−3.2 ± 0.5 J"),
        (10.0, 9.99999, 10.00001, "J", "10.0 ± <0.1 J"),
        (100.0, 99.99, 100.01, "J", "100 ± <1 J"),
        (5.0, 4.0, 8.0, "J", "5 ± 3 J"),
        (60.0, -286.0, 406.0, "J", "60 ± 350 J"),
        (0.0, -3.0, 3.0, "J", "0 ± 3 J"),
        (0.123, 0.113, 0.133, "1", "12.3 ± 1.0 %"),
        (0.0, 0.0, 0.0, "J", "0.00 ± 0.00 J"),
        (3600.0, 3600.0, 3600.0, "s", "3,600 ± 0 s"),
    ],
)
def test_a_value_and_its_interval(value: float, low: float, high: float, unit: str, shown: str) -> None:
    assert amount(Estimate(value, unit, low, high)) == shown


def test_a_model_is_marked_and_a_missing_value_or_interval_is_not_zero() -> None:
    assert amount(Estimate(2.0, "J", 1.0, 3.0), modelled=True) == "≈ 2.0 ± 1.0 J"
    assert amount(Estimate(2.0, "J", reason="one pass")) == "2.00 J"
    assert amount(Estimate.missing("J", "no meter"), modelled=True) == "–"


@pytest.mark.parametrize(
    ("value", "half", "systematic", "shown"),
    [
        (599.0, 0.1, (219.0, 1640.0), "600 (220 to 1,640) J"),
        (7500.0, 150.0, (6000.0, 8400.0), "7.5 (6.0 to 8.4) kJ"),
        (7500.0, 150.0, (7400.0, 7600.0), "7.50 ± 0.15 kJ"),
        (0.117, 0.002, (0.07, 0.164), "117 (70 to 164) mJ"),
        (599.0, None, (219.0, 1640.0), "600 (220 to 1,640) J"),
        (3e-7, 0.00645, (1e-7, 4e-7), "0 ± 6 mJ"),
        (0.002, 0.032, (0.001, 0.003), "2 ± 32 mJ"),
    ],
)
def test_a_range_wider_than_the_interval_takes_its_place_and_the_digits_that_it_makes_meaningless(
    value: float, half: float | None, systematic: tuple[float, float], shown: str
) -> None:
    low, high = (None, None) if half is None else (value - half, value + half)
    estimate = Estimate(value, "J", low, high, systematic, "one run" if half is None else None)
    assert amount(estimate) == shown
    assert led_by_range(estimate) == ("±" not in shown)


def test_the_range_shares_the_scale_of_its_value() -> None:
    assert span(Estimate(0.117, "J", 0.11, 0.12, (0.07, 1.64))) == "70 to 1,640 mJ"
    assert span(Estimate(0.117, "J", 0.11, 0.12)) is None
    assert span(Estimate.missing("J", "no meter")) is None


def test_an_interval_as_a_share_of_its_value() -> None:
    assert relative(Estimate(100.0, "J", 98.0, 102.0)) == "± 2 %"
    assert relative(Estimate(100.0, "J", 99.99, 100.01)) == "± <0.1 %"
    assert relative(Estimate(100.0, "J", reason="one run")) is None
    assert relative(Estimate(0.0, "J", -1.0, 1.0)) is None
    assert (percent(0.4), percent(0.00123), two_figures(34567.0)) == ("40 %", "0.12 %", "30,000")


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (2.4716e9, "B", "2.47 GB"),
        (0.0, "B", "0.00 B"),
        (9.9e11, "FLOP", "990 GFLOP"),
        (1e-12, "J", "0.00100 nJ"),
    ],
)
def test_plain_numbers(value: float, unit: str, shown: str) -> None:
    assert plain(value, unit) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.2, "0.2 s"), (25, "25 s"), (120, "2 min"), (219, "3.65 min"), (7200, "2 h")]
)
def test_durations(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.4, "0.4 s"), (87.3, "87 s"), (119.7, "2 min"), (152, "2.5 min"), (7000, "120 min"), (9000, "2.5 h")],
)
def test_a_forecast_has_two_digits(seconds: float, shown: str) -> None:
    assert about(seconds) == shown


@given(ordinary, st.sampled_from(UNITS))
def test_ordinary_values_show_three_figures_or_all_of_a_whole_number(value: float, unit: str) -> None:
    text = scale_for(value, unit).number(value)
    whole = "." not in text
    assert figures(text) == 3 or (whole and figures(text) >= 3)


@given(finite, st.floats(0, 1e300), st.sampled_from(UNITS))
def test_value_and_half_width_have_the_same_decimals_and_are_never_odd(
    value: float, half: float, unit: str
) -> None:
    low, high = value - half, value + half
    if abs(low) == float("inf") or abs(high) == float("inf"):
        return
    text = amount(Estimate(value, unit, low, high, systematic=(low, high)))
    assert not re.search(r"nan|inf|−0[.0]* |\{|-", text.removesuffix(unit))
    first, second = text.split(" ± ")
    if "e" not in text:
        decimals = {len(part.split()[0].partition(".")[2]) for part in (first, second)}
        assert len(decimals) == 1


@given(st.floats(1e-6, 1e6), st.sampled_from(["J", "W", "s", "J/token"]))
def test_what_is_shown_is_the_value_within_half_a_percent(value: float, unit: str) -> None:
    number, shown = plain(value, unit).split(" ")
    factor = {"n": 1e-9, "µ": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6}.get(shown[0], 1.0)
    assert float(number.replace(",", "")) * factor == pytest.approx(value, rel=5.1e-3)
