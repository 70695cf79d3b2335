from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import pytest
from benchmarks.boards.polled import DOMAIN, polled
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from llenergymeasure.energy.joules.silence import block_energy
from llenergymeasure.energy.joules.spent import Spent
from llenergymeasure.records import Domain, Gap, Quantity, Series, Trace, Window
from llenergymeasure.simulation.sensor import AVERAGE, COUNTER, INSTANT, SimulatedSensor
from llenergymeasure.simulation.waveform import Waveform

Integers: TypeAlias = NDArray[np.int64]

S = 1_000_000_000
START, END = 30 * S, 35 * S
COUNTED = frozenset({COUNTER})


def _reads(before_s: float, after_s: float, *, end: int = END, close_s: float = 0.005) -> list[int]:
    """Every 5 ms in the silences, every 50 ms elsewhere."""
    times = [
        np.arange(START / S - before_s - 2, START / S - before_s, 0.05),
        np.arange(START / S - before_s, START / S, close_s),
        np.arange(START / S, end / S, 0.05),
        np.arange(end / S, end / S + after_s, close_s),
    ]
    return [round(t * S) for t in np.concatenate(times)]


def _block(
    power: Waveform,
    sensor: SimulatedSensor,
    *,
    passes: int = 1,
    before_s: float = 0.6,
    after_s: float = 0.6,
    change: Callable[[Trace], Trace] | None = None,
) -> Spent:
    trace = polled(power, sensor, np.array(_reads(before_s, after_s), dtype=np.int64))
    edges = [START + number * (END - START) // passes for number in range(passes + 1)]
    return block_energy(
        change(trace) if change else trace,
        DOMAIN,
        before=Window(START - round(before_s * S), START),
        passes=[Window(a, b) for a, b in pairwise(edges)],
        after=Window(END, END + round(after_s * S)),
    )


def _steps(*levels: tuple[float, float], idle: float = 60.0) -> Waveform:
    power = Waveform(idle)
    for seconds, watts in levels:
        power.set(START + round(seconds * S), watts)
    power.set(END, idle)
    return power


def _near(spent: Spent, true_j: float, rel: float) -> None:
    assert spent.joules is not None, spent.reason
    assert spent.joules == pytest.approx(true_j, rel=rel), spent
    assert abs(spent.joules - true_j) <= spent.half_width_j


@pytest.mark.parametrize("step_s", [0.02, 0.05, 0.1])
def test_a_block_is_read_to_a_tenth_of_a_per_cent_whatever_opens_it(step_s: float) -> None:
    # 40 ms of prefill at three times the power of decode: 24 J + 4.96 s × 200 W.
    power = _steps((0.0, 600.0), (0.04, 200.0))
    spent = _block(power, SimulatedSensor(step_s=step_s, phase_s=0.013, fields=COUNTED))
    _near(spent, 24 + 4.96 * 200, 0.001)
    assert spent.method == "counter"
    assert spent.quiet_w == pytest.approx((60, 60), rel=0.05)
    assert spent.half_width_j < 0.003 * 1016


@pytest.mark.parametrize("lag_s", [0.0, 0.06, 0.12])
def test_a_counter_that_is_behind_changes_nothing(lag_s: float) -> None:
    spent = _block(_steps((0.0, 300.0)), SimulatedSensor(phase_s=0.027, lag_s=lag_s, fields=COUNTED))
    _near(spent, 1500, 0.001)
    assert spent.lag_s == pytest.approx(lag_s, abs=0.03)


def test_what_the_lag_leaves_open_is_common_and_grows_with_the_difference_of_the_quiet_powers() -> None:
    power = _steps((0.0, 300.0))
    power.set(END, 80.0)
    spent = _block(power, SimulatedSensor(phase_s=0.027, lag_s=0.1, fields=COUNTED))
    _near(spent, 1500, 0.002)
    # 20 W, times at most half of a lag of up to 0.15 s and at least what the end of a block can't tell.
    lag = next(term for term in spent.terms if term.name == "lag")
    assert lag.common
    assert 0.02 * 20 < lag.half_width_j < 0.075 * 20


def test_a_tail_after_the_work_is_no_part_of_it_and_widens_the_interval() -> None:
    power = _steps((0.0, 300.0))
    for ms in range(0, 3000, 5):
        power.set(END + ms * 1_000_000, 60 + 60 * float(np.exp(-ms / 400)))
    spent = _block(power, SimulatedSensor(phase_s=0.027, fields=COUNTED))
    _near(spent, 1500, 0.005)
    tail = next(term for term in spent.terms if term.name == "tail")
    assert tail.common
    assert tail.half_width_j > 1


@pytest.mark.parametrize("since_s", [0.0, 0.12])
def test_a_neighbour_that_works_in_all_that_is_seen_of_one_silence_breaks_it(since_s: float) -> None:
    power = _steps((0.0, 300.0))
    power.set(END + round(since_s * S), 200.0)
    spent = _block(power, SimulatedSensor(phase_s=0.027, lag_s=0.04, fields=COUNTED))
    _near(spent, 1500, 0.02)
    assert "silence_broken" in spent.flags
    power = _steps((0.0, 300.0))
    power.set(END, 75.0)  # a warm board
    assert _block(power, SimulatedSensor(phase_s=0.027, fields=COUNTED)).flags == ()


@settings(max_examples=40, deadline=None)
@given(st.floats(0.02, 0.1), st.floats(0, 1), st.floats(80, 600), st.floats(30, 75), st.floats(0.0, 0.12))
def test_any_rhythm_of_the_counter_holds_the_truth(
    step_s: float, phase: float, load_w: float, idle_w: float, lag_s: float
) -> None:
    sensor = SimulatedSensor(step_s=step_s, phase_s=phase * step_s, lag_s=lag_s, fields=COUNTED)
    _near(_block(_steps((0.0, load_w), idle=idle_w), sensor), 5 * load_w, 0.006)


@pytest.mark.parametrize("lag_s", [0.0, 0.12])
def test_shares_sum_to_the_block_and_follow_each_pass(lag_s: float) -> None:
    power = _steps((0.0, 200.0), (1.25, 300.0), (2.5, 250.0), (3.75, 200.0))
    spent = _block(power, SimulatedSensor(phase_s=0.027, lag_s=lag_s, fields=COUNTED), passes=4)
    assert sum(spent.shares) == pytest.approx(spent.joules)
    truth = (250.0, 375.0, 312.5, 250.0)
    for share, half, true_j in zip(spent.shares, spent.share_half_widths, truth, strict=True):
        assert abs(share - true_j) <= half
        assert share == pytest.approx(true_j, rel=0.03)


def test_a_lag_that_can_not_be_seen_is_none() -> None:
    power = _steps((0.0, 66.0))
    assert _block(power, SimulatedSensor(phase_s=0.027, fields=COUNTED), passes=2).lag_s is None


def test_work_in_a_silence_is_named_and_widens_the_interval() -> None:
    power = _steps((0.0, 300.0))
    power.set(END + 370_000_000, 200.0)
    spent = _block(power, SimulatedSensor(step_s=0.02, phase_s=0.007, fields=COUNTED))
    assert "silence_broken" in spent.flags
    _near(spent, 1500, 0.03)


def test_under_one_second_nothing_is_said_and_under_five_it_is_flagged() -> None:
    power = _steps((0.0, 300.0))
    trace = polled(power, SimulatedSensor(fields=COUNTED), np.array(_reads(0.6, 0.6), dtype=np.int64))
    for seconds, value, flags in ((0.9, False, ("window_too_short",)), (4.9, True, ("window_too_short",))):
        start = END - round(seconds * S)
        block = [Window(start, END)]
        before, after = Window(START - S // 2, START), Window(END, END + round(0.6 * S))
        spent = block_energy(trace, DOMAIN, before=before, passes=block, after=after)
        assert (spent.joules is not None) == value
        assert spent.flags == flags
        assert spent.reason or value


def _raw(change: Callable[[Series], Integers]) -> Callable[[Trace], Trace]:
    def changed(trace: Trace) -> Trace:
        key = (DOMAIN, "energy")
        series = trace.series[key]
        return replace(trace, series={**trace.series, key: replace(series, raw=change(series))})

    return changed


def test_a_counter_that_stops_in_the_silence_is_stuck_and_not_an_energy() -> None:
    def stops(series: Series) -> Integers:
        last = int(np.searchsorted(series.t_before_ns, END + S // 20))
        return np.asarray(np.minimum(series.raw, series.raw[last]), dtype=np.int64)

    spent = _block(_steps((0.0, 300.0)), SimulatedSensor(fields=COUNTED), after_s=2.0, change=_raw(stops))
    assert spent.joules is None
    assert spent.flags == ("sensor_stuck",)
    assert spent.reason


def test_a_board_whose_counter_and_power_both_stand_still_has_no_energy() -> None:
    def stands_still(trace: Trace) -> Trace:
        still = {
            key: replace(one, raw=np.full_like(one.raw, one.raw[0])) for key, one in trace.series.items()
        }
        return replace(trace, series=still)

    sensor = SimulatedSensor(fields=frozenset({COUNTER, INSTANT}))
    spent = _block(_steps((0.0, 300.0)), sensor, before_s=1.0, after_s=1.0, change=stands_still)
    assert spent.joules is None
    assert spent.flags[0] == "sensor_stuck"
    assert spent.reason


def test_a_counter_that_stands_still_beside_a_live_power_field_gives_way_to_it() -> None:
    sensor = SimulatedSensor(window_s=0.1, counter_stuck=True, fields=frozenset({COUNTER, INSTANT}))
    spent = _block(_steps((0.0, 300.0)), sensor, before_s=1.0, after_s=1.0)
    assert spent.flags[0] == "sensor_stuck"
    _near(spent, 1500, 0.05)


def test_what_sums_are_rounded_by_is_no_term() -> None:
    sensor = SimulatedSensor(window_s=0.1, fields=frozenset({INSTANT}))
    spent = _block(_steps((0.0, 66.6), idle=66.6), sensor, before_s=1.0, after_s=1.0)
    assert all(term.half_width_j > 1e-6 for term in spent.terms)


def test_a_counter_that_is_reset_in_the_block_gives_way_to_power() -> None:
    def reset(series: Series) -> Integers:
        middle = series.raw.size // 2
        return np.where(np.arange(series.raw.size) < middle, series.raw, series.raw - series.raw[middle])

    sensor = SimulatedSensor(window_s=0.1, phase_s=0.027, fields=frozenset({COUNTER, INSTANT}))
    spent = _block(_steps((0.0, 300.0)), sensor, after_s=0.9, before_s=0.9, change=_raw(reset))
    assert "counter_reset" in spent.flags
    assert spent.method == "sampled"
    assert spent.joules == pytest.approx(1500, rel=0.01)


@pytest.mark.parametrize(
    ("field", "silence_s"), [(INSTANT, 0.8), (AVERAGE, 2.0)], ids=["instantaneous", "mean over 1 s"]
)
def test_power_alone_is_held_from_silence_to_silence(field: int, silence_s: float) -> None:
    sensor = SimulatedSensor(phase_s=0.027, lag_s=0.06, fields=frozenset({field}))
    power = _steps((0.0, 600.0), (0.04, 200.0))
    spent = _block(power, sensor, before_s=silence_s, after_s=silence_s)
    _near(spent, 1016, 0.01)
    assert spent.method == "sampled"


def test_equal_readings_are_data() -> None:
    # 300 W for 10 s is 0 J where duplicates are dropped and the rest is joined by a trapezoid.
    sensor = SimulatedSensor(fields=frozenset({INSTANT}))
    spent = _block(Waveform(300.0), sensor, before_s=0.9, after_s=0.9)
    assert spent.joules == pytest.approx(1500)


@pytest.mark.parametrize(("factor", "flagged"), [(1.0, False), (0.57, True), (1000.0, True)])
def test_counter_and_power_are_compared_where_power_is_constant(factor: float, flagged: bool) -> None:
    sensor = SimulatedSensor(window_s=0.025, phase_s=0.027, fields=frozenset({COUNTER, INSTANT}))
    changed = _raw(lambda series: np.round(series.raw * factor).astype(np.int64))
    spent = _block(_steps((0.0, 300.0)), sensor, before_s=0.9, after_s=0.9, change=changed)
    assert ("counter_power_mismatch" in spent.flags) == flagged


def test_a_healthy_board_under_a_rhythm_that_its_power_field_misses_is_not_flagged() -> None:
    power = Waveform(90.0)
    for number in range(51):
        power.set(START + number * 98_000_000, 540.0)
        power.set(START + number * 98_000_000 + 37_000_000, 90.0)
    sensor = SimulatedSensor(
        window_s=0.025, lag_s=0.06, counter_lag_s=0.0, phase_s=0.027, fields=frozenset({COUNTER, INSTANT})
    )
    assert _block(power, sensor, before_s=0.9, after_s=0.9).flags == ()


def test_calibration_and_systematic_range_apply_to_joules_terms_and_shares() -> None:
    plain = _block(_steps((0.0, 300.0)), SimulatedSensor(phase_s=0.027, fields=COUNTED), passes=2)

    def with_facts(trace: Trace) -> Trace:
        domain = replace(
            trace.domains[0],
            gain=1.1,
            offset_w=-5.0,
            systematic_gain=(0.9, 1.1),
            systematic_offset_w=(-2.0, 2.0),
        )
        return replace(trace, domains=(domain,), gaps=(Gap(Window(START, START + S), "blocked", DOMAIN),))

    spent = _block(
        _steps((0.0, 300.0)), SimulatedSensor(phase_s=0.027, fields=COUNTED), passes=2, change=with_facts
    )
    assert plain.joules is not None
    assert spent.joules is not None
    assert spent.joules == pytest.approx(1.1 * plain.joules - 25)
    assert sum(spent.shares) == pytest.approx(spent.joules)
    assert spent.half_width_j == pytest.approx(1.1 * plain.half_width_j)
    assert spent.systematic == pytest.approx((0.9 * spent.joules - 10, 1.1 * spent.joules + 10))
    assert "recorder_gap" in spent.flags


def test_rapl_needs_fifty_milliseconds() -> None:
    quantity = Quantity("energy", "rapl.package-0", "J", 1e-6, wrap=262_143_328_850, step_ns=1_000_000)
    power = _steps((0.0, 90.0), idle=20.0)
    times = np.array(_reads(0.05, 0.055), dtype=np.int64) + 7_000
    shown = times // 1_000_000 * 1_000_000
    raw = np.array([round(1e6 * power.energy_j(0, int(t))) for t in shown], dtype=np.int64)
    # It wraps in the middle of the block.
    wrapped = (raw - raw[raw.size // 2]) % 262_143_328_850
    domain = Domain("cpu:0", "cpu", (quantity,))
    trace = Trace((domain,), {("cpu:0", "energy"): Series(quantity, times, times, wrapped)})
    spent = block_energy(
        trace,
        "cpu:0",
        before=Window(START - S // 20, START),
        passes=[Window(START, END)],
        after=Window(END, END + 52_000_000),
    )
    _near(spent, 450, 0.0005)
