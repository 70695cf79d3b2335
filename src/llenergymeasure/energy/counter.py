"""How much did a counter that moves in steps count between two moments?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from llenergymeasure.records import Series, Window

if TYPE_CHECKING:
    from llenergymeasure.records import Integers

Floats: TypeAlias = NDArray[np.float64]

# Samples kept on each side of a window: enough to learn the rhythm of the steps and the power outside.
_SURROUNDINGS = 400
# Steps on each side of a moment from which the power there is taken.
_POWER_STEPS = 4
# A step's time is learnt from up to so many steps on each side, at least so many in all, for steps so near.
_FIT_REACH = 15
_FIT_STEPS = 10
_NEAR_S = 1.0
# Polls count as close up to so many times the closest tenth; steps must be at least so many polls apart.
_CLOSE = 1.3
_LEAST_STRIDE = 1.05
# Power within one step is never known better than this, relative: what a steady load still does.
_LEAST_SCATTER = 0.005


@dataclass(frozen=True, slots=True)
class Counted:
    """`amount` in the quantity's unit and the standard deviation of what is unknown of it.

    `amount` is None where `reason` says why: the counter was `reset` in the window, is `stuck`, or was not
    read around it. `blind_s` is the longest stretch without a sample that touches the window.
    """

    amount: float | None
    sd: float = 0.0
    blind_s: float = 0.0
    reset: bool = False
    stuck: bool = False
    reason: str | None = None


def unwrap(raw: Integers, wrap: int | None) -> tuple[Integers, NDArray[np.bool_]]:
    """Counts since the first reading, and where (between reading i and i + 1) the counter was reset.

    A fall is one wrap if that makes a step of at most half the range, which polling at a quarter of the wrap
    time guarantees; any other fall is a reset, across which nothing is counted.
    """
    steps = np.diff(raw)
    fell = steps < 0
    if wrap is not None:
        around = fell & (steps + wrap >= 0) & (steps + wrap <= wrap // 2)
        steps = np.where(around, steps + wrap, steps)
        fell = fell & ~around
    steps = np.where(fell, 0, steps)
    return np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(steps, dtype=np.int64))), fell


def count_between(series: Series, window: Window, *, outside: tuple[float | None, float | None]) -> Counted:
    """What `series`, a cumulative quantity, counted within `window`.

    Each edge of the window is placed between the two steps of the counter around it: from the rate before it
    and from the rate after it, each weighted by how steady that rate is. Where an idle stretch borders on
    load, that is extrapolation from the idle side; inside steady load it is interpolation. `outside` are
    rates (unit per second) that are known to hold just before and just after the window.
    """
    first = max(0, int(np.searchsorted(series.t_before_ns, window.start_ns)) - _SURROUNDINGS)
    last = int(np.searchsorted(series.t_before_ns, window.end_ns)) + _SURROUNDINGS
    before, after = (
        _seconds(series.t_before_ns, window, first, last),
        _seconds(series.t_after_ns, window, first, last),
    )
    end_s = window.duration_s
    if before.size < 2 or before[0] > 0 or after[-1] < end_s:
        return Counted(None, reason="the trace does not reach from before the window to after it")
    counts, fell = unwrap(series.raw[first:last], series.quantity.wrap)
    touching = (after[1:] >= 0) & (before[:-1] <= end_s)
    blind_s = float(np.max(np.diff(before)[touching], initial=0.0))
    if np.any(fell & touching):
        return Counted(None, blind_s=blind_s, reset=True, reason="the counter was reset within the window")
    steps = _steps(series, (before, after), counts, wanted=np.array([0.0, end_s]))
    if not np.any((steps.time >= 0) & (steps.time <= end_s)):
        return Counted(None, blind_s=blind_s, stuck=True, reason="the counter never moved within the window")
    start, start_sd = _place(steps, 0.0, known=(outside[0], None))
    end, end_sd = _place(steps, end_s, known=(None, outside[1]))
    grain = series.quantity.scale
    sd = float(np.sqrt(start_sd**2 + end_sd**2 + grain**2 / 6))
    return Counted(end - start, sd, blind_s=blind_s)


@dataclass(frozen=True, slots=True, eq=False)
class _Steps:
    """The moves of a counter: its time lies within `low` to `high`, most likely at `time` give or take `sd`.

    Seconds since the start of the window; `total` is the sum after the move, in the quantity's unit.
    """

    low: Floats
    high: Floats
    time: Floats
    sd: Floats
    total: Floats


def _seconds(t_ns: Integers, window: Window, first: int, last: int) -> Floats:
    return np.asarray((t_ns[first:last] - window.start_ns) * 1e-9, dtype=np.float64)


def _steps(series: Series, read: tuple[Floats, Floats], counts: Integers, *, wanted: Floats) -> _Steps:
    before, after = read
    moved = np.flatnonzero(np.diff(counts)) + 1
    low, high = before[moved - 1], after[moved]
    if series.quantity.step_ns is not None:
        low = np.maximum(low, before[moved] - series.quantity.step_ns * 1e-9)
    time, sd = _rhythm(low, high, wanted) if moved.size else (low, low)
    return _Steps(low, high, time, sd, np.asarray(counts[moved] * series.quantity.scale, dtype=np.float64))


def _rhythm(low: Floats, high: Floats, wanted: Floats) -> tuple[Floats, Floats]:
    """When each step happened: the middle of its bounds, or on the line through its neighbours.

    Counters step nearly periodically. Where polls are closer than the period each step is seen by itself, and
    the line through the steps of such a stretch tells their times better than the polls do; it also tells
    which of several steps a late poll saw last. Only steps near `wanted` are worth the effort.
    """
    time, width = (low + high) / 2, high - low
    sd = width / np.sqrt(12)
    between = np.diff(time)
    close = width < _CLOSE * np.percentile(width, 10)
    pairs = close[1:] & close[:-1]
    if np.sum(pairs) < _FIT_STEPS:
        return time, sd
    period = float(np.mean(between[pairs]))
    single = np.flatnonzero(width < period)
    if period < _LEAST_STRIDE * float(np.median(width[close])) or single.size < _FIT_STEPS:
        return time, sd
    stretch = np.concatenate((np.zeros(1), np.cumsum(np.diff(single) > 1)))
    fitted, fitted_sd = time.copy(), sd.copy()
    for step in np.flatnonzero(np.min(np.abs(time[:, None] - wanted[None, :]), axis=1) < _NEAR_S):
        nearest = int(np.argmin(np.abs(single - step)))
        around = np.arange(max(0, nearest - _FIT_REACH), min(single.size, nearest + _FIT_REACH + 1))
        around = around[stretch[around] == stretch[nearest]]
        if around.size < _FIT_STEPS:
            continue
        line = _line((around - nearest).astype(np.float64), time[single[around]], sd[single[around]])
        index = 0.0 if single[nearest] == step else float(np.floor((high[step] - line.height) / line.slope))
        at, at_sd = line.at(index)
        if low[step] - width[step] / 2 <= at <= high[step] + width[step] / 2 and at_sd < sd[step]:
            fitted[step], fitted_sd[step] = min(max(at, low[step]), high[step]), at_sd
    return fitted, fitted_sd


@dataclass(frozen=True, slots=True)
class _Line:
    height: float
    slope: float
    variance: tuple[float, float, float]

    def at(self, x: float) -> tuple[float, float]:
        """The height at `x` and its sd."""
        constant, linear, square = self.variance
        return self.height + self.slope * x, float(np.sqrt(constant + linear * x + square * x * x))


def _line(x: Floats, y: Floats, sd: Floats) -> _Line:
    """Weighted least squares. Points that scatter by more than their sd show a jitter, which is added."""
    weight = 1 / np.maximum(sd, 1e-9) ** 2
    s, sx, sxx = float(weight.sum()), float(weight @ x), float(weight @ (x * x))
    sy, sxy = float(weight @ y), float(weight @ (x * y))
    determinant = s * sxx - sx * sx
    height, slope = (sxx * sy - sx * sxy) / determinant, (s * sxy - sx * sy) / determinant
    excess = max(0.0, float(weight @ (y - height - slope * x) ** 2) / (x.size - 2) - 1)
    jitter = excess * x.size / s
    return _Line(height, slope, (sxx / determinant + jitter, -2 * sx / determinant, s / determinant))


def _place(steps: _Steps, at_s: float, *, known: tuple[float | None, float | None]) -> tuple[float, float]:
    """The total at `at_s` and its sd, from the rates on both sides."""
    left = int(np.searchsorted(steps.time, at_s, side="right")) - 1
    right = left + 1
    sides = []
    if left >= 0:
        rate, scatter = _rate(steps, max(0, left - _POWER_STEPS), left, known=known[0])
        distance = at_s - float(steps.time[left])
        sd = float(np.hypot(scatter * distance, rate * steps.sd[left]))
        sides.append((float(steps.total[left]) + rate * distance, sd))
    if right < steps.time.size:
        rate, scatter = _rate(steps, right, min(steps.time.size - 1, right + _POWER_STEPS), known=known[1])
        distance = float(steps.time[right]) - at_s
        sd = float(np.hypot(scatter * distance, rate * steps.sd[right]))
        sides.append((float(steps.total[right]) - rate * distance, sd))
    value, sd = _weighted(sides)
    surely_before = steps.total[steps.high <= at_s]
    surely_after = steps.total[steps.low >= at_s]
    lowest = float(surely_before[-1]) if surely_before.size else value
    highest = float(surely_after[0]) if surely_after.size else value
    return min(max(value, lowest), highest), sd


def _rate(steps: _Steps, first: int, last: int, *, known: float | None) -> tuple[float, float]:
    """Units per second over the steps `first` to `last`, and how much that varies from step to step."""
    if known is not None:
        return known, _LEAST_SCATTER * known
    if last - first < 1:
        rate = float(steps.total[first]) / max(float(steps.time[first] - steps.low[0]), 1e-9)
        return rate, rate
    rates = np.diff(steps.total[first : last + 1]) / np.maximum(np.diff(steps.time[first : last + 1]), 1e-9)
    rate = float(
        (steps.total[last] - steps.total[first]) / max(float(steps.time[last] - steps.time[first]), 1e-9)
    )
    scatter = float(np.std(rates, ddof=1)) if rates.size > 1 else rate
    return rate, max(scatter, _LEAST_SCATTER * rate)


def _weighted(sides: list[tuple[float, float]]) -> tuple[float, float]:
    """The mean by inverse variance; where the two disagree by more than their sd, the sd grows to match."""
    weights = [1 / max(sd, 1e-12) ** 2 for _, sd in sides]
    value = sum(weight * side for weight, (side, _) in zip(weights, sides, strict=True)) / sum(weights)
    misfit = sum(
        weight * (side - value) ** 2 for weight, (side, _) in zip(weights, sides, strict=True)
    ) / max(1, len(sides) - 1)
    return value, float(np.sqrt(max(1.0, misfit) / sum(weights)))
