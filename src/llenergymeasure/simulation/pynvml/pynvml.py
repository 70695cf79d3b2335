"""What would an unmodified program see through NVML if the boards of a scenario were in this machine?

With this file's directory on PYTHONPATH and LLEM_SIMULATED_NVML naming a scenario file, `import pynvml` gives
this module instead of NVIDIA's binding. The program needs pydantic beside it, and nothing else of llem's.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

VARIABLE = "LLEM_SIMULATED_NVML"


def _find_package() -> None:
    """Make llenergymeasure importable from where this file lies, without what else is installed there."""
    if importlib.util.find_spec("llenergymeasure") is not None:
        return
    # An empty package: the real one's __init__ imports all that a user of llem wants.
    package = importlib.util.module_from_spec(ModuleSpec("llenergymeasure", loader=None, is_package=True))
    package.__path__ = [str(Path(__file__).resolve().parents[2])]
    sys.modules["llenergymeasure"] = package


_find_package()

from llenergymeasure.simulation.device import (  # noqa: E402
    SimulatedGpu,
    SimulatedNvml,
    SimulatedNvmlError,
)
from llenergymeasure.simulation.scenario import Board, play, read_scenario  # noqa: E402

# nvmlReturn_t
_CODES = {
    "UNINITIALIZED": 1,
    "INVALID_ARGUMENT": 2,
    "NOT_SUPPORTED": 3,
    "NO_PERMISSION": 4,
    "ALREADY_INITIALIZED": 5,
    "NOT_FOUND": 6,
    "INSUFFICIENT_SIZE": 7,
    "INSUFFICIENT_POWER": 8,
    "DRIVER_NOT_LOADED": 9,
    "TIMEOUT": 10,
    "IRQ_ISSUE": 11,
    "LIBRARY_NOT_FOUND": 12,
    "FUNCTION_NOT_FOUND": 13,
    "CORRUPTED_INFOROM": 14,
    "GPU_IS_LOST": 15,
    "RESET_REQUIRED": 16,
    "OPERATING_SYSTEM": 17,
    "LIB_RM_VERSION_MISMATCH": 18,
    "IN_USE": 19,
    "MEMORY": 20,
    "NO_DATA": 21,
    "UNKNOWN": 999,
}


class NVMLError(Exception):
    """As in the binding: made with a return code it is the subclass of that code."""

    _classes: dict[int, type[NVMLError]] = {}  # noqa: RUF012  filled just below, once

    def __new__(cls, value: int) -> NVMLError:  # noqa: PYI034  a subclass, where the code has one
        kind = cls._classes.get(value, cls) if cls is NVMLError else cls
        return super().__new__(kind)

    def __init__(self, value: int) -> None:
        super().__init__(value)
        self.value = value

    def __str__(self) -> str:
        return str(SimulatedNvmlError(self.value))


for _name, _code in _CODES.items():
    _title = "NVMLError_" + "".join(part.title() for part in _name.split("_"))
    NVMLError._classes[_code] = globals()[_title] = type(_title, (NVMLError,), {})  # noqa: SLF001
    globals()[f"NVML_ERROR_{_name}"] = _code

NVML_DEVICE_ARCH_KEPLER = 2
NVML_DEVICE_ARCH_MAXWELL = 3
NVML_DEVICE_ARCH_PASCAL = 4
NVML_DEVICE_ARCH_VOLTA = 5
NVML_DEVICE_ARCH_TURING = 6
NVML_DEVICE_ARCH_AMPERE = 7
NVML_DEVICE_ARCH_ADA = 8
NVML_DEVICE_ARCH_HOPPER = 9
NVML_POWER_SCOPE_GPU = 0
NVML_POWER_SCOPE_MODULE = 1
NVML_POWER_SCOPE_MEMORY = 2
NVML_FEATURE_DISABLED = 0
NVML_FEATURE_ENABLED = 1


def _scenario_path() -> Path:
    path = os.environ.get(VARIABLE)
    if not path:
        raise ImportError(f"this pynvml plays a scenario, and {VARIABLE} names none")
    return Path(path)


_scenario = read_scenario(_scenario_path())
_driver = play(_scenario, clock=time)
_boards = {board.uuid: board for board in _scenario.boards}


def _raising_own(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        try:
            return function(*arguments, **named)
        except SimulatedNvmlError as error:
            raise NVMLError(error.value) from error

    return call


for _name in dir(SimulatedNvml):
    if _name.startswith("nvml"):
        globals()[_name] = _raising_own(getattr(_driver, _name))
    elif _name.startswith("NVML_"):
        globals()[_name] = getattr(_driver, _name)


def _nvmlGetFunctionPointer(name: str) -> Callable[..., Any]:  # noqa: N802  zeus tells the binding by it
    if name not in globals():
        raise NVMLError(_CODES["FUNCTION_NOT_FOUND"])
    function: Callable[..., Any] = globals()[name]
    return function


@dataclass(frozen=True, slots=True)
class c_nvmlMemory_t:  # noqa: N801  the binding's name
    total: int
    free: int
    used: int


@dataclass(frozen=True, slots=True)
class _Utilization:
    gpu: int
    memory: int


def _board(handle: SimulatedGpu) -> Board:
    return _boards[handle.uuid]


def nvmlInit() -> None:  # noqa: N802  the binding's name
    if _scenario.init_fails_with is not None:
        raise NVMLError(_scenario.init_fails_with)
    _driver.nvmlInit()


def nvmlInitWithFlags(flags: int) -> None:  # noqa: ARG001, N802  the binding's signature
    nvmlInit()


def nvmlDeviceGetName(handle: SimulatedGpu) -> str:  # noqa: N802  the binding's name
    return _board(handle).name


def nvmlDeviceGetArchitecture(handle: SimulatedGpu) -> int:  # noqa: N802  the binding's name
    return _board(handle).architecture


def nvmlDeviceGetFieldValues(  # noqa: N802  the binding's name
    handle: SimulatedGpu,
    fieldIds: Sequence[int | tuple[int, int]],  # noqa: N803  the binding's name
) -> list[Any]:
    """As in the binding a field is an id, or an id with its scope: the GPU's is the only one there is."""
    fields = [field if isinstance(field, tuple) else (field, NVML_POWER_SCOPE_GPU) for field in fieldIds]
    known = [field for field, scope in fields if scope == NVML_POWER_SCOPE_GPU]
    values = iter(_raising_own(_driver.nvmlDeviceGetFieldValues)(handle, known))
    return [
        next(values) if scope == NVML_POWER_SCOPE_GPU else SimpleNamespace(nvmlReturn=_CODES["NOT_SUPPORTED"])
        for _, scope in fields
    ]


