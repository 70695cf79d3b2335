"""How closely is each device looked at, so that neither a core nor a driver is kept busy?"""

from __future__ import annotations

from collections.abc import Sequence

from llenergymeasure.energy.rhythm import Pace
from llenergymeasure.energy.watch import Watched
from llenergymeasure.records import Window

# Seconds between two reads at the most, close and far: of what steps with a known rhythm, of what does not,
# and of processes, whose CPU time the kernel counts in hundredths of a second.
_KNOWN_S = (0.05, 0.2)
_UNKNOWN_S = (0.017, 0.1)
_PROCESS_S = (0.1, 0.25)
# Far, a step is located now and then, so that the rhythm is known when a close look begins.
_FAR_STRIDE_S = 0.4
# Reads a second of a lone device, and of several together: what costs less than a hundredth of a core. A read
# takes 15 µs of Python and 50 to 100 µs for waking up with cold caches; pairs of reads wake up once.
_READS_PER_S = (180.0, 50.0)
_FOR_STEPS = 0.75
# A device may spend this share of its time in reads, so that a slow driver is left to the workload.
_SHARE_OF_TIME = 1 / 3
# Reads that take longer than this are not made in bursts on several devices at once.
_SLOW_NS = 2_000_000
_MEANWHILE_S = 0.5
# Every step is located for this long after a close look was asked for, and after it was ended.
_HURRY_NS = 600_000_000


class Pacing:
    """When each of `parts` is read next. `close` is whether somebody looks closely.

    Every step is located until `hurry_until_ns`, and the look stays close until `close_until_ns`. With
    `in_turn` the reads of all devices follow one another, and share the time that there is.
    """

    def __init__(self, parts: Sequence[Watched] = (), *, in_turn: bool = False) -> None:
        stepping = max(1, sum(one.followed is not None for one in parts))
        self.close = False
        self.close_until_ns = self.hurry_until_ns = 0
        self.learner: Watched | None = None
        self._in_turn = stepping if in_turn else 1
        self._reads_per_s = _READS_PER_S[stepping > 1] / stepping

    def hurry(self, now_ns: int) -> None:
        self.hurry_until_ns = now_ns + _HURRY_NS

    def next_ns(self, one: Watched, call: Window) -> int:
        """When to read it again, after a read that took `call`."""
        rest_ns = call.start_ns + round((call.end_ns - call.start_ns) / _SHARE_OF_TIME)
        if one.part.period_s is not None:
            return max(rest_ns, call.start_ns + round(one.part.period_s * 1e9))
        close = self.close or call.end_ns < self.close_until_ns
        # A device that gives nothing is asked again now and then: its rhythm has not moved on.
        if one.followed is None or one.rhythm.seen_ns < call.start_ns:
            modelled = any(domain.model is not None for domain in one.domains)
            gaps_s = _PROCESS_S if modelled else _UNKNOWN_S
            return max(rest_ns, call.start_ns + round(gaps_s[not close] * 1e9))
        return one.rhythm.due_ns(self._pace(one, call.end_ns, close=close))

    def _pace(self, one: Watched, now_ns: int, *, close: bool) -> Pace:
        possible_per_s = 1e9 / max(one.rhythm.latency_ns, 1.0) / self._in_turn
        wanted_per_s = min(self._reads_per_s, _SHARE_OF_TIME * possible_per_s)
        if now_ns < self.hurry_until_ns:
            wanted_per_s = possible_per_s
        gap_s = (_UNKNOWN_S if one.rhythm.period_ns is None else _KNOWN_S)[not close]
        may_learn = self._may_learn(one)
        if self.learner is not None and self.learner is not one:
            gap_s = max(gap_s, _MEANWHILE_S)
        return Pace(
            gap_s=max(gap_s, 1 / ((1 - _FOR_STEPS) * wanted_per_s)),
            stride_s=0.0 if close else _FAR_STRIDE_S,
            polls_per_s=_FOR_STEPS * wanted_per_s,
            may_learn=may_learn,
        )

    def _may_learn(self, one: Watched) -> bool:
        """Slow devices learn one after the other, since their bursts would be in each other's way."""
        if not one.rhythm.learning:
            if self.learner is one:
                self.learner = None
            return False
        if one.rhythm.latency_ns < _SLOW_NS:
            return True
        self.learner = self.learner or one
        return self.learner is one
