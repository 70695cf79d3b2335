"""What did a source say of the energy up to each moment, and how far is it behind?

A counter, a power field (its readings held and summed) and CPU time all become one kind of curve, so that
blocks, single windows and idle power are computed by the same few lines.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from llenergymeasure.energy.counter import MOST_W, unwrap
from llenergymeasure.records import Domain, Quantity, Series, Window

if TYPE_CHECKING:
    from llenergymeasure.records import Integers

Floats: TypeAlias = NDArray[np.float64]

# Of a uniform law of half-width 1 the standard deviation is 1/√3: its 95 % half-width as part of a sum.
UNIFORM95 = 1.96 / 3**0.5
# An event is usable when its moment is known to ± 3 ms; where reads came late, those known less well are
# better than none.
_USABLE_S = (0.003, 0.006, 0.012, 0.025, 0.05, 0.1)
_ENOUGH = 3
# How far a counter may be behind. GPU boards: 40 to 120 ms (arXiv 2312.02741); what steps every few
# milliseconds, as RAPL does every one (Intel SDM 3B, 16.10), is behind by no more than two of its steps.
_COUNTER_LAG_S = 0.15
_FAST_STEP_S = 0.01
# Power fields: 75 to 250 ms behind (the same paper), a mean over 1 s where NVML documents one.
_POWER_LAG_S = 0.25
_MEMORY_S = {"power_instant": 0.1}
_MEAN_S = 1.0
_KNOWN_LAG_S = 0.02
# Read this far on each side of a window, to find the events around its edges.
_MARGIN_S = 5.0
_BLIND_S = 1.0
_STILL_STEPS = 10
# What is taken for granted of an update period that was not seen (arXiv 2312.02741).
_USUAL_STEP_S = 0.1
# Less than this part of its period, and a sensor is part-time.
PART_TIME = 0.75
# How far from a moment the highest power is looked for that may hide beside it.
_NEAR_S = 1.0


def memory_s(quantity: Quantity) -> float:
    """How long a power field remembers: what it averages over. 0 for a counter."""
    if quantity.unit != "W":
        return 0.0
    return _MEMORY_S.get(quantity.name, _MEAN_S) if quantity.window_ns is None else quantity.window_ns * 1e-9


def sees_everything(quantity: Quantity) -> bool:
    """Whether a power field is known to look at all of the time, so that it can't alias with a rhythm.

    The field that is named an average does; the others differ by board and driver (arXiv 2312.02741).
    """
    if quantity.window_ns is not None and quantity.step_ns:
        return quantity.window_ns >= PART_TIME * quantity.step_ns
    return quantity.name == "power_average"


def _power_lag_s(quantity: Quantity) -> float:
    """How far a power field of unknown lag may be behind: a slow one by as much as one of its updates."""
    return max(_POWER_LAG_S, (quantity.step_ns or 0) * 1e-9)


def most_lag_s(quantity: Quantity) -> float:
    """How long after a moment a source may still change because of what happened before it.

    A silence after a block has to be longer than that, and one before it too where work came before.
    """
    step_s = (quantity.step_ns or 0) * 1e-9
    if quantity.lag_ns is not None:
        return quantity.lag_ns * 1e-9 + memory_s(quantity) + step_s + _KNOWN_LAG_S
    if quantity.unit == "W":
        return _power_lag_s(quantity) + memory_s(quantity)
    return 2 * step_s if 0 < step_s <= _FAST_STEP_S else _COUNTER_LAG_S


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """`total` (joules, or CPU seconds) had been reached at `time` ± `half` (seconds after `origin_ns`).

    Each point is an event: the moment a read first showed a new value. `levels` are the readings of a power
    field, each held from its point to the next. `reads` are the moments of all reads, `resets` those across
    which nothing was counted.
    """

    quantity: Quantity
    origin_ns: int
    time: Floats
    half: Floats
    total: Floats
    reads: Floats
    resets: Floats
    levels: Floats | None = None

    @property
    def lag_s(self) -> float:
        return most_lag_s(self.quantity)

    @property
    def delays_s(self) -> tuple[float, float]:
        """The least and the greatest time by which the curve is behind the energy, on the average.

        A reading of a power field is the mean of its memory, and stands until the next one.
        """
        if self.quantity.unit in {"s", "bytes"}:
            return 0.0, 0.0
        if self.quantity.unit == "J" and self.quantity.lag_ns is None:
            return 0.0, self.lag_s
        least = memory_s(self.quantity) / 2
        if self.quantity.lag_ns is None:
            return least, least + _power_lag_s(self.quantity)
        known = least + self.quantity.lag_ns * 1e-9
        known += (self.quantity.step_ns or 0) * 0.5e-9 if self.quantity.unit == "W" else 0.0
        return max(0.0, known - _KNOWN_LAG_S), known + _KNOWN_LAG_S

    def seconds(self, window: Window) -> tuple[float, float]:
        return (window.start_ns - self.origin_ns) * 1e-9, (window.end_ns - self.origin_ns) * 1e-9

    def at(self, t: float) -> float:
        """The total at `t`, in a straight line between the events around it (or on from the last two)."""
        last = int(np.clip(np.searchsorted(self.time, t, side="right"), 1, self.time.size - 1))
        gap = float(self.time[last] - self.time[last - 1])
        part = (t - float(self.time[last - 1])) / gap if gap > 0 else 0.0
        return float(self.total[last - 1] + part * (self.total[last] - self.total[last - 1]))

    def hidden(self, t: float) -> float:
        """What the straight line at `t` may be off by: power may change at any moment between two events.

        Power that steps once between two events, by D, bends the curve by x (1 − x) × D × the time between
        them, x being the part of that time that has passed; D is taken to be up to twice the highest power
        nearby (of processors in use: that number). A field that averages hides as much within its memory.
        """
        last = int(np.clip(np.searchsorted(self.time, t, side="right"), 1, self.time.size - 1))
        gap = float(self.time[last] - self.time[last - 1])
        part = abs(t - float(self.time[last - 1])) / gap if gap > 0 else 0.0
        top = self.top(t, gap)
        step = top if self.quantity.unit == "s" else 2 * top
        timing = float(np.max(self.half[last - 1 : last + 1])) * top
        return math.hypot(step * max(abs(part * (1 - part)) * gap, memory_s(self.quantity) / 4), timing)

    def top(self, t: float, gap: float = 0.0) -> float:
        """The highest power near `t` (of processors in use: their number)."""
        return self.highest(slice(*np.searchsorted(self.time, (t - _NEAR_S - gap, t + _NEAR_S + gap))))

    def highest(self, part: slice = slice(None)) -> float:
        """The highest power between two events of a part. CPU time is accounted in ticks: one that falls
        between two reads close to each other is no more than one processor.
        """
        tick_s = (self.quantity.step_ns or 0) * 1e-9 if self.quantity.unit == "s" else 0.0
        rates = np.diff(self.total[part]) / np.maximum(np.diff(self.time[part]), max(tick_s, 1e-3))
        return float(np.max(rates, initial=0.0))

    def usable(self, start: float, end: float) -> NDArray[np.intp]:
        """The events that surely lie from `start` to `end` and whose moments are known well."""
        surely = (self.time - self.half >= start) & (self.time + self.half <= end)
        events = np.flatnonzero(surely)
        for limit in _USABLE_S:
            events = np.flatnonzero(surely & (self.half <= limit))
            if events.size >= _ENOUGH:
                break
        return events

    def why_not(
        self, start: float, end: float, *, around: tuple[float, float] | None = None
    ) -> tuple[str, str] | None:
        """Why it says nothing of what lies between two moments, as flag and reason; None where it does.

        `around` are the ends of the silences beside, where the source should go on counting.
        """
        if self.reads.size < 2 or self.reads[0] > start or self.reads[-1] < end:
            return "", "the trace does not reach from before the window to after it"
        first, last = around or (start, end)
        first, last = max(first, float(self.reads[0])), min(last, float(self.reads[-1]))
        if np.any((self.resets >= first) & (self.resets <= last)):
            return "counter_reset", "the counter was reset or jumped within the window"
        if self.quantity.unit != "J":
            return None
        inside = self.time[(self.time > first) & (self.time < last)]
        moments = np.concatenate(([first], inside, [last]))
        reads = np.diff(np.searchsorted(self.reads, moments))
        usual = float(np.median(np.diff(self.time))) if self.time.size > 2 else 0.0
        # No board draws nothing: ten of its usual steps without one are a fault.
        usual = max(usual, (self.quantity.step_ns or 0) * 1e-9)
        still = np.diff(moments) > max(_BLIND_S, _STILL_STEPS * usual)
        if not inside.size or self.time.size < 2 or np.any(still & (reads > _STILL_STEPS)):
            return "sensor_stuck", "the counter did not change within the window or the silence beside it"
        return None

    def blind(self, start: float, end: float) -> bool:
        """Whether more than a second between two moments was not read (of a slow source, two updates)."""
        touching = (self.reads[1:] >= start) & (self.reads[:-1] <= end)
        most = max(_BLIND_S, 2e-9 * (self.quantity.step_ns or 0))
        return bool(np.max(np.diff(self.reads)[touching], initial=0.0) > most)


def curve(series: Series, domain: Domain, span: Window) -> Curve:
    """The curve of `series` in `span` and a little around it, by the unit of its quantity."""
    margin_ns = round(max(_MARGIN_S, 2 * most_lag_s(series.quantity)) * 1e9)
    first = max(0, int(np.searchsorted(series.t_before_ns, span.start_ns - margin_ns)) - 2)
    last = int(np.searchsorted(series.t_before_ns, span.end_ns + margin_ns)) + 2
    kept = Series(
        series.quantity,
        series.t_before_ns[first:last],
        series.t_after_ns[first:last],
        series.raw[first:last],
    )
    before, after = (_seconds(t_ns, span) for t_ns in (kept.t_before_ns, kept.t_after_ns))
    if kept.raw.size < 2:
        nothing = np.zeros(0)
        return Curve(kept.quantity, span.start_ns, nothing, nothing, nothing, nothing, nothing)
    if kept.quantity.unit in {"W", "bytes"}:
        return _held(kept, span, (before + after) / 2)
    return _counted(kept, span, before, after, most_per_s=MOST_W[domain.kind] / kept.quantity.scale)


def _seconds(t_ns: Integers, span: Window) -> Floats:
    return np.asarray((t_ns - span.start_ns) * 1e-9, dtype=np.float64)


def _counted(series: Series, span: Window, before: Floats, after: Floats, *, most_per_s: float) -> Curve:
    quantity, reads = series.quantity, (before + after) / 2
    counts, fell = unwrap(series.raw, quantity.wrap, seconds=reads, most_per_s=most_per_s)
    if quantity.unit == "s":
        # CPU time runs on between reads, and stands still where nothing works: every read is a point.
        moved = np.arange(counts.size)
        low, high = before, after
    else:
        moved = np.flatnonzero(np.diff(counts)) + 1
        low, high = before[moved - 1], after[moved]
        if quantity.step_ns is not None:
            low = np.maximum(low, before[moved] - quantity.step_ns * 1e-9)
    total = np.asarray(counts[moved] * quantity.scale, dtype=np.float64)
    found = Curve(quantity, span.start_ns, (low + high) / 2, (high - low) / 2, total, reads, reads[1:][fell])
    return found if quantity.unit == "s" or quantity.step_ns is not None else _by_last_step(found, high)


def _by_last_step(found: Curve, high: Floats) -> Curve:
    """A read shows the last step before it, however long ago the read before was."""
    between = np.diff(found.time)
    close = found.half <= _USABLE_S[0]
    one_by_one = between[close[1:] & close[:-1]]
    if between.size == 0:
        return found
    # Reads from afar may miss steps, so that those that were seen lie further apart.
    step_s = float(np.median(one_by_one)) if one_by_one.size > 1 else 2 * float(np.median(between))
    low = np.maximum(found.time - found.half, high - step_s)
    if one_by_one.size > 1:
        least, most = float(np.min(one_by_one)), float(np.max(one_by_one))
        alone = high[1:] - low[:-1] < 2 * least
        low, high = (
            np.maximum(low, np.append(np.where(alone, low[1:] - most, -np.inf), -np.inf)),
            np.minimum(high, np.append(high[1:] - least, np.inf)),
        )
        low, high = np.minimum(low, high), np.maximum(low, high)
    return replace(found, time=(low + high) / 2, half=(high - low) / 2)


def _held(series: Series, span: Window, reads: Floats) -> Curve:
    """Each level from half-way between the reads around its change. Equal neighbours are data: they hold."""
    levels = np.asarray(series.raw * series.quantity.scale, dtype=np.float64)
    since = np.concatenate((reads[:1], (reads[1:] + reads[:-1]) / 2))
    total = np.concatenate(([0.0], np.cumsum(levels[:-1] * np.diff(since))))
    return Curve(
        series.quantity, span.start_ns, since, np.zeros(since.size), total, reads, np.zeros(0), levels
    )


def aliasing_j(source: Curve, start: float, end: float) -> float:
    """What the held readings of a power field may be off by for work between two moments (95 %).

    Each change was seen up to the time between two reads late, and its neighbours alike, since reads and
    updates drift past each other slowly: twice the variance of independent ones. A field that looks at a part
    of the time only samples power: the sd of its mean, from means of 1, 2, 4 … readings, so that a slow beat
    counts too.
    """
    if source.levels is None:
        return 0.0
    lag = source.lag_s
    seen = np.flatnonzero((source.time > start) & (source.time < end + lag))
    # What is not looked at of a period also hides the moment of a change.
    step_s = _USUAL_STEP_S if source.quantity.step_ns is None else source.quantity.step_ns * 1e-9
    unseen_s = 0.0 if sees_everything(source.quantity) else PART_TIME * step_s
    late = np.diff(source.levels[seen]) * np.hypot(np.diff(source.time[seen]), unseen_s)
    late_j = math.sqrt(2 * float(np.sum(late**2)) / 12)
    if sees_everything(source.quantity):
        return 1.96 * late_j
    inside = source.levels[(source.time > min(start + lag, end)) & (source.time < end)]
    readings = inside[np.diff(inside, prepend=np.nan) != 0]
    spread_w, size = 0.0, 1
    while size <= readings.size // 4:
        means = readings[: readings.size // size * size].reshape(-1, size).mean(axis=1)
        spread_w = max(spread_w, float(means.std(ddof=1)) / math.sqrt(means.size))
        size *= 2
    return 1.96 * math.hypot(late_j, spread_w * (end - start))
