"""What is there to measure, whose truth is known: powers, boards with habits of their own, and faults."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from llenergymeasure.energy.integrate import energy_between
from llenergymeasure.energy.joint import joint_powers
from llenergymeasure.energy.nvml import SYSTEMATIC_GAIN, SYSTEMATIC_OFFSET_W
from llenergymeasure.records import EnergyReading, Series, Trace, Window
from llenergymeasure.simulation.polled import DOMAIN, polled
from llenergymeasure.simulation.sensor import AVERAGE, COUNTER, INSTANT, SimulatedSensor
from llenergymeasure.simulation.waveform import Serving, Waveform

if TYPE_CHECKING:
    from llenergymeasure.records import Integers

S = 1_000_000_000
# 17 ms shares no factor with the periods of sensors.
POLL_NS = 17_000_000
STEPS_S = (0.02, 0.05, 0.1)
IDLE_W = 60.0


LOADS = {
    "constant": "constant load",
    "edges": "idle-to-load edges, bursts inside",
    "bursts": "edges in the midst of bursts",
}


@dataclass(frozen=True, slots=True)
class Scene:
    """A true power, and the window over which it is to be integrated, well within `seen`."""

    power: Waveform
    window: Window
    seen: Window

    @property
    def true_j(self) -> float:
        return self.power.energy_j(self.window.start_ns, self.window.end_ns)


def scene(draw: random.Random, load: str, seconds: float, *, drift: bool = False) -> Scene:
    """A window of about `seconds` on one of the loads of `LOADS`, or `steady`, `serving` or `mixed serving`,
    `late` (a steady load that begins and ends 5 to 40 ms inside the window) or `wandering` (a random walk all
    the time).

    Bursts last 10 to 60 ms each, high (350 to 450 W) and low (200 to 300 W) in turn. `drift` adds a warm-up
    of 30 W.
    """
    start_ns = 20 * S + draw.randrange(S)
    begin_ns = start_ns + round(draw.uniform(2.5, 3.0) * S)
    end_ns = begin_ns + round(draw.uniform(seconds, 1.05 * seconds) * S)
    seen = Window(start_ns, end_ns + round(2.7 * S))
    within = load in {"constant", "bursts", "mixed serving", "wandering"}
    power = Waveform({"constant": 400.0, "wandering": 300.0}.get(load, IDLE_W))
    busy = Window(start_ns - S, seen.end_ns) if within else Window(begin_ns, end_ns)
    if load in {"edges", "bursts"}:
        _bursts(power, busy, draw)
    elif load == "wandering":
        sd_w = draw.choice((1.0, 3.0))
        power.walk(busy.start_ns, sd_w, until_ns=seen.end_ns, step_s=0.05, seed=draw.randrange(2**31))
    elif load == "late":
        power.set(begin_ns + round(draw.uniform(0.005, 0.04) * S), draw.uniform(250.0, 420.0))
        power.set(end_ns - round(draw.uniform(0.005, 0.04) * S), IDLE_W)
    elif load == "steady":
        power.set(busy.start_ns, draw.uniform(250.0, 420.0))
        power.walk(busy.start_ns, 1.0, until_ns=busy.end_ns, step_s=0.05, seed=draw.randrange(2**31))
    elif load != "constant":
        power.serve(busy.start_ns, Serving(), until_ns=busy.end_ns, seed=draw.randrange(2**31))
    if not within:
        power.set(end_ns, IDLE_W)
    if drift:
        warming = Waveform(0.0)
        warming.drift(start_ns, 30.0, tau_s=8.0)
        power.add(warming)
    return Scene(power, Window(begin_ns, end_ns), seen)


def _bursts(power: Waveform, busy: Window, draw: random.Random) -> None:
    at_ns, high = busy.start_ns, True
    while at_ns < busy.end_ns:
        power.set(at_ns, draw.uniform(350.0, 450.0) if high else draw.uniform(200.0, 300.0))
        at_ns, high = at_ns + round(draw.uniform(0.01, 0.06) * S), not high


def polls(seen: Window, period_ns: int = POLL_NS) -> Integers:
    return np.arange(seen.start_ns, seen.end_ns, period_ns, dtype=np.int64)


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


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of sensor. `look_s` is what its power field averages over; None for a counter."""

    name: str
    step_s: float
    field: int = COUNTER
    look_s: float | None = None
    known: bool = True


