"""Which GPUs does this host show, and in what state?"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeVar

from llenergymeasure.records import GpuFacts

T = TypeVar("T")


def gpu_facts(driver: Any = None) -> tuple[GpuFacts, ...]:
    """Every GPU that NVML lists; empty without a driver. A field that can't be read is None: unknown.

    `driver` is the binding or a device that offers the same functions.
    """
    nvml = driver or import_module("pynvml")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return ()
    try:
        return tuple(_facts(nvml, index) for index in range(nvml.nvmlDeviceGetCount()))
    finally:
        nvml.nvmlShutdown()


def _facts(nvml: Any, index: int) -> GpuFacts:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)

    def ask(question: str, *arguments: int, of: Callable[[Any], T]) -> T | None:
        try:
            return of(getattr(nvml, question)(handle, *arguments))
        except (nvml.NVMLError, AttributeError):
            return None

    try:
        driver = _text(nvml.nvmlSystemGetDriverVersion())
    except (nvml.NVMLError, AttributeError):
        driver = None
    return GpuFacts(
        uuid=ask("nvmlDeviceGetUUID", of=_text) or f"unknown-{index}",
        index=index,
        name=ask("nvmlDeviceGetName", of=_text),
        memory_bytes=ask("nvmlDeviceGetMemoryInfo", of=lambda memory: int(memory.total)),
        driver=driver,
        power_limit_w=ask("nvmlDeviceGetEnforcedPowerLimit", of=lambda milliwatts: milliwatts / 1e3),
        sm_clock_mhz=ask("nvmlDeviceGetClockInfo", 1, of=int),
        temperature_c=ask("nvmlDeviceGetTemperature", 0, of=int),
        ecc=ask("nvmlDeviceGetEccMode", of=lambda mode: bool(mode[0])),
        mig=ask("nvmlDeviceGetMigMode", of=lambda mode: bool(mode[0])),
        persistence=ask("nvmlDeviceGetPersistenceMode", of=bool),
        foreign_pids=ask(
            "nvmlDeviceGetComputeRunningProcesses", of=lambda found: tuple(process.pid for process in found)
        ),
    )


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
