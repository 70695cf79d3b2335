"""How much energy was spent in a window, by readings that are means over the last second?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from llenergymeasure.energy.readings import Readings

Floats: TypeAlias = NDArray[np.float64]

# How far back (or ahead) a stretch of steady power is looked for, in windows of a mean.
_FARTHEST = 12
# The sd of what four corners and late polls leave, found by simulation.
_CORNERS = 0.2


@dataclass(frozen=True, slots=True)
class Mean:
    """A sensor that shows the mean of the last `look_s`, as it was `lag_s` ago, every `step_s`; seconds."""

    step_s: float
    look_s: float
    lag_s: float


def inverted(held: Readings, end_s: float, mean: Mean, *, shift_j: float) -> tuple[float, float, float]:
    """Joules from 0 to `end_s` by means over the last `look_s`, the sd, and what the lag may cost beside it.

    With C the energy spent until t, a reading is (C(t − lag) − C(t − lag − look)) / look. Two rules follow,
    and the one that leaves less unknown is taken. Whole windows of the mean add up, whatever the power did:
    C(t) − C(t − n × look) = look × Σ readings at t + lag, t + lag − look, …; unknown is how a mean moves
    between two updates, and `shift_j`, what an unknown lag may cost. Or all readings that saw any of the
    window are added up, and what they saw outside is taken out, as if power there had been steady for the
    length of a mean; then the lag hardly matters.
    """
    by_windows = (*_by_windows(held, end_s, mean), shift_j)
    by_area = (*_by_area(held, end_s, mean), 0.0)
    return min(by_windows, by_area, key=lambda found: math.hypot(*found[1:]))


def _by_area(held: Readings, end_s: float, mean: Mean) -> tuple[float, float]:
    """∫ readings from lag to end + lag + look, less half a window of the power before and after.

    Taken an update period wider on both sides, since the line between updates rounds a corner off.
    """
    start, end = mean.lag_s - mean.step_s, end_s + mean.lag_s + mean.look_s + mean.step_s
    inside = held.time[(held.time > start) & (held.time < end)]
    knots = np.concatenate((np.array([start]), inside, np.array([end])))
    readings = _smooth(held, knots)
    outside = (mean.look_s / 2 + mean.step_s) * float(readings[0] + readings[-1])
    joules = float(np.trapezoid(readings, knots)) - outside
    unrest = []
    for since in (start - mean.look_s, end):
        if since < held.time[0] or since + mean.look_s > held.time[-1]:
            return joules, math.inf
        unrest.append(float(np.ptp(_smooth(held, since + np.linspace(0.0, mean.look_s, 11)))))
    # A step of power at x before the window moves the reading by x / look of it, and the sum by
    # (look / 2) (1 − x / look) of that. And the line between updates rounds off the corners that steps of
    # power make in a mean, each by about step² / 12 × the change of slope.
    corners = _CORNERS * mean.step_s**2 / mean.look_s * float(np.ptp(readings))
    return joules, math.hypot(mean.look_s / 4 * math.hypot(*unrest), corners)


def _by_windows(held: Readings, end_s: float, mean: Mean) -> tuple[float, float]:
    """Whole windows of the mean, and a rest."""
    step_s, look_s, lag_s = mean.step_s, mean.look_s, mean.lag_s
    whole = int(end_s / look_s + 1e-9)
    rest_s = end_s - whole * look_s
    at = end_s + lag_s - look_s * np.arange(whole, dtype=np.float64)
    joules = look_s * float(np.sum(_smooth(held, at)))
    variance = look_s**2 * float(np.sum(_bend(held, at, step_s) ** 2))
    if rest_s > 1e-6:
        rest, unrest = _rest(held, rest_s, mean)
        joules, variance = joules + rest, variance + unrest
    return joules, math.sqrt(variance)


def _rest(held: Readings, rest_s: float, mean: Mean) -> tuple[float, float]:
    """Joules from 0 to `rest_s` < look, and the variance.

    Moved back (or ahead) by whole windows, in the same way, to the steadiest stretch within reach.
    """
    step_s, look_s, lag_s = mean.step_s, mean.look_s, mean.lag_s
    best = rest_s * held.mean(lag_s, lag_s + look_s), (rest_s * float(np.ptp(held.level))) ** 2
    for direction in (-1.0, 1.0):
        moved, variance = 0.0, 0.0
        for count in range(_FARTHEST + 1):
            shift_s = direction * count * look_s
            if not held.time[0] + look_s < shift_s < held.time[-1] - 2 * look_s - lag_s:
                break
            # A mean that stands still from here to a window's length later saw steady power all the while.
            at = _smooth(held, shift_s + lag_s + np.linspace(0.0, look_s + rest_s, 9))
            unrest = variance + (float(np.ptp(at)) * rest_s / 2) ** 2
            if unrest < best[1]:
                best = moved + rest_s * float(at[4:].mean()), unrest
            edges = shift_s + lag_s + (0.0 if direction < 0 else look_s) + np.array([rest_s, 0.0])
            late, early = _smooth(held, edges)
            moved -= direction * look_s * float(late - early)
            variance += look_s**2 * float(np.sum(_bend(held, edges, step_s) ** 2))
    return best


def _bend(held: Readings, at_s: Floats, step_s: float) -> Floats:
    """How far a mean may be off the line between its updates (sd): by how its slope changes there."""
    before, here, after = (_smooth(held, at_s + shift * step_s) for shift in (-1.0, 0.0, 1.0))
    return np.asarray(np.abs(before - 2 * here + after) / 4 + 0.001 * here, dtype=np.float64)


def _smooth(held: Readings, at_s: Floats) -> Floats:
    """Readings between updates, on the line from one update to the next."""
    return np.asarray(np.interp(at_s, held.time, held.level), dtype=np.float64)
