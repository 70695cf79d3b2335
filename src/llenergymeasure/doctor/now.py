"""What is this machine doing now, and what can it reach?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from llenergymeasure.energy.bounded import bounded
from llenergymeasure.energy.meters.nvml import asked, driver, listed_gpus
from llenergymeasure.exceptions import EnergyError
from llenergymeasure.host.files import text
from llenergymeasure.measure.gpus import ANSWER_S
from llenergymeasure.models.hub import cached_ids, endpoint, has_token, why_unreachable

_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
# Bits of nvmlDeviceGetCurrentClocksEventReasons that slow a board down; an idle one and one whose clocks were
# set by its user are not slowed (NVML API reference, "Clocks Event Reasons").
_SLOWED = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "heat",
    0x40: "heat (hardware)",
    0x80: "power brake",
}


@dataclass(frozen=True, slots=True)
class GpuNow:
    """What a board does at this moment; None is unknown. `users` are the processes on it, by pid and name."""

    uuid: str
    max_clock_mhz: int | None
    power_w: float | None
    slowed_by: tuple[str, ...] | None
    users: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class HubReport:
    """`why_not` is why the hub can't be reached, None where it answers."""

    endpoint: str
    why_not: str | None
    has_token: bool
    cached: tuple[str, ...]


def gpus_now(nvml: Any = None) -> tuple[GpuNow, ...]:
    """Every board that can be opened; empty without a driver, or with one that does not answer."""

    def all_boards() -> tuple[GpuNow, ...]:
        with driver(nvml) as opened:
            return tuple(_now(opened, gpu.uuid, gpu.handle) for gpu in listed_gpus(opened) if not gpu.fault)

    try:
        return bounded(all_boards, ANSWER_S, what="the NVIDIA driver")
    except EnergyError:
        return ()


def governor(path: Path = _GOVERNOR) -> str | None:
    """What sets the processors' clocks, where the kernel says so."""
    return text(path).strip() or None


def hub_now(*, within_s: float) -> HubReport:
    return HubReport(endpoint(), why_unreachable(within_s), has_token(), tuple(cached_ids()))


def _now(nvml: Any, uuid: str, handle: Any) -> GpuNow:
    reasons = asked(nvml, "nvmlDeviceGetCurrentClocksEventReasons", handle)
    if reasons is None:
        reasons = asked(nvml, "nvmlDeviceGetCurrentClocksThrottleReasons", handle)
    milliwatts = asked(nvml, "nvmlDeviceGetPowerUsage", handle)
    listed = asked(nvml, "nvmlDeviceGetComputeRunningProcesses", handle)
    return GpuNow(
        uuid,
        max_clock_mhz=asked(nvml, "nvmlDeviceGetMaxClockInfo", handle, 1),
        power_w=None if milliwatts is None else milliwatts / 1e3,
        slowed_by=None if reasons is None else tuple(_slowed(int(reasons))),
        users=None if listed is None else tuple(_named(one.pid) for one in listed),
    )


def _slowed(reasons: int) -> Iterator[str]:
    yield from (name for bit, name in _SLOWED.items() if reasons & bit)


def _named(pid: int) -> str:
    """Of a process in another pid namespace the number is all that is known."""
    try:
        return f"{pid} {psutil.Process(pid).name()}"
    except psutil.Error:
        return str(pid)
