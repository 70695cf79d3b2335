"""What does AMD's management library show of a power that is known exactly?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from types import SimpleNamespace
from typing import Literal

from llenergymeasure.records import Clock, Window
from llenergymeasure.simulation.gpu import SimulatedGpu
from llenergymeasure.simulation.sensor import SimulatedSensor

_RESOLUTION_UJ = 15.3
_UNKNOWN = "N/A"


class Status(IntEnum):
    """What a call returns (amdsmi_status_t)."""

    NOT_SUPPORTED = 2
    NO_PERM = 10
    NOT_FOUND = 31
    NOT_INIT = 32
    DRIVER_NOT_LOADED = 34


class SimulatedAmdSmiError(Exception):
    """Stands for amdsmi.AmdSmiException."""


class SimulatedAmdSmiLibraryError(SimulatedAmdSmiError):
    """Stands for amdsmi.AmdSmiLibraryException: `err_code` is the library's status."""

    def __init__(self, err_code: int) -> None:
        super().__init__(err_code)
        self.err_code = err_code

    def get_error_code(self) -> int:
        return self.err_code


class SimulatedAmdSmi:
    """Stands for the module `amdsmi` over boards whose true power is known.

    `gpus` are the boards (or dies): `power`, `sensor`, and `fails` with the library's codes by function.
    With `two_dies` every odd one reads 0 and the even one before it shows both, as on an MI250.
    In a guest the energy counter is not supported. `energy_key` is "power" in early versions. `kind` says
    which of the power fields hold a number: MI300 has a current, MI200 an average one.
    """

    AmdSmiException = SimulatedAmdSmiError
    AmdSmiLibraryException = SimulatedAmdSmiLibraryError
    amdsmi_wrapper = SimpleNamespace(**{f"AMDSMI_STATUS_{one.name}": one.value for one in Status})

    def __init__(
        self,
        clock: Clock,
        *,
        idle_w: float,
        sensor: SimulatedSensor | None = None,
        uuids: Sequence[str] = ("amd-simulated-0",),
        two_dies: bool = False,
    ) -> None:
        sensor = sensor or SimulatedSensor(step_s=0.001)
        self.gpus = tuple(SimulatedGpu(clock, uuid, idle_w=idle_w, sensor=sensor) for uuid in uuids)
        self.fails: dict[str, int] = {}
        self.guest = False
        self.energy_key = "energy_accumulator"
        self.kind: Literal["MI200", "MI300"] = "MI200" if two_dies else "MI300"
        self._two_dies = two_dies
        self._clock = clock
        self._open = False

    def set_power(self, watts: float, *, index: int = 0) -> None:
        """From now on die `index` draws `watts`."""
        self.gpus[index].power.set(self._clock.monotonic_ns(), watts)

    def true_energy_j(self, window: Window, *, index: int = 0) -> float:
        return self.gpus[index].power.energy_j(window.start_ns, window.end_ns)

    def amdsmi_init(self) -> None:
        if "amdsmi_init" in self.fails:
            raise SimulatedAmdSmiLibraryError(self.fails["amdsmi_init"])
        self._open = True

    def amdsmi_shut_down(self) -> None:
        self._require_open()
        self._open = False

    def _require_open(self) -> None:
        if not self._open:
            raise SimulatedAmdSmiLibraryError(Status.NOT_INIT)

    def amdsmi_get_processor_handles(self) -> list[SimulatedGpu]:
        self._require_open()
        return list(self.gpus)

    def amdsmi_get_gpu_device_uuid(self, processor_handle: SimulatedGpu) -> str:
        with self._asking(processor_handle, "amdsmi_get_gpu_device_uuid"):
            return processor_handle.uuid

    def amdsmi_get_energy_count(self, processor_handle: SimulatedGpu) -> dict[str, int | float]:
        """The accumulator, its unit in microjoules and a stamp in nanoseconds."""
        with self._asking(processor_handle, "amdsmi_get_energy_count"):
            if self.guest:
                raise SimulatedAmdSmiLibraryError(Status.NOT_SUPPORTED)
            joules = sum(die.counter_j() for die in self._shown_by(processor_handle))
            return {
                self.energy_key: int(joules * 1e6 / _RESOLUTION_UJ),
                "counter_resolution": _RESOLUTION_UJ,
                "timestamp": self._clock.monotonic_ns(),
            }

    def amdsmi_get_power_info(self, processor_handle: SimulatedGpu) -> dict[str, int | str]:
        """Watts, or "N/A" where this generation does not show it."""
        with self._asking(processor_handle, "amdsmi_get_power_info"):
            dies = self._shown_by(processor_handle)
            watts = round(sum(die.mean_w(die.sensor.window_s) for die in dies))
            return {
                "socket_power": watts,
                "current_socket_power": watts if self.kind == "MI300" else _UNKNOWN,
                "average_socket_power": watts if self.kind == "MI200" else _UNKNOWN,
                "power_limit": 750,
            }

    def _shown_by(self, die: SimulatedGpu) -> tuple[SimulatedGpu, ...]:
        if not self._two_dies:
            return (die,)
        index = self.gpus.index(die)
        return () if index % 2 else self.gpus[index : index + 2]

    @contextmanager
    def _asking(self, die: SimulatedGpu, name: str) -> Iterator[None]:
        self._require_open()
        with die.waiting():
            code = die.fails_with if die.fails_with is not None else die.fails.get(name)
            if code is not None:
                raise SimulatedAmdSmiLibraryError(code)
            yield
