"""What did many short windows of one kind cost together, each of them too short to be measured?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from llenergymeasure.energy.counter import unwrap
from llenergymeasure.energy.readings import samples_around, updates
from llenergymeasure.energy.sensor import UNTOLD_PART, Sensor, characterise, known_sensor
from llenergymeasure.energy.steptimes import timed
from llenergymeasure.records import (
    Domain,
    EnergyReading,
    Estimate,
    Method,
    PowerModel,
    Series,
    Trace,
    Window,
)

Floats: TypeAlias = NDArray[np.float64]

_Z95 = 1.96
# Steps of a counter whose times are told together, and how many beside them are listened to.
_CHUNK, _BESIDE = 60, 20
# A sum whose time is known no better than this says nothing of short windows.
_VAGUE_S = 0.02
_LEAST_SPARE = 8
# Neighbouring intervals share the time of a step; so many are taken to hang together.
_CORRELATED = 4
# Columns that are this close to being combinations of each other can't be told apart.
_COLLINEAR = 1e-4
# Lags that a power field may have (arXiv 2312.02741).
_LAGS_S = np.arange(0.0, 0.15, 0.005)


@dataclass(frozen=True, slots=True, eq=False)
class _Sums:
    """Joules `total` up to `time` ± `sd` (seconds from the start of the span), less one of `lags_s`."""

    time: Floats
    sd: Floats
    total: Floats
    source: str
    method: Method
    lags_s: Floats = field(default_factory=lambda: np.zeros(1))


def joint_powers(
    trace: Trace, windows_by_kind: Mapping[str, Sequence[Window]], domain: str
) -> dict[str, EnergyReading]:
    """The energy of all windows of each kind together, such as every prefill and every decode.

    Windows of one kind are taken to draw one mean power, and so is the time within the span of all windows
    that belongs to none. Each interval between two steps of the counter (or two updates of a power field)
    then cost Σ power × overlap: least squares over all intervals, those with vague times weighing less. The
    interval comes from the residuals, with neighbours correlated (Newey and West, 1987); the lag of a power
    field is the one that explains it best. A kind has no value,
    with the reason, where there are too few steps or kinds always come in the same proportions. A domain's
    calibration, systematic bounds and flags hold as for any reading. Windows of one kind must not overlap.
    """
    facts = trace.domain(domain)
    every = [window for windows in windows_by_kind.values() for window in windows]
    if not every:
        raise ValueError("the energy of no window at all was asked for")
    span = Window(min(one.start_ns for one in every), max(one.end_ns for one in every))
    sums = _sums(trace, facts, span)
    kinds = [kind for kind, windows in windows_by_kind.items() if windows]
    if isinstance(sums, str):
        return {kind: _missing(facts, windows_by_kind[kind], sums) for kind in kinds}
    fitted = _over_lags([windows_by_kind[kind] for kind in kinds], span, sums)
    if isinstance(fitted, str):
        return {kind: _missing(facts, windows_by_kind[kind], fitted) for kind in kinds}
    return {
        kind: _reading(facts, windows_by_kind[kind], sums, (float(watts), float(sd)))
        for kind, watts, sd in zip(kinds, *fitted, strict=False)
    }


def _over_lags(kinds: Sequence[Sequence[Window]], span: Window, sums: _Sums) -> tuple[Floats, Floats] | str:
    """Watts of each kind and their sd; lags of a power field are weighed by how well they explain it."""
    found, misfit = [], []
    for lag_s in sums.lags_s:
        time = sums.time - lag_s
        inside = (time >= 0) & (time <= span.duration_s)
        seen = _Sums(time[inside], sums.sd[inside], sums.total[inside], sums.source, sums.method)
        covered = [np.diff(_covered(windows, span, seen.time)) for windows in kinds]
        rest = np.diff(seen.time) - sum(covered)
        fitted = _fitted(np.column_stack([*covered, rest]), seen, [len(windows) for windows in kinds])
        if isinstance(fitted, str):
            return fitted
        found.append(fitted[:2])
        misfit.append(fitted[2] / 2)
    weight = np.exp(min(misfit) - np.array(misfit))
    weight /= weight.sum()
    watts, sds = (np.array(column) for column in zip(*found, strict=True))
    mean = weight @ watts
    return mean, np.sqrt(weight @ (sds**2 + (watts - mean) ** 2))


def _covered(windows: Sequence[Window], span: Window, time: Floats) -> Floats:
    """Seconds of `windows` before each moment of `time`."""
    ordered = sorted(windows, key=lambda one: one.start_ns)
    edges = [edge - span.start_ns for one in ordered for edge in (one.start_ns, one.end_ns)]
    lengths = [one.duration_s for one in ordered]
    before = np.concatenate((np.zeros(1), np.repeat(np.cumsum(lengths), 2)[:-1]))
    return np.asarray(np.interp(time, np.array(edges) * 1e-9, before), dtype=np.float64)


def _fitted(design: Floats, sums: _Sums, counts: Sequence[int]) -> tuple[Floats, Floats, float] | str:
    """Watts of each column, their sd and n × log of the mean squared misfit; or why they can't be told.

    `counts` are the numbers of windows of each kind.
    """
    joules = np.diff(sums.total)
    used = design.sum(axis=0) > 0
    columns = design[:, used]
    if joules.size < columns.shape[1] + _LEAST_SPARE:
        return f"{joules.size} steps of the sensor are too few to tell the kinds apart"
    scaled = columns / np.linalg.norm(columns, axis=0)
    if np.linalg.svd(scaled, compute_uv=False)[-1] ** 2 < _COLLINEAR:
        return "the kinds always come in the same proportions, so that they can't be told apart"
    watts = np.linalg.lstsq(columns, joules, rcond=None)[0]
    off = joules - columns @ watts
    mean_w = float(joules.sum() / np.diff(sums.time).sum())
    misfit = joules.size * math.log(max(float(off @ off), 1e-12) / joules.size)
    timing = mean_w**2 * (sums.sd[1:] ** 2 + sums.sd[:-1] ** 2)
    noise = max(float(np.mean(off**2)) - float(np.mean(timing)), 0.1 * float(np.mean(off**2)))
    root = 1 / np.sqrt(timing + noise * np.diff(sums.time) / float(np.mean(np.diff(sums.time))) + 1e-12)
    weighted, aim = columns * root[:, None], joules * root
    watts = np.linalg.lstsq(weighted, aim, rcond=None)[0]
    off = aim - weighted @ watts
    spare = joules.size - columns.shape[1]
    inverse = np.linalg.inv(weighted.T @ weighted)
    moments = weighted * off[:, None]
    middle = moments.T @ moments
    for lag in range(1, _CORRELATED + 1):
        beside = moments[lag:].T @ moments[:-lag]
        middle += (1 - lag / (_CORRELATED + 1)) * (beside + beside.T)
    robust = np.diag(inverse @ middle @ inverse)
    plain = np.diag(inverse) * float(off @ off) / joules.size
    # Errors of step times undo each other from one interval to the next, which makes sds smaller than those
    # of independent errors; few windows of a kind show too little of that, and of how they differ.
    numbers = np.array([*counts, joules.size])[used]
    variance = np.maximum(robust, plain * (0.25 + 2 / numbers)) * joules.size / spare
    wider = 1 + (_Z95**2 + 1) / (4 * spare)
    all_watts, all_sd = np.zeros(design.shape[1]), np.zeros(design.shape[1])
    all_watts[used], all_sd[used] = watts, wider * np.sqrt(variance)
    return all_watts, all_sd, misfit


def _reading(
    domain: Domain, windows: Sequence[Window], sums: _Sums, power: tuple[float, float]
) -> EnergyReading:
    seconds = math.fsum(one.duration_s for one in windows)
    watts, sd = power
    joules = (domain.gain * watts + domain.offset_w) * seconds
    half = _Z95 * domain.gain * sd * seconds
    systematic = None
    if domain.systematic_gain is not None:
        offsets = domain.systematic_offset_w or (0.0, 0.0)
        low, high = (
            gain * joules + offset * seconds
            for gain, offset in zip(domain.systematic_gain, offsets, strict=True)
        )
        systematic = max(0.0, low), high
    if domain.model is not None:
        central = domain.model.w_per_busy_vcpu
        low, high = (joules * end / central for end in domain.model.w_per_busy_vcpu_range)
        systematic = min(low, high), max(low, high)
    energy = Estimate(joules, "J", joules - half, joules + half, systematic)
    span = Window(min(one.start_ns for one in windows), max(one.end_ns for one in windows))
    return EnergyReading(
        domain.name, sums.source, sums.method, span, energy, resolution_j=half, flags=domain.flags
    )


def _missing(domain: Domain, windows: Sequence[Window], reason: str) -> EnergyReading:
    span = Window(min(one.start_ns for one in windows), max(one.end_ns for one in windows))
    counted = any(quantity.unit == "J" for quantity in domain.quantities)
    method: Method = "modelled" if domain.model is not None else "counter" if counted else "sampled"
    source = domain.quantities[0].source
    return EnergyReading(domain.name, source, method, span, Estimate.missing("J", reason), flags=domain.flags)


def _sums(trace: Trace, domain: Domain, span: Window) -> _Sums | str:
    """The sums that the domain's best source shows within `span`, or the reason why there are none."""
    if domain.model is not None:
        return _modelled(trace, domain, domain.model, span=span)
    for quantity in sorted(domain.quantities, key=lambda one: one.unit != "J"):
        series = trace.series.get((domain.name, quantity.name))
        if series is None or quantity.unit not in {"J", "W"} or series.raw.size < 2:
            continue
        return _counted(series, span) if quantity.unit == "J" else _sampled(series, span)
    return f"{domain.name} was never read"


def _modelled(trace: Trace, domain: Domain, model: PowerModel, *, span: Window) -> _Sums | str:
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
    return _Sums(time[near], sd, np.asarray(total[near], dtype=np.float64), busy.quantity.source, "modelled")


def _counted(series: Series, span: Window) -> _Sums | str:
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
    return _Sums(time[usable], sd[usable], total[usable], series.quantity.source, "counter")


def _sampled(series: Series, span: Window) -> _Sums | str:
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
    return _Sums(time, sd, total, series.quantity.source, "sampled", lags_s)
