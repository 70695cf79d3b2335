"""What does one device say, read after read, and since when has it said nothing?"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from llenergymeasure.energy import Elsewhere, Meter, Part
from llenergymeasure.energy.recording.pacing import steps
from llenergymeasure.exceptions import EnergyError
from llenergymeasure.records import Clock, Domain, Gap, Sample, Window

BLOCKED_NS = 1_000_000_000
# An event is usable when it is known to ± 3 ms; so many of them make a silence.
_USABLE_NS = 6_000_000
_ENOUGH_EVENTS = 3
_NO_STEP_FOR = 0.45
# A trace keeps whole numbers of 64 bits with a sign.
_TOO_LARGE = 2**63


class Bell:
    """Waits like an Event that is cleared on waking, for a third of its CPU time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def wait(self, seconds: float) -> None:
        # Whoever rings releases the lock, so that this very call leaves it taken.
        self._lock.acquire(timeout=seconds)

    def ring(self) -> None:
        if self._lock.locked():
            self._lock.release()


@dataclass(slots=True)
class Events:
    """The last moments at which a counter was seen to step: the read before each that is usable.

    For a part of the shortest time between two of them no next one is expected. It is not a simple fraction,
    so that a distance of several steps is found out.
    """

    raw: int | None = None
    before_ns: int = 0
    seen_ns: deque[int] = field(default_factory=lambda: deque([-1] * _ENOUGH_EVENTS, maxlen=_ENOUGH_EVENTS))
    apart_ns: int = 0

    def saw(self, sample: Sample) -> None:
        if self.raw not in {None, sample.raw} and sample.t_after_ns - self.before_ns <= _USABLE_NS:
            if self.seen_ns[-1] >= 0:
                apart_ns = self.before_ns - self.seen_ns[-1]
                self.apart_ns = min(self.apart_ns or apart_ns, apart_ns)
            self.seen_ns.append(self.before_ns)
        self.raw, self.before_ns = sample.raw, sample.t_before_ns

    def enough_since(self, t_ns: int) -> bool:
        return self.seen_ns[0] >= t_ns

    @property
    def next_ns(self) -> int:
        """No step is expected before."""
        return self.seen_ns[-1] + round(_NO_STEP_FOR * self.apart_ns)


