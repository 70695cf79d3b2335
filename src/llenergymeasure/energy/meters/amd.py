"""What do AMD's GPUs say of their energy and power?"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from llenergymeasure.energy import Part
from llenergymeasure.energy.meters.calibration import SensorFiles, calibrated, calibrations
from llenergymeasure.energy.meters.gpu_choice import chosen_gpus, visible_gpus
from llenergymeasure.exceptions import EnergyError
from llenergymeasure.records import Clock, Domain, Quantity, Sample

_SOURCE = "amdsmi.energy_accumulator"
_POWER = Quantity("power_average", "amdsmi.socket_power", "W", 1.0)
# "energy_accumulator" in newer versions of the library, "power" in early ones.
_ACCUMULATORS = ("energy_accumulator", "power")
# MI300 tells the current, MI200 the average power; what a generation does not tell reads "N/A".
_POWERS = ("current_socket_power", "average_socket_power", "socket_power")

# On MI250X and MI300A the accumulator agrees with the power measured before the board (McDaniel et al. 2026,
# arXiv 2604.06056), which gives no bounds; other boards count wrongly (ROCm/amdsmi issue 38). Until bounds
# are published those of the same kind of sensor on NVIDIA's boards are taken (Yang et al., arXiv 2312.02741):
# the way back from gains of 0.873 to 1.065 and offsets of −24 to +16 W.
_SYSTEMATIC_GAIN = (1 / 1.065, 1 / 0.873)
_SYSTEMATIC_OFFSET_W = (-16 / 0.873, 24 / 0.873)


class _Board:
    """One GPU, or one die of it that counts for itself."""

    period_s: float | None = None

    def __init__(self, amdsmi: Any, handle: Any, uuid: str, *, clock: Clock) -> None:
        self.uuid = uuid
        self.driver_cpu_ns = 0
        self._amdsmi = amdsmi
        self._handle = handle
        self._clock = clock
        self._energy: Quantity | None = None
        self._has_power = False
        self._find()

    @property
    def name(self) -> str:
        return f"gpu:{self.uuid}"

    @property
    def domains(self) -> Sequence[str]:
        return (self.name,)

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        power = (_POWER,) if self._has_power else ()
        return power if self._energy is None else (self._energy, *power)

    def sample(self) -> Sequence[Sample]:
        """Energy and power. EnergyError with the library's reason where it gives neither."""
        samples = []
        failure: Exception | None = None
        asked = [(self._energy, self._energy_raw)] if self._energy is not None else []
        asked += [(_POWER, self._power_raw)] if self._has_power else []
        cpu_ns = time.thread_time_ns()
        for quantity, ask in asked:
            before_ns = self._clock.monotonic_ns()
            try:
                raw = ask()
            except self._amdsmi.AmdSmiException as error:
                failure = error
                continue
            if raw is not None:
                after_ns = self._clock.monotonic_ns()
                samples.append(Sample(self.name, quantity.name, before_ns, after_ns, raw))
        self.driver_cpu_ns += time.thread_time_ns() - cpu_ns
        if not samples:
            raise EnergyError(f"the driver gives nothing of {self.name}: {failure or 'no number'}")
        return samples

    def _find(self) -> None:
        """Read each twice. A die without a counter of its own, such as the odd ones of an MI250, reads 0."""
        readings = [self._count() for _ in range(2)]
        if all(reading is not None and reading[0] > 0 for reading in readings) and readings[0] is not None:
            self._energy = Quantity("energy", _SOURCE, "J", readings[0][1] * 1e-6)
        try:
            self._has_power = all((self._power_raw() or 0) > 0 for _ in range(2))
        except self._amdsmi.AmdSmiException:
            self._has_power = False

    def _count(self) -> tuple[int, float] | None:
        """The accumulator and its unit in microjoules; None in a guest, and where it is not supported."""
        try:
            count = self._amdsmi.amdsmi_get_energy_count(self._handle)
        except self._amdsmi.AmdSmiException:
            return None
        raw = next((count[key] for key in _ACCUMULATORS if key in count), None)
        return None if raw is None else (int(raw), float(count["counter_resolution"]))

    def _energy_raw(self) -> int | None:
        count = self._amdsmi.amdsmi_get_energy_count(self._handle)
        return next((int(count[key]) for key in _ACCUMULATORS if key in count), None)

    def _power_raw(self) -> int | None:
        power = self._amdsmi.amdsmi_get_power_info(self._handle)
        shown = (power.get(key) for key in _POWERS)
        return next((int(value) for value in shown if isinstance(value, int | float)), None)


