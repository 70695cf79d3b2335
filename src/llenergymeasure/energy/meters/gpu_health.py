"""In what state is an NVIDIA board, and who is using it?"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import psutil

from llenergymeasure.energy.meters.device import Question
from llenergymeasure.energy.meters.nvml_board import refusals
from llenergymeasure.host.processes import lineage
from llenergymeasure.records import Clock, Quantity, Sample

# What a board with persistence mode or a display may hold without any process of its own.
_UNEXPLAINED_BYTES = 256 * 2**20
# Questions are put off to the next turn when one turn has taken this long, so that a slow driver is not
# occupied for a whole step of the counter.
_TURN_NS = 10_000_000


class HealthPart:
    """The state of one board, about once a second: a `Part` beside the one that reads its energy.

    `questions` are those that its driver answers now. `processes` gives the root pids of the run, for whom a
    process on the board is not foreign; without it nobody is called foreign.
    """

    domains: Sequence[str] = ()

    def __init__(
        self,
        nvml: Any,
        handle: Any,
        domain: str,
        *,
        processes: Callable[[], Sequence[int]] | None,
        clock: Clock,
    ) -> None:
        self.driver_cpu_ns = 0
        self.period_s: float | None = 1.0
        self._errors = refusals(nvml)
        self._clock = clock
        self._next = 0
        asked = (Question(domain, *one) for one in _asked(nvml, handle, processes))
        self.questions = tuple(question for question in asked if self._sample(question) is not None)

    def sample(self) -> Sequence[Sample]:
        """As many answers as fit in one turn, from where the last turn ended on; all where they are quick."""
        samples = []
        count = len(self.questions)
        start_ns = self._clock.monotonic_ns()
        for turn in range(count):
            if self._clock.monotonic_ns() - start_ns > _TURN_NS:
                break
            sample = self._sample(self.questions[(self._next + turn) % count])
            if sample is not None:
                samples.append(sample)
        else:
            turn = count
        self._next = (self._next + turn) % max(1, count)
        self.period_s = max(0.05, turn / max(1, count))
        return samples

    def _sample(self, question: Question) -> Sample | None:
        try:
            return question.sample(self._clock)
        except self._errors:
            return None


def _asked(
    nvml: Any, handle: Any, processes: Callable[[], Sequence[int]] | None
) -> list[tuple[Quantity, Callable[[], int]]]:
    """Everything that a board may be asked, and how."""

    def throttled_ns(policy: int) -> int:
        return int(nvml.nvmlDeviceGetViolationStatus(handle, policy).violationTime)

    def listed() -> list[Any]:
        return list(nvml.nvmlDeviceGetComputeRunningProcesses(handle))

    def hidden() -> int:
        found = listed()
        unseen = sum(not psutil.pid_exists(one.pid) for one in found)
        return unseen or int(not found and _used_bytes(nvml, handle) > _UNEXPLAINED_BYTES)

    def foreign() -> int:
        roots = frozenset(processes() if processes is not None else ())
        return sum(not in_trees(one.pid, roots) for one in listed())

    asked: list[tuple[Quantity, Callable[[], int]]] = [
        (
            Quantity("temperature", "nvml.temperature", "degC", 1.0),
            lambda: int(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
        ),
        (
            Quantity("sm_clock", "nvml.clock.sm", "Hz", 1e6),
            lambda: int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
        ),
        (
            Quantity("power_limit", "nvml.power_limit.enforced", "W", 1e-3),
            lambda: int(nvml.nvmlDeviceGetEnforcedPowerLimit(handle)),
        ),
        (
            Quantity("throttle_thermal", "nvml.violation.thermal", "s", 1e-9),
            lambda: throttled_ns(nvml.NVML_PERF_POLICY_THERMAL),
        ),
        (
            Quantity("throttle_power", "nvml.violation.power", "s", 1e-9),
            lambda: throttled_ns(nvml.NVML_PERF_POLICY_POWER),
        ),
        (Quantity("hidden_processes", "nvml.processes", "count", 1.0), hidden),
    ]
    if processes is not None:
        asked.append((Quantity("foreign_processes", "nvml.processes", "count", 1.0), foreign))
    return asked


def in_trees(pid: int, roots: frozenset[int]) -> bool:
    """Whether `pid` is one of `roots`, descends from one, or is in a session that one of them leads."""
    try:
        if hasattr(os, "getsid") and os.getsid(pid) in roots:
            return True
        return any(one in roots for one in lineage(pid))
    except (OSError, psutil.Error):
        return False


def _used_bytes(nvml: Any, handle: Any) -> int:
    """Memory in use without the driver's own part; 0 where only a figure that includes that is shown."""
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
    except refusals(nvml):
        return 0
    return int(memory.used)
