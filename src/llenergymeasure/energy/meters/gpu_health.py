"""In what state is an NVIDIA board, and who is using it?"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from llenergymeasure.records import Clock, Quantity, Sample

# What a board with persistence mode or a display may hold without any process of its own.
_UNEXPLAINED_BYTES = 256 * 2**20
# Questions are put off to the next turn when one turn has taken this long, so that a slow driver is not
# occupied for a whole step of the counter.
_TURN_NS = 10_000_000


@dataclass(frozen=True, slots=True)
class Question:
    """A quantity and how to read it: a call that may raise the driver's error."""

    domain: str
    quantity: Quantity
    ask: Callable[[], int]


def questions(
    nvml: Any, handle: Any, domain: str, *, processes: Callable[[], Sequence[int]] | None
) -> tuple[Question, ...]:
    """What can be asked of this board: those that its driver answers now."""

    def processes_listed() -> list[Any]:
        return list(nvml.nvmlDeviceGetComputeRunningProcesses(handle))

    def foreign() -> int:
        roots = frozenset(processes() if processes is not None else ())
        return sum(not in_trees(one.pid, roots) for one in processes_listed())

    def hidden() -> int:
        listed = processes_listed()
        unseen = sum(not psutil.pid_exists(one.pid) for one in listed)
        return unseen or int(not listed and _used_bytes(nvml, handle) > _UNEXPLAINED_BYTES)

    def throttled_ns(policy: int) -> int:
        return int(nvml.nvmlDeviceGetViolationStatus(handle, policy).violationTime)

    candidates = [
        Question(
            domain,
            Quantity("temperature", "nvml.temperature", "degC", 1.0),
            lambda: int(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
        ),
        Question(
            domain,
            Quantity("sm_clock", "nvml.clock.sm", "Hz", 1e6),
            lambda: int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
        ),
        Question(
            domain,
            Quantity("power_limit", "nvml.power_limit.enforced", "W", 1e-3),
            lambda: int(nvml.nvmlDeviceGetEnforcedPowerLimit(handle)),
        ),
        Question(
            domain,
            Quantity("throttle_thermal", "nvml.violation.thermal", "s", 1e-9),
            lambda: throttled_ns(nvml.NVML_PERF_POLICY_THERMAL),
        ),
        Question(
            domain,
            Quantity("throttle_power", "nvml.violation.power", "s", 1e-9),
            lambda: throttled_ns(nvml.NVML_PERF_POLICY_POWER),
        ),
        Question(domain, Quantity("hidden_processes", "nvml.processes", "count", 1.0), hidden),
    ]
    if processes is not None:
        candidates.append(
            Question(domain, Quantity("foreign_processes", "nvml.processes", "count", 1.0), foreign)
        )
    return tuple(question for question in candidates if _answer(nvml, question) is not None)


class HealthPart:
    """The state of one board, about once a second: a `Part` beside the one that reads its energy."""

    domains: Sequence[str] = ()

    def __init__(self, nvml: Any, asked: Sequence[Question], *, clock: Clock) -> None:
        self.driver_cpu_ns = 0
        self.period_s: float | None = 1.0
        self._nvml = nvml
        self._questions = tuple(asked)
        self._clock = clock
        self._next = 0

    def sample(self) -> Sequence[Sample]:
        """As many answers as fit in one turn, from where the last turn ended on; all where they are quick."""
        samples = []
        count = len(self._questions)
        start_ns = self._clock.monotonic_ns()
        for turn in range(count):
            question = self._questions[(self._next + turn) % count]
            before_ns = self._clock.monotonic_ns()
            if before_ns - start_ns > _TURN_NS:
                break
            raw = _answer(self._nvml, question)
            if raw is not None:
                after_ns = self._clock.monotonic_ns()
                samples.append(Sample(question.domain, question.quantity.name, before_ns, after_ns, raw))
        else:
            turn = count
        self._next = (self._next + turn) % max(1, count)
        self.period_s = max(0.05, turn / max(1, count))
        return samples


def in_trees(pid: int, roots: frozenset[int]) -> bool:
    """Whether `pid` is one of `roots`, descends from one, or is in a session that one of them leads."""
    try:
        if hasattr(os, "getsid") and os.getsid(pid) in roots:
            return True
        return pid in roots or any(parent.pid in roots for parent in psutil.Process(pid).parents())
    except (OSError, psutil.Error):
        return False


def _answer(nvml: Any, question: Question) -> int | None:
    try:
        return question.ask()
    except (nvml.NVMLError, AttributeError):
        # An older binding or driver lacks the function.
        return None


def _used_bytes(nvml: Any, handle: Any) -> int:
    """Memory in use without the driver's own part; 0 where only a figure that includes that can be had."""
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
    except (nvml.NVMLError, AttributeError):
        return 0
    return int(memory.used)
