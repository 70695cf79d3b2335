"""What is left of an energy when the idle power of the same sensors is taken off?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from llenergymeasure.analysis.estimates import half_width
from llenergymeasure.energy.integrate import energy_between
from llenergymeasure.records import Domain, EnergyReading, Estimate, Trace, Window


@dataclass(frozen=True, slots=True)
class SensorIdle:
    """Idle watts as one sensor of `domain` reads them; `source` is the sensor."""

    domain: Domain
    source: str
    watts: float


@dataclass(frozen=True, slots=True)
class IdleLevel:
    """Idle `power` of all domains together, and what it is made of by the name of the domain."""

    power: Estimate
    sensors: Mapping[str, SensorIdle] = field(default_factory=dict)


def idle_level(trace: Trace, domains: Sequence[Domain], window: Window | None, power: Estimate) -> IdleLevel:
    """`power` of `domains`, which was measured in `window`, and the sensor of each part of it."""
    if window is None or power.value is None:
        return IdleLevel(power)
    readings = [(domain, energy_between(trace, window, domain.name)) for domain in domains]
    return IdleLevel(
        power,
        {
            domain.name: SensorIdle(domain, reading.source, reading.energy.value / window.duration_s)
            for domain, reading in readings
            if reading.energy.value is not None
        },
    )


def net_of_idle(
    gross: Estimate, idle: IdleLevel, duration_s: float, *, readings: Sequence[EnergyReading] = ()
) -> Estimate:
    """Energy above idle: gross − idle power × duration, never clamped at 0.

    The two intervals are independent and add in quadrature. What is systematic is gain × net over the sensors
    that gave the `readings` which make up `gross`: the offset of a sensor stands in its idle power as well,
    and cancels. Of a model of power, and where idle power is from another sensor, the whole of what is
    systematic scales with what is left.
    """
    power = idle.power
    if gross.value is None or power.value is None:
        return Estimate.missing(gross.unit, gross.reason or "" if gross.value is None else power.reason or "")
    value = gross.value - power.value * duration_s
    systematic = _gain_only(idle, duration_s, readings) or _in_proportion(gross, value)
    widths = half_width(gross), half_width(power)
    if widths[0] is None or widths[1] is None:
        return Estimate(value, gross.unit, systematic=systematic, reason=gross.reason or power.reason)
    half = math.hypot(widths[0], widths[1] * duration_s)
    below = "below zero: less power was drawn than the idle that is taken off" if value < 0 else None
    return Estimate(value, gross.unit, value - half, value + half, systematic, below)


def systematic_of_net(domain: Domain, value: float) -> tuple[float, float] | None:
    """What the gain of the domain's sensor, or its model, may hide of a `value` that is net of idle."""
    if domain.model is not None:
        model = domain.model
        ends = [value * end / model.w_per_busy_vcpu for end in model.w_per_busy_vcpu_range]
    elif domain.systematic_gain is not None:
        ends = [value * gain for gain in domain.systematic_gain]
    else:
        return None
    return min(ends), max(ends)


def _gain_only(
    idle: IdleLevel, duration_s: float, readings: Sequence[EnergyReading]
) -> tuple[float, float] | None:
    """None where a part is modelled, or its idle power is from another sensor, or no part has a gain."""
    ranges, any_gain = [], False
    for reading in readings:
        sensor, spent = idle.sensors.get(reading.domain), reading.energy.value
        if sensor is None or spent is None or sensor.source != reading.source or sensor.domain.model:
            return None
        net = spent - sensor.watts * duration_s
        bounds = systematic_of_net(sensor.domain, net)
        any_gain = any_gain or bounds is not None
        ranges.append(bounds or (net, net))
    if not any_gain:
        return None
    return math.fsum(low for low, _ in ranges), math.fsum(high for _, high in ranges)


def _in_proportion(gross: Estimate, value: float) -> tuple[float, float] | None:
    if gross.systematic is None or not gross.value or gross.value < 0:
        return None
    ends = [value * end / gross.value for end in gross.systematic]
    return min(ends), max(ends)
