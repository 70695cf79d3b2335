"""How many joules went into a window?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from llenergymeasure.energy.counter import Counted, count_between
from llenergymeasure.energy.level import hold, power_between
from llenergymeasure.energy.sensor import Sensor, characterise, known_sensor
from llenergymeasure.records import (
    Domain,
    EnergyReading,
    Estimate,
    Gap,
    Method,
    PowerModel,
    Quantity,
    Series,
    Trace,
    Window,
)

_Z95 = 1.96
SHORTEST_S = 1.0
_SHORT_S = 5.0
_BLIND_S = 1.0
_MISMATCH = 0.05
# Work may begin or end a little inside a window; what is taken for the sensor's lag is off by as much.
_LATE_NS = 15_000_000
# What a power sensor is like is learnt from so many seconds before and after.
_SURROUNDINGS_S = 30.0
# Ends of the boundary's name, in the order in which they are written.
_KINDS = ("gpu", "module", "cpu", "dram")
# Power fields, best first: what the sensor does is clearer the less it averages.
_POWER_FIELDS = ("power_instant", "power_usage", "power_average")


@dataclass(frozen=True, slots=True)
class _Spent:
    """Joules of one window from one source. `joules` is None where `reason` says why.

    `shared_sd` is the part of `sd` that errs the same way in every window of the trace.
    """

    source: str
    method: Method
    joules: float | None
    sd: float = 0.0
    shared_sd: float = 0.0
    systematic: tuple[float, float] | None = None
    flags: tuple[str, ...] = ()
    reason: str | None = None


def energy_between(
    trace: Trace, window: Window, domain: str, *, idle_w: tuple[float | None, float | None] = (None, None)
) -> EnergyReading:
    """The energy of `domain` (its name) in `window`, from the best source that it has.

    The counter comes first, then sampled power, then a model of power. `low` and `high` of the energy bound
    what the sensor's resolution leaves open; `systematic` what an uncalibrated sensor may hide (true = gain ×
    read + offset × duration) or the width of the model; a domain's own calibration is applied. `idle_w` is
    the power known to hold just before and just after; where it is None the trace itself says. Counter and
    sampled power under 1 s give no value. A domain that was never read has the energy None, with the reason.
    """
    return _reading(domain, [window], [_spent(trace, window, trace.domain(domain), idle_w=idle_w)])


def energy_of(trace: Trace, windows: Sequence[Window], domain: str) -> EnergyReading:
    """The energy of `domain` in several windows together; the reading spans from the first to the last.

    Each window is judged by itself. What resolution leaves open of one does not depend on the others: those
    parts add in quadrature. What errs the same way in all of them (a lag that is not well known) and
    systematic bounds add as they are. One unknown window makes the sum unknown.
    """
    if not windows:
        raise ValueError("the energy of no window at all was asked for")
    facts = trace.domain(domain)
    return _reading(
        domain, windows, [_spent(trace, window, facts, idle_w=(None, None)) for window in windows]
    )


def summed(readings: Sequence[EnergyReading]) -> tuple[EnergyReading, ...]:
    """Those that may be added to each other without counting anything twice.

    What is measured goes before what is modelled. A module (GPU, CPU and memory on one board) is left out
    where its GPU is read; where it is not, it stands and the host's packages are left out instead.
    """
    measured = [reading for reading in readings if reading.method != "modelled"]
    if not measured:
        return tuple(readings)
    kinds = {_kind(reading) for reading in measured}
    if "gpu" in kinds:
        return tuple(reading for reading in measured if _kind(reading) != "module")
    if "module" in kinds:
        return tuple(reading for reading in measured if _kind(reading) == "module")
    return tuple(measured)


def boundary(readings: Sequence[EnergyReading]) -> str | None:
    """What the sum over `summed(readings)` takes in, such as `gpu+cpu+dram` or `modelled`."""
    parts = summed(readings)
    if any(reading.method == "modelled" for reading in parts):
        return "modelled"
    kinds = {_kind(reading) for reading in parts}
    return "+".join(kind for kind in _KINDS if kind in kinds) or None


def _kind(reading: EnergyReading) -> str:
    return reading.domain.partition(":")[0]


def _reading(domain: str, windows: Sequence[Window], parts: Sequence[_Spent]) -> EnergyReading:
    span = Window(min(w.start_ns for w in windows), max(w.end_ns for w in windows))
    flags = tuple(dict.fromkeys(flag for part in parts for flag in part.flags))
    source = "+".join(dict.fromkeys(part.source for part in parts))
    # A sum of counted and sampled windows is no better than sampled.
    method = max((part.method for part in parts), key=("counter", "sampled", "modelled").index)
    reasons = [part.reason or "" for part in parts if part.joules is None]
    if reasons:
        return EnergyReading(domain, source, method, span, Estimate.missing("J", reasons[0]), flags=flags)
    joules = math.fsum(part.joules or 0.0 for part in parts)
    alone = math.fsum(part.sd**2 - part.shared_sd**2 for part in parts)
    half = _Z95 * math.hypot(math.sqrt(max(alone, 0.0)), math.fsum(part.shared_sd for part in parts))
    bounds = [part.systematic for part in parts if part.systematic is not None]
    systematic = (
        (math.fsum(low for low, _ in bounds), math.fsum(high for _, high in bounds)) if bounds else None
    )
    energy = Estimate(joules, "J", joules - half, joules + half, systematic)
    return EnergyReading(domain, source, method, span, energy, resolution_j=half, flags=flags)


def _spent(
    trace: Trace, window: Window, domain: Domain, *, idle_w: tuple[float | None, float | None]
) -> _Spent:
    gap = _gap_in(trace, window, domain)
    if domain.model is not None:
        spent = _modelled(trace, window, domain, domain.model)
    else:
        spent = _measured(trace, window, domain, outside=idle_w)
    reason, found = spent.reason, spent.flags
    if gap is not None:
        found = (*found, "recorder_gap")
        reason = f"{reason}: {gap.reason}" if spent.joules is None else reason
    return replace(spent, flags=tuple(dict.fromkeys((*found, *domain.flags))), reason=reason)


def _gap_in(trace: Trace, window: Window, domain: Domain) -> Gap | None:
    for gap in trace.gaps:
        concerned = gap.domain is None or gap.domain == domain.name
        if concerned and gap.window.start_ns < window.end_ns and gap.window.end_ns > window.start_ns:
            return gap
    return None


def _measured(
    trace: Trace, window: Window, domain: Domain, *, outside: tuple[float | None, float | None]
) -> _Spent:
    counter = next((quantity for quantity in domain.quantities if quantity.unit == "J"), None)
    power = next(
        (q for name in _POWER_FIELDS for q in domain.quantities if q.unit == "W" and q.name == name), None
    )
    named = counter or power or domain.quantities[0]
    if window.duration_s < SHORTEST_S:
        reason = (
            f"a window of {window.duration_s:.3g} s is too short for a sensor; it takes {SHORTEST_S:.0f} s"
        )
        method: Method = "counter" if counter is not None else "sampled"
        return _Spent(named.source, method, None, flags=("window_too_short",), reason=reason)
    short = ("window_too_short",) if window.duration_s < _SHORT_S else ()
    counted = None if counter is None else _counted(trace, window, domain, counter, outside=outside)
    sampled = None if power is None else _sampled(trace, window, domain, power)
    chosen = _chosen(counted, sampled)
    if chosen is None:
        return _Spent(named.source, "sampled", None, reason=f"{domain.name} offers neither energy nor power")
    calibrated = _calibrated(replace(chosen, flags=(*chosen.flags, *short)), window, domain)
    return replace(calibrated, systematic=_systematic(calibrated, window, domain))


def _calibrated(spent: _Spent, window: Window, domain: Domain) -> _Spent:
    """True = gain × read + offset × duration."""
    if spent.joules is None:
        return spent
    return replace(
        spent,
        joules=domain.gain * spent.joules + domain.offset_w * window.duration_s,
        sd=domain.gain * spent.sd,
        shared_sd=domain.gain * spent.shared_sd,
    )


def _chosen(counted: _Spent | None, sampled: _Spent | None) -> _Spent | None:
    """The counter, or sampled power where the counter gave nothing; what both say is compared.

    They disagree when they are more than 5 % and more than 3 sds apart: the sd of power that a part-time
    sensor saw, or one of unknown lag, may be more than 5 %.
    """
    if counted is None or sampled is None:
        return counted or sampled
    if counted.joules is None:
        stuck = counted.flags
        return replace(sampled, flags=(*stuck, *sampled.flags)) if sampled.joules is not None else counted
    if sampled.joules is None:
        return counted
    apart = abs(counted.joules - sampled.joules)
    if apart > _MISMATCH * abs(sampled.joules) and apart > 3 * math.hypot(counted.sd, sampled.sd):
        return replace(counted, flags=(*counted.flags, "counter_power_mismatch"))
    return counted


def _series(trace: Trace, domain: Domain, quantity: Quantity) -> Series | None:
    return trace.series.get((domain.name, quantity.name))


def _counted(
    trace: Trace,
    window: Window,
    domain: Domain,
    quantity: Quantity,
    *,
    outside: tuple[float | None, float | None],
) -> _Spent:
    series = _series(trace, domain, quantity)
    if series is None:
        counted = Counted(None, reason=f"{domain.name} was never read")
    else:
        counted = count_between(series, window, outside=outside)
    flags = ("recorder_gap",) if counted.blind_s > _BLIND_S else ()
    if counted.reset:
        flags = (*flags, "counter_reset")
    elif counted.stuck:
        flags = (*flags, "sensor_stuck")
    return _Spent(quantity.source, "counter", counted.amount, counted.sd, flags=flags, reason=counted.reason)


def _sampled(trace: Trace, window: Window, domain: Domain, quantity: Quantity) -> _Spent:
    series = _series(trace, domain, quantity)
    if series is None:
        return _Spent(quantity.source, "sampled", None, reason=f"{domain.name} was never read")
    sensor = known_sensor(quantity) or _seen_sensor(series, window)
    held = power_between(series, window, sensor)
    flags = _sensor_flags(sensor)
    if held.blind_s > _BLIND_S:
        flags = (*flags, "recorder_gap")
    return _Spent(
        quantity.source,
        "sampled",
        held.integral,
        held.sd,
        shared_sd=held.shared_sd,
        flags=flags,
        reason=held.reason,
    )


def _seen_sensor(series: Series, window: Window) -> Sensor | None:
    """What the trace around `window` shows of the sensor; power is taken to step at the window's edges."""
    around_ns = round(_SURROUNDINGS_S * 1e9)
    first = int(np.searchsorted(series.t_before_ns, window.start_ns - around_ns))
    end_ns = min(window.end_ns, window.start_ns + around_ns) + around_ns
    kept = slice(first, int(np.searchsorted(series.t_before_ns, end_ns)))
    if series.raw[kept].size < 2:
        return None
    some = Series(series.quantity, series.t_before_ns[kept], series.t_after_ns[kept], series.raw[kept])
    sensor = characterise(some, (window.start_ns, window.end_ns))
    if sensor is None or sensor.lag_ns is None:
        return sensor
    return replace(sensor, lag_sd_ns=max(sensor.lag_sd_ns, _LATE_NS))