class AmdMeter:
    """Energy accumulator and socket power of AMD's GPUs through the package amdsmi.

    `amdsmi` is that module or something that offers the same functions; it is imported only where `kfd`, the
    device of AMD's compute driver, exists. `gpus` is as for NVIDIA's, with ROCR_VISIBLE_DEVICES and
    HIP_VISIBLE_DEVICES in place of CUDA's variable. The accumulator has been wrong on some boards
    (ROCm/amdsmi #38); where there is power as well, one is compared with the other.
    """

    def __init__(
        self,
        amdsmi: Any = None,
        *,
        gpus: Literal["auto", "all"] | Sequence[str] = "auto",
        kfd: Path = Path("/dev/kfd"),
        files: SensorFiles | None = None,
        clock: Clock = time,
    ) -> None:
        self._amdsmi = amdsmi
        self._gpus = gpus
        self._kfd = kfd
        self._files = files
        self._clock = clock
        self._stack = ExitStack()
        self._boards: tuple[_Board, ...] = ()
        self._domains: tuple[Domain, ...] = ()

    def why_unavailable(self) -> str | None:
        try:
            with self:
                return None
        except EnergyError as error:
            return error.message

    def __enter__(self) -> Self:
        """Open the boards. EnergyError without a driver, its library, such a board or anything to read."""
        amdsmi = self._amdsmi = self._library()
        with ExitStack() as stack:
            try:
                amdsmi.amdsmi_init()
                stack.callback(amdsmi.amdsmi_shut_down)
                self._open()
            except amdsmi.AmdSmiException as error:
                raise EnergyError(f"AMD's driver can't be used: {error}") from error
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._boards = ()
        self._domains = ()
        self._stack.close()

    def domains(self) -> Sequence[Domain]:
        return self._domains

    def parts(self) -> Sequence[Part]:
        return self._boards

    def sample(self) -> Sequence[Sample]:
        samples: list[Sample] = []
        for board in self._boards:
            try:
                samples += board.sample()
            except EnergyError:
                # The domain is left out; by its part the recorder is told why.
                continue
        return samples

    def _library(self) -> Any:
        if self._amdsmi is not None:
            return self._amdsmi
        if not self._kfd.exists():
            raise EnergyError(f"there is no AMD GPU in this machine ({self._kfd} does not exist)")
        try:
            # Loading the library where there is no driver ends the process in some versions.
            return import_module("amdsmi")
        except (ImportError, OSError, KeyError) as error:
            raise EnergyError(
                f"AMD's GPUs can't be read: the package amdsmi can't be loaded ({error})",
                hint="pip install amdsmi, in the version of the installed ROCm",
            ) from error

    def _open(self) -> None:
        amdsmi = self._amdsmi
        handles = list(amdsmi.amdsmi_get_processor_handles())
        if not handles:
            raise EnergyError("there is no AMD GPU in this machine")
        uuids = [str(amdsmi.amdsmi_get_gpu_device_uuid(handle)) for handle in handles]
        if self._gpus == "all":
            chosen: Sequence[int] = range(len(handles))
        elif self._gpus == "auto":
            chosen = _visible(uuids)
        else:
            chosen = chosen_gpus(self._gpus, uuids)
        boards = [_Board(amdsmi, handles[index], uuids[index], clock=self._clock) for index in chosen]
        self._boards = tuple(board for board in boards if board.quantities)
        if not self._boards:
            asked = ", ".join(uuids[index] for index in chosen) or "any GPU: the environment hides them all"
            raise EnergyError(f"neither energy nor power can be read on {asked}")
        known = calibrations(self._files)
        self._domains = tuple(
            calibrated(
                Domain(
                    board.name,
                    "gpu",
                    board.quantities,
                    resolution_j=next((one.scale for one in board.quantities if one.unit == "J"), None),
                    systematic_gain=_SYSTEMATIC_GAIN,
                    systematic_offset_w=_SYSTEMATIC_OFFSET_W,
                ),
                known.get(board.uuid),
            )
            for board in self._boards
        )


def _visible(uuids: Sequence[str]) -> Sequence[int]:
    """What ROCR_VISIBLE_DEVICES leaves, and of that HIP_VISIBLE_DEVICES or CUDA's, which HIP reads too."""
    left = visible_gpus(os.environ.get("ROCR_VISIBLE_DEVICES"), uuids, pci_order=True)
    names = ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
    spec = next((os.environ[name] for name in names if name in os.environ), None)
    return [left[index] for index in visible_gpus(spec, [uuids[index] for index in left], pci_order=True)]
