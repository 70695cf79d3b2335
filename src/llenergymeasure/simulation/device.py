"""What does a GPU's driver show of a power that is known exactly?"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from llenergymeasure.records import Clock, Window
from llenergymeasure.simulation.sensor import AVERAGE, COUNTER, INSTANT, SimulatedSensor
from llenergymeasure.simulation.waveform import Waveform

_SUCCESS, _UNINITIALIZED, _INVALID_ARGUMENT = 0, 1, 2
_NOT_SUPPORTED, _NOT_FOUND, _GPU_IS_LOST = 3, 6, 15
__all__ = ["SimulatedGpu", "SimulatedNvml", "SimulatedNvmlError", "SimulatedProcess", "SimulatedSensor"]

_MESSAGES = {
    _UNINITIALIZED: "Uninitialized",
    _INVALID_ARGUMENT: "Invalid Argument",
    _NOT_SUPPORTED: "Not Supported",
    _NOT_FOUND: "Not Found",
    _GPU_IS_LOST: "GPU is lost",
}
_UNSIGNED_INT, _UNSIGNED_LONG_LONG = 1, 3


class SimulatedNvmlError(Exception):
    """Stands for pynvml.NVMLError: `value` is the driver's return code."""

    def __init__(self, value: int) -> None:
        super().__init__(_MESSAGES.get(value, f"error {value}"))
        self.value = value


@dataclass(slots=True)
class _Value:
    ullVal: int = 0  # noqa: N815  the driver's name
    uiVal: int = 0  # noqa: N815  the driver's name


@dataclass(slots=True)
class _FieldValue:
    fieldId: int  # noqa: N815  the driver's name
    scopeId: int  # noqa: N815  the driver's name
    timestamp: int
    valueType: int  # noqa: N815  the driver's name
    nvmlReturn: int  # noqa: N815  the driver's name
    value: _Value


@dataclass(frozen=True, slots=True)
class _Memory:
    total: int
    free: int
    used: int


@dataclass(frozen=True, slots=True)
class SimulatedProcess:
    pid: int
    usedGpuMemory: int | None = None  # noqa: N815  the driver's name


class SimulatedGpu:
    """One board: a true power that is set from outside, and what its sensor makes of it."""

    def __init__(self, clock: Clock, uuid: str, *, idle_w: float, sensor: SimulatedSensor) -> None:
        self.uuid = uuid
        self.power = Waveform(idle_w)
        self.processes: list[SimulatedProcess] = []
        self.fails_with: int | None = None
        self.sensor = sensor
        self._clock = clock
        self._calls = itertools.count()
        self._counter_from_ns = clock.monotonic_ns() - 3_600_000_000_000
        self._stuck_ns = clock.monotonic_ns() if sensor.counter_stuck else None

    def reset_counter(self) -> None:
        """The counter starts again at 0, as when the driver is loaded anew."""
        self._counter_from_ns = self._clock.monotonic_ns()

    def stick_counter(self) -> None:
        """From now on the counter shows what it shows now."""
        self._stuck_ns = self._clock.monotonic_ns()

    def read(self, field: int) -> int:
        """Millijoules or milliwatts as of the last step, after the call's latency.

        SimulatedNvmlError when it can't be read.
        """
        with self.call():
            return self.shown(field)

    @contextmanager
    def call(self) -> Iterator[None]:
        """A call to the driver: it takes its time before it looks, and after."""
        before_ns, after_ns = self.sensor.latency_ns(next(self._calls))
        if before_ns:
            self._clock.sleep(before_ns / 1e9)
        if self.fails_with is not None:
            raise SimulatedNvmlError(self.fails_with)
        yield
        if after_ns:
            self._clock.sleep(after_ns / 1e9)

    def shown(self, field: int) -> int:
        if field not in self.sensor.fields:
            raise SimulatedNvmlError(_NOT_SUPPORTED)
        now_ns = self._clock.monotonic_ns()
        if field == COUNTER:
            now_ns = now_ns if self._stuck_ns is None else min(now_ns, self._stuck_ns)
            t_ns = self.sensor.last_step_ns(now_ns) - self.sensor.lag_ns(counter=True)
            return max(0, round(1000 * self._shown_j(self._counter_from_ns, t_ns, counter=True)))
        t_ns = self.sensor.last_step_ns(now_ns) - self.sensor.lag_ns(counter=False)
        window_s = self.sensor.window_s if field == INSTANT else self.sensor.average_window_s
        shown_j = self._shown_j(t_ns - round(window_s * 1e9), t_ns, counter=False)
        return max(0, round(1000 * shown_j / window_s))

    def _shown_j(self, t0_ns: int, t1_ns: int, *, counter: bool) -> float:
        if t1_ns <= t0_ns:
            return 0.0
        true_j = self.power.energy_j(t0_ns, t1_ns)
        return self.sensor.shown_j(true_j, (t1_ns - t0_ns) * 1e-9, counter=counter)


