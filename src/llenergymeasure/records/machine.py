"""On which machine and with which software did it run, and what did measuring cost?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """A visible GPU. A field that the driver does not give is None: unknown, not absent."""

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


@dataclass(frozen=True, slots=True)
class Environment:
    """The machine and the software a number came from."""

    hostname: str
    os: str
    kernel: str
    python: str
    llem: str
    cpu: str | None
    logical_cpus: int
    memory_bytes: int
    virtualization: str | None
    container: str | None
    swap_used_bytes: int | None
    load_1min: float | None
    git_commit: str | None
    gpus: tuple[GpuFacts, ...]
    versions: Mapping[str, str]


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
