"""What would an unmodified program see through NVML if the boards of a scenario were in this machine?

With this file's directory on PYTHONPATH and LLEM_SIMULATED_NVML naming a scenario file, `import pynvml` gives
this module instead of NVIDIA's binding. The program needs pydantic beside it, and nothing else of llem's.
"""

# ruff: noqa: N802  functions are named as in the binding

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

VARIABLE = "LLEM_SIMULATED_NVML"


# The checkout.
_ROOT = Path(__file__).resolve().parents[3]


def _find_package(name: str, folder: Path) -> None:
    """Make a package importable from this checkout, without what else is installed there."""
    if importlib.util.find_spec(name) is not None:
        return
    # An empty package: the real one's __init__ imports all that a user of llem wants.
    package = importlib.util.module_from_spec(ModuleSpec(name, loader=None, is_package=True))
    package.__path__ = [str(folder)]
    sys.modules[name] = package


_find_package("llenergymeasure", _ROOT / "src/llenergymeasure")
_find_package("benchmarks", _ROOT / "benchmarks")

from benchmarks.boards.scenario import Board, play, read_scenario  # noqa: E402  found only now

from llenergymeasure.simulation.device import SimulatedGpu, SimulatedNvml  # noqa: E402  the same
from llenergymeasure.simulation.nvml_names import Code, SimulatedNvmlError  # noqa: E402  the same


def _scenario_path() -> Path:
    path = os.environ.get(VARIABLE)
    if not path:
        raise ImportError(f"this pynvml plays a scenario, and {VARIABLE} names none")
    return Path(path)


_scenario = read_scenario(_scenario_path())
_driver = play(_scenario, clock=time)
_boards = {board.uuid: board for board in _scenario.boards}
_indices = {gpu.uuid: index for index, gpu in enumerate(_driver.gpus)}

# functions, constants and errors of the boards
globals().update(
    {name: getattr(_driver, name) for name in dir(SimulatedNvml) if name.lower().startswith("nvml")}
)

_ARCHITECTURES = ("KEPLER", "MAXWELL", "PASCAL", "VOLTA", "TURING", "AMPERE", "ADA", "HOPPER")
globals().update({f"NVML_DEVICE_ARCH_{name}": code for code, name in enumerate(_ARCHITECTURES, start=2)})
NVML_POWER_SCOPE_MEMORY = 2
NVML_FEATURE_DISABLED, NVML_FEATURE_ENABLED = 0, 1


def _nvmlGetFunctionPointer(name: str) -> Callable[..., Any]:
    """Programs tell NVIDIA's binding from others of its name by this."""
    if not callable(globals().get(name)):
        raise SimulatedNvmlError(Code.FUNCTION_NOT_FOUND)
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


def nvmlInitWithFlags(flags: int) -> None:  # noqa: ARG001  the binding's signature
    _driver.nvmlInit()


def nvmlDeviceGetIndex(handle: SimulatedGpu) -> int:
    return _indices[handle.uuid]


def nvmlDeviceGetArchitecture(handle: SimulatedGpu) -> int:
    return _board(handle).architecture


def nvmlDeviceGetTemperatureV(handle: SimulatedGpu, sensor: int, version: int = 1) -> int:  # noqa: ARG001
    return _driver.nvmlDeviceGetTemperature(handle, sensor)


def nvmlDeviceGetUtilizationRates(handle: SimulatedGpu) -> _Utilization:
    busy = handle.power.power_w(time.monotonic_ns()) > _board(handle).idle_w
    return _Utilization(gpu=100 if busy else 0, memory=0)


def nvmlDeviceGetComputeMode(handle: SimulatedGpu) -> int:  # noqa: ARG001  the binding's signature
    return 0


def nvmlDeviceGetGraphicsRunningProcesses(handle: SimulatedGpu) -> list[Any]:  # noqa: ARG001  the same
    return []


def _refusing(code: int) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:  # noqa: ARG001  the same whatever is asked
        raise SimulatedNvmlError(code)

    return call


for _name in (
    "nvmlDeviceGetC2cModeInfoV",
    "nvmlDeviceGetPowerManagementDefaultLimit",
    "nvmlDeviceGetPowerManagementLimit",
    "nvmlDeviceGetPowerManagementLimitConstraints",
    "nvmlDeviceGetSupportedGraphicsClocks",
    "nvmlDeviceGetSupportedMemoryClocks",
):
    globals()[_name] = _refusing(Code.NOT_SUPPORTED)
for _name in (
    "nvmlDeviceResetGpuLockedClocks",
    "nvmlDeviceResetMemoryLockedClocks",
    "nvmlDeviceSetGpuLockedClocks",
    "nvmlDeviceSetMemoryLockedClocks",
    "nvmlDeviceSetPersistenceMode",
    "nvmlDeviceSetPowerManagementLimit",
):
    globals()[_name] = _refusing(Code.NO_PERMISSION)
