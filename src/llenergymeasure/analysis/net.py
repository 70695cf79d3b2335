"""What is left of an energy when the idle power of the same sensors is taken off?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from llenergymeasure.analysis.run_energy import RunEnergy
from llenergymeasure.energy.joules.amid import window_energy
from llenergymeasure.energy.joules.quiet import idle_power
from llenergymeasure.records import Domain, Estimate, Window


def net_of_idle(gross: Estimate, energies: Sequence[RunEnergy], which: str) -> Estimate:
    """Energy above idle: gross − idle power × duration of each run, never clamped at 0.

    `which` idle is taken off: loaded or bare. The intervals are independent and add in quadrature. What is
    systematic is gain × net over the sensors: the offset of a sensor is in its idle power too, and cancels.
    Of a model of power, and where idle power is from another sensor, the whole of what is systematic scales
    with what is left.
    """
    idles = [(one.loaded if which == "loaded" else one.bare, _seconds(one)) for one in energies]
    missing = [idle.reason for idle, _ in idles if idle.value is None]
    if gross.value is None or missing:
        return Estimate.missing(gross.unit, gross.reason or "" if gross.value is None else missing[0] or "")
    taken = math.fsum((idle.value or 0.0) * seconds for idle, seconds in idles)
    value = gross.value - taken
    systematic = _gain_only(energies, which) or _in_proportion(gross, value)
    widths = [(idle.half_width, seconds) for idle, seconds in idles]
    whole = gross.half_width
    if whole is None or any(width is None for width, _ in widths):
        return Estimate(value, gross.unit, systematic=systematic, reason=gross.reason or idles[0][0].reason)
    half = math.hypot(whole, *((width or 0.0) * seconds for width, seconds in widths))
    # Equal readings leave what rounding leaves.
    is_below = value < -1e-9 * gross.value
    below = "below zero: less power was drawn than the idle that is taken off" if is_below else None
    return Estimate.around(value, gross.unit, half, systematic, below)


def _seconds(one: RunEnergy) -> float:
    return sum(each.window.duration_s for each in one.measurement.passes)


def _gain_only(energies: Sequence[RunEnergy], which: str) -> tuple[float, float] | None:
    """None where a part is modelled, or its idle power is from another sensor, or no part has a gain."""
    ranges = []
    any_gain = False
    for one in energies:
        window = one.measurement.idle.loaded if which == "loaded" else one.measurement.idle.bare
        for domain, net in _nets(one, window) if window is not None else ():
            if net is None or domain.model is not None:
                return None
            gain = domain.systematic_gain
            any_gain = any_gain or gain is not None
            ranges.append(tuple(sorted(net * end for end in gain or (1.0, 1.0))))
    if not any_gain:
        return None
    return math.fsum(low for low, _ in ranges), math.fsum(high for _, high in ranges)


def _nets(one: RunEnergy, window: Window) -> Iterator[tuple[Domain, float | None]]:
    """Joules of each domain above its idle; None where another sensor gave the one than the other."""
    for domain in one.domains:
        source = window_energy(one.measurement.trace, domain.name, window).source
        idle_w = idle_power(one.measurement.trace, window, domain.name).value
        blocks = [block.spent[domain.name] for block in one.of("full")]
        same = all(spent.source == source and spent.joules is not None for spent in blocks)
        if not same or idle_w is None:
            yield domain, None
        else:
            yield domain, math.fsum(spent.joules or 0.0 for spent in blocks) - idle_w * _seconds(one)


def _in_proportion(gross: Estimate, value: float) -> tuple[float, float] | None:
    if gross.systematic is None or not gross.value or gross.value < 0:
        return None
    ends = [value * end / gross.value for end in gross.systematic]
    return min(ends), max(ends)
