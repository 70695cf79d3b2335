"""How much power does a domain draw when nothing is asked of it?"""

from __future__ import annotations

from llenergymeasure.energy.joules.amid import between, modelled_energy
from llenergymeasure.energy.joules.curve import Curve
from llenergymeasure.energy.joules.quiet import quiet
from llenergymeasure.energy.joules.sources import SHORTEST_S, measured, method_of
from llenergymeasure.energy.joules.spent import Spent, Term
from llenergymeasure.records import Estimate, Trace, Window


def idle_power(trace: Trace, window: Window, domain: str) -> Estimate:
    """Mean watts of `domain` in `window`, from the first to the last event in it.

    The interval is the sensor's resolution, or half of what the second half of the window differs from the
    first where that drift is more. None with the reason where the energy of the window is unknown.
    """
    facts, seconds = trace.domain(domain), window.duration_s
    if facts.model is None:
        spent = measured(trace, facts, [window], window, lambda source: _idle(source, window))
        drift_j = 0.0
    else:
        spent = modelled_energy(trace, facts, [window])
        middle_ns = (window.start_ns + window.end_ns) // 2
        halves = [Window(window.start_ns, middle_ns), Window(middle_ns, window.end_ns)]
        parts = [modelled_energy(trace, facts, [half]).joules or 0.0 for half in halves]
        drift_j = abs(parts[1] - parts[0]) if halves[0].duration_s >= SHORTEST_S else 0.0
    if spent.joules is None or seconds == 0:
        return Estimate.missing("W", spent.reason or "an idle window of no length has no power")
    half_w, value = max(spent.half_width_j, drift_j) / seconds, spent.joules / seconds
    bounds = spent.systematic
    systematic = None if bounds is None else (bounds[0] / seconds, bounds[1] / seconds)
    return Estimate(value, "W", value - half_w, value + half_w, systematic)


def _idle(source: Curve, window: Window) -> Spent:
    start, end = source.seconds(window)
    # What the source shows at first may belong to what was before.
    later = start + source.lag_s
    found = quiet(source, later if end - later > SHORTEST_S else start, end, before=True)
    if found is None or source.why_not(start, end) is not None:
        return between(source, [window])
    seconds = end - start
    half_w = max(found.half_w, abs(found.bend_w) / 2)
    return Spent(
        source.quantity.source,
        method_of(source.quantity),
        found.power_w * seconds,
        (Term("quiet power", half_w * seconds),),
        quiet_w=(found.power_w, found.power_w),
        flags=("recorder_gap",) if source.blind(start, end) else (),
    )
