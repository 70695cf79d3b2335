"""Power fields under a load that steps, as `llem doctor` characterises them."""

from __future__ import annotations

import random

from benchmarks.boards.polled import poll_times, polled
from llenergymeasure.records import Series, Window
from llenergymeasure.simulation.sensor import AVERAGE, INSTANT, SimulatedSensor
from llenergymeasure.simulation.waveform import Waveform

S = 1_000_000_000
IDLE_W = 60.0


def sensor_of(draw: random.Random, step_s: float, field: int, **habits: float) -> SimulatedSensor:
    """One whose phase is drawn, and whose steps jitter by 1 % of their period."""
    return SimulatedSensor(
        step_s=step_s,
        phase_s=draw.uniform(0, step_s),
        step_jitter_s=0.01 * step_s,
        seed=draw.randrange(2**31),
        fields=frozenset({field}),
        **habits,  # type: ignore[arg-type]  # only float fields are named
    )


def stepped(draw: random.Random, kind: str, *, steps: int = 16) -> tuple[Series, list[int]]:
    """A power field under a load that steps `steps` times, and when; as `llem doctor` characterises one."""
    step_s, look_s = draw.choice(SENSORS_BY_KIND[kind])
    at_ns, edges = 20 * S, []
    power = Waveform(IDLE_W)
    for number in range(steps):
        at_ns += round(draw.uniform(2.5, 3.5) * S)
        power.set(at_ns, IDLE_W if number % 2 else draw.uniform(200.0, 420.0))
        edges.append(at_ns)
    noise = Waveform(1.0)
    noise.walk(10 * S, 0.3, until_ns=at_ns + 3 * S, step_s=0.01, seed=draw.randrange(2**31))
    power.add(noise)
    field = AVERAGE if kind == "average" else INSTANT
    habits = {
        "lag_s": draw.uniform(0.0, 0.12),
        "average_window_s" if kind == "average" else "window_s": look_s,
        "gain": draw.uniform(0.873, 1.065),
        "offset_w": draw.uniform(-24.0, 16.0),
    }
    seen = Window(20 * S, at_ns + 3 * S)
    trace = polled(power, sensor_of(draw, step_s, field, **habits), poll_times(seen, 5_000_000))
    return next(iter(trace.series.values())), edges


# Update period and window by kind: arXiv 2312.02741.
SENSORS_BY_KIND = {
    "instant": ((0.1, 0.1), (0.05, 0.05), (0.02, 0.02)),
    "part_time": ((0.1, 0.025), (0.1, 0.02), (0.02, 0.01)),
    "average": ((0.1, 1.0),),
}
