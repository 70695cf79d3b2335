"""Was the machine itself quiet and awake during the run?"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import psutil

from llenergymeasure.host.cgroups import cpu_quota, throttling
from llenergymeasure.host.files import PROC, numbers
from llenergymeasure.host.machine import processors_s
from llenergymeasure.host.processes import trees
from llenergymeasure.measure.environment import suspended_ns
from llenergymeasure.measure.harness import Phase
from llenergymeasure.records import Clock, MeasurementWarning, Throttling

BUSY_SHARE = 0.15
# A share of the processors' time means little over less than a second of it.
SHORTEST_TOTAL_S = 1.0
# What the worker may use of a core in a silence, and how far its halves may be apart: the kernel counts
# processor time in hundredths of a second, twice in each half.
QUIET_CORES = 0.05
TICK_S = 0.01
# A quota that held a run back in fewer of its periods changes less than the default target of 2 %.
THROTTLED_SHARE = 0.01
# What a run shares with others.
_SHARED = ("the processors", "the CPU quota")
_WORK: frozenset[Phase] = frozenset({"full", "prefill"})
# The two clocks are read one after the other; a preempted thread may see tens of milliseconds between them.
SUSPENDED_NS = 100_000_000


def quota_s(pid: str = "self", *, proc: Path = PROC, clock: Clock = time) -> tuple[float, float] | None:
    """Processor seconds that were used under the quota of a process, and those that it allows, each since
    some moment; None without a quota, or where its use is not accounted.
    """
    quota = cpu_quota(pid=pid, proc=proc)
    used_s = None if quota is None else quota.used_s()
    if quota is None or used_s is None:
        return None
    return used_s, quota.processors * clock.monotonic_ns() / 1e9


def tree_cpu_s(pids: Sequence[int]) -> float:
    """Processor seconds of those processes, all that live below them and all that those have reaped."""
    seconds = 0.0
    for pid in trees(pids):
        with suppress(psutil.Error):
            seconds += sum(psutil.Process(pid).cpu_times()[:4])
    return seconds


def swapped_bytes(proc: Path = PROC) -> int | None:
    """What went to swap and came back since boot; None where the kernel does not say."""
    pages = numbers(proc / "vmstat")
    if not {"pswpin", "pswpout"} <= pages.keys():
        return None
    return (pages["pswpin"] + pages["pswpout"]) * os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class _Spent:
    """Seconds of time, busy and total seconds of each of `_SHARED`, and seconds of the run's own processes;
    None is unknown.
    """

    time: float
    shared: tuple[tuple[float, float] | None, ...]
    own: float | None

    def since(self, before: _Spent) -> _Spent:
        own = None if self.own is None or before.own is None else self.own - before.own
        shared = tuple(
            None if now is None or then is None else (now[0] - then[0], now[1] - then[1])
            for now, then in zip(self.shared, before.shared, strict=True)
        )
        return _Spent(self.time - before.time, shared, own)

    @property
    def cores(self) -> float:
        """What the run's own processes used of the processors."""
        return self.own / self.time if self.own is not None and self.time > 0 else 0.0


class Conditions:
    """Compares the kernel's counters at the edges of each phase, of which it hears.

    The arguments are where it reads: how long the machine has slept, busy and total seconds of the processors
    and of the quota that this process may use, swapped bytes, how often a quota held the run back, and the
    processor seconds of the run's own processes. None of them is the wall clock, which may jump.

    `throttling` is what the quota did in the passes so far; None without one.
    """

    def __init__(
        self,
        *,
        slept_ns: Callable[[], int | None] = suspended_ns,
        processors_s: Callable[[], tuple[float, float] | None] = processors_s,
        quota_s: Callable[[], tuple[float, float] | None] = quota_s,
        swap_bytes: Callable[[], int | None] = swapped_bytes,
        throttled: Callable[[], Throttling | None] = throttling,
        own_s: Callable[[], float] | None = None,
        clock: Clock = time,
    ) -> None:
        self.spinning_cores: float | None = None
        self.throttling: Throttling | None = None
        self._own_s = own_s
        self._clock = clock
        self._slept_ns, self._swap_bytes, self._throttled = slept_ns, swap_bytes, throttled
        self._shared_s = (processors_s, quota_s)
        self._slept_before_ns = slept_ns()
        self._swapped_before = swap_bytes()
        self._busy: list[str] = []
        self._others_s, self._passes_s = [0.0 for _ in _SHARED], [0.0 for _ in _SHARED]
        self._broken: list[str] = []
        self._phase: tuple[Phase, _Spent, Throttling | None] | None = None
        self._silence: list[_Spent] = []

    def enter(self, phase: Phase) -> None:
        now, throttled = self._spent(), self._throttled()
        if self._phase is not None:
            ended, began, before = self._phase
            self._judge_phase(ended, now.since(began))
            if ended in _WORK and throttled is not None and before is not None:
                more = throttled.since(before)
                self.throttling = more if self.throttling is None else self.throttling.plus(more)
        self._phase = (phase, now, throttled)

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
        return _Spent(self._clock.monotonic_ns() / 1e9, tuple(read() for read in self._shared_s), own)

    def _judge_phase(self, phase: Phase, spent: _Spent) -> None:
        """The host's work while idle, the worker's while its model rests, and that of others in passes."""
        if phase == "bare":
            self._busy = [
                f"{both[0] / both[1]:.0%} of {what} were busy while idle"
                for what, both in zip(_SHARED, spent.shared, strict=True)
                if both is not None and both[1] > SHORTEST_TOTAL_S and both[0] > BUSY_SHARE * both[1]
            ]
        if spent.own is None:
            return
        if phase == "loaded":
            self.spinning_cores = spent.cores
        if phase in _WORK:
            for number, both in enumerate(spent.shared):
                if both is not None:
                    self._others_s[number] += max(0.0, both[0] - spent.own)
                    self._passes_s[number] += both[1]

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
        for message in self._busy:
            yield MeasurementWarning.of("host_busy", message)
        for what, others_s, passes_s in zip(_SHARED, self._others_s, self._passes_s, strict=True):
            if passes_s > SHORTEST_TOTAL_S and others_s > BUSY_SHARE * passes_s:
                message = f"{others_s / passes_s:.0%} of {what} went to other work during the passes"
                yield MeasurementWarning.of("host_busy", message)
        held = self.throttling
        if held is not None and held.throttled_periods > THROTTLED_SHARE * held.periods:
            message = (
                f"a CPU quota throttled the run in {held.throttled_periods} of its {held.periods} periods "
                f"in the passes, for {held.throttled_s:.1f} s of all its processors"
            )
            yield MeasurementWarning.of("cpu_throttled", message)
        if self._broken:
            more = f", and {len(self._broken) - 1} more" if len(self._broken) > 1 else ""
            message = f"the worker kept working in a silence: {self._broken[0]}{more}"
            yield MeasurementWarning.of("silence_broken", message)
        swapped_to = self._swap_bytes()
        before = self._swapped_before
        if swapped_to is not None and before is not None and (swapped := swapped_to - before) > 0:
            yield MeasurementWarning.of("swap_active", f"{swapped / 1e6:.1f} MB were swapped in the run")
        slept_ns = self._slept_ns()
        if slept_ns is None or self._slept_before_ns is None:
            return
        if slept_ns - self._slept_before_ns > SUSPENDED_NS:
            slept_s = (slept_ns - self._slept_before_ns) / 1e9
            yield MeasurementWarning.of("suspended", f"the machine slept for {slept_s:.1f} s in the run")
