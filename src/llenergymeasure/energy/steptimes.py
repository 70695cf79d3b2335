"""When did each step of a counter happen, seen only by polls before and after it?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]

# A rhythm is learnt from at least so many steps, out of up to so many around a moment.
_LEAST_STEPS = 6
_REACH_STEPS = 40
# A polled step is one step where polls are closer than this many periods.
_SINGLE = 0.95
# Across a stretch in which steps were missed the count goes on while its time is known this well (periods).
_SURE = 0.17
# Jitters (sd, in periods) that are weighed against each other: from none to a tenth.
_JITTERS = np.array([0.001, 0.003, 0.006, 0.012, 0.025, 0.05, 0.1])
# Points of a standard normal law in two dimensions, always the same ones, for lines near the likeliest.
_POINTS = np.random.default_rng(7).standard_normal((160, 2))
_ROUNDS = 3
_UNLIKELY = 1e-6
_AMBIGUOUS = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class Timed:
    """Steps at `time` give or take `sd`, each by itself; seconds.

    Not `sure` is a step that may be either of two of the rhythm. `common` is the variance and covariance of
    an error that all of them share, at each of the moments that were asked for.
    """

    time: Floats
    sd: Floats
    sure: NDArray[np.bool_]
    common: Floats


def timed(low: Floats, high: Floats, moments: Floats, *, period_s: float | None = None) -> Timed:
    """The times of steps that happened between `low` and `high`, best known around `moments` (seconds).

    Counters step nearly periodically: nominal times on a line, each step early or late by a jitter. Lines are
    weighed by how likely they are to step within all bounds; where one fits, each step's time is its place on
    the line, within its own bounds, spread by the jitter: a normal law cut off at the bounds. It also tells
    which of several steps a late poll saw last. Where no line fits, a step may lie anywhere between its
    bounds. `period_s` is the period where it is known beforehand.
    """
    time, sd = (low + high) / 2, (high - low) / math.sqrt(12)
    sure, common = np.ones(low.size, dtype=np.bool_), np.zeros((moments.size, moments.size))
    line = _fitted(low, high, moments, period_s)
    if line is None:
        return Timed(time, sd, sure, common)
    near = (high > line.first_s - 2 * line.period_s) & (low < line.last_s + 2 * line.period_s)
    time[near], sd[near], sure[near] = _placed(low[near], high[near], line)
    # An error of the line matters as far as the line and not a step's own bounds give its time.
    own = np.median((high - low)[near]) / math.sqrt(12)
    share = own**2 / (own**2 + line.jitter_s**2 + 1e-18)
    design = np.column_stack((np.ones(moments.size), line.index(moments)))
    return Timed(time, sd, sure, share**2 * design @ line.covariance @ design.T)


@dataclass(frozen=True, slots=True, eq=False)
class _Line:
    """Step `n` happens at `start_s` + n × `period_s` ± `jitter_s`; it was seen from `first_s` to `last_s`."""

    start_s: float
    period_s: float
    covariance: Floats
    jitter_s: float
    first_s: float
    last_s: float

    def index(self, time: Floats) -> Floats:
        return np.asarray((time - self.start_s) / self.period_s, dtype=np.float64)


def _fitted(low: Floats, high: Floats, moments: Floats, period_s: float | None) -> _Line | None:
    time, width = (low + high) / 2, high - low
    if time.size < _LEAST_STEPS:
        return None
    period_s = period_s or _period(time, width)
    if period_s is None:
        return None
    single = np.flatnonzero(width < _SINGLE * period_s)
    if single.size < _LEAST_STEPS:
        return None
    numbered = _numbered(single, time[single], width[single])
    single, number = single[np.isfinite(numbered)], numbered[np.isfinite(numbered)]
    if single.size < _LEAST_STEPS:
        return None
    distance = np.min(np.abs(time[single][:, None] - moments[None, :]), axis=1)
    nearest = np.sort(np.argsort(distance)[: _REACH_STEPS * moments.size])
    single, number = single[nearest], number[nearest]
    # The line is described where it is known best: from the middle of its steps.
    number = number - np.round(number.mean())
    sd = np.maximum(width[single] / math.sqrt(12), 1e-5)
    start, period, covariance = _least_squares(number, time[single], sd)
    if period <= 0:
        return None
    centre = np.array([start, period])
    centre, covariance, jitter = _weighed(low[single], high[single], number, centre, covariance)
    first_s, last_s = float(time[single[0]]), float(time[single[-1]])
    return _Line(float(centre[0]), float(centre[1]), covariance, jitter, first_s, last_s)


def _period(time: Floats, width: Floats) -> float | None:
    """The mean time between neighbours that were both seen as closely as most, and so one by one.

    A step that was missed would make the bounds of the next one wide.
    """
    close = width < 1.5 * np.percentile(width, 25)
    pairs = close[1:] & close[:-1]
    if np.sum(pairs) < _LEAST_STEPS - 1:
        return None
    period = float(np.mean(np.diff(time)[pairs]))
    return period if period > float(np.median(width[close])) / _SINGLE else None


def _numbered(single: NDArray[np.intp], time: Floats, width: Floats) -> Floats:
    """The number of each step, counted on from the longest unbroken stretch; NaN where that is not sure."""
    stretch = np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(np.diff(single) != 1)))
    number = np.full(time.size, np.nan)
    longest = int(np.argmax(np.bincount(stretch)))
    sd = np.maximum(width / math.sqrt(12), 1e-5)
    for which in (*range(longest, int(stretch[-1]) + 1), *range(longest - 1, -1, -1)):
        members = np.flatnonzero(stretch == which)
        if which == longest:
            number[members] = np.arange(members.size)
            continue
        known = np.flatnonzero(np.isfinite(number))
        nearest = known[np.argsort(np.abs(known - members[0]))[:_REACH_STEPS]]
        if nearest.size < _LEAST_STEPS:
            continue
        start, period, covariance = _least_squares(number[nearest], time[nearest], sd[nearest])
        middle = members[members.size // 2]
        at = (float(time[middle]) - start) / period
        spread = covariance[0, 0] + 2 * at * covariance[0, 1] + at * at * covariance[1, 1]
        if math.sqrt(spread + sd[middle] ** 2 / members.size) < _SURE * period:
            offset = np.median((time[members] - start) / period - (members - middle))
            number[members] = members - middle + np.round(offset)
    return number


def _least_squares(x: Floats, y: Floats, sd: Floats) -> tuple[float, float, Floats]:
    """Height and slope of the line through `y` ± `sd`, and their covariance."""
    weight = 1 / sd**2
    s, sx, sxx = float(weight.sum()), float(weight @ x), float(weight @ (x * x))
    sy, sxy = float(weight @ y), float(weight @ (x * y))
    determinant = s * sxx - sx * sx
    covariance = np.array([[sxx, -sx], [-sx, s]]) / determinant
    return (sxx * sy - sx * sxy) / determinant, (s * sxy - sx * sy) / determinant, covariance


def _weighed(
    low: Floats, high: Floats, number: Floats, centre: Floats, covariance: Floats
) -> tuple[Floats, Floats, float]:
    """Mean and covariance of (start, period) over lines weighed by their likelihood, and the jitter.

    Lines are drawn around the likeliest so far, and weighed by how often they would step within all bounds.
    """
    jitter = _jitter(low, high, centre[0] + centre[1] * number, centre[1])
    for _ in range(_ROUNDS):
        spread = covariance + np.diag([1e-12, 1e-18])
        # 1.5: wider than what it stands for, so that the tails are drawn as well.
        drawn = centre + 1.5 * _POINTS @ np.linalg.cholesky(spread).T
        nominal = drawn[:, :1] + drawn[:, 1:] * number
        mass = _phi((high - nominal) / jitter) - _phi((low - nominal) / jitter)
        score = np.sum(np.log(np.maximum(mass, _UNLIKELY)), axis=1) + 0.5 * np.sum(_POINTS**2, axis=1)
        weight = np.exp(score - score.max())
        weight /= weight.sum()
        off = drawn - weight @ drawn
        centre = weight @ drawn
        # What few lines say of a spread is increased by what is left to chance among them.
        effective = 1 / float(weight @ weight)
        covariance = (weight * off.T) @ off * (1 + 3 / effective) + spread * (0.5 / effective) ** 2
        jitter = _jitter(low, high, centre[0] + centre[1] * number, float(centre[1]))
    return centre, covariance, jitter


def _jitter(low: Floats, high: Floats, nominal: Floats, period_s: float) -> float:
    """The sd of steps around their nominal times: the root of its mean square, each by its likelihood."""
    sd = _JITTERS[:, None] * period_s
    mass = _phi((high - nominal) / sd) - _phi((low - nominal) / sd)
    likelihood = np.sum(np.log(np.maximum(mass, _UNLIKELY)), axis=1)
    weight = np.exp(likelihood - likelihood.max())
    return period_s * math.sqrt(float(weight @ _JITTERS**2 / weight.sum()))


def _placed(low: Floats, high: Floats, line: _Line) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Mean and sd of each step's time: the last step before `high` by the line, cut off at its bounds.

    And whether it is sure which step that was, where there may have been more than one.
    """
    last = np.floor(line.index(high))
    weights, means, squares = [], [], []
    none_later = np.ones(low.size)
    for number in (last + 1, last, last - 1):
        nominal = line.start_s + number * line.period_s
        mass, mean, variance = _cut_normal(nominal, line.jitter_s, low, high)
        weights.append(none_later * mass)
        means.append(mean)
        squares.append(variance + mean**2)
        none_later = none_later * (1 - _phi((high - nominal) / line.jitter_s))
    weight = np.array(weights)
    total = weight.sum(axis=0)
    fits = total > 1e-3
    safe = np.where(fits, total, 1.0)
    mean = np.sum(weight * np.array(means), axis=0) / safe
    variance = np.sum(weight * np.array(squares), axis=0) / safe - mean**2
    nearest = np.clip(line.start_s + np.round(line.index((low + high) / 2)) * line.period_s, low, high)
    # A step outside of its bounds by the line says that the line is a little off: it lies near that bound.
    off = np.minimum((high - low) / math.sqrt(12), 2 * line.jitter_s)
    sd = np.where(fits, np.sqrt(np.maximum(variance, 1e-12)), off)
    several = high - low > _SINGLE * line.period_s
    return np.where(fits, mean, nearest), sd, ~several | (weight.max(axis=0) > (1 - _AMBIGUOUS) * total)


def _cut_normal(mean: Floats, sd: float, low: Floats, high: Floats) -> tuple[Floats, Floats, Floats]:
    """Mass, mean and variance of a normal law within `low` to `high`."""
    a, b = (low - mean) / sd, (high - mean) / sd
    mass = np.maximum(_phi(b) - _phi(a), 1e-12)
    density_a, density_b = (np.exp(-0.5 * x**2) / math.sqrt(2 * math.pi) for x in (a, b))
    shift = (density_a - density_b) / mass
    variance = 1 + (a * density_a - b * density_b) / mass - shift**2
    return mass, np.clip(mean + sd * shift, low, high), sd**2 * np.clip(variance, 0.0, 1.0)


def _phi(x: Floats) -> Floats:
    """The normal distribution function (Abramowitz and Stegun 7.1.25, error below 1e-5 of it)."""
    t = 1 / (1 + 0.47047 * np.abs(x) / math.sqrt(2))
    tail = t * (0.3480242 + t * (-0.0958798 + t * 0.7478556)) * np.exp(-0.5 * x**2)
    return np.asarray(np.where(x < 0, 0.5 * tail, 1 - 0.5 * tail), dtype=np.float64)