KINDS = (
    *(Kind(f"counter, T = {1000 * step_s:.0f} ms", step_s) for step_s in STEPS_S),
    Kind("instant power, 100 of 100 ms", 0.1, INSTANT, 0.1),
    Kind("part-time power, 25 of 100 ms", 0.1, INSTANT, 0.025),
    Kind("part-time power, 10 of 20 ms", 0.02, INSTANT, 0.01),
    Kind("mean over 1 s", 0.1, AVERAGE, 1.0),
    Kind("instant or part-time power, not known beforehand", 0.1, INSTANT, 0.1, known=False),
    Kind("mean over 1 s, not known beforehand", 0.1, AVERAGE, 1.0, known=False),
)
# Beside those of `LOADS`: loads that begin and end with the window, and one that does not.
_SERVED = ("steady", "serving", "mixed serving")
# Loads that are looked at apart.
APART = {"late": "work that does not fill the window", "wandering": "power that wanders all the time"}
# What a sensor that was found out beforehand is said to be late by is off by this (sd).
_LAG_SD_S = 0.004


@dataclass(frozen=True, slots=True)
class Judged:
    """What was read of a window whose truth is known. Relative to the truth."""

    error: float
    half: float
    reading: EnergyReading
    true_j: float

    @property
    def held(self) -> bool:
        return abs(self.error) <= self.half


def judged(
    kind: Kind, draw: random.Random, *, drift: bool, calibrated: bool = True, load: str | None = None
) -> Judged:
    """One run on a board whose gain and offset are drawn from the published ranges."""
    loads = ("edges", "steady", "serving") if kind.look_s else (*LOADS, *_SERVED)
    at = scene(draw, load or draw.choice(loads), draw.choice((1.0, 2.0, 5.0)), drift=drift)
    gain, offset_w = draw.uniform(0.873, 1.065), draw.uniform(-24.0, 16.0)
    habits = {"gain": gain, "offset_w": offset_w}
    lag_s = draw.uniform(0.0, 0.12)
    if not kind.known and kind.field == INSTANT:
        kind = replace(kind, look_s=draw.choice((0.1, 0.025)))
    if kind.look_s is not None:
        wide = "average_window_s" if kind.field == AVERAGE else "window_s"
        habits |= {"lag_s": lag_s, wide: kind.look_s}
    trace = polled(at.power, sensor_of(draw, kind.step_s, kind.field, **habits), polls(at.seen))
    if kind.look_s is not None and kind.known:
        trace = _told(trace, kind, lag_s + draw.gauss(0.0, _LAG_SD_S))
    domain = trace.domains[0]
    if calibrated:
        domain = replace(domain, gain=1 / gain, offset_w=-offset_w / gain)
    else:
        domain = replace(domain, systematic_gain=SYSTEMATIC_GAIN, systematic_offset_w=SYSTEMATIC_OFFSET_W)
    reading = energy_between(replace(trace, domains=(domain,)), at.window, DOMAIN)
    value = reading.energy.value
    if value is None or reading.resolution_j is None:
        raise ValueError(f"{kind.name}: {reading.energy.reason}")
    return Judged(value / at.true_j - 1, reading.resolution_j / at.true_j, reading, at.true_j)


def _told(trace: Trace, kind: Kind, lag_s: float) -> Trace:
    """The trace of a sensor that was found out beforehand."""
    (key, series), domain = next(iter(trace.series.items())), trace.domains[0]
    quantity = replace(
        series.quantity,
        step_ns=round(kind.step_s * S),
        window_ns=round((kind.look_s or 0.0) * S),
        lag_ns=max(0, round(lag_s * S)),
    )
    return replace(
        trace,
        domains=(replace(domain, quantities=(quantity,)),),
        series={key: replace(series, quantity=quantity)},
    )


