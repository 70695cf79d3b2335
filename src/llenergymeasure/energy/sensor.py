"""What kind of sensor is this: how often is it updated, what does it average over, how far is it behind?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from llenergymeasure.energy.joules.curve import PART_TIME
from llenergymeasure.records import Series

Floats: TypeAlias = NDArray[np.float64]
SensorKind: TypeAlias = Literal["instant", "part_time", "average"]

NO_STEP = "power never stepped from one steady level to another while the sensor was read"

# What is taken for granted of an update period that was not seen (arXiv 2312.02741: 100 ms on most boards).
_USUAL_STEP_S = 0.1
_GRID_S = 0.01
# A step lies between two stretches of half a second, far enough apart for a mean over 1 s and its lag.
_PLATEAU_S = 0.5
_TRANSITION_S = 1.35
_BEFORE_S = 0.05
# Levels differ by so many of their own sds, and by this part of the largest difference in the trace.
_DISTINCT = 3.0
_LARGE = 0.4
# A mean over 1 s takes 0.65 s from 15 to 80 % of a step; a board's own rise was never seen to take half that.
_FROM, _TO = 0.15, 0.8
_AVERAGING_RISE_S = 0.42
_AVERAGING_SHARE = 0.75
_AVERAGE_S = 1.0
# Means over 1 s of loads that step were never seen to bend by more than 0.062, and of power that wanders by
# less than 0.062 (found by simulation).
_STRAIGHT = 0.065
# Windows that a sensor may look through, as parts of its update period.
_PARTS = np.array([0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
# In the middle between a quarter of a period and all of it.
_UNSEEN_PART = 0.625
# How much likelier one answer must be than the other.
_SURE = 20.0
_LARGEST_LAG_S = 0.3
_LEAST_EVENTS = 6
_CLEAN = 0.05
# What no fit of a lag can find: how long after its moment the load really began.
_UNSEEN_S = 0.004


@dataclass(frozen=True, slots=True)
class Sensor:
    """Updated every `step_ns` with the mean of the last `window_ns` as they were `lag_ns` ago.

    `part_time` looks at less than its period, `instant` at about all of it, `average` at about 1 s.
    `window_ns` is None where what was seen does not distinguish the first two; `kind` is then the likelier,
    and `lag_ns` is meant for a window of `_UNSEEN_PART` of a period. The lag is known to ± `lag_sd_ns` (sd),
    and is None where no step of known time was seen.
    """

    kind: SensorKind
    step_ns: int
    window_ns: int | None
    lag_ns: int | None = None
    lag_sd_ns: int = 0


def characterise(series: Series, edges_ns: Sequence[int] = ()) -> Sensor | None:
    """What the readings of `series` (a power) show of their sensor; None where `NO_STEP` was seen.

    Each step of power from one steady level to another is the sensor's step response. A mean over 1 s climbs
    for 1 s, up and down alike; a board that merely rises slowly falls fast, and is not taken to average.
    `edges_ns` are moments at which power is known to have stepped: only they show how far the sensor is
    behind, and with them what part of its period it looks at. Without them a sensor that jumps from level to
    level without a reading between, more often than chance allows, looks part-time.
    """
    start_ns = series.t_before_ns[0]
    time = ((series.t_before_ns - start_ns) + (series.t_after_ns - start_ns)) * 0.5e-9
    level = np.asarray(series.raw * series.quantity.scale, dtype=np.float64)
    steps = _steps(time, level)
    if not steps:
        return None
    moved = np.flatnonzero(np.diff(level)) + 1
    step_s = _period((time[moved] + time[moved - 1]) / 2, float(np.median(np.diff(time)))) or _USUAL_STEP_S
    edges_s = np.sort((np.asarray(edges_ns, dtype=np.int64) - start_ns) * 1e-9)
    rises = np.array([step.crossing(_TO) - step.crossing(_FROM) for step in steps])
    responses = [
        found for step in steps if (found := _response(step, edges_s, (time, level), step_s)) is not None
    ]
    if np.mean(rises > _AVERAGING_RISE_S) >= _AVERAGING_SHARE:
        if not any(step.is_straight(edges_s) for step in steps):
            return None
        return _average(responses, step_s, float(np.median(rises)) / (_TO - _FROM))
    # Under a load that swings by itself a reading on the way says less about what the sensor looks at, and
    # nothing of a field that may be a mean over 1 s.
    clean = [one for one in responses if one.scatter < _CLEAN]
    if series.quantity.name != "power_instant" and not any(step.scatter < _CLEAN for step in steps):
        return None
    if responses:
        return _fitted(clean or responses, step_s)
    return _by_jumps(steps, step_s)


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """One change of level: readings as parts of the way from the old level to the new one, at their times.

    `scatter` is how far readings on either level stray, as a part of the way.
    """

    time: Floats
    part: Floats
    scatter: float

    def crossing(self, part: float) -> float:
        return float(self.time[int(np.argmax(self.part >= part))])

    def is_straight(self, edges_s: Floats) -> bool:
        """Whether it is the straight climb of a mean over 1 s, from one of `edges_s` on if there are any.

        Power that wanders also climbs slowly, yet in no such line.
        """
        starts = self.time[0] + np.arange(0.0, max(0.01, float(np.ptp(self.time)) - _AVERAGE_S / 2), 0.01)
        climbs = np.clip((self.time[None, :] - starts[:, None]) / _AVERAGE_S, 0.0, 1.0)
        bends = np.sqrt(np.mean((climbs - self.part) ** 2, axis=1))
        since_s = float(starts[int(bends.argmin())]) - edges_s
        near = (since_s > -_USUAL_STEP_S) & (since_s < _LARGEST_LAG_S)
        return bool(bends.min() < _STRAIGHT and (not edges_s.size or np.any(near)))


def _steps(time: Floats, level: Floats) -> list[_Step]:
    """Changes from a level that held for a while to another that held for a while."""
    grid = np.arange(time[0], time[-1], _GRID_S)
    width, apart = round(_PLATEAU_S / _GRID_S), round(_TRANSITION_S / _GRID_S)
    if grid.size < 2 * width + apart:
        return []
    held = level[np.searchsorted(time, grid, side="right") - 1]
    mean, spread = _moving(held, width)
    old, new = mean[: -(width + apart)], mean[width + apart :]
    scatter = np.maximum(spread[: -(width + apart)], spread[width + apart :])
    size = np.abs(new - old)
    large = _LARGE * float(size.max())
    distinct = (size > _DISTINCT * scatter) & (size > large) & (size > 0)
    found, edges = [], np.flatnonzero(np.diff(np.concatenate(([0], distinct.astype(np.int8), [0]))))
    for first, last in edges.reshape(-1, 2):
        at = first + int(np.argmax(size[first:last] - scatter[first:last]))
        start_s, end_s = (float(grid[at + width]) - _BEFORE_S, float(grid[at + width + apart]) + _BEFORE_S)
        begin, end = np.searchsorted(time, (start_s, end_s))
        part = (level[begin:end] - old[at]) / (new[at] - old[at])
        if part.size and part[0] < _FROM and np.any(part >= _TO):
            found.append(_Step(time[begin:end], part, float(scatter[at] / size[at])))
    return found


def _moving(values: Floats, width: int) -> tuple[Floats, Floats]:
    """Mean and sd of each `width` neighbours."""
    centred = values - values.mean()
    sums, squares = (np.concatenate(([0.0], np.cumsum(x))) for x in (centred, centred**2))
    mean = (sums[width:] - sums[:-width]) / width
    variance = (squares[width:] - squares[:-width]) / width - mean**2
    return mean + values.mean(), np.sqrt(np.maximum(variance, 0.0))


def _period(events: Floats, poll_s: float) -> float | None:
    """The update period, from changes that follow one another as fast as most do."""
    between = np.diff(events)
    if between.size < _LEAST_EVENTS:
        return None
    usual = float(np.percentile(between, 25))
    # Where polls are about as far apart as updates, one poll or two lie between neighbours.
    near = between[between < (1.6 if usual > 3 * poll_s else 2.2) * usual]
    if near.size < _LEAST_EVENTS or near.size < between.size / 3:
        return None
    return float(near.mean())


def _average(responses: Sequence[_Response], step_s: float, window_s: float) -> Sensor:
    """A mean over `window_s`, behind by what its climb says: (time since the edge) − part × window."""
    # Drivers document 1 s and nothing else; a load that begins with a peak climbs faster at first.
    if abs(window_s - _AVERAGE_S) < 0.4 * _AVERAGE_S:
        window_s = _AVERAGE_S
    lags, bends = [], []
    for one in responses:
        climbing = (one.part > 0.08) & (one.part < 0.92)
        if np.any(climbing):
            by_point = one.since[climbing] - one.part[climbing] * window_s
            lags.append(float(np.median(by_point)))
            bends.append(float(np.std(by_point)))
    step_ns, window_ns = round(step_s * 1e9), round(window_s * 1e9)
    if not lags:
        return Sensor("average", step_ns, window_ns)
    # A climb that is not straight says that power did more than step, and then less of the lag.
    spread_s = math.hypot(max(float(np.std(lags)), 2 * _UNSEEN_S), float(np.mean(bends))) / math.sqrt(
        len(lags)
    )
    lag_ns = round(max(0.0, float(np.median(lags))) * 1e9)
    return Sensor("average", step_ns, window_ns, lag_ns, round((spread_s + _UNSEEN_S) * 1e9))


@dataclass(frozen=True, slots=True, eq=False)
class _Response:
    """Updates at `since` seconds after the edge that showed `part` of the way; `scatter` as in `_Step`."""

    since: Floats
    part: Floats
    scatter: float


def _response(step: _Step, edges_s: Floats, read: tuple[Floats, Floats], step_s: float) -> _Response | None:
    """What the sensor showed after an edge of known time, by update; None where no edge belongs to it."""
    # The known moment that this step answers: the last one before it was well under way.
    before = edges_s[edges_s <= step.crossing(_FROM) + 0.02]
    longest_s = _LARGEST_LAG_S + _USUAL_STEP_S + _BEFORE_S
    if not before.size or step.crossing(_FROM) - before[-1] >= longest_s:
        return None
    edge_s = float(before[-1])
    time, level = read
    first, last = np.searchsorted(time, (edge_s - 30 * step_s, edge_s + 30 * step_s))
    moved = np.flatnonzero(np.diff(level[first:last])) + first + 1
    seen = (time[moved - 1] + time[moved]) / 2
    if seen.size < 3:
        return None
    # Updates come evenly, and reads are up to a period of theirs late: halfway between both.
    number = np.round((seen - seen[0]) / step_s)
    times = (seen + np.polyval(np.polyfit(number, seen, 1), number)) / 2
    near = (times > edge_s - step_s) & (times < step.time[-1])
    part = np.interp(time[moved[near]], step.time, step.part)
    return _Response(times[near] - edge_s, part, step.scatter)


def _fitted(responses: Sequence[_Response], step_s: float) -> Sensor:
    """Window and lag for which updates climb as they did, by least squares.

    An update has come (time since the edge − lag) / window of the way.
    """
    early_s = _LARGEST_LAG_S + 2 * step_s
    rows = [
        np.stack((one.since, one.part, np.full_like(one.since, 1 / (one.scatter + 0.02) ** 2)))
        for one in responses
    ]
    s, r, w = np.concatenate([row[:, row[0] < early_s] for row in rows], axis=1)
    lags = np.arange(0.0, _LARGEST_LAG_S, 0.0025)
    climbed = (s - lags[None, :, None]) / (_PARTS[:, None, None] * step_s)
    cost = np.sum(w * (np.clip(climbed, 0.0, 1.0) - r) ** 2, axis=2)
    likely = np.exp(-0.5 * (cost - cost.min()) / max(1.0, float(cost.min()) / max(1, s.size - 2)))
    kind, window_s = _kind(_PARTS * step_s, likely.max(axis=1), step_s)
    # What is seen best is when the middle of the window was.
    middle = lags + _PARTS[:, None] * step_s / 2
    mean_s = float(np.sum(likely * middle) / likely.sum())
    spread_s = math.sqrt(float(np.sum(likely * (middle - mean_s) ** 2) / likely.sum())) + _UNSEEN_S
    mean_s = max(0.0, mean_s - (_UNSEEN_PART * step_s if window_s is None else window_s) / 2)
    window_ns = None if window_s is None else round(window_s * 1e9)
    return Sensor(kind, round(step_s * 1e9), window_ns, round(mean_s * 1e9), round(spread_s * 1e9))


def _kind(windows_s: Floats, likely: Floats, step_s: float) -> tuple[SensorKind, float | None]:
    """Part-time or not, and the likeliest window; None where neither is much likelier than the other."""
    part_time = windows_s < PART_TIME * step_s
    some, all_of_it = float(likely[part_time].max()), float(likely[~part_time].max())
    kind: SensorKind = "part_time" if some > all_of_it else "instant"
    sure = max(some, all_of_it) > _SURE * min(some, all_of_it)
    return kind, float(windows_s[int(np.argmax(likely))]) if sure else None


def _by_jumps(steps: Sequence[_Step], step_s: float) -> Sensor:
    """Part-time where fewer steps show a reading on the way than a sensor that sees everything would."""
    clean = [step for step in steps if step.scatter < _CLEAN]
    margin = 0.06
    caught = sum(bool(np.any((step.part > margin) & (step.part < 1 - margin))) for step in clean)
    chance = (1 - 2 * margin) * _PARTS
    kind, window_s = _kind(_PARTS * step_s, chance**caught * (1 - chance) ** (len(clean) - caught), step_s)
    window_ns = None if window_s is None else round(window_s * 1e9)
    return Sensor(kind, round(step_s * 1e9), window_ns)
