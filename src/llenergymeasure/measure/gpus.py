"""Which GPUs does this host show, in what state, and which of them does a run use?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from llenergymeasure.energy.bounded import bounded
from llenergymeasure.energy.meters.drm import gpus_in_use
from llenergymeasure.energy.meters.nvml import (
    ListedGpu,
    as_text,
    asked,
    driver,
    driver_version,
    gpus_of,
    listed_gpus,
)
from llenergymeasure.energy.meters.nvml_board import refusals
from llenergymeasure.energy.meters.selection import GPU_METERS, Selection
from llenergymeasure.exceptions import EnergyError, PreFlightError
from llenergymeasure.records import GpuFacts

if TYPE_CHECKING:
    from llenergymeasure.config.models import EnergyConfig
    from llenergymeasure.measure.harness import Worker
    from llenergymeasure.measure.protocol import Ready, WarmUpBatch
    from llenergymeasure.records import BlockKind, Pass, SessionFacts, WarmUp

T = TypeVar("T")
ANSWER_S = 10.0


def gpu_facts(nvml: Any = None, *, within_s: float = ANSWER_S) -> tuple[GpuFacts, ...]:
    """Every GPU that NVML lists; empty without a driver, or with one that does not answer.

    A field that can't be read is None: unknown. `nvml` is the binding or a device that offers the same
    functions.
    """

    def all_facts() -> tuple[GpuFacts, ...]:
        with driver(nvml) as opened:
            return tuple(_facts(opened, *each) for each in enumerate(listed_gpus(opened)))

    try:
        return bounded(all_facts, within_s, what="the NVIDIA driver")
    except EnergyError:
        return ()


def used_gpus(pids: Sequence[int], nvml: Any = None, *, within_s: float = ANSWER_S) -> tuple[str, ...]:
    """The GPUs on which the trees of `pids` are now: UUIDs of NVIDIA's, where the driver answers, and PCI
    addresses of those that the kernel shows.
    """
    try:
        listed = bounded(partial(gpus_of, pids, nvml), within_s, what="the NVIDIA driver")
    except EnergyError:
        listed = ()
    return (*listed, *gpus_in_use(pids))


def require_readable(energy: EnergyConfig, meters: Selection, gpu_uuids: Sequence[str]) -> None:
    """PreFlightError where the engine uses a GPU that can't be read and no choice of the user leaves it out:
    a sum without the very device that works is not the energy of the run.
    """
    if energy.meter not in {"auto", *GPU_METERS} or not isinstance(energy.gpus, str):
        return
    seen, unread = {domain.name for domain in meters.domains}, dict(meters.unread)
    # A lost GPU has no UUID to be known by.
    nameless = next((name for name in unread if name.startswith("gpu:unknown-")), "")
    for name in (f"gpu:{uuid}" for uuid in gpu_uuids):
        why = unread.get(name) or unread.get(nameless)
        if name not in seen and why is not None:
            raise PreFlightError(
                f"the engine uses {name}, whose energy can't be read: {why}",
                hint="take another GPU (CUDA_VISIBLE_DEVICES), or say what to count without it: "
                "--meter rapl, --meter estimate or energy.gpus",
            )


@dataclass(slots=True)
class PlacedWorker:
    """A worker whose facts name the GPUs of all its processes: those that the engine says, and those that the
    driver sees them on once the model is loaded and again before it is closed.

    `claim` hears of the first, and may refuse the run.
    """

    worker: Worker
    used: Callable[[], Sequence[str]]
    claim: Callable[[Sequence[str]], None]
    _seen: dict[str, None] = field(default_factory=dict)

    def open(self) -> Ready:
        ready = self.worker.open()
        facts = self._placed(ready.facts, self.used())
        self.claim(facts.gpu_uuids)
        return replace(ready, facts=facts)

    def warm_up(self, began: Callable[[WarmUpBatch], None] | None = None) -> WarmUp:
        return self.worker.warm_up(began)

    def run_block(
        self,
        kind: BlockKind,
        passes: int,
        *,
        before: Callable[[], None],
        edge: Callable[[], None],
        after: Callable[[], None],
    ) -> tuple[Pass, ...]:
        return self.worker.run_block(kind, passes, before=before, edge=edge, after=after)

    def close(self) -> SessionFacts:
        used = self.used()
        return self._placed(self.worker.close(), used)

    def _placed(self, facts: SessionFacts, used: Sequence[str]) -> SessionFacts:
        self._seen |= dict.fromkeys((*facts.gpu_uuids, *used))
        return replace(facts, gpu_uuids=tuple(self._seen))


def _facts(nvml: Any, index: int, gpu: ListedGpu) -> GpuFacts:
    if gpu.fault is not None:
        return GpuFacts(uuid=gpu.uuid, index=index, fault=gpu.fault)

    def ask(question: str, *arguments: int, of: Callable[[Any], T]) -> T | None:
        answer = asked(nvml, question, gpu.handle, *arguments)
        return None if answer is None else of(answer)

    memory, is_unified, fault = _memory(nvml, gpu.handle)
    return GpuFacts(
        uuid=gpu.uuid,
        index=index,
        name=ask("nvmlDeviceGetName", of=as_text),
        memory_bytes=memory,
        driver=driver_version(nvml),
        power_limit_w=ask("nvmlDeviceGetEnforcedPowerLimit", of=lambda milliwatts: milliwatts / 1e3),
        sm_clock_mhz=ask("nvmlDeviceGetClockInfo", 1, of=int),
        temperature_c=ask("nvmlDeviceGetTemperature", 0, of=int),
        ecc=ask("nvmlDeviceGetEccMode", of=lambda mode: bool(mode[0])),
        mig=ask("nvmlDeviceGetMigMode", of=lambda mode: bool(mode[0])),
        persistence=ask("nvmlDeviceGetPersistenceMode", of=bool),
        foreign_pids=ask(
            "nvmlDeviceGetComputeRunningProcesses", of=lambda found: tuple(process.pid for process in found)
        ),
        unified_memory=is_unified,
        fault=fault,
    )


def _memory(nvml: Any, handle: Any) -> tuple[int | None, bool, str | None]:
    """The bytes of a board's own memory (None is unknown), whether it has none, and why a board that is lost
    does not even say that.
    """
    try:
        total = int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
    except refusals(nvml) as error:
        code = getattr(error, "value", None)
        lost = {nvml.NVML_ERROR_GPU_IS_LOST, nvml.NVML_ERROR_UNKNOWN, nvml.NVML_ERROR_RESET_REQUIRED}
        return None, code == nvml.NVML_ERROR_NOT_SUPPORTED, str(error) if code in lost else None
    return total or None, total == 0, None
