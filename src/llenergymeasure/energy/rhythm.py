"""When does a counter step next, and when is it worth looking at?"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

# Successive multiples of the golden ratio, taken modulo 1, stay far from every fraction: polls spaced by them
# share no factor with the 20, 50 or 100 ms at which counters step.
_GOLDEN = 0.6180339887498949
_LEARNING_NS = 4_000_000
_LEARN_FROM = 7
_LEARN_AT_MOST_NS = 2_000_000_000
_RETRY_NS = 10_000_000_000
# A step is looked for every twentieth of the period, or as finely as its jitter or the driver's calls allow.
_FINENESS = 20
_MARGIN_SD = 2.5
_WIDEST_MARGIN = 0.45
# Memory of the filter that follows phase and period, in steps seen.
_MEMORY = 12
_LOST_AFTER = 3
# Steps located one after the other where not all can be: neighbours tell the period without any doubt.
_IN_A_ROW = 8
# How well a period is known that many steps have told, in units of how finely each was located.
_DRIFT = 0.04
# A step found anywhere in its period scatters by 0.29 periods: no rhythm.
_LOST_SD = 0.22


@dataclass(frozen=True, slots=True)
class Pace:
    """How closely to look: no stretch is much longer than `gap_s` without a read, and steps are located every
    `stride_s`, or as often as `polls_per_s` allow on the long run: all of them, or so many in a row and then
    none for a while. `may_learn` allows the burst of polls that learns an unknown rhythm.
    """

    gap_s: float
    stride_s: float
    polls_per_s: float
    may_learn: bool = True


@dataclass(frozen=True, slots=True)
class _Event:
    """The counter moved between `low_ns` and `high_ns`, `reads` reads after it had moved before."""

    low_ns: int
    high_ns: int
    reads: int

    @property
    def middle_ns(self) -> float:
        return (self.low_ns + self.high_ns) / 2


class Rhythm:
    """Learns the period and the phase of one counter from its reads, and says when to read it next.

    Tell every read to `saw`, ask `due_ns` for the next. While nothing is known it asks for a burst of
    irregular polls; once known, for one read just before a step and more, closely, until the step has been
    seen; and for a read now and then between. A counter that can't be followed (it stands still, or steps
    faster than it can be read) is read irregularly.
    """

    def __init__(self) -> None:
        self.period_ns: float | None = None
        self._latency_ns = 0.0
        self._before_ns = self._after_ns = 0
        self._raw: int | None = None
        self._polls = 0
        self._events: deque[_Event] = deque(maxlen=_LEARN_FROM)
        self._reads = 0
        self._burst_from_ns: int | None = None
        self._resting_until_ns = 0
        self._moves: deque[int] = deque([0, 0], maxlen=2)
        self._phase_ns = self._variance = 0.0
        self._hits = self._misses = 0
        self._reads_per_step = 2.0
        self._row = 0
        self._target_ns = self._first_ns = self._next_ns = self._margin_ns = 0.0
        self._searching = False
        self._search_reads = 0

    @property
    def latency_ns(self) -> float:
        """What a read takes, on the average of the last few."""
        return self._latency_ns

    @property
    def seen_ns(self) -> int:
        """When the last read ended that gave a count."""
        return self._after_ns

    @property
    def learning(self) -> bool:
        return self.period_ns is None and self._after_ns >= self._resting_until_ns

    def stepped_twice_since(self, t_ns: int) -> bool:
        """Whether the counter was seen to step twice, both times after `t_ns`."""
        return self._moves[0] >= t_ns

    def saw(self, before_ns: int, after_ns: int, raw: int) -> None:
        moved = self._raw is not None and raw != self._raw
        took_ns = after_ns - before_ns
        self._latency_ns += (took_ns - self._latency_ns) / (8 if self._polls else 1)
        self._polls += 1
        if moved:
            self._moves.append(self._before_ns)
        if self.period_ns is not None:
            self._track(before_ns, after_ns, self.period_ns, moved=moved)
        elif after_ns >= self._resting_until_ns:
            self._learn(before_ns, after_ns, moved=moved)
        self._before_ns, self._after_ns, self._raw = before_ns, after_ns, raw

    def due_ns(self, pace: Pace) -> int:
        """When the next read should begin, counted from the last one."""
        uneven = 0.75 + 0.5 * (self._polls * _GOLDEN % 1)
        now_ns = self._after_ns
        if self.period_ns is None:
            if pace.may_learn and self.learning:
                return round(now_ns + max(_LEARNING_NS, 0.2 * self._latency_ns) * uneven)
            self._burst_from_ns = None
            return round(now_ns + pace.gap_s * 1e9 * uneven)
        if self._searching:
            return round(max(now_ns, self._next_ns))
        self._aim(pace, self.period_ns)
        filler_ns = now_ns + pace.gap_s * 1e9 * uneven
        return round(filler_ns if filler_ns + 0.3 * pace.gap_s * 1e9 < self._first_ns else self._first_ns)

    def _aim(self, pace: Pace, period_ns: float) -> None:
        """Choose the step to locate next."""
        affordable = math.ceil(self._reads_per_step / max(pace.polls_per_s * period_ns * 1e-9, 1e-9) - 0.2)
        stride = max(1, affordable, int(pace.stride_s * 1e9 / period_ns))
        if not pace.stride_s and affordable > 1:
            stride = 1 if self._row % _IN_A_ROW else (affordable - 1) * _IN_A_ROW
        # The first look is over a margin before the step, with an uneven part: looks then fall on ever other
        # phases of a step, so that many of them tell its time better than the distance between two looks.
        uneven = self._polls * _GOLDEN % 1
        grid_ns = self._grid_ns(period_ns)
        margin_ns = _MARGIN_SD * math.sqrt(self._variance) + (uneven + _DRIFT * (stride - 1)) * grid_ns
        self._margin_ns = min(margin_ns, _WIDEST_MARGIN * period_ns)
        lead_ns = self._margin_ns + self._latency_ns
        ahead = math.ceil((self._after_ns + lead_ns - self._phase_ns) / period_ns)
        self._target_ns = self._phase_ns + max(stride, ahead) * period_ns
        self._first_ns = self._target_ns - lead_ns

    def _grid_ns(self, period_ns: float) -> float:
        return max(period_ns / _FINENESS, math.sqrt(self._variance), self._latency_ns)

    def _track(self, before_ns: int, after_ns: int, period_ns: float, *, moved: bool) -> None:
        grid_ns, margin_ns = self._grid_ns(period_ns), self._margin_ns
        if self._searching:
            self._search_reads += 1
            if moved:
                self._hit(self._before_ns, after_ns, period_ns)
            elif before_ns > self._target_ns + _MARGIN_SD * math.sqrt(self._variance) + grid_ns:
                self._missed(self._target_ns, grid_ns)
            else:
                self._next_ns = before_ns + grid_ns
        elif before_ns >= self._first_ns - 1e5:
            # A read that came late and finds the counter moved does not tell when.
            late = after_ns > self._target_ns - margin_ns + grid_ns
            fresh = self._before_ns > self._target_ns - period_ns + margin_ns
            if moved and fresh and not late:
                self._missed(self._target_ns - margin_ns, grid_ns)
            elif late and moved:
                self._phase_ns += round((self._target_ns - self._phase_ns) / period_ns) * period_ns
            else:
                self._searching, self._search_reads, self._next_ns = True, 1, before_ns + grid_ns

    def _hit(self, low_ns: int, high_ns: int, period_ns: float) -> None:
        """The step aimed at happened within `low_ns` to `high_ns`: follow it, by least squares while few were
        seen and with a memory of the last dozen later on (an expanding and then a fading g-h filter).
        """
        off_ns, width_ns = (low_ns + high_ns) / 2 - self._target_ns, high_ns - low_ns
        steps = max(1, round((self._target_ns - self._phase_ns) / period_ns))
        self._hits = min(_MEMORY, self._hits + 1)
        spread = (self._hits + 1) * (self._hits + 2)
        self._phase_ns = self._target_ns + 2 * (2 * self._hits + 1) / spread * off_ns
        self.period_ns = period_ns + 6 / spread * off_ns / steps
        self._variance = max(0.0, self._variance + (off_ns**2 - width_ns**2 / 12 - self._variance) / 8)
        self._reads_per_step += (self._search_reads - self._reads_per_step) / 8
        self._row += 1
        self._misses, self._searching = 0, False
        if self._variance > (_LOST_SD * period_ns) ** 2:
            self._forget()

    def _missed(self, phase_ns: float, grid_ns: float) -> None:
        """The step was not where it should have been: look wider, and after a few of those learn anew."""
        self._phase_ns, self._searching = phase_ns, False
        self._variance = 2 * self._variance + (grid_ns / 2) ** 2
        self._hits = max(3, self._hits - 4)
        self._misses += 1
        if self._misses >= _LOST_AFTER:
            self._forget()

    def _forget(self) -> None:
        self.period_ns = None
        self._burst_from_ns = None
        self._events.clear()

    def _learn(self, before_ns: int, after_ns: int, *, moved: bool) -> None:
        self._reads += 1
        if self._burst_from_ns is None:
            self._burst_from_ns, self._reads = before_ns, 0
            self._events.clear()
        elif moved:
            self._events.append(_Event(self._before_ns, after_ns, self._reads))
            self._reads = 0
            if len(self._events) == _LEARN_FROM:
                self._lock()
        if self.period_ns is None and after_ns - self._burst_from_ns > _LEARN_AT_MOST_NS:
            self._burst_from_ns = None
            self._resting_until_ns = after_ns + _RETRY_NS

    def _lock(self) -> None:
        """Take over period and phase where the steps seen are single ones and one period apart."""
        events = list(self._events)
        between = [later.middle_ns - sooner.middle_ns for sooner, later in pairwise(events)]
        period_ns = median(between)
        if sum(event.reads >= 2 for event in events[1:]) < len(between) - 1:
            return
        numbers = [0]
        for gap_ns in between:
            strides = round(gap_ns / period_ns)
            if strides < 1 or abs(gap_ns - strides * period_ns) > 0.4 * period_ns:
                return
            numbers.append(numbers[-1] + strides)
        height_ns, slope_ns, rest = _line(numbers, [event.middle_ns for event in events])
        blur = sum((event.high_ns - event.low_ns) ** 2 for event in events) / len(events) / 12
        self._phase_ns, self.period_ns = height_ns + slope_ns * numbers[-1], slope_ns
        self._variance = max(0.0, rest - blur)
        self._hits, self._misses, self._row, self._searching = 5, 0, 1, False


def _line(x: list[int], y: list[float]) -> tuple[float, float, float]:
    """Height, slope and the mean square of what is left, by least squares."""
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    square = sum((at - mean_x) ** 2 for at in x)
    slope = sum((at - mean_x) * (value - mean_y) for at, value in zip(x, y, strict=True)) / square
    height = mean_y - slope * mean_x
    rest = sum((value - height - slope * at) ** 2 for at, value in zip(x, y, strict=True)) / (len(x) - 2)
    return height, slope, rest
