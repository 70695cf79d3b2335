"""Was the machine itself quiet and awake during the run?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import psutil

from llenergymeasure.measure.environment import suspended_ns
from llenergymeasure.measure.harness import Phase
from llenergymeasure.records import MeasurementWarning

BUSY_SHARE = 0.15
# A share of the processors' time means little over less than a second of it.
SHORTEST_TOTAL_S = 1.0
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


class Conditions:
    """Told each phase, it compares the kernel's counters at its edges.

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
    ) -> None:
        self._own_s = own_s
        self._pass: tuple[float, float, float] | None = None
        self._others_s, self._passes_s = 0.0, 0.0
        self._slept_ns, self._processors_s, self._swap_bytes = slept_ns, processors_s, swap_bytes
        self._slept_before_ns = slept_ns()
        self._swapped_before = swap_bytes()
        self._bare: tuple[float, float] | None = None
        self._busy_share: float | None = None

    def enter(self, phase: Phase) -> None:
        self._watch_pass(phase)
        if phase == "bare":
            self._bare = self._processors_s()
        elif self._bare is not None and self._busy_share is None:
            (busy, total), (busy_before, total_before) = self._processors_s(), self._bare
            if total - total_before > SHORTEST_TOTAL_S:
                self._busy_share = (busy - busy_before) / (total - total_before)

    def _watch_pass(self, phase: Phase) -> None:
        """Add up what others took of the processors while passes ran, where the run's own share is known."""
        if self._own_s is None:
            return
        if phase == "pass":
            self._pass = (*self._processors_s(), self._own_s())
        elif self._pass is not None:
            (busy, total), own = self._processors_s(), self._own_s()
            busy_before, total_before, own_before = self._pass
            self._others_s += max(0.0, busy - busy_before - (own - own_before))
            self._passes_s += total - total_before
            self._pass = None

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
        swapped = self._swap_bytes() - self._swapped_before
        if swapped > 0:
            yield MeasurementWarning.of("swap_active", f"{swapped / 1e6:.1f} MB were swapped in the run")
        slept_ns = self._slept_ns()
        if slept_ns is None or self._slept_before_ns is None:
            return
        if slept_ns - self._slept_before_ns > SUSPENDED_NS:
            slept_s = (slept_ns - self._slept_before_ns) / 1e9
            yield MeasurementWarning.of("suspended", f"the machine slept for {slept_s:.1f} s in the run")
