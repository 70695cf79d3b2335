"""Was the machine itself quiet and awake during the run?"""

from __future__ import annotations

import psutil

from llenergymeasure.measure.environment import suspended_ns
from llenergymeasure.measure.harness import Phase
from llenergymeasure.records import MeasurementWarning

BUSY_SHARE = 0.15
SUSPENDED_NS = 100_000_000


class Conditions:
    """Told each phase, it compares the kernel's counters at its edges."""

    def __init__(self) -> None:
        self._suspended_ns = suspended_ns()
        self._swapped_bytes = _swapped_bytes()
        self._bare: tuple[float, float] | None = None
        self._busy_share: float | None = None

    def enter(self, phase: Phase) -> None:
        if phase == "bare":
            self._bare = _cpu_s()
        elif self._bare is not None and self._busy_share is None:
            (busy_s, total_s), (busy_before_s, total_before_s) = _cpu_s(), self._bare
            if total_s - total_before_s > 1:
                self._busy_share = (busy_s - busy_before_s) / (total_s - total_before_s)

    def warnings(self) -> tuple[MeasurementWarning, ...]:
        found = []
        if self._busy_share is not None and self._busy_share > BUSY_SHARE:
            found.append(
                MeasurementWarning.of(
                    "host_busy", f"{self._busy_share:.0%} of the processors were busy while idle"
                )
            )
        swapped_bytes = _swapped_bytes() - self._swapped_bytes
        if swapped_bytes > 0:
            found.append(
                MeasurementWarning.of("swap_active", f"{swapped_bytes / 1e6:.1f} MB were swapped in the run")
            )
        now_ns = suspended_ns()
        if (
            now_ns is not None
            and self._suspended_ns is not None
            and now_ns - self._suspended_ns > SUSPENDED_NS
        ):
            slept_s = (now_ns - self._suspended_ns) / 1e9
            found.append(
                MeasurementWarning.of("suspended", f"the machine slept for {slept_s:.1f} s in the run")
            )
        return tuple(found)


def _cpu_s() -> tuple[float, float]:
    """Busy and total processor seconds of the host since boot."""
    times = psutil.cpu_times()
    waiting = times.idle + getattr(times, "iowait", 0.0)
    # guest time is part of user time, and counting it again would double it
    total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    return total - waiting, total


def _swapped_bytes() -> int:
    swap = psutil.swap_memory()
    return int(swap.sin + swap.sout)
