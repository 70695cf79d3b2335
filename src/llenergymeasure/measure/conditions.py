"""Was the machine itself quiet and awake during the run?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import psutil

from llenergymeasure.measure.environment import suspended_ns
from llenergymeasure.measure.harness import Phase
from llenergymeasure.records import Clock, MeasurementWarning

BUSY_SHARE = 0.15
# A share of the processors' time means little over less than a second of it.
SHORTEST_TOTAL_S = 1.0
# What the worker may use of a core in a silence, and how far its halves may be apart: the kernel counts
# processor time in hundredths of a second, twice in each half.
QUIET_CORES = 0.05
TICK_S = 0.01
# The two clocks are read one after the other; a preempted thread may see tens of milliseconds between them.
SUSPENDED_NS = 100_000_000


def cpu_s() -> tuple[float, float]:
    """Busy and total processor seconds of the host since boot."""
    times = psutil.cpu_times()
    waiting = times.idle + getattr(times, "iowait", 0.0)
    # guest time is part of user time, and counting it again would double it
    total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    return total - waiting, total


def tree_cpu_s(pids: Sequence[int]) -> float:
    """Processor seconds of those processes, all that live below them and all that those have reaped."""
    seconds = 0.0
    for pid in pids:
        try:
            root = psutil.Process(pid)
            for process in [root, *root.children(recursive=True)]:
                seconds += sum(process.cpu_times()[:4])
        except psutil.NoSuchProcess:
            continue
    return seconds


def swapped_bytes() -> int:
    """What went to swap and came back since boot."""
    swap = psutil.swap_memory()
    return int(swap.sin + swap.sout)


@dataclass(frozen=True, slots=True)
class _Spent:
    """Seconds of time, of busy and of all processors, and of the run's own processes (None is unknown)."""

    time: float
    busy: float
    total: float
    own: float | None

    def since(self, before: _Spent) -> _Spent:
        own = None if self.own is None or before.own is None else self.own - before.own
        return _Spent(self.time - before.time, self.busy - before.busy, self.total - before.total, own)

    @property
    def cores(self) -> float:
        """What the run's own processes used of the processors."""
        return self.own / self.time if self.own is not None and self.time > 0 else 0.0


class Conditions:
    """Compares the kernel's counters at the edges of each phase, of which it hears.

    The arguments are where it reads: how long the machine has slept, busy and total processor seconds and
    swapped bytes, all since boot, and the processor seconds of the run's own processes. None of them is the
    wall clock, which may jump.
    """

    def __init__(
        self,
        *,
        slept_ns: Callable[[], int | None] = suspended_ns,
        processors_s: Callable[[], tuple[float, float]] = cpu_s,
        swap_bytes: Callable[[], int] = swapped_bytes,
        own_s: Callable[[], float] | None = None,
        clock: Clock = time,
    ) -> None:
        self.spinning_cores: float | None = None
        self._own_s = own_s
        self._clock = clock
        self._slept_ns, self._processors_s, self._swap_bytes = slept_ns, processors_s, swap_bytes
        self._slept_before_ns = slept_ns()
        self._swapped_before = swap_bytes()
        self._busy_share: float | None = None
        self._others_s, self._passes_s = 0.0, 0.0
        self._broken: list[str] = []
        self._phase: tuple[Phase, _Spent] | None = None
        self._silence: list[_Spent] = []

    def enter(self, phase: Phase) -> None:
        now = self._spent()
        if self._phase is not None:
            ended, began = self._phase
            self._judge_phase(ended, now.since(began))
        self._phase = (phase, now)

    def mark(self) -> None:
        """The beginning, the middle or the end of a silence."""
        if self._own_s is None:
            return
        self._silence.append(self._spent())
        if len(self._silence) == 3:
            self._judge_silence(*(after.since(before) for before, after in pairwise(self._silence)))
            self._silence = []

    def _spent(self) -> _Spent:
        own = None if self._own_s is None else self._own_s()
        return _Spent(self._clock.monotonic_ns() / 1e9, *self._processors_s(), own)

    def _judge_phase(self, phase: Phase, spent: _Spent) -> None:
        """The host's work while idle, the worker's while its model rests, and that of others in passes."""
        if phase == "bare" and spent.total > SHORTEST_TOTAL_S:
            self._busy_share = spent.busy / spent.total
        if spent.own is None:
            return
        if phase == "loaded":
            self.spinning_cores = spent.cores
        if phase in {"full", "prefill"}:
            self._others_s += max(0.0, spent.busy - spent.own)
            self._passes_s += spent.total

    def _judge_silence(self, first: _Spent, second: _Spent) -> None:
        """Constant work in a silence is a fact of the engine; work that changes in it breaks it. Threads that
        spin on for a moment after the work (OpenMP does for 0.2 s) do so in the first half.
        """
        shortest_s = min(first.time, second.time)
        unclear = QUIET_CORES + (2 * TICK_S / shortest_s if shortest_s > 0 else 1.0)
        if second.cores > unclear and abs(second.cores - first.cores) > unclear:
            self._broken.append(
                f"{first.cores:.2f} cores in its first half and {second.cores:.2f} in its second"
            )

    def warnings(self) -> tuple[MeasurementWarning, ...]:
        """What was seen from the start until now."""
        return tuple(self._found())

    def _found(self) -> Iterator[MeasurementWarning]:
        if self._busy_share is not None and self._busy_share > BUSY_SHARE:
            message = f"{self._busy_share:.0%} of the processors were busy while idle"
            yield MeasurementWarning.of("host_busy", message)
        if self._passes_s > SHORTEST_TOTAL_S and self._others_s > BUSY_SHARE * self._passes_s:
            share = self._others_s / self._passes_s
            message = f"{share:.0%} of the processors' time went to other work during the passes"
            yield MeasurementWarning.of("host_busy", message)
        if self._broken:
            more = f", and {len(self._broken) - 1} more" if len(self._broken) > 1 else ""
            message = f"the worker kept working in a silence: {self._broken[0]}{more}"
            yield MeasurementWarning.of("silence_broken", message)
        swapped = self._swap_bytes() - self._swapped_before
        if swapped > 0:
            yield MeasurementWarning.of("swap_active", f"{swapped / 1e6:.1f} MB were swapped in the run")
        slept_ns = self._slept_ns()
        if slept_ns is None or self._slept_before_ns is None:
            return
        if slept_ns - self._slept_before_ns > SUSPENDED_NS:
            slept_s = (slept_ns - self._slept_before_ns) / 1e9
            yield MeasurementWarning.of("suspended", f"the machine slept for {slept_s:.1f} s in the run")
