from __future__ import annotations

import pytest

from llenergymeasure.energy.idle import idle_power
from llenergymeasure.records import Trace, Window
from llenergymeasure.simulation.polled import DOMAIN, poll_times, polled
from llenergymeasure.simulation.sensor import COUNTER, SimulatedSensor
from llenergymeasure.simulation.waveform import Waveform

S = 1_000_000_000


def _seen(power: Waveform) -> Trace:
    sensor = SimulatedSensor(phase_s=0.03, fields=frozenset({COUNTER}))
    return polled(power, sensor, poll_times(Window(10 * S, 20 * S), 17_000_000))


def test_idle_power_is_the_mean_within_a_small_interval() -> None:
    power = idle_power(_seen(Waveform(60.0)), Window(13 * S, 17 * S), DOMAIN)
    assert power.value == pytest.approx(60, rel=0.002)
    assert power.low is not None
    assert power.high is not None
    assert power.low <= 60 <= power.high
    assert power.high - power.low < 0.5


def test_drift_between_the_halves_widens_the_interval() -> None:
    ramp = Waveform(60.0)
    ramp.ramp(13 * S, 80.0, until_ns=17 * S)
    power = idle_power(_seen(ramp), Window(13 * S, 17 * S), DOMAIN)
    assert power.value == pytest.approx(70, rel=0.005)
    assert power.high is not None
    # Halves of a ramp from 60 to 80 W have means of 65 and 75 W.
    assert power.high - 70 == pytest.approx(5, rel=0.05)


def test_idle_power_of_a_moment_is_unknown_and_not_0() -> None:
    power = idle_power(_seen(Waveform(60.0)), Window(13 * S, 13 * S), DOMAIN)
    assert power.value is None
    assert power.reason
