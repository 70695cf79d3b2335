from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from benchmarks.accuracy.scenes import sensor_of, stepped
from benchmarks.boards.polled import poll_times, polled

from llenergymeasure.energy.sensor import Sensor, characterise
from llenergymeasure.records import Series, Window
from llenergymeasure.simulation.sensor import AVERAGE, INSTANT, SimulatedSensor
from llenergymeasure.simulation.waveform import Waveform

S = 1_000_000_000
POLL_NS = 17_000_000
MS = 1_000_000


def _series(power: Waveform, sensor: SimulatedSensor, seen: Window) -> Series:
    return next(iter(polled(power, sensor, poll_times(seen, POLL_NS)).series.values()))


def _loaded(*moments_s: float) -> Waveform:
    power = Waveform(60.0)
    for number, moment in enumerate(moments_s):
        power.set(round(moment * S), 60.0 if number % 2 else 350.0)
    return power


@pytest.mark.parametrize("kind", ["instant", "part_time", "average"])
def test_every_kind_of_sensor_is_recognised_under_a_load_that_steps(kind: str) -> None:
    draw = random.Random(kind)
    for _ in range(40):
        series, edges = stepped(draw, kind)
        sensor = characterise(series, edges)
        assert sensor is not None
        assert sensor.kind == kind


@pytest.mark.parametrize(("lag_s", "look_s"), [(0.0, 0.1), (0.08, 0.025), (0.1, 1.0)])
def test_period_window_and_lag_are_those_of_the_sensor(lag_s: float, look_s: float) -> None:
    moments = [13.0 + 3.037 * number for number in range(10)]
    field = AVERAGE if look_s == 1 else INSTANT
    sensor = SimulatedSensor(
        phase_s=0.02,
        window_s=look_s,
        average_window_s=look_s,
        lag_s=lag_s,
        fields=frozenset({field}),
    )
    power = _loaded(*moments)
    noise = Waveform(1.0)
    noise.walk(9 * S, 0.3, until_ns=50 * S, step_s=0.01, seed=1)
    power.add(noise)
    found = characterise(
        _series(power, sensor, Window(10 * S, 46 * S)), [round(moment * S) for moment in moments]
    )
    assert found is not None
    assert found.step_ns == pytest.approx(100 * MS, rel=0.01)
    assert found.window_ns == pytest.approx(look_s * S, abs=15 * MS)
    assert found.lag_ns == pytest.approx(lag_s * S, abs=15 * MS)


def test_a_mean_over_1_s_is_recognised_in_a_run_without_known_edges_and_under_bursts() -> None:
    draw = random.Random(3)
    for _ in range(20):
        power = Waveform(60.0)
        at_ns, high = 13 * S + draw.randrange(S), True
        while at_ns < 18 * S:
            power.set(at_ns, draw.uniform(350, 450) if high else draw.uniform(200, 300))
            at_ns, high = at_ns + draw.randrange(10, 60) * MS, not high
        power.set(at_ns, 60.0)
        seen = Window(10 * S, at_ns + 3 * S)
        sensor = characterise(_series(power, sensor_of(draw, 0.1, AVERAGE), seen))
        assert sensor is not None
        assert (sensor.kind, sensor.window_ns, sensor.lag_ns) == ("average", S, None)


def test_a_board_that_rises_slowly_and_falls_fast_is_not_taken_to_average() -> None:
    power = Waveform(60.0)
    for start in (13, 20, 27):
        power.ramp(start * S, 350.0, until_ns=round((start + 0.8) * S))
        power.set((start + 4) * S, 60.0)
    sensor = characterise(
        _series(power, SimulatedSensor(fields=frozenset({INSTANT})), Window(10 * S, 34 * S))
    )
    assert sensor is not None
    assert sensor.kind != "average"


def test_power_that_never_steps_says_nothing_of_its_sensor() -> None:
    power = Waveform(300.0)
    power.walk(9 * S, 2.0, until_ns=30 * S, step_s=0.05, seed=2)
    flat = _series(Waveform(300.0), SimulatedSensor(fields=frozenset({INSTANT})), Window(10 * S, 20 * S))
    assert characterise(flat, [13 * S]) is None
    assert characterise(replace(flat, **{name: getattr(flat, name)[:5] for name in _COLUMNS})) is None


_COLUMNS = ("t_before_ns", "t_after_ns", "raw")


def test_a_sensor_is_characterised_in_milliseconds_and_the_same_way_each_time() -> None:
    seen = Window(10 * S, 21 * S)
    series = _series(_loaded(13.0, 18.0), sensor_of(random.Random(2), 0.1, INSTANT), seen)
    edges = (13 * S, 18 * S)
    found: set[Sensor | None] = {characterise(series, edges) for _ in range(3)}
    assert len(found) == 1
    assert np.all(np.diff(series.t_before_ns) == POLL_NS)
