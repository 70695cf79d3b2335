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
from numpy.typing import NDArray

from llenergymeasure.energy.joules.amid import between, missing, modelled_energy
from llenergymeasure.energy.joules.curve import Curve, aliasing_j
from llenergymeasure.energy.joules.quiet import Quiet, borrowed, quiet
from llenergymeasure.energy.joules.sources import measured, method_of
from llenergymeasure.energy.joules.spent import Spent, Term
from llenergymeasure.records import Trace, Window

# Power before an edge is judged over this long.
_POWER_OVER_S = 1.5
_LEAST_EVENTS = 4
_LEAST_UNSURE_S = 0.005
# The power at the very end of a block may be another one than that just before.
_LAG_MARGIN_S = 0.02
# A silence is no silence that draws so much more than the other one: this part of what the block draws above
# that, and of quiet power itself. Boards that settle stay below.
_LOUD_OF_BLOCK, _LOUD = 0.3, 0.25
# Less than this part of the energy is what sums are rounded by, and no error of a sensor.
_ROUNDING = 1e-12
# A lag is seen when no more than this part of what it may be is open to either side.
_SEEN = 0.4


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

    def ends(self, delay: float, *, trends: bool = True) -> tuple[float, float]:
        """What the source has counted of all before the block and of all up to its end, `delay` later."""
        start, end = self.start + delay, self.end + delay
        first, last = self.before.total(start), self.after.total(end)
        if trends:
            first += self.before.trend_j(start)
            last += self.after.trend_j(end, self.before.floor_w)
        return first, last

    def joules(self, delay: float, *, trends: bool = True) -> float:
        first, last = self.ends(delay, trends=trends)
        return last - first

    def loud_j(self) -> float:
        """Where one silence draws much more than the other: what that is if it began, or ended, at any moment
        between the block and the events by which it was seen; else 0.
        """
        before_w, after_w = self.before.power_w, self.after.power_w
        quiet_w, more_w = min(before_w, after_w), abs(after_w - before_w)
        block_w = self.joules(0.0) / (self.end - self.start) - quiet_w
        if more_w <= max(_LOUD_OF_BLOCK * block_w, _LOUD * quiet_w):
            return 0.0
        louder, edge = (self.after, self.end) if after_w > before_w else (self.before, self.start)
        return more_w * abs(louder.anchor_s - edge)

    def delay_s(self) -> tuple[float, float]:
        """By how much the source is behind ± what, as the start and the end of the block show.

        It is what the source still counts after the end, over the power by which the end stands out.
        """
        least, most = self._bounds_s()
        delay, unsure = (least + most) / 2, (most - least) / 2
        inside = self._before(self.end)
        time, total = self.source.time[inside] - self.end, self.source.total[inside]
        if time.size < _LEAST_EVENTS:
            return delay, unsure
        (power, total_at_end), left, *_ = np.polyfit(time, total, 1, full=True)
        above_w = float(power) - self.after.power_w
        if above_w <= 0:
            return delay, unsure
        # Power wanders, and the moments of events are known to their `half`.
        wanders = float(left[0]) / (time.size - 2) if left.size else 0.0
        timing = float(np.mean(self.source.half[inside] ** 2)) / 3 * float(power) ** 2
        by_end = (self.ends(0.0)[1] - float(total_at_end)) / above_w
        off = 1.96 * math.sqrt(max(wanders, timing)) / above_w + _LEAST_UNSURE_S
        if not least - off <= by_end <= most + off:
            return delay, unsure
        weight = unsure**2 / (unsure**2 + off**2)
        return float(np.clip(delay + weight * (by_end - delay), least, most)), off * math.sqrt(weight)

    def _bounds_s(self) -> tuple[float, float]:
        """The least and the greatest delay that the first event allows that stands out from the silence: it
        comes after the start, and the event before it did not, but for what noise hides.
        """
        source, (least, most) = self.source, self.source.delays_s
        if source.quantity.unit != "J":
            return least, most
        for event in range(int(np.searchsorted(source.time, self.start)), source.time.size - 1):
            t, half = float(source.time[event]), float(source.half[event])
            risen = float(source.total[event]) - self.before.total(t) - self.before.trend_j(t)
            noise = self.before.power_w * half + math.hypot(self.before.timing_j(t), self.before.unseen_j(t))
            if risen > 2 * noise:
                next_s = float(source.time[event + 1]) - t
                next_j = float(source.total[event + 1] - source.total[event])
                # On a clock that jumped two events may be of one moment.
                next_w = next_j / next_s if next_s > 0 else math.inf
                hidden_s = 2 * noise / max(next_w - self.before.power_w, 1e-9)
                earliest = float(source.time[event - 1] - source.half[event - 1]) - self.start - hidden_s
                most = float(np.clip(t + half - self.start, least, most))
                return float(np.clip(earliest, least, most)), most
        return least, most

    def delays_s(self) -> tuple[float, float]:
        """By how much the source may be behind, as far as the block or else what is known of sensors says."""
        (least, most), (delay, unsure) = self.source.delays_s, self.delay_s()
        return max(least, delay - unsure - _LAG_MARGIN_S), min(most, delay + unsure + _LAG_MARGIN_S)

    def at_edge(self, edge: float, delay: float, unsure: float) -> float:
        """What the source has counted of all up to an inner edge: on from the last event before it, with the
        power of the pass that ends.

        Passes open with their prefill, so that power that stands out beside an edge belongs to the later one.
        """
        source, t, inside = self.source, edge + delay, self._before(edge)
        if inside.stop - inside.start < _LEAST_EVENTS:
            return source.at(t)
        power = float(np.polyfit(source.time[inside], source.total[inside], 1)[0])
        surely = int(np.searchsorted(source.time + source.half, t - unsure / 2)) - 1
        last = max(inside.stop - 1, surely)
        return min(float(source.total[last]) + power * (t - float(source.time[last])), source.at(t))

    def _before(self, edge: float) -> slice:
        """The events by which the power before an edge is judged."""
        since = max(self.start + self.source.lag_s, edge - _POWER_OVER_S)
        return slice(*np.searchsorted(self.source.time, (since, edge)))


