"""How late is a board's energy counter, and does what feeds it look at all of the time?

A counter that sums the readings of a part-time sensor beats with a load whose rhythm is near the sensor's:
its slope rises and falls although the load does not. One that sees everything shows a mean that stays.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from llenergymeasure.doctor.characterise import LEVEL_S, PHASE_S, READ_S, STEPS
from llenergymeasure.doctor.load import Load, MatrixLoad, SimulatedLoad
from llenergymeasure.energy import Meter
from llenergymeasure.energy.counter import unwrap
from llenergymeasure.energy.meters.calibration import Characteristics, SensorFiles, recall, remember
from llenergymeasure.energy.meters.nvml import NvmlMeter
from llenergymeasure.energy.sensor import NO_STEP, characterise
from llenergymeasure.exceptions import ConfigError, EnergyError
from llenergymeasure.measure.gpus import gpu_facts
from llenergymeasure.records import Clock, GpuFacts, Progress, Quantity, Series
from llenergymeasure.simulation.clock import VirtualClock
from llenergymeasure.simulation.device import SimulatedNvml

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.float64]

# Square waves near the counter's own period: beats of so many periods of it, for so many beats.
RATIOS = (0.95, 1.05)
_BEATS = 5
# Of the swing between idle and load. A window of 0.75 of a period beats by 0.19, one of a quarter by 0.57.
_LEAST_BEAT = 0.1
_DEFAULT_STEP_S = 0.1


@dataclass(frozen=True, slots=True)
class CheckedCounter:
    """`looks_at` is the part of the time that the sensor behind the counter looks at, 1 where no beat was
    seen; `characteristics` is None where `reason` says why.
    """

    gpu: GpuFacts
    source: str
    looks_at: float
    characteristics: Characteristics | None
    reason: str | None = None
    kept_in: str | None = None


def check_counters(
    progress: Progress, wanted: str | None = None, *, files: SensorFiles | None = None
) -> tuple[CheckedCounter, ...]:
    """Every GPU that NVML shows, one after the other, or the one `wanted` by UUID or index; what is found is
    kept for that board and driver.

    EnergyError where there is none to read, or no load can be run. ConfigError where none is that one.
    """
    if why := NvmlMeter(gpus="all").why_unavailable():
        raise EnergyError(f"there is no counter to check: {why}", hint="--simulated shows an example")
    gpus = gpu_facts()
    mine = [one for one in gpus if wanted in {None, one.uuid, str(one.index)}]
    if not mine:
        names = ", ".join(f"{one.index}: {one.uuid}" for one in gpus)
        raise ConfigError(f"there is no board {wanted}", hint=f"--gpu, one of {names}")
    found = []
    for gpu in mine:
        progress(f"{gpu.name or gpu.uuid}: steps and square waves", total=(2 * STEPS + 1) * LEVEL_S)
        with NvmlMeter(gpus=(gpu.uuid,)) as meter, MatrixLoad(gpu.uuid) as load:
            one = checked(gpu, meter, load, time)
        if one.characteristics is not None and gpu.driver is not None:
            known = {**recall(gpu.uuid, gpu.driver, files=files), "energy": one.characteristics}
            path = remember(gpu.uuid, gpu.driver, known, files=files)
            one = CheckedCounter(gpu, one.source, one.looks_at, one.characteristics, None, str(path))
        found.append(one)
    return tuple(found)


def check_simulated() -> tuple[CheckedCounter, ...]:
    """The simulated board in virtual time. Keeps nothing."""
    clock = VirtualClock()
    nvml = SimulatedNvml(clock, idle_w=60.0)
    (gpu,) = gpu_facts(nvml)
    with (
        NvmlMeter(nvml, gpus="all", clock=clock) as meter,
        SimulatedLoad(nvml, idle_w=60.0, active_w=400.0) as load,
        clock.every(READ_S, load.waver),
    ):
        return (checked(gpu, meter, load, clock),)


def checked(gpu: GpuFacts, meter: Meter, load: Load, clock: Clock) -> CheckedCounter:
    """The energy counter of an open meter's first domain, under a load that is switched."""
    counter = next(
        (q for domain in meter.domains() for q in domain.quantities if q.unit == "J" and q.name == "energy"),
        None,
    )
    if counter is None:
        return CheckedCounter(gpu, "", 1.0, None, "the board has no energy counter")
    reader = _Reader(meter, counter, clock)
    edges: list[int] = []
    reader.read_for(LEVEL_S)
    for step in range(STEPS):
        for switch in (load.start, load.stop):
            switch()
            edges.append(clock.monotonic_ns())
            reader.read_for(LEVEL_S + step * PHASE_S)
    power = _as_power(reader.series())
    sensor = None if power is None else characterise(power, edges)
    if power is None or sensor is None or sensor.lag_ns is None:
        return CheckedCounter(gpu, counter.source, 1.0, None, NO_STEP)
    watts = power.raw * power.quantity.scale
    swing_w = float(np.percentile(watts, 95) - np.percentile(watts, 5))
    step_s = sensor.step_ns * 1e-9 or _DEFAULT_STEP_S
    beats = [_beat_w(reader, load, clock, step_s=step_s, ratio=ratio) / swing_w for ratio in RATIOS]
    # A rhythm of the machine itself would not beat with both.
    looks_at = _part(min(beats))
    window_ns = round(looks_at * sensor.step_ns) if looks_at < 1 else None
    return CheckedCounter(
        gpu, counter.source, looks_at, Characteristics(sensor.step_ns, window_ns, sensor.lag_ns)
    )


