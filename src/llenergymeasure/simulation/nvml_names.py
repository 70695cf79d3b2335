"""What does the NVML binding hand out: which errors, which structures?"""

# ruff: noqa: N815  fields and errors are named as in the binding

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import ClassVar, Self, cast

_NO_INSTANCE = 0xFFFFFFFF
UNSIGNED_INT, UNSIGNED_LONG_LONG = 1, 3
GPU_SCOPE, MODULE_SCOPE = 0, 1


class Code(IntEnum):
    """What a call returns (nvmlReturn_t)."""

    UNINITIALIZED = 1
    INVALID_ARGUMENT = 2
    NOT_SUPPORTED = 3
    NO_PERMISSION = 4
    ALREADY_INITIALIZED = 5
    NOT_FOUND = 6
    INSUFFICIENT_SIZE = 7
    INSUFFICIENT_POWER = 8
    DRIVER_NOT_LOADED = 9
    TIMEOUT = 10
    IRQ_ISSUE = 11
    LIBRARY_NOT_FOUND = 12
    FUNCTION_NOT_FOUND = 13
    CORRUPTED_INFOROM = 14
    GPU_IS_LOST = 15
    RESET_REQUIRED = 16
    OPERATING_SYSTEM = 17
    LIB_RM_VERSION_MISMATCH = 18
    IN_USE = 19
    MEMORY = 20
    NO_DATA = 21
    UNKNOWN = 999

    @property
    def title(self) -> str:
        """Its name in the name of its error class."""
        return "".join(part.title() for part in self.name.split("_"))


# The binding's words, where they are not those of the name.
_WORDS = {
    Code.NO_PERMISSION: "Insufficient Permissions",
    Code.INSUFFICIENT_POWER: "Insufficient External Power",
    Code.IRQ_ISSUE: "Interrupt Request Issue",
    Code.LIBRARY_NOT_FOUND: "NVML Shared Library Not Found",
    Code.CORRUPTED_INFOROM: "Corrupted infoROM",
    Code.GPU_IS_LOST: "GPU is lost",
    Code.RESET_REQUIRED: "GPU requires restart",
    Code.OPERATING_SYSTEM: "The operating system has blocked the request.",
    Code.LIB_RM_VERSION_MISMATCH: "RM has detected an NVML/RM version mismatch.",
    Code.MEMORY: "Insufficient Memory",
    Code.IN_USE: "NVML Error with code 19",
    Code.NO_DATA: "NVML Error with code 21",
    Code.UNKNOWN: "Unknown Error",
}


class SimulatedNvmlError(Exception):
    """Stands for pynvml.NVMLError: made of a code, it is an instance of that code's class in `ERRORS`."""

    code: ClassVar[Code] = Code.UNKNOWN

    def __new__(cls, value: int | None = None) -> Self:
        return cast("Self", super().__new__(cls if value is None else ERRORS.get(value, cls)))

    def __init__(self, value: int | None = None) -> None:
        self.value = int(self.code if value is None else value)
        super().__init__(self.value)

    def __str__(self) -> str:
        return _WORDS.get(self.code) or self.code.name.replace("_", " ").title()


ERRORS: dict[int, type[SimulatedNvmlError]] = {
    code: type(f"NVMLError_{code.title}", (SimulatedNvmlError,), {"code": code}) for code in Code
}


@dataclass(slots=True)
class Value:
    ullVal: int = 0
    uiVal: int = 0


@dataclass(slots=True)
class FieldValue:
    fieldId: int
    scopeId: int
    timestamp: int
    nvmlReturn: int
    valueType: int = UNSIGNED_INT
    value: Value = field(default_factory=Value)
    latencyUsec: int = 0


@dataclass(frozen=True, slots=True)
class Memory:
    total: int
    free: int
    used: int
    reserved: int = 0
    version: int = 0


@dataclass(frozen=True, slots=True)
class ViolationTime:
    """Microseconds at which it was read, and nanoseconds throttled until then."""

    referenceTime: int
    violationTime: int


@dataclass(frozen=True, slots=True)
class SimulatedProcess:
    pid: int
    usedGpuMemory: int | None = None
    gpuInstanceId: int = _NO_INSTANCE
    computeInstanceId: int = _NO_INSTANCE
