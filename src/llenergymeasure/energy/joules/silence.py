"""How many joules did a block of passes take that lies between two silences?

Before the block and after it the worker draws constant power, so that nothing has to be believed about the
inside: the energy of the block is what the source counted from an event in the first silence to one in the
second, less quiet power for the time between those events and the block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from llenergymeasure.energy.joules.amid import between, modelled_energy
from llenergymeasure.energy.joules.curve import Curve, aliasing_j
from llenergymeasure.energy.joules.quiet import Quiet, borrowed, quiet
from llenergymeasure.energy.joules.sources import measured
from llenergymeasure.energy.joules.spent import Spent, Term
from llenergymeasure.records import Method, Trace, Window

# The lag shows in what is left to count at the end of a block, judged by the power over this long.
_LAG_OVER_S = 0.8
_LEAST_EVENTS = 4
_LEAST_UNSURE_S = 0.005


def block_energy(
    trace: Trace, domain: str, *, before: Window, passes: Sequence[Window], after: Window
) -> Spent:
    """The energy of `passes`, which follow one another, between the silences `before` and `after`.

    The counter counts where there is one, else the power field that averages least; where both are there
    they are compared. Where a silence shows too little of a source, its edges are interpolated as in `amid`,
    with the interval that takes. Modelled domains need no silences. Under 1 s there is no value.
    """
    facts = trace.domain(domain)
    if facts.model is not None:
        return modelled_energy(trace, facts, passes)
    span = Window(before.start_ns, after.end_ns)
    return measured(trace, facts, passes, span, lambda source: _spent(source, before, passes, after))


@dataclass(frozen=True, slots=True)
class _Block:
    """A block from `start` to `end` (seconds of `source`) between two quiet powers."""

    source: Curve
    start: float
    end: float
    before: Quiet
    after: Quiet

    def total_at_start(self, delay: float, *, trends: bool = True) -> float:
        """What the source shows `delay` after the start: from the last event before it on, at quiet power."""
        first, until = self.before.last, self.start + delay
        since = float(self.source.time[first])
        trend_j = self.before.trend_j(since, until) if trends else 0.0
        return float(self.source.total[first]) + self.before.joules(since, until) + trend_j

    def total_at_end(self, delay: float, *, trends: bool = True) -> float:
        """What it shows `delay` after the end: back from the first event in the silence, at quiet power."""
        last, since = self.after.first, self.end + delay
        until = float(self.source.time[last])
        trend_j = self.after.trend_j(since, until, floor_w=self.before.floor_w) if trends else 0.0
        return float(self.source.total[last]) - self.after.joules(since, until) - trend_j

    def joules(self, delay: float, *, trends: bool = True) -> float:
        return self.total_at_end(delay, trends=trends) - self.total_at_start(delay, trends=trends)

    def delay_s(self) -> tuple[float, float] | None:
        """By how much the source is behind ± what, as the end of the block shows; None where it does not.

        It is what the source still counts after the end, over the power by which the end stands out.
        """
        least, most = self.source.delays_s
        since = max(self.start + self.source.lag_s, self.end - _LAG_OVER_S)
        inside = slice(*np.searchsorted(self.source.time, (since, self.end)))
        time, total = self.source.time[inside] - self.end, self.source.total[inside]
        if time.size < _LEAST_EVENTS:
            return None
        (power, total_at_end), left, *_ = np.polyfit(time, total, 1, full=True)
        # A line through n points that scatter by s is known to 2 s / √n at its end.
        squares = float(left[0]) / (time.size - 2) if left.size else 0.0
        timing = float(np.mean(self.source.half[inside] ** 2)) / 3 * float(power) ** 2
        scatter_j = math.sqrt(max(squares, timing))
        above_w = float(power) - self.after.power_w
        unsure = 1.96 * 2 * scatter_j / math.sqrt(time.size) / max(above_w, 1e-9) + _LEAST_UNSURE_S
        if above_w <= 0 or unsure > (most - least) / 2:
            return None
        seen = (self.total_at_end(0.0, trends=False) - float(total_at_end)) / above_w
        return float(np.clip(seen, least, most)), unsure


def _spent(source: Curve, before: Window, passes: Sequence[Window], after: Window) -> Spent:
    method: Method = "counter" if source.quantity.unit == "J" else "sampled"
    (before_s, _), (_, after_s) = source.seconds(before), source.seconds(after)
    start, end = source.seconds(Window(passes[0].start_ns, passes[-1].end_ns))
    if (fault := source.why_not(start, end)) is not None:
        flag, reason = fault
        return Spent(source.quantity.source, method, None, flags=(flag,) if flag else (), reason=reason)
    # What the source shows at first in a silence belongs to what was before it.
    first = quiet(source, before_s + source.lag_s, start)
    second = quiet(source, end + source.lag_s, after_s)
    if source.quantity.unit == "J" and second is None and first is not None:
        second = borrowed(first, source, end + source.lag_s, after_s)
    if source.quantity.unit == "J" and first is None and second is not None:
        first = borrowed(second, source, before_s, start)
    if first is None or second is None:
        return _without(source, passes, (before_s, after_s))
    block = _Block(source, start, end, first, second)
    if fault := source.why_not(float(source.time[block.before.last]), float(source.time[block.after.first])):
        return Spent(source.quantity.source, method, None, flags=(fault[0],), reason=fault[1])
    return _between_silences(block, passes)


def _without(source: Curve, passes: Sequence[Window], silences: tuple[float, float]) -> Spent:
    """A block with a silence in which the source says too little."""
    spent = between(source, passes)
    start, end = silences
    beside = np.flatnonzero((source.time >= start) & (source.time <= end))
    if spent.joules is None or source.quantity.unit == "W" or beside.size == 0:
        return spent
    last_read = float(source.reads[-1])
    if min(end, last_read) - float(source.time[beside[-1]]) > 1.0:
        return replace(
            spent,
            joules=None,
            terms=(),
            shares=(),
            share_half_widths=(),
            flags=("sensor_stuck",),
            reason="the counter stopped in the silence after the block",
        )
    return spent


def _between_silences(block: _Block, passes: Sequence[Window]) -> Spent:
    source, quiets = block.source, (block.before, block.after)
    delays = np.linspace(*source.delays_s, 5)
    by_delay = [block.joules(float(delay)) for delay in delays]
    middle = float(delays[2])
    joules = by_delay[2]
    away = (
        block.start + middle - float(source.time[block.before.last]),
        float(source.time[block.after.first]) - block.end - middle,
    )
    anchors = (block.before.last_j, block.after.first_j)
    others = (block.before.first_j, block.after.last_j)
    sides = tuple(zip(quiets, anchors, others, away, strict=True))
    untold = (
        block.before.untold_j(block.start + middle - away[0], block.start + middle),
        block.after.untold_j(block.end + middle, block.end + middle + away[1]),
    )
    flat = [block.joules(float(delay), trends=False) for delay in delays]
    tail = max(abs(one - other) for one, other in zip(by_delay, flat, strict=True))
    terms = [
        Term("timing", math.hypot(*(anchor * (1 + gap / at.seconds) for at, anchor, _, gap in sides))),
        Term("quiet power", math.hypot(*(other * gap / at.seconds for at, _, other, gap in sides), *untold)),
        Term("lag", max(abs(one - joules) for one in by_delay), common=True),
        Term("tail", tail, common=True),
    ]
    if source.quantity.unit == "W":
        terms.append(Term("aliasing", aliasing_j(source, block.start, block.end)))
    flags = ("recorder_gap",) if source.blind(block.start, block.end) else ()
    if any(at.rises for at in quiets):
        flags = (*flags, "silence_broken")
        terms.append(Term("edges", math.hypot(source.hidden(block.start), source.hidden(block.end))))
    spent = Spent(
        source.quantity.source,
        "counter" if source.quantity.unit == "J" else "sampled",
        joules,
        tuple(term for term in terms if term.half_width_j),
        quiet_w=(block.before.power_w, block.after.power_w),
        flags=flags,
    )
    return _shared(block, spent, passes)


def _shared(block: _Block, spent: Spent, passes: Sequence[Window]) -> Spent:
    """With the share of each pass: between the events around its edges, moved by the lag."""
    least, most = block.source.delays_s
    seen = block.delay_s()
    delay, unsure = ((least + most) / 2, (most - least) / 2) if seen is None else seen
    inner = [block.source.seconds(one)[1] for one in passes[:-1]]
    joules = spent.joules or 0.0

    def at(delay: float) -> list[float]:
        inside = [block.source.at(edge + delay) for edge in inner]
        totals = [block.total_at_start(delay), *inside, block.total_at_end(delay)]
        off = (joules - (totals[-1] - totals[0])) / (block.end - block.start)
        lengths = [one.duration_s for one in passes]
        return [float(j) + off * s for j, s in zip(np.diff(totals), lengths, strict=True)]

    shares = at(delay)
    moved = [
        max(abs(a - b), abs(c - b))
        for a, b, c in zip(at(delay - unsure), shares, at(delay + unsure), strict=True)
    ]
    hidden = [0.0, *(block.source.hidden(edge + delay) for edge in inner), 0.0]
    whole = spent.half_width_j / len(passes)
    halves = [
        math.hypot(hidden[number], hidden[number + 1], moved[number], whole) for number in range(len(passes))
    ]
    return replace(
        spent, shares=tuple(shares), share_half_widths=tuple(halves), lag_s=None if seen is None else delay
    )
