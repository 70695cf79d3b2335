"""What would polling a sensor at given moments have shown, without waiting for any of them?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llenergymeasure.records import Domain, Quantity, Series, Trace, Window
from llenergymeasure.simulation.sensor import AVERAGE, COUNTER, INSTANT, SimulatedSensor
from llenergymeasure.simulation.waveform import Waveform

if TYPE_CHECKING:
    from llenergymeasure.records import Integers

DOMAIN = "gpu:GPU-simulated-0"
ENERGY = Quantity("energy", "nvml.total_energy", "J", 1e-3)
POWER_INSTANT = Quantity("power_instant", "nvml.power.instant", "W", 1e-3)
POWER_AVERAGE = Quantity("power_average", "nvml.power.average", "W", 1e-3)
_QUANTITIES = {COUNTER: ENERGY, INSTANT: POWER_INSTANT, AVERAGE: POWER_AVERAGE}


def polled(power: Waveform, sensor: SimulatedSensor, polls_ns: Integers) -> Trace:
    """The trace of one board whose true power is `power`, each of its fields read at each of `polls_ns`.

    Reads take no time. It is what a `SimulatedGpu` with this sensor shows at those moments, a thousand times
    faster.
    """
    steps_ns = _steps(sensor, Window(int(polls_ns[0]), int(polls_ns[-1])))
    shown = np.searchsorted(steps_ns, polls_ns, side="right") - 1
    quantities = [_QUANTITIES[field] for field in (COUNTER, INSTANT, AVERAGE) if field in sensor.fields]
    series = {}
    for field in sorted(sensor.fields):
        raw, quantity = _shown(power, sensor, steps_ns, field), _QUANTITIES[field]
        series[DOMAIN, quantity.name] = Series(quantity, polls_ns, polls_ns, raw[shown])
    domain = Domain(DOMAIN, "gpu", tuple(quantities), resolution_j=1e-3)
    return Trace((domain,), series)


def poll_times(window: Window, period_ns: int) -> Integers:
    """Every `period_ns` from the start of `window` to its end."""
    return np.arange(window.start_ns, window.end_ns, period_ns, dtype=np.int64)


def _steps(sensor: SimulatedSensor, window: Window) -> Integers:
    """The steps that show within `window`: from the last one before it on."""
    step_ns = sensor.step_s * 1e9
    first = int((window.start_ns - sensor.phase_s * 1e9) // step_ns) - 2
    count = int((window.end_ns - window.start_ns) // step_ns) + 5
    return np.array([sensor.step_at_ns(index) for index in range(first, first + count)], dtype=np.int64)


def _shown(power: Waveform, sensor: SimulatedSensor, steps_ns: Integers, field: int) -> Integers:
    """Millijoules or milliwatts after each step."""
    if field == COUNTER:
        if sensor.counter_stuck:
            return np.zeros(len(steps_ns), dtype=np.int64)
        since_ns = int(steps_ns[0]) - sensor.lag_ns(counter=True) - 1_000_000_000
        shown = [sensor.counted_j(power, since_ns, int(at)) for at in steps_ns]
    else:
        window_s = sensor.window_s if field == INSTANT else sensor.average_window_s
        shown = [max(0.0, sensor.mean_w(power, window_s, int(at))) for at in steps_ns]
    return np.array([round(1000 * value) for value in shown], dtype=np.int64)
