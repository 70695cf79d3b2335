"""Which source of a domain counts, do two of them agree, and how far can its sensor be trusted?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from llenergymeasure.energy.joules.curve import Curve, curve, memory_s, sees_everything
from llenergymeasure.energy.joules.spent import Spent, Term
from llenergymeasure.records import Domain, Gap, Method, Quantity, Trace, Window

SHORTEST_S = 1.0
_SHORT_S = 5.0
_BLIND_S = 1.0
_MISMATCH = 0.05
_MISMATCH_W = 5.0
# A power field that was updated changes when work begins and when it ends.
_ALIVE = 2
# Power fields, best first: what the sensor does is clearer the less it averages.
_POWER_FIELDS = ("power_instant", "power_usage", "power_average")


def method_of(quantity: Quantity) -> Method:
    return "counter" if quantity.unit == "J" else "sampled"


def measured(
    trace: Trace, facts: Domain, windows: Sequence[Window], span: Window, spent_of: Callable[[Curve], Spent]
) -> Spent:
    """What `spent_of` makes of the best source of a domain, for `windows` that follow one another.

    The counter goes before power. Both are compared where both are there. Under 1 s nothing is said.
    """
    counter = next((q for q in facts.quantities if q.unit == "J"), None)
    power = next((q for name in _POWER_FIELDS for q in facts.quantities if q.name == name), None)
    seconds = (windows[-1].end_ns - windows[0].start_ns) * 1e-9
    if counter is None and power is None:
        name = facts.quantities[0].source if facts.quantities else facts.name
        reason = f"{facts.name} offers neither energy nor power"
        return _finished(Spent(name, "sampled", None, reason=reason), trace, facts, windows)
    found = []
    for quantity in (counter, power):
        if quantity is None:
            continue
        method = method_of(quantity)
        series = trace.series.get((facts.name, quantity.name))
        if seconds < (least_s := max(SHORTEST_S, memory_s(quantity))):
            reason = f"{seconds:.3g} s are too short for a sensor; {_takes(quantity, least_s)}"
            spent = Spent(quantity.source, method, None, flags=("window_too_short",), reason=reason)
            return _finished(spent, trace, facts, windows)
        if series is None:
            found.append(Spent(quantity.source, method, None, reason=f"{facts.name} was never read"))
            continue
        source = curve(series, facts, span)
        spent = _by_clock(trace, facts, windows, source, spent_of(source))
        if any("sensor_stuck" in other.flags for other in found) and _stands_still(source, span):
            spent = replace(
                spent, joules=None, reason="neither the counter nor power changed: the sensor is stuck"
            )
        found.append(replace(spent, flags=(*spent.flags, *_sensor_flags(quantity))))
    chosen = found[0] if len(found) == 1 else _chosen(*found, whole=power is None or sees_everything(power))
    if seconds < _SHORT_S:
        chosen = replace(chosen, flags=("window_too_short", *chosen.flags))
    return _finished(chosen, trace, facts, windows)


def _by_clock(trace: Trace, facts: Domain, windows: Sequence[Window], source: Curve, spent: Spent) -> Spent:
    """With what the clock of another host leaves open: every edge may lie earlier or later by the same.

    What is won at one end is lost at the other, as far as power is the same at both.
    """
    clock = trace.clocks.get(facts.host or "")
    if clock is None or spent.joules is None:
        return spent
    edges = [windows[0].start_ns, *(one.end_ns for one in windows)]
    unsure = [clock.half_s(edge) for edge in edges]
    tops = [source.top(*source.seconds(Window(edge, edge))[:1]) for edge in edges]
    moved = [half * top for half, top in zip(unsure, tops, strict=True)]
    if spent.quiet_w is None:
        whole = max(moved[0], moved[-1])
    else:
        whole = max(unsure) * abs(spent.quiet_w[1] - spent.quiet_w[0])
    halves = [math.hypot(half, *moved[at : at + 2]) for at, half in enumerate(spent.share_half_widths)]
    terms = (*spent.terms, Term("clock", whole, common=True)) if whole else spent.terms
    return replace(spent, terms=terms, share_half_widths=tuple(halves))


def _stands_still(source: Curve, span: Window) -> bool:
    """Whether a power field was updated once at most: beside a counter that is stuck, that is a fault too."""
    if source.levels is None:
        return False
    start, end = source.seconds(span)
    levels = source.levels[(source.time >= start) & (source.time <= end)]
    return int(np.count_nonzero(np.diff(levels))) < _ALIVE


def _takes(quantity: Quantity, least_s: float) -> str:
    averaging = f", as {quantity.source} averages over that" if memory_s(quantity) > SHORTEST_S else ""
    return f"it takes {least_s:.3g} s{averaging}"


def _sensor_flags(quantity: Quantity) -> tuple[str, ...]:
    """What is not known of a power field, or not good about it."""
    if quantity.unit != "W":
        return () if quantity.window_ns is None else ("part_time_sensor",)
    if quantity.window_ns is None or quantity.lag_ns is None or not quantity.step_ns:
        return ("sensor_uncharacterised",)
    return () if sees_everything(quantity) else ("part_time_sensor",)


def _chosen(counted: Spent, sampled: Spent, *, whole: bool) -> Spent:
    """The counter, or power where the counter gave nothing."""
    if counted.joules is None:
        if sampled.joules is None:
            return counted
        return replace(sampled, flags=(*counted.flags, *sampled.flags))
    if sampled.joules is None or not _disagree(counted, sampled, whole=whole):
        return counted
    return replace(counted, flags=(*counted.flags, "counter_power_mismatch"))


def _disagree(counted: Spent, sampled: Spent, *, whole: bool) -> bool:
    """Whether they are over 5 % and over 3 standard deviations apart.

    A power field that looks at a part of the time only (`whole` is False) may miss any rhythm of the work:
    it is compared where power is constant, in the silences.
    """
    if whole:
        sd = math.hypot(counted.half_width_j, sampled.half_width_j) / 1.96
        apart = abs((counted.joules or 0.0) - (sampled.joules or 0.0))
        if apart > max(_MISMATCH * abs(sampled.joules or 0.0), 3 * sd):
            return True
    if counted.quiet_w is None or sampled.quiet_w is None:
        return False
    pairs = zip(counted.quiet_w, sampled.quiet_w, strict=True)
    differences = [ours - theirs for ours, theirs in pairs]
    limit = max(_MISMATCH * min(sampled.quiet_w), _MISMATCH_W)
    return min(differences) > limit or max(differences) < -limit


def _finished(spent: Spent, trace: Trace, facts: Domain, windows: Sequence[Window]) -> Spent:
    """Calibrated (true = gain × read + offset × duration), with its systematic range and all its flags."""
    flags, reason = spent.flags, spent.reason
    gap = gap_in(trace, Window(windows[0].start_ns, windows[-1].end_ns), facts)
    if gap is not None:
        flags = (*flags, "recorder_gap")
        reason = f"{reason}: {gap.reason}" if spent.joules is None else reason
    flags = tuple(dict.fromkeys((*flags, *facts.flags)))
    if spent.joules is None:
        return replace(spent, flags=flags, reason=reason)
    lengths = [window.duration_s for window in windows]
    seconds = math.fsum(lengths)
    gain, offset_w = facts.gain, facts.offset_w
    joules = gain * spent.joules + offset_w * seconds
    shares = [gain * one + offset_w * length for one, length in zip(spent.shares, lengths, strict=False)]
    quiet_w = spent.quiet_w and (gain * spent.quiet_w[0] + offset_w, gain * spent.quiet_w[1] + offset_w)
    return replace(
        spent,
        joules=joules,
        terms=tuple(replace(term, half_width_j=gain * term.half_width_j) for term in spent.terms),
        shares=tuple(shares),
        share_half_widths=tuple(gain * half for half in spent.share_half_widths),
        quiet_w=quiet_w,
        systematic=systematic(facts, joules, seconds),
        flags=flags,
        reason=reason,
    )


def systematic(facts: Domain, amount: float, seconds: float) -> tuple[float, float] | None:
    """What a sensor's gain and offset may hide; no board gives energy back: not below 0.

    Of a calibrated one that is what its calibration left open, with the stated accuracy of its reference.
    """
    if (known := facts.calibrated) is not None:
        read = (amount - facts.offset_w * seconds) / facts.gain
        variance = (
            known.gain_variance * read**2
            + 2 * known.covariance * read * seconds
            + known.offset_variance * seconds**2
        )
        half = 1.96 * math.sqrt(max(0.0, variance)) + known.accuracy * abs(amount)
        return max(0.0, amount - half), amount + half
    if facts.systematic_gain is None:
        return None
    offset = facts.systematic_offset_w or (0.0, 0.0)
    low, high = (
        gain * amount + watts * seconds for gain, watts in zip(facts.systematic_gain, offset, strict=True)
    )
    return max(0.0, low), high


def gap_in(trace: Trace, window: Window, facts: Domain) -> Gap | None:
    for gap in trace.gaps:
        concerned = gap.domain is None or gap.domain == facts.name
        if concerned and gap.window.start_ns < window.end_ns and gap.window.end_ns > window.start_ns:
            return gap
    return None
