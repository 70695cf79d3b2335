"""What do NVIDIA boards say of their energy and power?"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any, Literal

from llenergymeasure.energy import Part
from llenergymeasure.energy.meters.calibration import (
    Calibration,
    SensorFiles,
    board_domain,
    calibrations,
    characterised,
    recall,
)
from llenergymeasure.energy.meters.device import DeviceMeter
from llenergymeasure.energy.meters.gpu_choice import chosen_gpus, visible_gpus, why_unsure
from llenergymeasure.energy.meters.gpu_health import HealthPart, in_trees
from llenergymeasure.energy.meters.nvml_board import BINDING_NAMES, Board, refusals
from llenergymeasure.exceptions import EnergyError
from llenergymeasure.records import Clock, Domain, DomainKind, Sample

_HEALTH_NS = 1_000_000_000
# The old package pynvml puts its folder before the module of nvidia-ml-py, and some versions overwrite it.
RIGHT_BINDING = "pip uninstall -y pynvml; pip install --force-reinstall nvidia-ml-py"


@dataclass(frozen=True, slots=True)
class ListedGpu:
    """A GPU of the driver's list; `fault` is why it can't be opened, as when it is lost."""

    uuid: str
    handle: Any
    fault: str | None = None


class NvmlMeter(DeviceMeter):
    """Energy counter, instant and average power of NVIDIA boards, known by UUID, one call per board and poll;
    and about once a second what the driver says of a board's state and of the processes on it.

    `nvml` is the module `pynvml` or something that offers the same functions. `gpus` is "auto" (what
    CUDA_VISIBLE_DEVICES leaves visible), "all", or UUIDs, their beginnings or indices. `processes` gives the
    root pids of the run, for whom a process on the board is not foreign. Which fields a board has is found
    out by reading each twice. `sample` never raises for a board that is lost: it gives nothing. One that is
    lost from the start is `unread`; only where it was named itself nothing is read.
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
        super().__init__()
        self._nvml = nvml
        self._gpus = gpus
        self._processes = processes
        self._files = files
        self._clock = clock
        self._health: tuple[HealthPart, ...] = ()
        self._health_due_ns = 0

    def __exit__(self, *error: object) -> None:
        self._health = ()
        super().__exit__(*error)

    def parts(self) -> Sequence[Part]:
        return [*self._parts, *self._health]

    def sample(self) -> Sequence[Sample]:
        samples = super().sample()
        now_ns = self._clock.monotonic_ns()
        if now_ns < self._health_due_ns:
            return samples
        self._health_due_ns = now_ns + _HEALTH_NS
        return [*samples, *(sample for health in self._health for sample in health.sample())]

    def _open(self, stack: ExitStack) -> tuple[Sequence[Board], Sequence[Domain]]:
        """EnergyError where there is no driver, no such board, or nothing to read."""
        nvml = stack.enter_context(driver(self._nvml))
        gpus = listed_gpus(nvml)
        if not gpus:
            raise EnergyError("there is no NVIDIA GPU in this machine")
        self.notes, self.unread = tuple(_why_old(nvml)), {}
        chosen = [gpus[index] for index in self._chosen(nvml, gpus)]
        found = [Board(nvml, gpu.handle, gpu.uuid, clock=self._clock) for gpu in chosen if gpu.fault is None]
        self.unread = {f"gpu:{gpu.uuid}": gpu.fault for gpu in chosen if gpu.fault is not None}
        self.unread |= {f"gpu:{board.uuid}": board.why_silent() for board in found if not board.quantities}
        if self.unread and (len(self.unread) == len(chosen) or not isinstance(self._gpus, str)):
            each = "; ".join(f"{name}: {why}" for name, why in self.unread.items())
            raise EnergyError(f"neither energy nor power can be read on {each}")
        self.notes += tuple(
            f"{name.removeprefix('gpu:')} is not read: {why}" for name, why in self.unread.items()
        )
        boards = [board for board in found if board.quantities]
        health = [
            HealthPart(nvml, board.handle, f"gpu:{board.uuid}", processes=self._processes, clock=self._clock)
            for board in boards
        ]
        self._health = tuple(part for part in health if part.questions)
        known, version = calibrations(self._files), driver_version(nvml) or "unknown"
        return boards, [
            domain
            for board, part in zip(boards, health, strict=True)
            for domain in self._described(nvml, board, part, known=known, version=version)
        ]

    def _described(
        self, nvml: Any, board: Board, health: HealthPart, *, known: Mapping[str, Calibration], version: str
    ) -> Iterator[Domain]:
        sensors = recall(board.uuid, version, files=self._files)
        flags = ("mig_shared",) if _mig(nvml, board.handle) else ()
        read = [(domain, characterised(quantity, sensors)) for domain, quantity in board.quantities]
        read += [(question.domain, question.quantity) for question in health.questions]
        kinds: tuple[DomainKind, ...] = ("gpu", "module")
        for kind in kinds:
            mine = [quantity for domain, quantity in read if domain == f"{kind}:{board.uuid}"]
            if mine:
                yield board_domain(board.uuid, kind, mine, known, flags=flags)

    def _chosen(self, nvml: Any, gpus: Sequence[ListedGpu]) -> Sequence[int]:
        board_of, uuids = partial(_board_of, nvml), [gpu.uuid for gpu in gpus]
        if self._gpus == "all":
            return range(len(gpus))
        if self._gpus != "auto":
            return chosen_gpus(self._gpus, uuids, board_of=board_of)
        spec = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = {asked(nvml, "nvmlDeviceGetName", gpu.handle) for gpu in gpus if gpu.fault is None}
        pci_order = len(names) == 1 or os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
        if why := why_unsure(spec, uuids, pci_order=pci_order, board_of=board_of):
            self.notes += (f"every GPU is recorded: {why}",)
        chosen = visible_gpus(spec, uuids, pci_order=pci_order, board_of=board_of)
        if not chosen:
            raise EnergyError("CUDA_VISIBLE_DEVICES hides every NVIDIA GPU of this machine")
        return chosen


