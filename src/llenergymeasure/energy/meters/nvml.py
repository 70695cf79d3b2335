"""What do NVIDIA boards say of their energy and power?"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Literal, Self

from llenergymeasure.energy import Part
from llenergymeasure.energy.meters.calibration import (
    Calibration,
    SensorFiles,
    calibrated,
    calibrations,
    characterised,
    recall,
)
from llenergymeasure.energy.meters.gpu_choice import chosen_gpus, visible_gpus, why_unsure
from llenergymeasure.energy.meters.gpu_health import HealthPart, Question, in_trees, questions
from llenergymeasure.energy.meters.nvml_board import ENERGY, Board
from llenergymeasure.exceptions import EnergyError
from llenergymeasure.records import Clock, Domain, Sample

# Yang et al., arXiv 2312.02741: over about 19 boards the sensor showed gain × true + offset with a gain of
# 0.873 to 1.065 and an offset of −24 to +16 W. A domain states the way back, true = gain × read + offset:
# 1 / gain, and −offset / gain, each at the ends that reach furthest.
SYSTEMATIC_GAIN = (1 / 1.065, 1 / 0.873)
SYSTEMATIC_OFFSET_W = (-16 / 0.873, 24 / 0.873)


class NvmlMeter:
    """Energy counter, instant and average power of NVIDIA boards, known by UUID, one call per board and poll;
    and about once a second what the driver says of a board's state and of the processes on it.

    `nvml` is the module `pynvml` or something that offers the same functions. `gpus` is "auto" (what
    CUDA_VISIBLE_DEVICES leaves visible), "all", or UUIDs, their beginnings or indices. `processes` gives the
    root pids of the run, for whom a process on the board is not foreign; without it that is not told. Which
    fields a board has is found out by reading each twice. `sample` never raises for a board that is lost: it
    gives nothing. `notes` says what could not be told, such as which boards CUDA's numbers mean.
    """

    def __init__(
        self,
        nvml: Any = None,
        *,
        gpus: Literal["auto", "all"] | Sequence[str] = "auto",
        processes: Callable[[], Sequence[int]] | None = None,
        files: SensorFiles | None = None,
        clock: Clock = time,
    ) -> None:
        self.notes: tuple[str, ...] = ()
        self._nvml = nvml
        self._gpus = gpus
        self._processes = processes
        self._files = files
        self._clock = clock
        self._stack = ExitStack()
        self._boards: tuple[Board, ...] = ()
        self._questions: tuple[tuple[Question, ...], ...] = ()
        self._health: tuple[HealthPart, ...] = ()
        self._domains: tuple[Domain, ...] = ()
        self._health_due_ns = 0

    def why_unavailable(self) -> str | None:
        try:
            with self:
                return None
        except EnergyError as error:
            return error.message

    def __enter__(self) -> Self:
        """Open the boards. EnergyError where there is no driver, no such board, or nothing to read."""
        with ExitStack() as stack:
            nvml = self._nvml = _binding(self._nvml)
            try:
                nvml.nvmlInit()
                stack.callback(nvml.nvmlShutdown)
                self._open()
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
        self._boards = self._health = self._domains = ()
        self._stack.close()

    def domains(self) -> Sequence[Domain]:
        return self._domains

    def parts(self) -> Sequence[Part]:
        return [*self._boards, *self._health]

    def sample(self) -> Sequence[Sample]:
        samples: list[Sample] = []
        for board in self._boards:
            try:
                samples += board.sample()
            except EnergyError:
                # The domain is left out; by its part the recorder is told why.
                continue
        now_ns = self._clock.monotonic_ns()
        if now_ns >= self._health_due_ns:
            self._health_due_ns = now_ns + 1_000_000_000
            samples += [sample for health in self._health for sample in health.sample()]
        return samples

    def _open(self) -> None:
        nvml = self._nvml
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        if not handles:
            raise EnergyError("there is no NVIDIA GPU in this machine")
        uuids = [_text(nvml.nvmlDeviceGetUUID(handle)) for handle in handles]
        chosen = self._chosen(handles, uuids)
        boards = [Board(nvml, handles[index], uuids[index], clock=self._clock) for index in chosen]
        silent = [board.name for board in boards if not board.quantities]
        if silent and (len(silent) == len(boards) or self._gpus != "auto"):
            raise EnergyError(f"neither energy nor power can be read on {', '.join(silent)}")
        self.notes += tuple(
            f"{board.uuid} is not read: {board.why_silent()}" for board in boards if not board.quantities
        )
        open_ = [
            (board, handles[index]) for board, index in zip(boards, chosen, strict=True) if board.quantities
        ]
        self._boards = tuple(board for board, _ in open_)
        asked = [questions(nvml, handle, board.name, processes=self._processes) for board, handle in open_]
        self._health = tuple(HealthPart(nvml, one, clock=self._clock) for one in asked if one)
        known, driver = calibrations(self._files), _text(nvml.nvmlSystemGetDriverVersion())
        self._domains = tuple(
            domain
            for (board, handle), health in zip(open_, asked, strict=True)
            for domain in self._described(board, handle, health, known=known, driver=driver)
        )

    def _described(
        self,
        board: Board,
        handle: Any,
        health: Sequence[Question],
        *,
        known: Mapping[str, Calibration],
        driver: str,
    ) -> list[Domain]:
        sensors = recall(board.uuid, driver, files=self._files)
        flags = ("mig_shared",) if _mig(self._nvml, handle) else ()
        read = [
            (domain, quantity if quantity is ENERGY else characterised(quantity, sensors))
            for domain, quantity in board.quantities
        ]
        read += [(question.domain, question.quantity) for question in health]
        domains = []
        for name in dict.fromkeys(domain for domain, _ in read):
            mine = tuple(quantity for domain, quantity in read if domain == name)
            domain = Domain(
                name,
                "gpu" if name == board.name else "module",
                mine,
                resolution_j=ENERGY.scale if ENERGY in mine else None,
                systematic_gain=SYSTEMATIC_GAIN,
                systematic_offset_w=SYSTEMATIC_OFFSET_W,
                flags=flags,
            )
            key = board.uuid if name == board.name else name
            domains.append(calibrated(domain, known.get(key)))
        return domains

    def _chosen(self, handles: Sequence[Any], uuids: Sequence[str]) -> Sequence[int]:
        nvml = self._nvml

        def board_of(instance: str) -> str | None:
            return _board_of(nvml, instance)

        self.notes = ()
        if self._gpus == "all":
            return range(len(handles))
        if self._gpus != "auto":
            return chosen_gpus(self._gpus, uuids, board_of=board_of)
        spec = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = {nvml.nvmlDeviceGetName(handle) for handle in handles}
        pci_order = len(names) == 1 or os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
        if why := why_unsure(spec, uuids, pci_order=pci_order, board_of=board_of):
            self.notes = (f"every GPU is recorded: {why}",)
        chosen = visible_gpus(spec, uuids, pci_order=pci_order, board_of=board_of)
        if not chosen:
            raise EnergyError("CUDA_VISIBLE_DEVICES hides every NVIDIA GPU of this machine")
        return chosen


def gpus_of(pids: Sequence[int], nvml: Any = None) -> tuple[str, ...]:
    """The UUIDs of the GPUs that a process in the trees rooted at `pids` uses right now, as NVML lists them.

    Empty without a driver, and in a container that hides the host's pids from it.
    """
    roots = frozenset(pids)
    try:
        nvml = _binding(nvml)
    except EnergyError:
        return ()
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return ()
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        return tuple(
            _text(nvml.nvmlDeviceGetUUID(handle)) for handle in handles if _is_used(nvml, handle, roots)
        )
    finally:
        nvml.nvmlShutdown()


def _is_used(nvml: Any, handle: Any, roots: frozenset[int]) -> bool:
    try:
        listed = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except nvml.NVMLError:
        return False
    return any(in_trees(one.pid, roots) for one in listed)


def _binding(nvml: Any) -> Any:
    if nvml is not None:
        return nvml
    try:
        import pynvml
    except ImportError as error:
        raise EnergyError(
            "NVIDIA boards can't be read: the package nvidia-ml-py is missing",
            hint="pip install nvidia-ml-py",
        ) from error
    return pynvml


def _mig(nvml: Any, handle: Any) -> bool:
    try:
        return bool(nvml.nvmlDeviceGetMigMode(handle)[0])
    except (nvml.NVMLError, AttributeError):
        # A board without MIG, or a binding from before it.
        return False


def _board_of(nvml: Any, instance: str) -> str | None:
    """The UUID of the board that a MIG instance is part of. Old names (MIG-GPU-…/1/0) tell it themselves."""
    if instance.startswith("MIG-GPU-"):
        return instance.removeprefix("MIG-").partition("/")[0]
    try:
        handle = nvml.nvmlDeviceGetHandleByUUID(instance)
        return _text(nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)))
    except (nvml.NVMLError, AttributeError):
        return None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
