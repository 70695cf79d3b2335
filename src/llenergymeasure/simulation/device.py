"""What does a GPU's driver show of a power that is known exactly?"""

# ruff: noqa: N802, N803, N815  functions, their parameters and constants are named as in the binding

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ctypes import c_uint
from dataclasses import replace
from typing import TypeAlias

from llenergymeasure.records import Clock, Window
from llenergymeasure.simulation import nvml_names as names
from llenergymeasure.simulation.gpu import SimulatedGpu, SimulatedMig
from llenergymeasure.simulation.nvml_names import ERRORS, Code, SimulatedNvmlError, SimulatedProcess
from llenergymeasure.simulation.sensor import AVERAGE, COUNTER, INSTANT, SimulatedSensor
from llenergymeasure.simulation.waveform import Waveform

__all__ = [
    "SimulatedGpu",
    "SimulatedMig",
    "SimulatedNvml",
    "SimulatedNvmlError",
    "SimulatedProcess",
    "SimulatedSensor",
]

Handle: TypeAlias = SimulatedGpu | SimulatedMig

_MOST_INSTANCES = 7


class SimulatedNvml:
    """Stands for the module `pynvml`: the same names, over boards whose true power is known.

    `set_power` says what a board draws from now on, and `true_energy_j` what that came to; the other setters
    do the same for what the driver shows of a board's health. All of its time is `clock`'s, so that it works
    in virtual and in real time. Functions raise `NVMLError` as the driver's binding does. `gpus` are the
    boards, for what a script wants to do to one of them; `fails` gives a function that asks no board
    (`nvmlInit`) the code that it fails with.
    """

    NVMLError = SimulatedNvmlError
    NVML_SUCCESS = 0
    NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION = COUNTER
    NVML_FI_DEV_POWER_AVERAGE = AVERAGE
    NVML_FI_DEV_POWER_INSTANT = INSTANT
    NVML_POWER_SCOPE_GPU = names.GPU_SCOPE
    NVML_POWER_SCOPE_MODULE = names.MODULE_SCOPE
    NVML_VALUE_TYPE_UNSIGNED_INT = names.UNSIGNED_INT
    NVML_VALUE_TYPE_UNSIGNED_LONG_LONG = names.UNSIGNED_LONG_LONG
    NVML_TEMPERATURE_GPU = 0
    NVML_CLOCK_SM = 1
    NVML_PERF_POLICY_POWER = 0
    NVML_PERF_POLICY_THERMAL = 1
    nvmlMemory_v2 = 0x2000028

    def __init__(
        self,
        clock: Clock,
        *,
        idle_w: float,
        counter_step_s: float = 0.1,
        sensor: SimulatedSensor | None = None,
        uuids: Sequence[str] = ("GPU-simulated-0",),
    ) -> None:
        sensor = sensor or SimulatedSensor(step_s=counter_step_s)
        self.fails: dict[str, int] = {}
        self._clock = clock
        self._open = 0
        # boards do not tick in step: each has draws of its own
        self.gpus = tuple(
            SimulatedGpu(clock, uuid, idle_w=idle_w, sensor=replace(sensor, seed=sensor.seed + number))
            for number, uuid in enumerate(uuids)
        )

    def move_to(self, clock: Clock) -> None:
        """From now on all of its time is that clock's."""
        self._clock = clock
        for gpu in self.gpus:
            gpu.clock = clock

    def set_power(self, watts: float, *, index: int = 0) -> None:
        """From now on board `index` draws `watts`."""
        self.gpus[index].power.set(self._clock.monotonic_ns(), watts)

    def set_temperature(self, celsius: float, *, index: int = 0) -> None:
        gpu = self.gpus[index]
        gpu.temperature_c = self._from_now(gpu.temperature_c, celsius)

    def set_clock(self, megahertz: float, *, index: int = 0) -> None:
        gpu = self.gpus[index]
        gpu.sm_clock_mhz = self._from_now(gpu.sm_clock_mhz, megahertz)

    def set_power_limit(self, watts: float, *, index: int = 0) -> None:
        gpu = self.gpus[index]
        gpu.power_limit_w = self._from_now(gpu.power_limit_w, watts)

    def _from_now(self, known: Waveform | None, level: float) -> Waveform:
        if known is None:
            return Waveform(level)
        known.set(self._clock.monotonic_ns(), level)
        return known

    def true_energy_j(self, window: Window, *, index: int = 0) -> float:
        return self.gpus[index].power.energy_j(window.start_ns, window.end_ns)

    @contextmanager
    def _asking(self, handle: Handle, name: str) -> Iterator[SimulatedGpu]:
        """A call that concerns a whole board: an instance does not know the answer."""
        self._require("open")
        if isinstance(handle, SimulatedMig):
            raise SimulatedNvmlError(Code.NOT_SUPPORTED)
        with handle.call(name):
            yield handle

    @contextmanager
    def _asking_any(self, handle: Handle, name: str) -> Iterator[tuple[SimulatedGpu, SimulatedMig | None]]:
        """A call that a board and an instance of it answer alike."""
        self._require("open")
        instance = handle if isinstance(handle, SimulatedMig) else None
        gpu = handle.parent if isinstance(handle, SimulatedMig) else handle
        with gpu.call(name):
            yield gpu, instance

    def _require(self, name: str) -> None:
        if self._open == 0:
            raise SimulatedNvmlError(Code.UNINITIALIZED)
        if name in self.fails:
            raise SimulatedNvmlError(self.fails[name])

    def nvmlInit(self) -> None:
        if "nvmlInit" in self.fails:
            raise SimulatedNvmlError(self.fails["nvmlInit"])
        self._open += 1

    def nvmlShutdown(self) -> None:
        self._require("nvmlShutdown")
        self._open -= 1

    def nvmlSystemGetDriverVersion(self) -> str:
        self._require("nvmlSystemGetDriverVersion")
        return "simulated"

    def nvmlDeviceGetCount(self) -> int:
        self._require("nvmlDeviceGetCount")
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> SimulatedGpu:
        self._require("nvmlDeviceGetHandleByIndex")
        if not 0 <= index < len(self.gpus):
            raise SimulatedNvmlError(Code.INVALID_ARGUMENT)
        with self.gpus[index].call("nvmlDeviceGetHandleByIndex"):
            return self.gpus[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Handle:
        self._require("nvmlDeviceGetHandleByUUID")
        handles: list[Handle] = [*self.gpus, *(one for gpu in self.gpus for one in gpu.instances)]
        for handle in handles:
            if handle.uuid == uuid:
                return handle
        raise SimulatedNvmlError(Code.NOT_FOUND)

    def nvmlDeviceGetUUID(self, handle: Handle) -> str:
        self._require("nvmlDeviceGetUUID")
        return handle.uuid

    def nvmlDeviceGetName(self, handle: Handle) -> str:
        self._require("nvmlDeviceGetName")
        return handle.parent.name + " MIG" if isinstance(handle, SimulatedMig) else handle.name

    def nvmlDeviceGetMemoryInfo(self, handle: Handle, version: int | None = None) -> names.Memory:
        """Only the second version shows separately what the driver keeps to itself."""
        with self._asking_any(handle, "nvmlDeviceGetMemoryInfo") as (gpu, instance):
            memory = gpu.memory(instance=instance)
        if version:
            return replace(memory, version=version)
        return replace(memory, used=memory.used + memory.reserved, reserved=0)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: Handle) -> list[SimulatedProcess]:
        with self._asking_any(handle, "nvmlDeviceGetComputeRunningProcesses") as (gpu, instance):
            return gpu.processes_of(instance)

    def nvmlDeviceGetComputeRunningProcesses_v3(self, handle: Handle) -> list[SimulatedProcess]:
        return self.nvmlDeviceGetComputeRunningProcesses(handle)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Handle) -> int:
        with self._asking(handle, "nvmlDeviceGetTotalEnergyConsumption") as gpu:
            return gpu.shown(COUNTER)

    def nvmlDeviceGetPowerUsage(self, handle: Handle) -> int:
        with self._asking(handle, "nvmlDeviceGetPowerUsage") as gpu:
            return gpu.shown_usage()

    def nvmlDeviceGetFieldValues(
        self, handle: Handle, fieldIds: Sequence[int | tuple[int, int]]
    ) -> list[names.FieldValue]:
        """One value per field (or field and scope); what can't be read says so in its own `nvmlReturn`."""
        with self._asking(handle, "nvmlDeviceGetFieldValues") as gpu:
            pairs = [one if isinstance(one, tuple) else (one, names.GPU_SCOPE) for one in fieldIds]
            return [self._field_value(gpu, field, scope) for field, scope in pairs]

    def _field_value(self, gpu: SimulatedGpu, field: int, scope: int) -> names.FieldValue:
        stamp_us = self._clock.monotonic_ns() // 1000
        try:
            raw = gpu.shown(field, scope)
        except SimulatedNvmlError as error:
            return names.FieldValue(field, scope, stamp_us, error.value)
        value = names.FieldValue(field, scope, stamp_us, self.NVML_SUCCESS)
        if field == COUNTER:
            value.valueType, value.value = names.UNSIGNED_LONG_LONG, names.Value(ullVal=raw)
        else:
            value.value = names.Value(uiVal=raw)
        return value

    def nvmlDeviceGetTemperature(self, handle: Handle, sensor: int) -> int:
        with self._asking(handle, "nvmlDeviceGetTemperature") as gpu:
            return self._level(gpu.temperature_c if sensor == self.NVML_TEMPERATURE_GPU else None)

    def nvmlDeviceGetClockInfo(self, handle: Handle, type: int) -> int:  # noqa: A002  the binding's name
        with self._asking(handle, "nvmlDeviceGetClockInfo") as gpu:
            return self._level(gpu.sm_clock_mhz if type == self.NVML_CLOCK_SM else None)

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: Handle) -> int:
        with self._asking(handle, "nvmlDeviceGetEnforcedPowerLimit") as gpu:
            return self._level(gpu.power_limit_w, scale=1000)

    def _level(self, over_time: Waveform | None, *, scale: int = 1) -> int:
        if over_time is None:
            raise SimulatedNvmlError(Code.NOT_SUPPORTED)
        return round(scale * over_time.power_w(self._clock.monotonic_ns()))

    def nvmlDeviceGetViolationStatus(self, device: Handle, perfPolicyType: int) -> names.ViolationTime:
        with self._asking(device, "nvmlDeviceGetViolationStatus") as gpu:
            throttled = gpu.violations.get(perfPolicyType)
            if throttled is None:
                raise SimulatedNvmlError(Code.NOT_SUPPORTED)
            now_ns = self._clock.monotonic_ns()
            return names.ViolationTime(now_ns // 1000, round(throttled.energy_j(0, now_ns) * 1e9))

    def nvmlDeviceGetEccMode(self, handle: Handle) -> list[int]:
        with self._asking(handle, "nvmlDeviceGetEccMode"):
            raise SimulatedNvmlError(Code.NOT_SUPPORTED)

    def nvmlDeviceGetPersistenceMode(self, handle: Handle) -> int:
        with self._asking(handle, "nvmlDeviceGetPersistenceMode"):
            raise SimulatedNvmlError(Code.NOT_SUPPORTED)

    def nvmlDeviceGetMigMode(self, device: Handle) -> list[int]:
        """The mode now and after the next reset, which are the same here."""
        with self._asking(device, "nvmlDeviceGetMigMode") as gpu:
            if gpu.mig is None:
                raise SimulatedNvmlError(Code.NOT_SUPPORTED)
            return [int(gpu.mig)] * 2

    def nvmlDeviceGetMaxMigDeviceCount(self, device: Handle) -> int:
        with self._asking(device, "nvmlDeviceGetMaxMigDeviceCount") as gpu:
            return _MOST_INSTANCES if gpu.mig else 0

    def nvmlDeviceGetMigDeviceHandleByIndex(self, device: Handle, index: int) -> SimulatedMig:
        with self._asking(device, "nvmlDeviceGetMigDeviceHandleByIndex") as gpu:
            if not gpu.mig or not 0 <= index < _MOST_INSTANCES:
                raise SimulatedNvmlError(Code.INVALID_ARGUMENT)
            if index >= len(gpu.instances):
                raise SimulatedNvmlError(Code.NOT_FOUND)
            return gpu.instances[index]

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, migDevice: Handle) -> SimulatedGpu:
        self._require("nvmlDeviceGetDeviceHandleFromMigDeviceHandle")
        if not isinstance(migDevice, SimulatedMig):
            raise SimulatedNvmlError(Code.INVALID_ARGUMENT)
        return migDevice.parent

    def nvmlDeviceIsMigDeviceHandle(self, device: Handle) -> c_uint:
        self._require("nvmlDeviceIsMigDeviceHandle")
        return c_uint(isinstance(device, SimulatedMig))


for _code in Code:
    setattr(SimulatedNvml, f"NVML_ERROR_{_code.name}", _code.value)
    setattr(SimulatedNvml, f"NVMLError_{_code.title}", ERRORS[_code])
