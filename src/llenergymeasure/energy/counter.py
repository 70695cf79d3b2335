"""How much did a counter that moves in steps count between two moments?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from llenergymeasure.energy.edges import Steps, spent
from llenergymeasure.energy.steptimes import timed
from llenergymeasure.records import DomainKind, Series, Window

if TYPE_CHECKING:
    from llenergymeasure.records import Integers

Floats: TypeAlias = NDArray[np.float64]


# Samples kept on each side of a window, and steps kept on each side of its edges: enough to learn the rhythm
# of the steps and the power there.
_SURROUNDINGS = 400
_NEIGHBOURS = 60
_STILL_S = 1.0
_STILL_STEPS = 10
# What a read adds to the time that a counter may have counted: its own steps, and how long a read takes.
_LATE_S = 0.1

# What no domain of a kind draws. Sockets: twice the highest thermal design power that there is, 500 W (Intel
# ARK, Xeon 6980P; AMD, EPYC 9965). Boards: twice 1.4 kW (NVIDIA, B300), modules: twice 2.7 kW (GB200).
# CPU time (`host`): what this many processors use.
MOST_W: Mapping[DomainKind, float] = {
    "cpu": 1_000.0,
    "dram": 1_000.0,
    "gpu": 3_000.0,
    "module": 6_000.0,
    "host": 10_000.0,
}


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


def unwrap(
    raw: Integers, wrap: int | None, *, seconds: Floats | None = None, most_per_s: float | None = None
) -> tuple[Integers, NDArray[np.bool_]]:
    """Counts since the first reading, and where (between reading i and i + 1) the counter was reset.

    A fall is one wrap if that makes a step of at most half the range, which polling at a quarter of the wrap
    time guarantees, and one that is possible: at most `most_per_s` counts for each second between the two
    readings, which were made at `seconds`. Any other fall is a reset, across which nothing is counted.
    """
    steps = np.diff(raw)
    fell = steps < 0
    if wrap is not None:
        most = np.full(steps.size, wrap // 2, dtype=np.float64)
        if seconds is not None and most_per_s is not None:
            most = np.minimum(most, most_per_s * (np.diff(seconds) + _LATE_S))
        around = fell & (steps + wrap >= 0) & (steps + wrap <= most)
        steps = np.where(around, steps + wrap, steps)
        fell = fell & ~around
    steps = np.where(fell, 0, steps)
    return np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(steps, dtype=np.int64))), fell


def count_between(series: Series, window: Window, *, outside: tuple[float | None, float | None]) -> Counted:
    """What `series`, a cumulative quantity, counted within `window`.

    Each step of the counter happened between the polls around it; `steptimes.timed` says when, and
    `edges.spent` places both edges of the window between the steps around them. The sum at an edge is never
    less than at the last step surely before it, nor more than at the first surely after it. `outside` are
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
    steps, sure, common = _steps(series, (before, after), counts, end_s=end_s)
    if not np.any(sure & (steps.time > 0) & (steps.time < end_s)):
        return Counted(None, blind_s=blind_s, stuck=True, reason="the counter never moved within the window")
    if series.quantity.unit == "J" and _stands_still(before, counts, end_s):
        return Counted(None, blind_s=blind_s, stuck=True, reason="the counter stood still within the window")
    amount, sd = spent(steps.part(sure), end_s, common, outside=outside, lockable=True)
    start, end = _bounds(steps, 0.0), _bounds(steps, end_s)
    amount = min(max(amount, end[0] - start[1]), end[1] - start[0])
    most = float(np.hypot(start[1] - start[0], end[1] - end[0])) / 2
    sd = float(np.hypot(min(sd, most), series.quantity.scale / 2))
    return Counted(amount, sd, blind_s=blind_s)


def _seconds(t_ns: Integers, window: Window, first: int, last: int) -> Floats:
    return np.asarray((t_ns[first:last] - window.start_ns) * 1e-9, dtype=np.float64)


def _steps(
    series: Series, read: tuple[Floats, Floats], counts: Integers, *, end_s: float
) -> tuple[Steps, NDArray[np.bool_], Floats]:
    """The moves of the counter around both edges, which of them have a time, and the error they share."""
    before, after = read
    moved = np.flatnonzero(np.diff(counts)) + 1
    middle = (before[moved - 1] + after[moved]) / 2
    start, end = int(np.searchsorted(middle, 0.0)), int(np.searchsorted(middle, end_s))
    kept = [(max(0, start - _NEIGHBOURS), start + _NEIGHBOURS), (end - _NEIGHBOURS, end + _NEIGHBOURS)]
    moments = [np.array([0.0]), np.array([end_s])]
    if kept[0][1] >= kept[1][0]:
        kept, moments = [(kept[0][0], kept[1][1])], [np.array([0.0, end_s])]
    step_s = None if series.quantity.step_ns is None else series.quantity.step_ns * 1e-9
    parts, sure, common = [], [], np.zeros((2, 2))
    for number, ((first, last), moment) in enumerate(zip(kept, moments, strict=True)):
        some = moved[first:last]
        low, high = before[some - 1], after[some]
        if step_s is not None:
            low = np.maximum(low, before[some] - step_s)
        times = timed(low, high, moment, period_s=step_s)
        total = np.asarray(counts[some] * series.quantity.scale, dtype=np.float64)
        sure.append(times.sure)
        parts.append(Steps(low, high, times.time, times.sd, total))
        common[number : number + moment.size, number : number + moment.size] = times.common
    whole = (
        np.concatenate(columns)
        for columns in zip(*((s.low, s.high, s.time, s.sd, s.total) for s in parts), strict=True)
    )
    return Steps(*whole), np.concatenate(sure), common


def _stands_still(read: Floats, counts: Integers, end_s: float) -> bool:
    """Whether a counter that moved often stood still for a second in the window, though it was read.

    No board draws nothing: ten of its usual steps without one are a fault.
    """
    moved = read[np.flatnonzero(np.diff(counts)) + 1]
    if moved.size < 2:
        return False
    moments = np.concatenate((np.zeros(1), moved[(moved > 0) & (moved < end_s)], np.array([end_s])))
    reads = np.diff(np.searchsorted(read, moments))
    still = np.diff(moments) > max(_STILL_S, _STILL_STEPS * float(np.median(np.diff(moved))))
    return bool(np.any(still & (reads > _STILL_STEPS)))


def _bounds(steps: Steps, at_s: float) -> tuple[float, float]:
    """The least and the greatest that the sum can have been at `at_s`, a sum that never falls."""
    before, after = steps.total[steps.high <= at_s], steps.total[steps.low >= at_s]
    lowest = float(before[-1]) if before.size else -np.inf
    return lowest, float(after[0]) if after.size else np.inf
