"""What do NVIDIA boards say of their energy and power?"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

from llenergymeasure.exceptions import EnergyError
from llenergymeasure.records import Clock, Domain, Quantity, Sample

# Yang et al., arXiv 2312.02741: over about 19 boards the sensor showed gain × true + offset with a gain of
# 0.873 to 1.065 and an offset of −24 to +16 W. A domain states the way back, true = gain × read + offset:
# 1 / gain, and −offset / gain, each at the ends that reach furthest.
SYSTEMATIC_GAIN = (1 / 1.065, 1 / 0.873)
SYSTEMATIC_OFFSET_W = (-16 / 0.873, 24 / 0.873)

_ENERGY = Quantity("energy", "nvml.total_energy", "J", 1e-3)
_INSTANT = Quantity("power_instant", "nvml.power.instant", "W", 1e-3)
_AVERAGE = Quantity("power_average", "nvml.power.average", "W", 1e-3)
_USAGE = Quantity("power_usage", "nvml.power.usage", "W", 1e-3)

# The member of the driver's union that holds the value, by nvmlValueType_t.
_MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")


@dataclass(frozen=True, slots=True)
class _Board:
    """An open board. `fields` are read in one batched call, `functions` one by one where that fails."""

    handle: Any
    domain: str
    fields: tuple[tuple[int, Quantity], ...]
    functions: tuple[tuple[str, Quantity], ...]

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        return (*(quantity for _, quantity in self.fields), *(quantity for _, quantity in self.functions))


class NvmlMeter:
    """Energy counter, instant and average power of NVIDIA boards, known by UUID, one call per board and poll.

    `nvml` is the module `pynvml` or something that offers the same functions. `gpus` is "auto" (what
    CUDA_VISIBLE_DEVICES leaves visible), "all", or UUIDs, their beginnings or indices. Which fields a board
    has is found out by reading each twice. Reading never raises for a board that is lost: it gives nothing.
    """

    def __init__(
        self,
        nvml: Any = None,
        *,
        gpus: Literal["auto", "all"] | Sequence[str] = "auto",
        clock: Clock = time,
    ) -> None:
        self._nvml = nvml
        self._gpus = gpus
        self._clock = clock
        self._stack = ExitStack()
        self._boards: tuple[_Board, ...] = ()

    def why_unavailable(self) -> str | None:
        try:
            with self:
                return None
        except EnergyError as error:
            return error.message

    def __enter__(self) -> Self:
        """Open the boards. EnergyError where there is no driver, no such board, or nothing to read."""
        with ExitStack() as stack:
            nvml = self._module()
            try:
                nvml.nvmlInit()
                stack.callback(nvml.nvmlShutdown)
                self._boards = self._open()
            except nvml.NVMLError as error:
                raise EnergyError(f"the NVIDIA driver can't be used: {error}") from error
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._boards = ()
        self._stack.close()

    def domains(self) -> Sequence[Domain]:
        return [
            Domain(
                board.domain,
                "gpu",
                board.quantities,
                resolution_j=_ENERGY.scale if _ENERGY in board.quantities else None,
                systematic_gain=SYSTEMATIC_GAIN,
                systematic_offset_w=SYSTEMATIC_OFFSET_W,
            )
            for board in self._boards
        ]

    def sample(self) -> Sequence[Sample]:
        return [sample for board in self._boards for sample in self._read(board)]

    def _module(self) -> Any:
        if self._nvml is None:
            try:
                import pynvml
            except ImportError as error:
                raise EnergyError(
                    "NVIDIA boards can't be read: the package nvidia-ml-py is missing",
                    hint="pip install nvidia-ml-py",
                ) from error
            self._nvml = pynvml
        return self._nvml

    def _open(self) -> tuple[_Board, ...]:
        nvml = self._nvml
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        if not handles:
            raise EnergyError("there is no NVIDIA GPU in this machine")
        uuids = [str(nvml.nvmlDeviceGetUUID(handle)) for handle in handles]
        if self._gpus == "all":
            chosen: Sequence[int] = range(len(handles))
        elif self._gpus == "auto":
            names = {nvml.nvmlDeviceGetName(handle) for handle in handles}
            pci_order = len(names) == 1 or os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
            chosen = visible_gpus(os.environ.get("CUDA_VISIBLE_DEVICES"), uuids, pci_order=pci_order)
            if not chosen:
                raise EnergyError("CUDA_VISIBLE_DEVICES hides every NVIDIA GPU of this machine")
        else:
            chosen = chosen_gpus(self._gpus, uuids)
        boards = [self._probe(handles[index], uuids[index]) for index in chosen]
        silent = [board.domain for board in boards if not board.quantities]
        if silent and (len(silent) == len(boards) or self._gpus != "auto"):
            raise EnergyError(f"neither energy nor power can be read on {', '.join(silent)}")
        return tuple(board for board in boards if board.quantities)

    def _probe(self, handle: Any, uuid: str) -> _Board:
        """Find what the board gives by reading everything twice."""
        nvml, name = self._nvml, f"gpu:{uuid}"
        candidates = (
            (nvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION, _ENERGY),
            (nvml.NVML_FI_DEV_POWER_INSTANT, _INSTANT),
            (nvml.NVML_FI_DEV_POWER_AVERAGE, _AVERAGE),
        )
        trial = _Board(handle, name, candidates, ())
        first, second = (self._read(trial), self._read(trial))
        found = {sample.quantity for sample in first} & {sample.quantity for sample in second}
        fields = tuple((field, quantity) for field, quantity in candidates if quantity.name in found)
        single = _Board(
            handle,
            name,
            (),
            (("nvmlDeviceGetTotalEnergyConsumption", _ENERGY), ("nvmlDeviceGetPowerUsage", _USAGE)),
        )
        first, second = (self._read(single), self._read(single))
        answered = {sample.quantity for sample in first} & {sample.quantity for sample in second}
        has_power = bool(found & {_INSTANT.name, _AVERAGE.name})
        functions = tuple(
            (function, quantity)
            for function, quantity in single.functions
            if quantity.name in answered - found and not (quantity is _USAGE and has_power)
        )
        return _Board(handle, name, fields, functions)

    def _read(self, board: _Board) -> list[Sample]:
        nvml, samples = self._nvml, []
        if board.fields:
            before_ns = self._clock.monotonic_ns()
            try:
                values = nvml.nvmlDeviceGetFieldValues(board.handle, [field for field, _ in board.fields])
            except nvml.NVMLError:
                values = ()
            after_ns = self._clock.monotonic_ns()
            samples = [
                Sample(board.domain, quantity.name, before_ns, after_ns, _raw(value))
                for (_, quantity), value in zip(board.fields, values, strict=False)
                if value.nvmlReturn == nvml.NVML_SUCCESS
            ]
        for function, quantity in board.functions:
            before_ns = self._clock.monotonic_ns()
            try:
                raw = getattr(nvml, function)(board.handle)
            except nvml.NVMLError:
                continue
            samples.append(
                Sample(board.domain, quantity.name, before_ns, self._clock.monotonic_ns(), int(raw))
            )
        return samples


def _raw(value: Any) -> int:
    return int(getattr(value.value, _MEMBERS[value.valueType]))


def visible_gpus(spec: str | None, uuids: Sequence[str], *, pci_order: bool) -> tuple[int, ...]:
    """The indices of the boards that CUDA_VISIBLE_DEVICES=`spec` leaves visible, in its order.

    As CUDA does it: integers, UUIDs or their unambiguous beginnings; the first entry that names nothing ends
    the list. Where an entry can't be matched to a board here (a MIG instance, or an integer when CUDA orders
    unlike boards by speed and not by `pci_order`), every board is taken: one too many is listed, not added.
    """
    everything = tuple(range(len(uuids)))
    if spec is None:
        return everything
    chosen: list[int] = []
    for entry in (part.strip() for part in spec.split(",")):
        if entry.startswith("MIG") or (entry.isdecimal() and not pci_order):
            return everything
        matches = _matching(entry, uuids)
        if len(matches) != 1 or matches[0] in chosen:
            break
        chosen.append(matches[0])
    return tuple(chosen)


def chosen_gpus(names: Sequence[str], uuids: Sequence[str]) -> tuple[int, ...]:
    """The indices of the boards that `names` (indices, UUIDs or their beginnings) mean, each once.

    EnergyError where a name means no board or more than one.
    """
    chosen: dict[int, None] = {}
    for name in names:
        matches = _matching(name, uuids)
        if len(matches) != 1:
            listed = ", ".join(f"{index}: {uuid}" for index, uuid in enumerate(uuids))
            count = "no GPU" if not matches else f"{len(matches)} GPUs"
            raise EnergyError(f"energy.gpus: {name!r} means {count} of this machine ({listed})")
        chosen[matches[0]] = None
    return tuple(chosen)


def _matching(name: str, uuids: Sequence[str]) -> list[int]:
    if name.isdecimal():
        return [int(name)] if int(name) < len(uuids) else []
    return [index for index, uuid in enumerate(uuids) if name and uuid.startswith(name)]
