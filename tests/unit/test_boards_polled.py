from __future__ import annotations

import numpy as np
import pytest
from benchmarks.boards.polled import DOMAIN, poll_times, polled

from llenergymeasure.energy.meters.nvml import NvmlMeter
from llenergymeasure.records import Window
from llenergymeasure.simulation.clock import VirtualClock
from llenergymeasure.simulation.device import SimulatedNvml
from llenergymeasure.simulation.sensor import SimulatedSensor

S = 1_000_000_000


@pytest.mark.parametrize(
    "sensor",
    [
        SimulatedSensor(step_s=0.05, phase_s=0.013, step_jitter_s=0.004, seed=3),
        SimulatedSensor(window_s=0.025, lag_s=0.06, counter_lag_s=0.0, gain=0.95, offset_w=-7.0),
        SimulatedSensor(step_s=0.02, counter_gain=0.57, counter_offset_w=3.0, average_window_s=0.5),
    ],
)
def test_polling_shows_what_a_simulated_board_shows_to_the_meter(sensor: SimulatedSensor) -> None:
    clock = VirtualClock(10 * S)
    nvml = SimulatedNvml(clock, idle_w=60, sensor=sensor)
    times = poll_times(Window(12 * S, 15 * S), 37_000_000)
    seen: dict[str, list[int]] = {}
    with NvmlMeter(nvml, clock=clock) as meter:
        for number, at in enumerate(times.tolist()):
            clock.sleep_until(at)
            if number % 20 == 7:
                nvml.set_power(100.0 + 10 * number)
            for sample in meter.sample():
                seen.setdefault(sample.quantity, []).append(sample.raw)
    trace = polled(nvml.gpus[0].power, sensor, times)
    assert {name for _, name in trace.series} == {"energy", "power_instant", "power_average"}
    for (domain, name), series in trace.series.items():
        assert domain == DOMAIN
        # A counter may have started at any time.
        start = np.array([seen[name][0] - series.raw[0] if name == "energy" else 0])
        assert np.max(np.abs(np.array(seen[name]) - series.raw - start)) <= 1
