"""How many joules went into a window that has no silence around it?

By interpolation between the events of the source, with an interval that bounds what may hide beside both
edges and in a lag that is not known. Such windows have to be long: about 30 s for half a per cent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from llenergymeasure.energy.joules.curve import Curve, aliasing_j, curve
from llenergymeasure.energy.joules.sources import gap_in, measured, method_of
from llenergymeasure.energy.joules.spent import Spent, Term
from llenergymeasure.records import Domain, Trace, Window

_DELAYS = 7


def window_energy(trace: Trace, domain: str, *windows: Window) -> Spent:
    """The energy of `domain` in windows that follow one another, from the best source that it has.

    The counter goes before power, and power before a model. A counter or sampled power says nothing of less
    than 1 s.
    """
    facts = trace.domain(domain)
    if facts.model is not None:
        return modelled_energy(trace, facts, windows)
    whole = Window(windows[0].start_ns, windows[-1].end_ns)
    return measured(trace, facts, windows, whole, lambda source: between(source, windows))


def between(source: Curve, windows: Sequence[Window]) -> Spent:
    """The energy of windows that follow one another, by interpolation alone."""
    quantity = source.quantity
    start, end = source.seconds(Window(windows[0].start_ns, windows[-1].end_ns))
    if (fault := source.why_not(start, end)) is not None:
        return missing(source, fault)
    edges = [start, *(source.seconds(window)[1] for window in windows)]
    delays = np.linspace(*source.delays_s, _DELAYS)
    totals = np.array([[source.at(edge + delay) for edge in edges] for delay in delays])
    shares = np.diff(totals, axis=1)
    middle = _DELAYS // 2
    whole = totals[:, -1] - totals[:, 0]
    hidden = [source.hidden(edge + float(delays[middle])) for edge in edges]
    terms = [
        Term("edges", math.hypot(hidden[0], hidden[-1])),
        Term("lag", float(np.max(np.abs(whole - whole[middle]))), common=True),
        Term("aliasing", aliasing_j(source, start, end)),
    ]
    lagging = np.max(np.abs(shares - shares[middle]), axis=0)
    return Spent(
        quantity.source,
        method_of(quantity),
        float(whole[middle]),
        tuple(term for term in terms if term.half_width_j),
        shares=tuple(map(float, shares[middle])),
        share_half_widths=tuple(
            math.hypot(hidden[number], hidden[number + 1]) + float(lagging[number])
            for number in range(len(windows))
        ),
        flags=("recorder_gap",) if source.blind(start, end) else (),
    )


def missing(source: Curve, fault: tuple[str, str]) -> Spent:
    """No energy, with the flag and the reason of `fault`."""
    flag, reason = fault
    quantity = source.quantity
    return Spent(quantity.source, method_of(quantity), None, flags=(flag,) if flag else (), reason=reason)


def modelled_energy(trace: Trace, facts: Domain, windows: Sequence[Window]) -> Spent:
    """Busy vCPU-seconds × watts and resident byte-seconds × watts per byte, of windows in a row.

    The width of the model is `systematic`. CPU time that stands still is an idle process, not a fault.
    """
    model = facts.model
    by_unit = {quantity.unit: quantity for quantity in facts.quantities}
    if model is None:
        raise ValueError(f"{facts.name} has no model of power")
    whole = Window(windows[0].start_ns, windows[-1].end_ns)
    gap = gap_in(trace, whole, facts)
    flags = tuple(dict.fromkeys((*(("recorder_gap",) if gap else ()), *facts.flags)))
    source = by_unit["s"].source
    found = [trace.series.get((facts.name, by_unit[unit].name)) for unit in ("s", "bytes")]
    curves = [curve(series, facts, whole) for series in found if series is not None]
    reasons = [why for one in curves if (why := one.why_not(*one.seconds(whole))) is not None]
    if len(curves) < 2 or reasons:
        reason = reasons[0][1] if reasons else "the processes' CPU time was never read"
        reason = f"{reason}: {gap.reason}" if gap else reason
        return Spent(source, "modelled", None, flags=flags, reason=reason)
    busy, resident = curves
    edges = [busy.seconds(whole)[0], *(busy.seconds(window)[1] for window in windows)]
    tick_s = (busy.quantity.step_ns or 0) * 1e-9
    unsure = [model.w_per_busy_vcpu * math.hypot(busy.hidden(edge), tick_s) for edge in edges]
    used, held = (np.diff([one.at(edge) for edge in edges]) for one in curves)
    shares = used * model.w_per_busy_vcpu + held * model.w_per_byte
    low, high = (
        float(used.sum()) * vcpu_w + float(held.sum()) * byte_w
        for vcpu_w, byte_w in zip(model.w_per_busy_vcpu_range, model.w_per_byte_range, strict=True)
    )
    blind = any(one.blind(edges[0], edges[-1]) for one in (busy, resident))
    return Spent(
        source,
        "modelled",
        float(shares.sum()),
        (Term("edges", math.hypot(unsure[0], unsure[-1])),),
        shares=tuple(map(float, shares)),
        share_half_widths=tuple(
            math.hypot(unsure[number], unsure[number + 1]) for number in range(len(windows))
        ),
        lag_s=0.0,
        systematic=(low, high),
        flags=tuple(dict.fromkeys((*(("recorder_gap",) if blind else ()), *flags))),
    )