def _sensor_flags(sensor: Sensor | None) -> tuple[str, ...]:
    """What is not known of the sensor, or not good about it."""
    if sensor is None or sensor.window_ns is None or sensor.lag_ns is None:
        return ("sensor_uncharacterised",)
    return ("part_time_sensor",) if sensor.kind == "part_time" else ()


def _systematic(spent: _Spent, window: Window, domain: Domain) -> tuple[float, float] | None:
    """What the sensor's own gain and offset may hide; no board gives energy back, so not below 0."""
    if spent.joules is None or domain.systematic_gain is None:
        return None
    offset = domain.systematic_offset_w or (0.0, 0.0)
    low, high = (
        gain * spent.joules + watts * window.duration_s
        for gain, watts in zip(domain.systematic_gain, offset, strict=True)
    )
    return max(0.0, low), high


def _modelled(trace: Trace, window: Window, domain: Domain, model: PowerModel) -> _Spent:
    """Busy vCPU-seconds times watts, and resident byte-seconds times watts per byte."""
    by_unit = {quantity.unit: quantity for quantity in domain.quantities}
    time, memory = by_unit["s"], by_unit["bytes"]
    busy_series, size_series = _series(trace, domain, time), _series(trace, domain, memory)
    if busy_series is None or size_series is None:
        return _Spent(time.source, "modelled", None, reason="the processes' CPU time was never read")
    busy = count_between(busy_series, window, outside=(None, None))
    size = hold(size_series, window)
    if size.integral is None or (busy.amount is None and not busy.stuck):
        return _Spent(time.source, "modelled", None, reason=size.reason or busy.reason)
    # CPU time that stands still is an idle process, not a broken sensor; one tick may hide in it.
    tick_s = (time.step_ns or 0) * 1e-9
    busy_s, busy_sd = (0.0, tick_s) if busy.amount is None else (busy.amount, math.hypot(busy.sd, tick_s))
    low, high = (
        busy_s * per_vcpu + size.integral * per_byte
        for per_vcpu, per_byte in zip(model.w_per_busy_vcpu_range, model.w_per_byte_range, strict=True)
    )
    return _Spent(
        time.source,
        "modelled",
        busy_s * model.w_per_busy_vcpu + size.integral * model.w_per_byte,
        busy_sd * model.w_per_busy_vcpu,
        systematic=(low, high),
        flags=("recorder_gap",) if max(busy.blind_s, size.blind_s) > _BLIND_S else (),
    )
