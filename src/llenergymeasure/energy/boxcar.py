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
# The line between updates rounds off the corners that steps of power make in a mean, each by about step² / 12
# × the change of slope. The sd of what four corners leave, found by simulation.
_CORNERS = 0.09
# The part of a jump of power times what is not known of the lag that is added up though it lies outside.
_SPILT = 0.06
# A mean that moves by no more than this, relative, within its own length shows drift and not a step.
_DRIFT = 0.1
# Power that wanders hides in a mean. The parts that the edges of a window leave open (sd): of how far it
# moves from one length of the mean to the next, and of what readings outside stray from a straight line.
# Found by simulating power that walks at random.
_HIDDEN = 0.25
_WANDERS = 1.5
# The fewest updates that show such a movement.
_LEAST_MOVES = 5


@dataclass(frozen=True, slots=True)
class Mean:
    """A sensor that shows the mean of the last `look_s`, as it was `lag_s` ± `lag_sd_s` ago, every `step_s`.

    In seconds.
    """

    step_s: float
    look_s: float
    lag_s: float
    lag_sd_s: float


def inverted(held: Readings, end_s: float, mean: Mean, *, shift_j: float) -> tuple[float, float, float]:
    """Joules from 0 to `end_s` by means over the last `look_s`, the sd, and what the lag may cost beside it.

    With C the energy spent until t, a reading is (C(t − lag) − C(t − lag − look)) / look. Two rules follow,
    and they are weighed by what each leaves unknown. Whole windows of the mean add up, whatever power did:
    C(t) − C(t − n × look) = look × Σ readings at t + lag, t + lag − look, …; unknown is how a mean moves
    between two updates, and `shift_j`, what an unknown lag may cost. Or all readings that saw any of the
    window are added up, and what they saw outside is taken out, as if power there had been steady for the
    length of a mean; then the lag hardly matters.
    """
    by_windows, by_area = _by_windows(held, end_s, mean), _by_area(held, end_s, mean)
    by_windows = by_windows[0], math.hypot(by_windows[1], _HIDDEN * _wandering(held, end_s, mean))
    sds = math.hypot(by_windows[1], shift_j), by_area[1]
    if math.isinf(sds[1]):
        return *by_windows, shift_j
    share = sds[0] ** 2 / (sds[0] ** 2 + sds[1] ** 2 + 1e-18)
    joules = by_windows[0] + share * (by_area[0] - by_windows[0])
    # Where the rules disagree by more than they should, one of them is wrong, and which is not known.
    apart = abs(by_area[0] - by_windows[0]) / (3 * math.hypot(*sds) + 1e-9)
    sd = max(1.0, apart) * math.hypot((1 - share) * by_windows[1], share * by_area[1])
    return joules, sd, (1 - share) * shift_j


def _wandering(held: Readings, end_s: float, mean: Mean) -> float:
    """How far power moves (W, by the median) from one length of the mean to the next, times that length.

    From one update to the next a mean changes by step / look of it. Updates that saw an edge of the window
    say nothing of that.
    """
    since = held.time - mean.lag_s
    moves = np.diff(held.level)
    inside = (since[:-1] > mean.look_s) & (since[1:] < end_s)
    outside = (since[1:] < 0) | (since[:-1] > end_s + mean.look_s)
    chosen = moves[inside] if inside.sum() >= _LEAST_MOVES else moves[outside]
    if chosen.size < _LEAST_MOVES:
        return 0.0
    return float(np.median(np.abs(chosen - np.median(chosen)))) * mean.look_s**2 / mean.step_s


def _by_area(held: Readings, end_s: float, mean: Mean) -> tuple[float, float]:
    """∫ readings from lag to end + lag + look, less half a window of the power before and after.

    Taken wider on both sides by an update period, since the line between updates rounds a corner off, and by
    what the lag may be off.
    """
    wider_s = mean.step_s + min(2 * mean.lag_sd_s, mean.step_s / 4)
    start, end = mean.lag_s - wider_s, end_s + mean.lag_s + mean.look_s + wider_s
    inside = held.time[(held.time > start) & (held.time < end)]
    knots = np.concatenate((np.array([start]), inside, np.array([end])))
    readings = _smooth(held, knots)
    joules = float(np.trapezoid(readings, knots))
    # A mean climbs and falls in 2 × look / step updates, each of whose times may be a little off.
    vague_s = float(np.mean(held.sd[(held.time > start) & (held.time < end)])) * math.sqrt(
        2 * mean.look_s / mean.step_s
    )
    climb = float(np.ptp(readings)) * mean.step_s / mean.look_s
    spilt_j = _SPILT * float(np.ptp(readings)) * mean.lag_sd_s
    unrest = [climb * _CORNERS * mean.step_s, climb * vague_s, spilt_j]
    for edge, away in ((start, -1.0), (end, 1.0)):
        if not held.time[0] <= edge + away * mean.look_s <= held.time[-1]:
            return joules, math.inf
        since = np.linspace(0.0, mean.look_s, 11)
        levels = _smooth(held, edge + away * since)
        joules -= (mean.look_s / 2 + wider_s) * float(levels[0])
        moved_w = float(np.ptp(levels))
        if moved_w > _DRIFT * float(levels.mean()):
            # A step of power at x before the window moves the reading by x / look of it, and the sum by
            # (look / 2) (1 − x / look) of that.
            unrest.append(moved_w * mean.look_s / 4)
        else:
            # Power that drifts: those readings saw what is nearer to the window more than what is farther,
            # which makes slope × look² / 12.
            nearer = float(levels[0] - levels[-1]) * mean.look_s / 12
            joules -= nearer
            # What is off that line wanders, and goes on doing so where no reading tells it apart.
            line = np.linspace(levels[0], levels[-1], levels.size)
            unrest.append(math.hypot(nearer, _WANDERS * float(np.std(levels - line)) * mean.look_s))
    return joules, math.hypot(*unrest)


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
