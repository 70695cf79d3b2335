"""On which machine and with which software did it run, and what did measuring cost?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """A visible GPU. A field that the driver does not give is None: unknown, not absent.

    `fault` is why the driver gives nothing at all, as of a GPU that is lost; `unified_memory` that the GPU
    has no memory of its own and works in that of the host.
    """

    uuid: str
    index: int
    name: str | None = None
    memory_bytes: int | None = None
    driver: str | None = None
    power_limit_w: float | None = None
    sm_clock_mhz: int | None = None
    temperature_c: int | None = None
    ecc: bool | None = None
    mig: bool | None = None
    persistence: bool | None = None
    foreign_pids: tuple[int, ...] | None = None
    unified_memory: bool = False
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class Throttling:
    """How often a CPU quota held its processes back: in so many of its periods, for seconds of all their
    processors together.
    """

    periods: int
    throttled_periods: int
    throttled_s: float

    def since(self, before: Throttling) -> Throttling:
        return Throttling(
            self.periods - before.periods,
            self.throttled_periods - before.throttled_periods,
            self.throttled_s - before.throttled_s,
        )

    def plus(self, other: Throttling) -> Throttling:
        return Throttling(
            self.periods + other.periods,
            self.throttled_periods + other.throttled_periods,
            self.throttled_s + other.throttled_s,
        )


@dataclass(frozen=True, slots=True)
class Environment:
    """The machine and the software a number came from.

    `usable_cpus` is what affinity and quotas leave of its processors, `memory_limit_bytes` what limits
    leave of its memory where they leave less than all of it.
    """

    hostname: str
    os: str
    kernel: str
    python: str
    llem: str
    cpu: str | None
    logical_cpus: int
    memory_bytes: int | None
    virtualization: str | None
    container: str | None
    swap_used_bytes: int | None
    load_1min: float | None
    git_commit: str | None
    gpus: tuple[GpuFacts, ...]
    versions: Mapping[str, str]
    usable_cpus: float | None = None
    memory_limit_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Start:
    utc: str
    monotonic_ns: int
    boot_id: str | None


@dataclass(frozen=True, slots=True)
class Overhead:
    """What measuring itself cost."""

    recorder_cpu_s: float
    recorder_samples: int
    setup_s: float