class _Reader:
    """Reads one counter, every few milliseconds, and keeps what it said."""

    def __init__(self, meter: Meter, counter: Quantity, clock: Clock) -> None:
        self._meter, self._counter, self._clock = meter, counter, clock
        self._rows: list[tuple[int, int, int]] = []

    def read_for(self, seconds: float) -> None:
        end_ns = self._clock.monotonic_ns() + round(seconds * 1e9)
        while (left_ns := end_ns - self._clock.monotonic_ns()) > 0:
            for one in self._meter.sample():
                if one.quantity == self._counter.name:
                    self._rows.append((one.t_before_ns, one.t_after_ns, one.raw))
                    break
            self._clock.sleep(min(READ_S, left_ns / 1e9))

    def clear(self) -> None:
        self._rows.clear()

    def series(self) -> Series:
        return Series(self._counter, *np.array(self._rows, dtype=np.int64).reshape(-1, 3).T)


def _as_power(series: Series) -> Series | None:
    """The counter's steps as the readings of a power field that means over each of them."""
    counts, _ = unwrap(series.raw, series.quantity.wrap)
    moved = np.flatnonzero(np.diff(counts)) + 1
    if moved.size < 3:
        return None
    seen = (series.t_before_ns[moved] + series.t_after_ns[moved - 1]) / 2e9
    between = np.diff(seen)
    # Steps come evenly, and the moment of each is seen up to a read late.
    usual = float(np.median(between))
    apart = np.maximum(1, np.round(between / usual)) * usual
    watts = np.diff(counts[moved]) * series.quantity.scale / apart
    held = np.repeat(watts, np.diff(np.append(moved[1:], series.raw.size)))
    first = int(moved[1])
    quantity = Quantity("power_instant", series.quantity.source, "W", 1e-3)
    raw = np.rint(held * 1e3).astype(np.int64)
    return Series(quantity, series.t_before_ns[first:], series.t_after_ns[first:], raw)


def _beat_w(reader: _Reader, load: Load, clock: Clock, *, step_s: float, ratio: float) -> float:
    """By how many watts the counter's slope swings with the beat of a square wave and its own period."""
    period_s = ratio * step_s
    beat_s = abs(1 / (1 / period_s - 1 / step_s))
    reader.clear()
    start_ns = clock.monotonic_ns()
    for number in range(math.ceil(_BEATS * beat_s / period_s)):
        for switch, part in ((load.start, number + 0.5), (load.stop, number + 1.0)):
            switch()
            left_ns = start_ns + round(part * period_s * 1e9) - clock.monotonic_ns()
            reader.read_for(max(0.0, left_ns / 1e9))
    power = _as_power(reader.series())
    if power is None:
        return 0.0
    seconds = np.asarray((power.t_before_ns - start_ns) * 1e-9, dtype=np.float64)
    return _harmonic(seconds, np.asarray(power.raw * power.quantity.scale, dtype=np.float64), beat_s)


def _harmonic(seconds: Floats, watts: Floats, period_s: float) -> float:
    """The amplitude of a sine of that period, beside a level and a trend."""
    turn = 2 * math.pi * seconds / period_s
    design = np.column_stack((np.ones(turn.size), seconds, np.sin(turn), np.cos(turn)))
    found, *_ = np.linalg.lstsq(design, watts, rcond=None)
    return float(math.hypot(found[2], found[3]))


def _part(beat: float) -> float:
    """Of which part of the time a mean would beat so: 2/π × sin(π part) / (π part) of the swing."""
    if beat < _LEAST_BEAT:
        return 1.0
    parts: Sequence[float] = [number / 100 for number in range(1, 100)]
    return min(parts, key=lambda part: abs(2 / math.pi * math.sin(math.pi * part) / (math.pi * part) - beat))