class SimulatedNvml:
    """Stands for the module `pynvml`: the same names, over boards whose true power is known.

    `set_power` says what a board draws from now on, and `true_energy_j` what that came to. All of its time
    is `clock`'s, so that it works in virtual and in real time. Functions raise `NVMLError` as the driver's
    binding does. `gpus` are the boards, for what a script wants to do to one of them.
    """

    NVMLError = SimulatedNvmlError
    NVML_SUCCESS = _SUCCESS
    NVML_ERROR_UNINITIALIZED = _UNINITIALIZED
    NVML_ERROR_INVALID_ARGUMENT = _INVALID_ARGUMENT
    NVML_ERROR_NOT_SUPPORTED = _NOT_SUPPORTED
    NVML_ERROR_NOT_FOUND = _NOT_FOUND
    NVML_ERROR_GPU_IS_LOST = _GPU_IS_LOST
    NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION = COUNTER
    NVML_FI_DEV_POWER_AVERAGE = AVERAGE
    NVML_FI_DEV_POWER_INSTANT = INSTANT
    NVML_VALUE_TYPE_UNSIGNED_INT = _UNSIGNED_INT
    NVML_VALUE_TYPE_UNSIGNED_LONG_LONG = _UNSIGNED_LONG_LONG
    NVML_TEMPERATURE_GPU = 0
    NVML_CLOCK_SM = 1

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
        self._clock = clock
        self._open = 0
        self.gpus = tuple(SimulatedGpu(clock, uuid, idle_w=idle_w, sensor=sensor) for uuid in uuids)

    def set_power(self, watts: float, *, index: int = 0) -> None:
        """From now on board `index` draws `watts`."""
        self.gpus[index].power.set(self._clock.monotonic_ns(), watts)

    def true_energy_j(self, window: Window, *, index: int = 0) -> float:
        return self.gpus[index].power.energy_j(window.start_ns, window.end_ns)

    def nvmlInit(self) -> None:  # noqa: N802  the driver's name
        self._open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802  the driver's name
        self._require_open()
        self._open -= 1

    def _require_open(self) -> None:
        if self._open == 0:
            raise SimulatedNvmlError(_UNINITIALIZED)

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802  the driver's name
        self._require_open()
        return "simulated"

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802  the driver's name
        self._require_open()
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> SimulatedGpu:  # noqa: N802  the driver's name
        self._require_open()
        if not 0 <= index < len(self.gpus):
            raise SimulatedNvmlError(_INVALID_ARGUMENT)
        return self.gpus[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> SimulatedGpu:  # noqa: N802  the driver's name
        self._require_open()
        for gpu in self.gpus:
            if gpu.uuid == uuid:
                return gpu
        raise SimulatedNvmlError(_NOT_FOUND)

    def nvmlDeviceGetUUID(self, gpu: SimulatedGpu) -> str:  # noqa: N802  the driver's name
        return gpu.uuid

    def nvmlDeviceGetName(self, gpu: SimulatedGpu) -> str:  # noqa: ARG002, N802  the driver's signature
        return "Simulated GPU"

    def nvmlDeviceGetMemoryInfo(self, gpu: SimulatedGpu) -> _Memory:  # noqa: ARG002, N802  the driver's signature
        return _Memory(total=80 * 2**30, free=79 * 2**30, used=2**30)

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu: SimulatedGpu) -> int:  # noqa: N802  the driver's name
        self._require_open()
        return gpu.read(COUNTER)

    def nvmlDeviceGetPowerUsage(self, gpu: SimulatedGpu) -> int:  # noqa: N802  the driver's name
        self._require_open()
        return gpu.read(AVERAGE)

    def nvmlDeviceGetFieldValues(  # noqa: N802  the driver's name
        self, gpu: SimulatedGpu, fields: Sequence[int]
    ) -> list[_FieldValue]:
        """One value per field in order; a field that can't be read says so in its own `nvmlReturn`."""
        self._require_open()
        with gpu.call():
            return [self._field_value(gpu, field) for field in fields]

    def _field_value(self, gpu: SimulatedGpu, field: int) -> _FieldValue:
        stamp_us = self._clock.monotonic_ns() // 1000
        try:
            raw = gpu.shown(field)
        except SimulatedNvmlError as error:
            return _FieldValue(field, 0, stamp_us, _UNSIGNED_INT, error.value, _Value())
        if field == COUNTER:
            return _FieldValue(field, 0, stamp_us, _UNSIGNED_LONG_LONG, _SUCCESS, _Value(ullVal=raw))
        return _FieldValue(field, 0, stamp_us, _UNSIGNED_INT, _SUCCESS, _Value(uiVal=raw))

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: SimulatedGpu) -> list[SimulatedProcess]:  # noqa: N802
        self._require_open()
        return list(gpu.processes)

    def nvmlDeviceGetTemperature(self, gpu: SimulatedGpu, sensor: int) -> int:  # noqa: ARG002, N802
        raise SimulatedNvmlError(_NOT_SUPPORTED)

    def nvmlDeviceGetClockInfo(self, gpu: SimulatedGpu, kind: int) -> int:  # noqa: ARG002, N802
        raise SimulatedNvmlError(_NOT_SUPPORTED)

    def nvmlDeviceGetEnforcedPowerLimit(self, gpu: SimulatedGpu) -> int:  # noqa: ARG002, N802
        raise SimulatedNvmlError(_NOT_SUPPORTED)

    def nvmlDeviceGetEccMode(self, gpu: SimulatedGpu) -> list[int]:  # noqa: ARG002, N802
        raise SimulatedNvmlError(_NOT_SUPPORTED)

    def nvmlDeviceGetMigMode(self, gpu: SimulatedGpu) -> list[int]:  # noqa: ARG002, N802
        raise SimulatedNvmlError(_NOT_SUPPORTED)

    def nvmlDeviceGetPersistenceMode(self, gpu: SimulatedGpu) -> int:  # noqa: ARG002, N802
        raise SimulatedNvmlError(_NOT_SUPPORTED)