def joint_run(draw: random.Random, step_s: float) -> dict[str, Judged]:
    """All prefills and all decodes of about 10 s of serving, by the counter."""
    start_ns = 20 * S + draw.randrange(S)
    seen = Window(start_ns, start_ns + 16 * S)
    power = Waveform(IDLE_W)
    serving = Serving(prefill_s=draw.uniform(0.05, 0.2), steps=draw.randrange(10, 40))
    batches = power.serve(start_ns + 3 * S, serving, until_ns=start_ns + 13 * S, seed=draw.randrange(2**31))
    trace = polled(power, sensor_of(draw, step_s, COUNTER), polls(seen))
    windows = {
        "prefill": [batch.prefill for batch in batches],
        "decode": [batch.decode for batch in batches if batch.decode.duration_s > 0],
    }
    found = {}
    for kind, reading in joint_powers(trace, windows, DOMAIN).items():
        true_j = sum(power.energy_j(one.start_ns, one.end_ns) for one in windows[kind])
        if reading.energy.value is None or reading.resolution_j is None:
            raise ValueError(f"{kind}: {reading.energy.reason}")
        found[kind] = Judged(
            reading.energy.value / true_j - 1, reading.resolution_j / true_j, reading, true_j
        )
    return found


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
    trace = polled(power, sensor_of(draw, step_s, field, **habits), polls(seen, 5_000_000))
    return next(iter(trace.series.values())), edges


# Update period and window by kind: arXiv 2312.02741.
SENSORS_BY_KIND = {
    "instant": ((0.1, 0.1), (0.05, 0.05), (0.02, 0.02)),
    "part_time": ((0.1, 0.025), (0.1, 0.02), (0.02, 0.01)),
    "average": ((0.1, 1.0),),
}


Fault = Callable[[Series, Window], Series]


def _halfway(series: Series, window: Window) -> int:
    return int(np.searchsorted(series.t_before_ns, (window.start_ns + window.end_ns) // 2))


def _reset(series: Series, window: Window) -> Series:
    raw = series.raw - series.raw[0]
    middle = _halfway(series, window)
    return replace(series, raw=np.where(np.arange(raw.size) < middle, raw + 10**6, raw - raw[middle]))


def _stops(series: Series, window: Window) -> Series:
    return replace(series, raw=np.minimum(series.raw, series.raw[_halfway(series, window)]))


# What is done to the counter, and the flag that must name it.
COUNTER_FAULTS: dict[str, tuple[Fault | None, str]] = {
    "none": (None, ""),
    "shows 0.57 of the power": (
        lambda series, _: replace(series, raw=series.raw * 57 // 100),
        "counter_power_mismatch",
    ),
    "shows 1,000 times the power": (
        lambda series, _: replace(series, raw=series.raw * 1000),
        "counter_power_mismatch",
    ),
    "stuck": (lambda series, _: replace(series, raw=np.full_like(series.raw, 5)), "sensor_stuck"),
    "stops half-way": (_stops, "sensor_stuck"),
    "reset": (_reset, "counter_reset"),
}
NAMED = {"counter_power_mismatch", "sensor_stuck", "counter_reset"}


def faulty_reading(draw: random.Random, fault: Fault | None) -> EnergyReading:
    """A window on a board that shows counter and power, its counter broken by `fault`."""
    at = scene(draw, draw.choice(("edges", "steady", "serving")), draw.uniform(5.0, 8.0))
    step_s, look_s, field = draw.choice(
        ((0.1, 0.1, INSTANT), (0.1, 0.025, INSTANT), (0.02, 0.01, INSTANT), (0.1, 1.0, AVERAGE))
    )
    wide = "average_window_s" if field == AVERAGE else "window_s"
    habits = {"lag_s": draw.uniform(0.0, 0.12), wide: look_s, "counter_lag_s": 0.0}
    sensor = replace(sensor_of(draw, step_s, field, **habits), fields=frozenset({COUNTER, field}))
    trace = polled(at.power, sensor, polls(at.seen))
    if fault is not None:
        key = (DOMAIN, "energy")
        trace = replace(trace, series={**trace.series, key: fault(trace.series[key], at.window)})
    return energy_between(trace, at.window, DOMAIN)
