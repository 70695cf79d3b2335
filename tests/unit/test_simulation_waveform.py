from __future__ import annotations

import math
import time
from itertools import pairwise
from statistics import pstdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llenergymeasure.simulation.waveform import Batch, Serving, Waveform

MS = 1_000_000
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


def test_a_cut_forgets_what_was_set_for_later_and_holds_the_power_of_that_moment() -> None:
    power = Waveform(50)
    for number in range(5):
        power.set((10 + number) * S, 100.0 * (number + 1))
    before_j = power.energy_j(0, 12 * S + S // 2)
    power.cut(12 * S + S // 2)
    assert power.power_w(14 * S) == 300
    assert power.energy_j(0, 12 * S + S // 2) == before_j
    assert power.energy_j(12 * S + S // 2, 20 * S) == pytest.approx(7.5 * 300)
    power.set(13 * S, 60)  # what was cut no longer stands in the way
    assert power.energy_j(12 * S + S // 2, 20 * S) == pytest.approx(0.5 * 300 + 7 * 60)


def test_a_cut_into_a_ramp_holds_the_power_that_it_had_come_to() -> None:
    power = Waveform(100)
    power.ramp(10 * S, 300, until_ns=14 * S)
    power.cut(12 * S)
    assert power.power_w(12 * S) == power.power_w(13 * S)
    assert power.energy_j(10 * S, 13 * S) == pytest.approx(2 * 150 + 200)


def test_a_cut_after_everything_changes_nothing() -> None:
    power = Waveform(100)
    power.ramp(10 * S, 300, until_ns=14 * S)
    power.cut(20 * S)
    assert power.power_w(13 * S) == pytest.approx(250)
    power.set(15 * S, 10)


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


def _slowly_j(power: Waveform, t0_ns: int, t1_ns: int, *, parts: int = 200_000) -> float:
    width_s = (t1_ns - t0_ns) / parts * 1e-9
    return (
        sum(power.power_w(t0_ns + (2 * part + 1) * (t1_ns - t0_ns) // (2 * parts)) for part in range(parts))
        * width_s
    )


def test_a_burst_leaves_the_power_as_it_was() -> None:
    power = Waveform(60)
    power.burst(S, 400, until_ns=3 * S)
    assert power.energy_j(0, 4 * S) == pytest.approx(60 + 800 + 60)
    assert power.power_w(3 * S) == 60


def test_a_square_draws_its_duty_and_is_cut_where_it_ends() -> None:
    power = Waveform(50)
    power.square(S, (400, 100), until_ns=S + 105 * MS, period_s=0.02, duty=0.25)
    # five whole periods of 5 ms high and 15 ms low, and the first 5 ms of a sixth
    assert power.energy_j(S, S + 105 * MS) == pytest.approx(5 * (2.0 + 1.5) + 2.0)
    assert power.power_w(S + 4 * MS) == 400
    assert power.power_w(S + 6 * MS) == 100
    assert power.power_w(S + 105 * MS) == 50


def test_a_drift_approaches_its_level_as_an_exponential() -> None:
    power = Waveform(300)
    power.drift(10 * S, 350, tau_s=20)
    assert power.power_w(10 * S) == pytest.approx(300)
    assert power.power_w(30 * S) == pytest.approx(350 - 50 / math.e)
    assert power.energy_j(10 * S, 30 * S) == pytest.approx(350 * 20 - 50 * 20 * (1 - 1 / math.e))
    power.set(30 * S, 100)
    assert power.energy_j(10 * S, 31 * S) == pytest.approx(350 * 20 - 50 * 20 * (1 - 1 / math.e) + 100)


def test_serving_is_prefill_then_steps_of_decode() -> None:
    power, serving = Waveform(60), Serving(prefill_w=600, prefill_s=0.1, high_w=400, low_w=200, duty=0.5)
    batches = power.serve(S, serving, until_ns=31 * S, seed=4)
    for batch in batches[:-1]:
        assert power.energy_j(batch.prefill.start_ns, batch.prefill.end_ns) == pytest.approx(60)
        mean_w = power.energy_j(batch.decode.start_ns, batch.decode.end_ns) / batch.decode.duration_s
        assert mean_w == pytest.approx(300)
        assert 0.0095 < batch.decode.duration_s / serving.steps < 0.063
    assert batches[0].prefill.start_ns == S
    assert batches[-1].decode.end_ns == 31 * S
    assert all(one.decode.end_ns == two.prefill.start_ns for one, two in pairwise(batches))
    assert power.power_w(31 * S) == 60


def test_serving_is_drawn_by_its_seed() -> None:
    def batches(seed: int) -> tuple[Batch, ...]:
        return Waveform(60).serve(S, Serving(), until_ns=9 * S, seed=seed)

    assert batches(1) == batches(1)
    assert batches(1) != batches(2)


def test_a_walk_moves_at_its_steps_only_and_stays_above_nothing() -> None:
    power = Waveform(100)
    power.walk(S, 20, until_ns=101 * S, step_s=0.5, seed=2)
    levels = [power.power_w(S + number * S // 2) for number in range(200)]
    moves = [after - before for before, after in pairwise(levels)]
    assert min(levels) >= 0
    assert 15 < pstdev(moves) < 25
    assert power.energy_j(S, 101 * S) == pytest.approx(sum(levels) * 0.5)
    assert power.power_w(101 * S) == 100


def test_an_added_waveform_is_drawn_on_top() -> None:
    power, warmth = Waveform(60), Waveform(0)
    power.burst(S, 400, until_ns=2 * S)
    warmth.ramp(S, 10, until_ns=2 * S)
    power.add(warmth)
    assert power.energy_j(S, 3 * S) == pytest.approx(400 + 5 + 60 + 10)
    power.ramp(3 * S, 100, until_ns=4 * S)
    assert power.energy_j(3 * S, 4 * S) == pytest.approx(80 + 10)


def test_a_closed_integral_is_what_a_sum_comes_to() -> None:
    power = Waveform(60)
    power.drift(S // 2, 90, tau_s=0.4)
    power.serve(S, Serving(), until_ns=2 * S, seed=9)
    power.ramp(2 * S, 200, until_ns=3 * S)
    power.square(3 * S, (300, 100), until_ns=4 * S, period_s=0.03)
    assert power.energy_j(0, 5 * S) == pytest.approx(_slowly_j(power, 0, 5 * S), rel=1e-4)


def test_shapes_that_take_no_time_or_come_late_are_refused() -> None:
    power = Waveform(60)
    with pytest.raises(ValueError, match="take time"):
        power.burst(S, 100, until_ns=S)
    with pytest.raises(ValueError, match="duty"):
        power.square(S, (1, 2), until_ns=2 * S, period_s=0.1, duty=1)
    with pytest.raises(ValueError, match="time constant"):
        power.drift(S, 100, tau_s=0)
    power.burst(S, 100, until_ns=2 * S)
    with pytest.raises(ValueError, match="already set"):
        power.serve(S, Serving(), until_ns=3 * S)


def test_reading_a_long_waveform_costs_no_more_than_a_short_one() -> None:
    power = Waveform(60)
    power.square(S, (300, 100), until_ns=1_001 * S, period_s=0.01)
    start_s = time.process_time()
    for number in range(20_000):
        power.energy_j(number * 50 * MS, (number + 20) * 50 * MS)
    # 200,000 pieces: a walk over them would take minutes
    assert time.process_time() - start_s < 2
