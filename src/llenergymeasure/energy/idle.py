"""How much power does a domain draw when nothing is asked of it?"""

from __future__ import annotations

from llenergymeasure.energy.integrate import SHORTEST_S, energy_between
from llenergymeasure.records import Estimate, Trace, Window


def idle_power(trace: Trace, window: Window, domain: str) -> Estimate:
    """Mean watts of `domain` in `window`.

    The interval is the sensor's resolution, or half of what the second half of the window differs from the
    first where that drift is more. None with the reason where the energy of the window is unknown.
    """
    energy = energy_between(trace, window, domain).energy
    seconds = window.duration_s
    if energy.value is None or energy.low is None or energy.high is None or seconds == 0:
        return Estimate.missing("W", energy.reason or "an idle window of no length has no power")
    half_w = max((energy.high - energy.low) / 2 / seconds, _drift_w(trace, window, domain) / 2)
    value = energy.value / seconds
    bounds = energy.systematic
    systematic = None if bounds is None else (bounds[0] / seconds, bounds[1] / seconds)
    return Estimate(value, "W", value - half_w, value + half_w, systematic)


def _drift_w(trace: Trace, window: Window, domain: str) -> float:
    """How far the mean powers of both halves lie apart; 0 where halves are too short to tell."""
    middle_ns = (window.start_ns + window.end_ns) // 2
    halves = (Window(window.start_ns, middle_ns), Window(middle_ns, window.end_ns))
    if halves[0].duration_s < SHORTEST_S:
        return 0.0
    first, second = (energy_between(trace, half, domain).energy.value for half in halves)
    return 0.0 if first is None or second is None else abs(second - first) / halves[0].duration_s
