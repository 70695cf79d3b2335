"""Which GPUs does this host show, in what state, and which of them does a run use?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from llenergymeasure.energy.bounded import bounded
from llenergymeasure.energy.meters.nvml import as_text, driver, gpus_of
from llenergymeasure.exceptions import EnergyError
from llenergymeasure.records import BlockKind, GpuFacts, Pass, SessionFacts, WarmUp

if TYPE_CHECKING:
    from llenergymeasure.measure.harness import Worker
    from llenergymeasure.measure.protocol import Ready

T = TypeVar("T")
ANSWER_S = 10.0


def gpu_facts(nvml: Any = None, *, within_s: float = ANSWER_S) -> tuple[GpuFacts, ...]:
    """Every GPU that NVML lists; empty without a driver, or with one that does not answer.

    A field that can't be read is None: unknown. `nvml` is the binding or a device that offers the same
    functions.
    """

    def all_facts() -> tuple[GpuFacts, ...]:
        with driver(nvml) as opened:
            return tuple(_facts(opened, index) for index in range(opened.nvmlDeviceGetCount()))

    try:
        return bounded(all_facts, within_s, what="the NVIDIA driver")
    except EnergyError:
        return ()


def used_gpus(pids: Sequence[int], nvml: Any = None, *, within_s: float = ANSWER_S) -> tuple[str, ...]:
    """The UUIDs of the GPUs on which the trees of `pids` are now; empty where the driver lists none or does
    not answer.
    """
    try:
        return bounded(partial(gpus_of, pids, nvml), within_s, what="the NVIDIA driver")
    except EnergyError:
        return ()


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

    def warm_up(self, began: Callable[[int, float | None], None] | None = None) -> WarmUp:
        return self.worker.warm_up(began)

    def run_block(
        self, kind: BlockKind, passes: int, *, before: Callable[[], None], after: Callable[[], None]
    ) -> tuple[Pass, ...]:
        return self.worker.run_block(kind, passes, before=before, after=after)

    def close(self) -> SessionFacts:
        used = self.used()
        return self._placed(self.worker.close(), used)

    def _placed(self, facts: SessionFacts, used: Sequence[str]) -> SessionFacts:
        self._seen |= dict.fromkeys((*facts.gpu_uuids, *used))
        return replace(facts, gpu_uuids=tuple(self._seen))


def _facts(nvml: Any, index: int) -> GpuFacts:
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
    except nvml.NVMLError:
        return GpuFacts(uuid=f"unknown-{index}", index=index)

    def ask(question: str, *arguments: int, of: Callable[[Any], T]) -> T | None:
        try:
            return of(getattr(nvml, question)(handle, *arguments))
        except (nvml.NVMLError, AttributeError):
            return None

    try:
        version = as_text(nvml.nvmlSystemGetDriverVersion())
    except (nvml.NVMLError, AttributeError):
        version = None
    return GpuFacts(
        uuid=ask("nvmlDeviceGetUUID", of=as_text) or f"unknown-{index}",
        index=index,
        name=ask("nvmlDeviceGetName", of=as_text),
        memory_bytes=ask("nvmlDeviceGetMemoryInfo", of=lambda memory: int(memory.total)),
        driver=version,
        power_limit_w=ask("nvmlDeviceGetEnforcedPowerLimit", of=lambda milliwatts: milliwatts / 1e3),
        sm_clock_mhz=ask("nvmlDeviceGetClockInfo", 1, of=int),
        temperature_c=ask("nvmlDeviceGetTemperature", 0, of=int),
        ecc=ask("nvmlDeviceGetEccMode", of=lambda mode: bool(mode[0])),
        mig=ask("nvmlDeviceGetMigMode", of=lambda mode: bool(mode[0])),
        persistence=ask("nvmlDeviceGetPersistenceMode", of=bool),
        foreign_pids=ask(
            "nvmlDeviceGetComputeRunningProcesses", of=lambda found: tuple(process.pid for process in found)
        ),
    )
