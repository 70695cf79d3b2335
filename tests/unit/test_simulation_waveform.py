from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llenergymeasure.simulation.waveform import Waveform

S = 1_000_000_000


def test_steps_integrate_to_rectangles() -> None:
    power = Waveform(50)
    power.set(10 * S, 400)
    power.set(12 * S, 100)
    assert power.energy_j(8 * S, 13 * S) == pytest.approx(2 * 50 + 2 * 400 + 100)
    assert power.power_w(10 * S - 1) == 50
    assert power.power_w(10 * S) == 400


def test_a_ramp_integrates_to_a_trapezium_and_then_holds() -> None:
    power = Waveform(100)
    power.ramp(10 * S, 300, until_ns=14 * S)
    assert power.power_w(11 * S) == pytest.approx(150)
    assert power.energy_j(10 * S, 14 * S) == pytest.approx(4 * 200)
    assert power.energy_j(14 * S, 15 * S) == pytest.approx(300)


def test_the_past_can_not_be_changed() -> None:
    power = Waveform(1)
    power.set(10 * S, 2)
    with pytest.raises(ValueError, match="already set"):
        power.set(9 * S, 3)


@given(
    st.lists(st.tuples(st.integers(1, 10**10), st.floats(0, 1000)), max_size=20),
    st.lists(st.integers(0, 2 * 10**11), min_size=3, max_size=3),
)
def test_energy_of_a_window_is_the_sum_of_its_parts(
    changes: list[tuple[int, float]], times: list[int]
) -> None:
    power = Waveform(30)
    now_ns = 0
    for step_ns, watts in changes:
        now_ns += step_ns
        power.set(now_ns, watts)
    first, middle, last = sorted(times)
    parts = power.energy_j(first, middle) + power.energy_j(middle, last)
    assert power.energy_j(first, last) == pytest.approx(parts, abs=1e-6)
