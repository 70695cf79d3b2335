"""How many joules went into many windows of one kind, each too short for a sensor?

Each is read by interpolation. What may hide beside their edges does so in the same way each time, so it adds
up; but no more can hide in the time between two windows than the source could have counted there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from llenergymeasure.energy.joules.amid import missing
from llenergymeasure.energy.joules.curve import Curve, aliasing_j, curve
from llenergymeasure.energy.joules.sources import SHORTEST_S, gap_in, measured, method_of
from llenergymeasure.energy.joules.spent import Spent, Term
from llenergymeasure.records import Domain, Trace, Window

_DELAYS = 7


def pooled_energy(trace: Trace, domain: str, windows: Sequence[Window]) -> Spent:
    """The energy of `windows` together, which follow one another in time and do not overlap.

    From the best source of the domain, as `window_energy` has it. Under 1 s in all nothing is said. `shares`
    are the parts of the windows.
    """
    facts = trace.domain(domain)
    span = Window(windows[0].start_ns, windows[-1].end_ns)
    if facts.model is not None:
        return _modelled(trace, facts, windows, span)
    total_s = math.fsum(window.duration_s for window in windows)

    def spent_of(source: Curve) -> Spent:
        if total_s < SHORTEST_S:
            return missing(source, ("window_too_short", f"{total_s:.3g} s in all are too short for a sensor"))
        return _spent(source, windows, span)

    return measured(trace, facts, windows, span, spent_of)


def _spent(source: Curve, windows: Sequence[Window], span: Window) -> Spent:
    if (fault := source.why_not(*source.seconds(span))) is not None:
        return missing(source, fault)
    starts, ends = _edges(source, windows)
    delays = np.linspace(*source.delays_s, _DELAYS)
    shares = np.array([_at(source, ends + delay) - _at(source, starts + delay) for delay in delays])
    middle, whole = _DELAYS // 2, shares.sum(axis=1)
    outer, between, halves = _hidden(source, starts, ends, float(delays[middle]))
    terms = (
        Term("edges", math.hypot(*outer)),
        Term("edges", between, common=True),
        Term("lag", float(np.max(np.abs(whole - whole[middle]))), common=True),
        Term("aliasing", aliasing_j(source, *source.seconds(span))),
    )
    lagging = np.max(np.abs(shares - shares[middle]), axis=0)
    return Spent(
        source.quantity.source,
        method_of(source.quantity),
        float(whole[middle]),
        tuple(term for term in terms if term.half_width_j),
        shares=tuple(shares[middle].tolist()),
        share_half_widths=tuple((halves + lagging).tolist()),
        flags=("recorder_gap",) if source.blind(*source.seconds(span)) else (),
    )


def _modelled(trace: Trace, facts: Domain, windows: Sequence[Window], span: Window) -> Spent:
    """CPU seconds and byte-seconds of all windows by the domain's model; see `modelled_energy`."""
    model = facts.model
    assert model is not None
    by_unit = {quantity.unit: quantity for quantity in facts.quantities}
    gap = gap_in(trace, span, facts)
    nothing = Spent(by_unit["s"].source, "modelled", None, flags=facts.flags)
    found = [trace.series.get((facts.name, by_unit[unit].name)) for unit in ("s", "bytes")]
    curves = [curve(series, facts, span) for series in found if series is not None]
    if len(curves) < 2:
        return replace(nothing, reason="the processes' CPU time was never read")
    if reasons := [why for one in curves if (why := one.why_not(*one.seconds(span))) is not None]:
        return replace(nothing, reason=reasons[0][1] + (f": {gap.reason}" if gap else ""))
    busy = curves[0]
    used, held = (_at(one, _edges(one, windows)[1]) - _at(one, _edges(one, windows)[0]) for one in curves)
    # The kernel accounts CPU time in ticks.
    tick_s = (busy.quantity.step_ns or 0) * 1e-9
    outer, between, halves = _hidden(busy, *_edges(busy, windows), 0.0, least=tick_s)
    shares = used * model.w_per_busy_vcpu + held * model.w_per_byte
    terms = (
        Term("edges", model.w_per_busy_vcpu * math.hypot(*outer)),
        Term("edges", model.w_per_busy_vcpu * between, common=True),
    )
    low, high = (
        float(used.sum()) * vcpu_w + float(held.sum()) * byte_w
        for vcpu_w, byte_w in zip(model.w_per_busy_vcpu_range, model.w_per_byte_range, strict=True)
    )
    blind = gap or any(one.blind(*one.seconds(span)) for one in curves)
    return replace(
        nothing,
        joules=float(shares.sum()),
        terms=tuple(term for term in terms if term.half_width_j),
        shares=tuple(shares.tolist()),
        share_half_widths=tuple((model.w_per_busy_vcpu * halves).tolist()),
        lag_s=0.0,
        systematic=(low, high),
        flags=tuple(dict.fromkeys((*(("recorder_gap",) if blind else ()), *facts.flags))),
    )


def _edges(source: Curve, windows: Sequence[Window]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    both = np.array([source.seconds(window) for window in windows])
    return both[:, 0], both[:, 1]


def _at(source: Curve, moments: NDArray[np.float64]) -> NDArray[np.float64]:
    """`Curve.at` for many moments."""
    time, total = source.time, source.total
    last = np.clip(np.searchsorted(time, moments, side="right"), 1, time.size - 1)
    gap = time[last] - time[last - 1]
    part = np.where(gap > 0, (moments - time[last - 1]) / np.where(gap > 0, gap, 1.0), 0.0)
    return np.asarray(total[last - 1] + part * (total[last] - total[last - 1]), dtype=np.float64)


def _hidden(
    source: Curve,
    starts: NDArray[np.float64],
    ends: NDArray[np.float64],
    delay: float,
    *,
    least: float = 0.0,
) -> tuple[tuple[float, float], float, NDArray[np.float64]]:
    """What may hide beside the outermost edges, in all the times between windows, and beside each window.

    At the edges as `Curve.hidden` has it, at the least `least`; in the time between two windows no more than
    twice the highest power seen.
    """
    at_start, at_end = (
        np.array([math.hypot(source.hidden(float(edge) + delay), least) for edge in edges])
        for edges in (starts, ends)
    )
    top = (1 if source.quantity.unit == "s" else 2) * source.highest()
    between = np.minimum(at_end[:-1] + at_start[1:], top * np.maximum(0.0, starts[1:] - ends[:-1]))
    halves = np.asarray(np.hypot(at_start, at_end), dtype=np.float64)
    return (float(at_start[0]), float(at_end[-1])), float(between.sum()), halves