def _spent(source: Curve, before: Window, passes: Sequence[Window], after: Window) -> Spent:
    (silent_s, _), (_, over_s) = source.seconds(before), source.seconds(after)
    start, end = source.seconds(Window(passes[0].start_ns, passes[-1].end_ns))
    if (fault := source.why_not(start, end, around=(silent_s, over_s))) is not None:
        return missing(source, fault)
    # What the source shows at first in a silence belongs to what was before it.
    first = quiet(source, silent_s + source.lag_s, start, before=True)
    second = quiet(source, end + source.lag_s, over_s, before=False)
    first = first or borrowed(second, source, silent_s, start, before=True)
    second = second or borrowed(first, source, end + source.lag_s, over_s, before=False)
    if first is None or second is None:
        return between(source, passes)
    block = _Block(source, start, end, first, second)
    return _shared(block, _whole(block), passes)


def _whole(block: _Block) -> Spent:
    source, sides = block.source, (block.before, block.after)
    delays = [float(delay) for delay in np.linspace(*block.delays_s(), 5)]
    by_delay = [block.joules(delay) for delay in delays]
    flat = [block.joules(delay, trends=False) for delay in delays]
    joules, edges = by_delay[2], (block.start + delays[2], block.end + delays[2])
    at_edges = tuple(zip(sides, edges, strict=True))
    trend_j = max(abs(one - other) for one, other in zip(by_delay, flat, strict=True))
    terms = [
        Term("timing", math.hypot(*(side.timing_j(edge) for side, edge in at_edges))),
        Term("quiet power", math.hypot(*(side.unseen_j(edge) for side, edge in at_edges))),
        Term("lag", max(abs(one - joules) for one in by_delay), common=True),
        Term("tail", trend_j + sum(side.fall_j(edge) for side, edge in at_edges), common=True),
        Term("aliasing", aliasing_j(source, block.start, block.end)),
    ]
    flags = ("recorder_gap",) if source.blind(block.start, block.end) else ()
    rises, edges_j = any(side.rises for side in sides), block.loud_j()
    if rises or edges_j:
        flags = (*flags, "silence_broken")
    if rises:
        edges_j += math.hypot(source.hidden(block.start), source.hidden(block.end))
    terms.append(Term("edges", edges_j))
    return Spent(
        source.quantity.source,
        method_of(source.quantity),
        joules,
        tuple(term for term in terms if term.half_width_j > _ROUNDING * abs(joules)),
        quiet_w=(block.before.power_w, block.after.power_w),
        flags=flags,
    )


def _shared(block: _Block, spent: Spent, passes: Sequence[Window]) -> Spent:
    """With the share of each pass: between the events around its edges, moved by the lag."""
    delay, unsure = block.delay_s()
    inner = [block.source.seconds(one)[1] for one in passes[:-1]]
    lengths = np.array([one.duration_s for one in passes])

    def at(delay: float) -> NDArray[np.float64]:
        first, last = block.ends(delay)
        joules = np.diff([first, *(block.at_edge(edge, delay, unsure) for edge in inner), last])
        left = (spent.joules or 0.0) - float(joules.sum())
        return np.asarray(joules + left * lengths / lengths.sum(), dtype=np.float64)

    shares = at(delay)
    moved = np.maximum(*(np.abs(at(delay + off) - shares) for off in (-unsure, unsure)))
    hidden = np.array([0.0, *(block.source.hidden(edge + delay) for edge in inner), 0.0])
    whole = spent.half_width_j / len(passes)
    halves = np.sqrt(hidden[:-1] ** 2 + hidden[1:] ** 2 + moved**2 + whole**2)
    least, most = block.source.delays_s
    lag_s = delay if unsure < _SEEN * (most - least) else None
    return replace(
        spent, shares=tuple(shares.tolist()), share_half_widths=tuple(halves.tolist()), lag_s=lag_s
    )
