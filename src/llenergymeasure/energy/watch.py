"""What does one device say, read after read, and since when has it said nothing?"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from llenergymeasure.energy import Meter, Part
from llenergymeasure.energy.rhythm import Rhythm
from llenergymeasure.exceptions import EnergyError
from llenergymeasure.records import Clock, Domain, Gap, Quantity, Sample, Window

BLOCKED_NS = 1_000_000_000
# A counter that steps faster than this is as good as a continuous one: its steps need no looking for.
_CONTINUOUS_NS = 5_000_000
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


@dataclass(slots=True, eq=False)
class Watched:
    """A part of a meter, when it is read next, and since when it has given nothing of a domain and why.

    `index` gives the number of each of its series in the trace. `followed` is the counter whose steps its
    `rhythm` learns, if it has one.
    """

    meter: Meter
    part: Part
    domains: tuple[Domain, ...]
    index: dict[tuple[str, str], int]
    followed: tuple[str, str] | None
    rhythm: Rhythm = field(default_factory=Rhythm)
    due_ns: int = 0
    calling_since_ns: int | None = None
    cpu_ns: int = 0
    failing: dict[str, tuple[int, str]] = field(default_factory=dict)
    was_read: threading.Event = field(default_factory=threading.Event)
    bell: Bell = field(default_factory=Bell)
    thread: threading.Thread | None = None

    def read(self, clock: Clock) -> tuple[Sequence[Sample], Window, str]:
        """The samples of one read, when it was, and why there are none where there are none."""
        start_ns = clock.monotonic_ns()
        self.calling_since_ns = start_ns
        samples: Sequence[Sample] = ()
        reason = "the meter gave no value"
        try:
            samples = self._checked(self.part.sample())
        except Exception as error:  # noqa: BLE001  a meter may be other people's code; it becomes a Gap
            reason = getattr(error, "message", None) or f"{type(error).__name__}: {error}"
        end_ns = clock.monotonic_ns()
        self.calling_since_ns = None
        if self.followed is not None:
            for one in samples:
                if (one.domain, one.quantity) == self.followed:
                    self.rhythm.saw(one.t_before_ns, one.t_after_ns, one.raw)
        return samples, Window(start_ns, end_ns), reason

    def _checked(self, samples: object) -> Sequence[Sample]:
        """What a meter gave, if it is what a meter gives; EnergyError says what else it was."""
        if not isinstance(samples, Sequence) or isinstance(samples, str | bytes):
            raise EnergyError(f"the meter gave {samples!r:.60} instead of samples")
        for one in samples:
            if not isinstance(one, Sample) or (one.domain, one.quantity) not in self.index:
                raise EnergyError(f"the meter gave {one!r:.100}, which is no sample of its domains")
            numbers = (one.raw, one.t_before_ns, one.t_after_ns)
            if not all(type(number) is int and abs(number) < _TOO_LARGE for number in numbers):
                raise EnergyError(f"the meter gave {one.raw!r:.40} where a whole number of 63 bits is due")
        return samples

    def gaps_ended_by(self, samples: Sequence[Sample], call: Window, reason: str) -> list[Gap]:
        """Note which domains were not heard, and return the gaps of those that are heard again."""
        if not self.failing and len(samples) >= len(self.index) and call.end_ns - call.start_ns < BLOCKED_NS:
            return []
        gaps = []
        heard = {one.domain for one in samples}
        for domain in self.domains:
            if domain.name not in heard:
                self.failing.setdefault(domain.name, (call.start_ns, reason))
            elif domain.name in self.failing:
                since_ns, why = self.failing.pop(domain.name)
                gaps.append(Gap(Window(since_ns, call.end_ns), why, domain.name))
            elif call.end_ns - call.start_ns > BLOCKED_NS:
                gaps.append(Gap(call, _blocked(call), domain.name))
        return gaps

    def open_gaps(self, now_ns: int) -> list[Gap]:
        """Gaps that have not ended: domains that give nothing, and a call that has not returned."""
        since_ns = self.calling_since_ns
        gaps = []
        for domain in self.domains:
            start_ns, reason = self.failing.get(domain.name, (None, ""))
            if start_ns is not None:
                gaps.append(Gap(Window(start_ns, now_ns), reason, domain.name))
            elif since_ns is not None and now_ns - since_ns > BLOCKED_NS:
                call = Window(since_ns, now_ns)
                gaps.append(Gap(call, _blocked(call), domain.name))
        return gaps

    def settled(self, since_ns: int, now_ns: int, *, enough_ns: int) -> bool:
        """Whether what it counts has been seen to step since, or cannot be and enough time has passed."""
        if self.part.period_s is not None:
            return True
        if self.followed is not None and self.rhythm.period_ns is not None:
            return self.rhythm.stepped_twice_since(since_ns)
        return now_ns - since_ns >= enough_ns


@dataclass(slots=True, eq=False)
class _Whole:
    """A meter that is read as one."""

    meter: Meter
    domains: tuple[str, ...]
    period_s: float | None = None

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
            None if part.period_s is not None else _followed(mine),
        )
        for part in parts
    ]


def _followed(domains: Sequence[Domain]) -> tuple[str, str] | None:
    return next(
        (
            (domain.name, quantity.name)
            for domain in domains
            for quantity in domain.quantities
            if _steps(quantity)
        ),
        None,
    )


def _steps(quantity: Quantity) -> bool:
    return quantity.unit == "J" and (quantity.step_ns is None or quantity.step_ns > _CONTINUOUS_NS)


def _blocked(call: Window) -> str:
    return f"a read of the meter took {call.duration_s:.1f} s"
