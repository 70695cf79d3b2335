from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llenergymeasure.energy.level import hold, power_between
from llenergymeasure.energy.sensor import Sensor, SensorKind
from llenergymeasure.records import Quantity, Series, Window
from llenergymeasure.simulation.polled import poll_times, polled
from llenergymeasure.simulation.sensor import AVERAGE, INSTANT, SimulatedSensor
from llenergymeasure.simulation.waveform import Waveform

S = 1_000_000_000
MS = 1_000_000
SEEN = Window(10 * S, 30 * S)


def _series(power: Waveform, look_s: float, *, lag_s: float = 0.07, phase_s: float = 0.04) -> Series:
    sensor = SimulatedSensor(
        phase_s=phase_s,
        window_s=look_s,
        average_window_s=look_s,
        lag_s=lag_s,
        fields=frozenset({AVERAGE if look_s >= 1 else INSTANT}),
    )
    return next(iter(polled(power, sensor, poll_times(SEEN, 7 * MS)).series.values()))


def _sensor(kind: SensorKind, look_s: float, lag_s: float = 0.07) -> Sensor:
    return Sensor(kind, 100 * MS, round(look_s * S), round(lag_s * S), 2 * MS)


def _load(start_s: float, end_s: float) -> tuple[Waveform, Window]:
    window = Window(round(start_s * S), round(end_s * S))
    power = Waveform(60.0)
    power.burst(window.start_ns, 400.0, until_ns=window.end_ns)
    return power, window


@given(
    st.lists(st.integers(0, 500_000), min_size=20, max_size=20),
    st.integers(2000, 9000),
    st.integers(100, 9000),
)
def test_samples_hold_until_the_next_one_and_edges_count(
    raw: list[int], start_ms: int, length_ms: int
) -> None:
    at = np.arange(20, dtype=np.int64) * S
    series = Series(Quantity("resident", "x", "bytes", 1.0), at, at, np.array(raw, dtype=np.int64))
    window = Window(start_ms * MS, (start_ms + length_ms) * MS)
    levels = [raw[ms // 1000] for ms in range(start_ms, start_ms + length_ms)]
    assert hold(series, window).integral == pytest.approx(sum(levels) / 1000, rel=1e-9, abs=1e-6)


@pytest.mark.parametrize("window", [Window(5 * S, 12 * S), Window(28 * S, 31 * S)])
def test_a_window_that_the_samples_do_not_cover_has_a_reason_and_no_integral(window: Window) -> None:
    series = _series(Waveform(60.0), 0.1)
    for held in (hold(series, window), power_between(series, window, None)):
        assert held.integral is None
        assert held.reason
        assert "does not reach" in held.reason


@pytest.mark.parametrize(
    ("kind", "look_s", "within"),
    [("instant", 0.1, 0.002), ("part_time", 0.025, 0.002), ("average", 1.0, 0.01)],
)
@pytest.mark.parametrize("phase_s", [0.0, 0.023, 0.071])
def test_a_load_between_idle_stretches_is_exact_for_every_kind_of_sensor(
    kind: SensorKind, look_s: float, within: float, phase_s: float
) -> None:
    power, window = _load(15.013, 18.48)
    held = power_between(_series(power, look_s, phase_s=phase_s), window, _sensor(kind, look_s))
    true_j = power.energy_j(window.start_ns, window.end_ns)
    assert held.integral == pytest.approx(true_j, rel=within)
    assert held.integral is not None
    assert abs(held.integral - true_j) < 3 * held.sd


def test_a_running_mean_is_inverted_whatever_the_power_did_before() -> None:
    # 2 s from the middle of a ramp: both edges lie where a held reading is half a second late.
    power = Waveform(60.0)
    power.ramp(14 * S, 460.0, until_ns=18 * S)
    window = Window(15 * S, 17 * S)
    series = _series(power, 1.0)
    inverted = power_between(series, window, _sensor("average", 1.0)).integral
    held = hold(series, window).integral
    assert inverted == pytest.approx(260 * 2, rel=0.01)
    assert held is not None
    assert abs(held / 520 - 1) > 0.1


def test_what_a_reading_means_depends_on_the_sensor_alone() -> None:
    power, _ = _load(15.0, 18.0)
    window = Window(round(14.6 * S), round(15.9 * S))
    series = _series(power, 0.1)
    right = power_between(series, window, _sensor("instant", 0.1)).integral
    wrong = power_between(series, window, _sensor("average", 1.0)).integral
    assert right == pytest.approx(0.4 * 60 + 0.9 * 400, rel=0.01)
    assert wrong is not None
    assert abs(wrong / 384 - 1) > 0.1


@pytest.mark.parametrize("lag_s", [0.0, 0.06, 0.12])
def test_an_unknown_lag_is_allowed_for(lag_s: float) -> None:
    power, window = _load(15.03, 18.03)
    held = power_between(_series(power, 0.1, lag_s=lag_s), window, None)
    assert held.integral is not None
    assert abs(held.integral - 1200) < 1.96 * held.sd


def test_what_a_part_time_sensor_does_not_see_is_in_the_interval() -> None:
    power = Waveform(60.0)
    window = Window(15 * S, 19 * S)
    power.square(window.start_ns, (450.0, 200.0), until_ns=window.end_ns, period_s=0.047)
    series = _series(power, 0.025)
    whole = power_between(series, window, _sensor("instant", 0.1))
    part = power_between(series, window, _sensor("part_time", 0.025))
    assert part.integral is not None
    assert abs(part.integral - power.energy_j(window.start_ns, window.end_ns)) < 1.96 * part.sd
    assert part.sd > 2 * whole.sd


def test_a_stretch_without_samples_is_told() -> None:
    series = _series(Waveform(60.0), 0.1)
    kept = (series.t_before_ns < 16 * S) | (series.t_before_ns > 18 * S)
    sparse = Series(series.quantity, series.t_before_ns[kept], series.t_after_ns[kept], series.raw[kept])
    assert hold(sparse, Window(15 * S, 20 * S)).blind_s == pytest.approx(2, abs=0.02)