@dataclass(slots=True, eq=False)
class Watched:
    """A part of a meter, when it is read next, and since when it has given nothing of a domain and why.

    `index` gives the number of each of its series in the trace, `events` those of its counters that step.
    `looked_ns` is when the last read began that has ended.
    """

    meter: Meter
    part: Part
    domains: tuple[Domain, ...]
    index: dict[tuple[str, str], int]
    events: dict[tuple[str, str], Events]
    due_ns: int = 0
    looked_ns: int = -1
    calling_since_ns: int | None = None
    cpu_ns: int = 0
    failing: dict[str, tuple[int, str]] = field(default_factory=dict)
    was_read: threading.Event = field(default_factory=threading.Event)
    bell: Bell = field(default_factory=Bell)
    thread: threading.Thread | None = None
    elsewhere: Elsewhere | None = None

    def __post_init__(self) -> None:
        self.elsewhere = self.part if isinstance(self.part, Elsewhere) else None

    def read(self, clock: Clock) -> tuple[Sequence[Sample], Window, str]:
        """The samples of one read, when it was, and why there are none where there are none."""
        start_ns = clock.monotonic_ns()
        self.calling_since_ns = start_ns
        samples: Sequence[Sample] = ()
        reason = "the meter returned no value"
        try:
            samples = self._checked(self.part.sample())
        except Exception as error:  # noqa: BLE001  a meter may be other people's code; it becomes a Gap
            reason = getattr(error, "message", None) or f"{type(error).__name__}: {error}"
        end_ns = clock.monotonic_ns()
        self.calling_since_ns = None
        if self.events:
            for one in samples:
                if (events := self.events.get((one.domain, one.quantity))) is not None:
                    events.saw(one)
        return samples, Window(start_ns, end_ns), reason

    @property
    def blocked_ns(self) -> int:
        """What takes longer than this is a gap, not a read."""
        return max(BLOCKED_NS, round(2e9 * (self.part.period_s or 0.0)))

    @property
    def next_event_ns(self) -> int:
        """No counter of it is expected to step before."""
        return min((events.next_ns for events in self.events.values()), default=0)

    def _checked(self, samples: object) -> Sequence[Sample]:
        """What a meter gave, if it is what a meter gives; EnergyError says what else it was."""
        if not isinstance(samples, Sequence) or isinstance(samples, str | bytes):
            raise EnergyError(f"the meter returned {samples!r:.60} instead of samples")
        for one in samples:
            if not isinstance(one, Sample) or (one.domain, one.quantity) not in self.index:
                raise EnergyError(f"the meter returned {one!r:.100}, which is not a sample of its domains")
            numbers = (one.raw, one.t_before_ns, one.t_after_ns)
            if not all(type(number) is int and abs(number) < _TOO_LARGE for number in numbers):
                raise EnergyError(f"the meter returned {one.raw!r:.40}, not an integer of 63 bits")
        return samples

    def gaps_ended_by(self, samples: Sequence[Sample], call: Window, reason: str) -> list[Gap]:
        """Note which domains were not heard, and return the gaps of those that are heard again."""
        if self.elsewhere is not None:
            return list(self.elsewhere.gaps())
        if (
            not self.failing
            and len(samples) >= len(self.index)
            and call.end_ns - call.start_ns < self.blocked_ns
        ):
            return []
        gaps = []
        heard = {one.domain for one in samples}
        for domain in self.domains:
            if domain.name not in heard:
                # Where the others answered, only the part knows why this one did not.
                own = getattr(self.part, "reasons", {}) if samples else {}
                self.failing.setdefault(domain.name, (call.start_ns, own.get(domain.name, reason)))
            elif domain.name in self.failing:
                since_ns, why = self.failing.pop(domain.name)
                gaps.append(Gap(Window(since_ns, call.end_ns), why, domain.name))
            elif call.end_ns - call.start_ns > self.blocked_ns:
                gaps.append(Gap(call, _blocked(call), domain.name))
        return gaps

    def open_gaps(self, now_ns: int) -> list[Gap]:
        """Gaps that have not ended: domains that give nothing, and a call that has not returned."""
        if self.elsewhere is not None:
            return list(self.elsewhere.gaps(open_until_ns=now_ns))
        since_ns = self.calling_since_ns
        gaps = []
        for domain in self.domains:
            start_ns, reason = self.failing.get(domain.name, (None, ""))
            if start_ns is not None:
                gaps.append(Gap(Window(start_ns, now_ns), reason, domain.name))
            elif since_ns is not None and now_ns - since_ns > self.blocked_ns:
                call = Window(since_ns, now_ns)
                gaps.append(Gap(call, _blocked(call), domain.name))
        return gaps


@dataclass(slots=True, eq=False)
class _Whole:
    """A meter that is read as one."""

    meter: Meter
    domains: tuple[str, ...]

    @property
    def period_s(self) -> float | None:
        return getattr(self.meter, "period_s", None)

    @property
    def driver_cpu_ns(self) -> int:
        return int(getattr(self.meter, "driver_cpu_ns", 0))

    def sample(self) -> Sequence[Sample]:
        return self.meter.sample()


def watched(meter: Meter, domains: Sequence[Domain], index: dict[tuple[str, str], int]) -> list[Watched]:
    """The parts of an open meter."""
    by_name = {domain.name: domain for domain in domains}
    offered = getattr(meter, "parts", None)
    parts: Sequence[Part] = offered() if offered is not None else [_Whole(meter, tuple(by_name))]
    return [
        Watched(
            meter,
            part,
            mine := tuple(by_name[name] for name in part.domains),
            index,
            {
                (domain.name, quantity.name): Events()
                for domain in mine
                for quantity in domain.quantities
                if steps(quantity)
            },
        )
        for part in parts
    ]


def _blocked(call: Window) -> str:
    return f"a read of the meter took {call.duration_s:.1f} s"