@contextmanager
def driver(nvml: Any = None) -> Iterator[Any]:
    """The binding to NVIDIA's driver, `nvml` or pynvml, initialised. EnergyError where it can't be used."""
    if nvml is None:
        try:
            nvml = import_module("pynvml")
        except ImportError as error:
            raise EnergyError(
                "NVIDIA boards can't be read: the package nvidia-ml-py is missing",
                hint="pip install nvidia-ml-py",
            ) from error
        except (SyntaxError, AttributeError, OSError) as error:
            raise EnergyError(
                f"NVIDIA boards can't be read: the module pynvml is broken ({error})", hint=RIGHT_BINDING
            ) from error
    if not hasattr(nvml, "nvmlInit") or not hasattr(nvml, "NVMLError"):
        raise EnergyError(
            "NVIDIA boards can't be read: the module pynvml is not NVIDIA's", hint=RIGHT_BINDING
        )
    broken: tuple[type[Exception], ...] = (*refusals(nvml), ValueError, OSError)
    try:
        nvml.nvmlInit()
        try:
            yield nvml
        finally:
            # A driver that has lost a board may refuse even that.
            with suppress(nvml.NVMLError):
                nvml.nvmlShutdown()
    except nvml.NVMLError as error:
        raise EnergyError(f"the NVIDIA driver can't be used: {error}") from error
    except broken as error:
        what = f"{type(error).__name__}: {error}"
        raise EnergyError(
            f"the NVIDIA driver can't be used, its binding broke: {what}", hint=RIGHT_BINDING
        ) from error


def asked(nvml: Any, function: str, *arguments: Any) -> Any:
    """The driver's answer, or None where it gives none."""
    try:
        return getattr(nvml, function)(*arguments)
    except refusals(nvml):
        return None


def driver_version(nvml: Any) -> str | None:
    version = asked(nvml, "nvmlSystemGetDriverVersion")
    return None if version is None else as_text(version)


def listed_gpus(nvml: Any) -> list[ListedGpu]:
    """In the driver's order, with those that it lists and can't open."""
    return [_listed(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]


def _listed(nvml: Any, index: int) -> ListedGpu:
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        return ListedGpu(as_text(nvml.nvmlDeviceGetUUID(handle)), handle)
    except nvml.NVMLError as error:
        return ListedGpu(f"unknown-{index}", None, str(error))


def _why_old(nvml: Any) -> Iterator[str]:
    missing = [name for name in BINDING_NAMES if not hasattr(nvml, name)]
    if missing:
        yield (
            f"the module pynvml lacks {', '.join(missing)}: it is an old one in front of NVIDIA's, and power "
            f"is read as far as it can ({RIGHT_BINDING})"
        )


def gpus_of(pids: Sequence[int], nvml: Any = None) -> tuple[str, ...]:
    """The UUIDs of the GPUs that a process in the trees rooted at `pids` uses right now, as NVML lists them.

    Empty without a driver, and in a container that hides the host's pids from it.
    """
    roots = frozenset(pids)
    try:
        with driver(nvml) as opened:
            return tuple(gpu.uuid for gpu in listed_gpus(opened) if _is_used(opened, gpu, roots))
    except EnergyError:
        return ()


def _is_used(nvml: Any, gpu: ListedGpu, roots: frozenset[int]) -> bool:
    listed = () if gpu.fault else asked(nvml, "nvmlDeviceGetComputeRunningProcesses", gpu.handle)
    return any(in_trees(one.pid, roots) for one in listed or ())


def _mig(nvml: Any, handle: Any) -> bool:
    """False for a board without MIG, or a binding from before it."""
    mode = asked(nvml, "nvmlDeviceGetMigMode", handle)
    return bool(mode and mode[0])


def _board_of(nvml: Any, instance: str) -> str | None:
    """The UUID of the board that a MIG instance is part of. Old names (MIG-GPU-…/1/0) hold it themselves."""
    if instance.startswith("MIG-GPU-"):
        return instance.removeprefix("MIG-").partition("/")[0]
    try:
        handle = nvml.nvmlDeviceGetHandleByUUID(instance)
        return as_text(nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)))
    except refusals(nvml):
        return None


def as_text(value: str | bytes) -> str:
    """Older bindings give bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value