def nvmlDeviceGetTemperatureV(handle: SimulatedGpu, sensor: int, version: int = 1) -> int:  # noqa: ARG001, N802
    return int(_raising_own(_driver.nvmlDeviceGetTemperature)(handle, sensor))


def nvmlDeviceGetUtilizationRates(handle: SimulatedGpu) -> _Utilization:  # noqa: N802  the binding's name
    busy = handle.power.power_w(time.monotonic_ns()) > _board(handle).idle_w
    return _Utilization(gpu=100 if busy else 0, memory=0)


def nvmlDeviceGetComputeMode(handle: SimulatedGpu) -> int:  # noqa: ARG001, N802  the binding's signature
    return 0


def nvmlDeviceGetGraphicsRunningProcesses(handle: SimulatedGpu) -> list[Any]:  # noqa: ARG001, N802
    return []


def _refusing(code: int) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:  # noqa: ARG001  the same whatever is asked
        raise NVMLError(code)

    return call


for _name in (
    "nvmlDeviceGetC2cModeInfoV",
    "nvmlDeviceGetPowerManagementDefaultLimit",
    "nvmlDeviceGetPowerManagementLimit",
    "nvmlDeviceGetPowerManagementLimitConstraints",
    "nvmlDeviceGetSupportedGraphicsClocks",
    "nvmlDeviceGetSupportedMemoryClocks",
):
    globals().setdefault(_name, _refusing(_CODES["NOT_SUPPORTED"]))
for _name in (
    "nvmlDeviceResetGpuLockedClocks",
    "nvmlDeviceResetMemoryLockedClocks",
    "nvmlDeviceSetGpuLockedClocks",
    "nvmlDeviceSetMemoryLockedClocks",
    "nvmlDeviceSetPersistenceMode",
    "nvmlDeviceSetPowerManagementLimit",
):
    globals()[_name] = _refusing(_CODES["NO_PERMISSION"])
