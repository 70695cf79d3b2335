"""What does the NVML binding hand out: which errors, which structures?"""

# ruff: noqa: N815, N818  fields and errors are named as in the binding

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Self

SUCCESS, UNKNOWN = 0, 999
_NO_INSTANCE = 0xFFFFFFFF
UNSIGNED_INT, UNSIGNED_LONG_LONG = 1, 3
GPU_SCOPE, MODULE_SCOPE = 0, 1


class SimulatedNvmlError(Exception):
    """Stands for pynvml.NVMLError: made of a code, it is an instance of that code's class."""

    code: ClassVar[int] = UNKNOWN
    text: ClassVar[str] = "Unknown Error"

    def __new__(cls, value: int | None = None) -> Self:
        known = next((one for one in cls.__subclasses__() if one.code == value), cls)
        return super().__new__(known, value)

    def __init__(self, value: int | None = None) -> None:
        self.value = self.code if value is None else value
        super().__init__(self.value)

    def __str__(self) -> str:
        return self.text


class Uninitialized(SimulatedNvmlError):
    code, text = 1, "Uninitialized"


class InvalidArgument(SimulatedNvmlError):
    code, text = 2, "Invalid Argument"


class NotSupported(SimulatedNvmlError):
    code, text = 3, "Not Supported"


class NoPermission(SimulatedNvmlError):
    code, text = 4, "Insufficient Permissions"


class NotFound(SimulatedNvmlError):
    code, text = 6, "Not Found"


class DriverNotLoaded(SimulatedNvmlError):
    code, text = 9, "Driver Not Loaded"


class Timeout(SimulatedNvmlError):
    code, text = 10, "Timeout"


class LibraryNotFound(SimulatedNvmlError):
    code, text = 12, "NVML Shared Library Not Found"


class FunctionNotFound(SimulatedNvmlError):
    code, text = 13, "Function Not Found"


class GpuIsLost(SimulatedNvmlError):
    code, text = 15, "GPU is lost"


class Unknown(SimulatedNvmlError):
    code, text = UNKNOWN, "Unknown Error"


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
