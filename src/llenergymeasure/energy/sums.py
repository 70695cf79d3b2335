"""Which sums of joules does a sensor show, and when did it show them?"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from llenergymeasure.energy.counter import unwrap
from llenergymeasure.energy.readings import samples_around, updates
from llenergymeasure.energy.sensor import UNTOLD_PART, Sensor, characterise, known_sensor
from llenergymeasure.energy.steptimes import timed
from llenergymeasure.records import Domain, Method, PowerModel, Series, Trace, Window

Floats: TypeAlias = NDArray[np.float64]
Mask: TypeAlias = NDArray[np.bool_]

ALL = slice(None)

# Steps of a counter whose times are told together, and how many beside them are listened to.
_CHUNK, _BESIDE = 60, 20
# A sum whose time is known no better than this says nothing of short windows.
_VAGUE_S = 0.02
# Lags that a power field may have (arXiv 2312.02741).
_LAGS_S = np.arange(0.0, 0.15, 0.005)


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """Joules `total` up to `time` ± `sd` (seconds from the start of the span), less one of `lags_s`."""

    time: Floats
    sd: Floats
    total: Floats
    source: str
    method: Method
    lags_s: Floats = field(default_factory=lambda: np.zeros(1))

    def late_by(self, lag_s: float, *, within_s: float) -> Sums:
        """The sums when they come `lag_s` late, those from 0 to `within_s`."""
        time = self.time - lag_s
        inside = (time >= 0) & (time <= within_s)
        return Sums(time[inside], self.sd[inside], self.total[inside], self.source, self.method)


def trust(sums: Sums, off: Floats, *, used: Mask | slice = ALL) -> Floats:
    """What to weigh the `used` intervals between two sums with, in a fit that is `off` by such joules.

    One over the sd that the times of both ends give, and beyond that what the misfit shows, which grows with
    the interval's length.
    """
    joules, seconds = np.diff(sums.total)[used], np.diff(sums.time)[used]
    mean_w = float(joules.sum() / seconds.sum())
    timing = mean_w**2 * (sums.sd[1:] ** 2 + sums.sd[:-1] ** 2)[used]
    squares = float(np.mean(off**2))
    noise = max(squares - float(np.mean(timing)), 0.1 * squares)
    return np.asarray(1 / np.sqrt(timing + noise * seconds / float(np.mean(seconds)) + 1e-12))


def sums_within(trace: Trace, domain: Domain, span: Window) -> Sums | str:
    """The sums that the domain's best source shows within `span`, or the reason why there are none."""
    if domain.model is not None:
        return _modelled(trace, domain, domain.model, span=span)
    for quantity in sorted(domain.quantities, key=lambda one: one.unit != "J"):
        series = trace.series.get((domain.name, quantity.name))
        if series is None or quantity.unit not in {"J", "W"} or series.raw.size < 2:
            continue
        return _counted(series, span) if quantity.unit == "J" else _sampled(series, span)
    return f"{domain.name} was never read"


def _modelled(trace: Trace, domain: Domain, model: PowerModel, *, span: Window) -> Sums | str:
    """Processor time and resident memory as read, by the model of power. The kernel counts processor
    time in ticks, which blurs each sum as if its time were known to a tick.
    """
    by_unit = {quantity.unit: quantity for quantity in domain.quantities}
    series = [trace.series.get((domain.name, by_unit[unit].name)) for unit in ("s", "bytes")]
    busy, size = series
    if busy is None or size is None or busy.raw.size != size.raw.size:
        return f"{domain.name} was never read"
    time = (busy.t_before_ns - span.start_ns) * 0.5e-9 + (busy.t_after_ns - span.start_ns) * 0.5e-9
    resident = np.concatenate((np.zeros(1), np.cumsum(size.raw[:-1] * np.diff(time))))
    watts = busy.raw * busy.quantity.scale * model.w_per_busy_vcpu
    total = watts + resident * size.quantity.scale * model.w_per_byte
    tick_s = (busy.quantity.step_ns or 0) * 1e-9 / math.sqrt(12)
    near = (time > -1) & (time < span.duration_s + 1)
    sd = np.full(int(near.sum()), tick_s)
    return Sums(time[near], sd, np.asarray(total[near], dtype=np.float64), busy.quantity.source, "modelled")


def _counted(series: Series, span: Window) -> Sums | str:
    counts, fell = unwrap(series.raw, series.quantity.wrap)
    before, after = (
        np.asarray((t_ns - span.start_ns) * 1e-9) for t_ns in (series.t_before_ns, series.t_after_ns)
    )
    inside = (before[1:] > 0) & (after[:-1] < span.duration_s)
    if np.any(fell & inside):
        return "the counter was reset within the windows"
    moved = np.flatnonzero(np.diff(counts)) + 1
    low, high = before[moved - 1], after[moved]
    kept = (high > -1) & (low < span.duration_s + 1)
    low, high = low[kept], high[kept]
    total = np.asarray(counts[moved[kept]] * series.quantity.scale, dtype=np.float64)
    time, sd = (low + high) / 2, (high - low) / math.sqrt(12)
    for start in range(0, low.size, _CHUNK):
        some = slice(max(0, start - _BESIDE), start + _CHUNK + _BESIDE)
        moments = (low[some][[0, -1]] + high[some][[0, -1]]) / 2
        told = timed(low[some], high[some], moments)
        own = slice(start - max(0, start - _BESIDE), start - max(0, start - _BESIDE) + _CHUNK)
        chunk_sd = np.where(told.sure, told.sd, np.inf)
        time[start : start + _CHUNK], sd[start : start + _CHUNK] = told.time[own], chunk_sd[own]
    usable = sd < _VAGUE_S
    return Sums(time[usable], sd[usable], total[usable], series.quantity.source, "counter")


def _sampled(series: Series, span: Window) -> Sums | str:
    sensor: Sensor | None = known_sensor(series.quantity) or characterise(
        series, (span.start_ns, span.end_ns)
    )
    if sensor is None or sensor.kind == "average":
        return f"what {series.quantity.source} averages over is not known, or is far longer than a window"
    samples = samples_around(series, span)
    if samples is None:
        return "the trace does not reach from before the windows to after them"
    step_s = sensor.step_ns * 1e-9
    look_s = UNTOLD_PART * step_s if sensor.window_ns is None else sensor.window_ns * 1e-9
    readings, _ = updates(samples, np.array([0.0, span.duration_s]), step_s=step_s)
    lags_s = _LAGS_S + (look_s + step_s) / 2
    near = (readings.time > -1) & (readings.time < span.duration_s + 1)
    time, sd, total = readings.time[near], readings.sd[near], readings.area[near]
    return Sums(time, sd, total, series.quantity.source, "sampled", lags_s)
