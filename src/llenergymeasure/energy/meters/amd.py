"""What do AMD's GPUs say of their energy and power?"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from llenergymeasure.energy.meters.calibration import SensorFiles, board_domain, calibrations
from llenergymeasure.energy.meters.device import Device, DeviceMeter, Question
from llenergymeasure.energy.meters.gpu_choice import chosen_gpus, visible_gpus
from llenergymeasure.exceptions import EnergyError
from llenergymeasure.records import Clock, Domain, Quantity

_SOURCE = "amdsmi.energy_accumulator"
_POWER = Quantity("power_average", "amdsmi.socket_power", "W", 1.0)
# "energy_accumulator" in newer versions of the library, "power" in early ones.
_ACCUMULATORS = ("energy_accumulator", "power")
# MI300 shows the current, MI200 the average power; what a generation lacks reads "N/A".
_POWERS = ("current_socket_power", "average_socket_power", "socket_power")


class AmdMeter(DeviceMeter):
    """Energy accumulator and socket power of AMD's GPUs through the package amdsmi.

    `amdsmi` is that module or something that offers the same functions; it is imported only where `kfd`, the
    device of AMD's compute driver, exists. `gpus` is as for NVIDIA's, with ROCR_VISIBLE_DEVICES and
    HIP_VISIBLE_DEVICES in place of CUDA's variable.

    On MI250X and MI300A the accumulator agrees with the power measured before the board (McDaniel et al.
    2026, arXiv 2604.06056, which gives no bounds); other boards count wrongly (ROCm/amdsmi issue 38). Where
    there is also power, one is compared with the other, and the bounds are those of NVIDIA's boards.
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
        super().__init__()
        self._amdsmi = amdsmi
        self._gpus = gpus
        self._kfd = kfd
        self._files = files
        self._clock = clock

    def _open(self, stack: ExitStack) -> tuple[Sequence[Device], Sequence[Domain]]:
        """EnergyError without a driver, its library, such a board or anything to read."""
        amdsmi = self._amdsmi or _library(self._kfd)
        try:
            amdsmi.amdsmi_init()
            stack.callback(amdsmi.amdsmi_shut_down)
            handles = list(amdsmi.amdsmi_get_processor_handles())
        except amdsmi.AmdSmiException as error:
            raise EnergyError(f"AMD's driver can't be used: {error}") from error
        uuids = [self._uuid(amdsmi, index, handle) for index, handle in enumerate(handles)]
        boards, faults = {}, {}
        for index in self._chosen(uuids):
            boards[uuids[index]], fault = self._board(amdsmi, handles[index], uuids[index])
            if fault is not None:
                faults[f"gpu:{uuids[index]}"] = str(fault)
        self.unread = faults
        if not any(board.quantities for board in boards.values()) or (
            faults and not isinstance(self._gpus, str)
        ):
            asked = "; ".join(f"{name}: {why}" for name, why in faults.items()) or ", ".join(boards)
            asked = asked or "any GPU: the environment hides them all"
            raise EnergyError(f"neither energy nor power can be read on {asked}")
        self.notes = tuple(f"{name} is not read: {why}" for name, why in faults.items())
        known = calibrations(self._files)
        found = [
            (board, board_domain(uuid, "gpu", [quantity for _, quantity in board.quantities], known))
            for uuid, board in boards.items()
            if board.quantities
        ]
        return [board for board, _ in found], [domain for _, domain in found]

    def _uuid(self, amdsmi: Any, index: int, handle: Any) -> str:
        try:
            return str(amdsmi.amdsmi_get_gpu_device_uuid(handle))
        except _refusals(amdsmi):
            return f"unknown-{index}"

    def _chosen(self, uuids: Sequence[str]) -> Sequence[int]:
        if not uuids:
            raise EnergyError("there is no AMD GPU in this machine")
        if self._gpus == "all":
            return range(len(uuids))
        return _visible(uuids) if self._gpus == "auto" else chosen_gpus(self._gpus, uuids)

    def _board(self, amdsmi: Any, handle: Any, uuid: str) -> tuple[Device, Exception | None]:
        """One GPU, or one die of it that counts for itself: what it answers twice, and what was refused of
        one that answers nothing.

        A die without a counter of its own, such as the odd ones of an MI250, reads 0.
        """
        domain, questions = f"gpu:{uuid}", []
        refused: list[Exception] = []

        def twice(ask: Callable[[], Any]) -> list[Any]:
            """Empty where it is refused, as the counter is in a guest."""
            try:
                return [ask(), ask()]
            except _refusals(amdsmi) as error:
                refused.append(error)
                return []

        def counted() -> int | None:
            return _accumulated(amdsmi.amdsmi_get_energy_count(handle))

        def drawn() -> int | None:
            return _watts(amdsmi.amdsmi_get_power_info(handle))

        counts = twice(partial(amdsmi.amdsmi_get_energy_count, handle))
        if counts and all((_accumulated(one) or 0) > 0 for one in counts):
            scale = float(counts[0]["counter_resolution"]) * 1e-6
            questions.append(Question(domain, Quantity("energy", _SOURCE, "J", scale), counted))
        if (powers := twice(drawn)) and all((one or 0) > 0 for one in powers):
            questions.append(Question(domain, _POWER, drawn))
        device = Device(
            questions,
            errors=_refusals(amdsmi),
            silent=f"the driver reports nothing of {domain}",
            clock=self._clock,
        )
        return device, refused[-1] if refused and not questions else None


def _refusals(amdsmi: Any) -> tuple[type[Exception], ...]:
    """What a call raises where there is no answer: versions of the library differ in functions and keys."""
    return (amdsmi.AmdSmiException, AttributeError, KeyError, TypeError)


def _library(kfd: Path) -> Any:
    if not kfd.exists():
        raise EnergyError(f"there is no AMD GPU in this machine ({kfd} does not exist)")
    try:
        # Loading the library where there is no driver ends the process in some versions.
        return import_module("amdsmi")
    except (ImportError, OSError, KeyError) as error:
        raise EnergyError(
            f"AMD's GPUs can't be read: the package amdsmi can't be loaded ({error})",
            hint="pip install amdsmi, in the version of the installed ROCm",
        ) from error


def _accumulated(shown: Mapping[str, Any]) -> int | None:
    return next((int(shown[key]) for key in _ACCUMULATORS if key in shown), None)


def _watts(shown: Mapping[str, Any]) -> int | None:
    values = (shown.get(key) for key in _POWERS)
    return next((int(value) for value in values if isinstance(value, int | float)), None)


def _visible(uuids: Sequence[str]) -> Sequence[int]:
    """What ROCR_VISIBLE_DEVICES leaves, and of that HIP_VISIBLE_DEVICES or CUDA's, which HIP reads too."""
    left = visible_gpus(os.environ.get("ROCR_VISIBLE_DEVICES"), uuids, pci_order=True)
    names = ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
    spec = next((os.environ[name] for name in names if name in os.environ), None)
    return [left[index] for index in visible_gpus(spec, [uuids[index] for index in left], pci_order=True)]
