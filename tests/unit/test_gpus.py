"""Which GPUs a run uses, by what its engine says and what the driver sees."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from llenergymeasure.config.models import EnergyConfig
from llenergymeasure.energy.meters.selection import choose_meters
from llenergymeasure.exceptions import PreFlightError
from llenergymeasure.measure.gpus import PlacedWorker, gpu_facts, require_readable, used_gpus
from llenergymeasure.measure.protocol import Ready, WarmUpBatch
from llenergymeasure.records import BlockKind, Generation, Pass, SessionFacts, WarmUp, Window
from llenergymeasure.simulation.clock import VirtualClock
from llenergymeasure.simulation.device import SimulatedNvml
from llenergymeasure.simulation.nvml_names import Code, SimulatedProcess


class Recorded:
    """A worker that says which GPU its engine uses, and is where a test puts it."""

    def __init__(self, *said: str) -> None:
        self._facts = SessionFacts("cuda:0", {}, {}, gpu_uuids=said)

    def open(self) -> Ready:
        return Ready(Window(0, 1), self._facts, 0, "hash")

    def warm_up(self, began: Callable[[WarmUpBatch], None] | None = None) -> WarmUp:
        return WarmUp(Window(1, 2), (), True)

    def run_block(
        self,
        kind: BlockKind,
        passes: int,
        *,
        before: Callable[[], None],
        edge: Callable[[], None],
        after: Callable[[], None],
    ) -> tuple[Pass, ...]:
        before()
        edge()
        after()
        return (Pass(Window(2, 3), passes, Generation(())),) if kind == "full" else ()

    def close(self) -> SessionFacts:
        return self._facts


def nothing() -> None:
    pass


def unclaimed(uuids: Sequence[str]) -> None:
    pass


def test_gpus_of_every_process_are_the_runs_whatever_its_engine_says() -> None:
    silent = PlacedWorker(Recorded(), lambda: ("GPU-b", "GPU-c"), unclaimed)
    one_of_two = PlacedWorker(Recorded("GPU-c"), lambda: ("GPU-b", "GPU-c"), unclaimed)
    on_no_gpu = PlacedWorker(Recorded(), tuple, unclaimed)
    assert silent.open().facts.gpu_uuids == ("GPU-b", "GPU-c")
    assert silent.close().gpu_uuids == ("GPU-b", "GPU-c")
    assert set(one_of_two.open().facts.gpu_uuids) == {"GPU-b", "GPU-c"}
    assert on_no_gpu.open().facts.gpu_uuids == ()


def test_a_process_that_comes_to_a_gpu_later_is_seen_before_the_end() -> None:
    used: list[str] = []
    worker = PlacedWorker(Recorded("GPU-a"), lambda: used, unclaimed)
    assert worker.open().facts.gpu_uuids == ("GPU-a",)
    used.append("GPU-b")
    assert worker.close().gpu_uuids == ("GPU-a", "GPU-b")


def test_the_gpus_of_a_loaded_model_are_claimed_before_anything_runs_on_them() -> None:
    def refuse(uuids: Sequence[str]) -> None:
        raise PreFlightError(f"taken: {', '.join(uuids)}")

    with pytest.raises(PreFlightError, match="taken: GPU-a, GPU-b"):
        PlacedWorker(Recorded("GPU-a"), lambda: ("GPU-b",), refuse).open()


def test_all_else_is_left_to_the_worker() -> None:
    heard: list[str] = []
    worker = PlacedWorker(Recorded("GPU-a"), tuple, unclaimed)
    done = worker.run_block(
        "full",
        3,
        before=lambda: heard.append("before"),
        edge=lambda: heard.append("edge"),
        after=lambda: heard.append("after"),
    )
    assert [one.walks for one in done] == [3]
    assert worker.run_block("prefill", 3, before=nothing, edge=nothing, after=nothing) == ()
    assert heard == ["before", "edge", "after"]
    assert worker.warm_up().window == Window(1, 2)


def test_the_driver_tells_where_the_tree_of_a_process_is() -> None:
    nvml = SimulatedNvml(VirtualClock(), idle_w=60.0, uuids=("GPU-a", "GPU-b", "GPU-c"))
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        nvml.gpus[1].processes.append(SimulatedProcess(child.pid))
        nvml.gpus[2].processes.append(SimulatedProcess(1))
        assert used_gpus((os.getpid(),), nvml) == ("GPU-b",)
        assert used_gpus((child.pid,), nvml) == ("GPU-b",)
        nvml.gpus[1].fails_with = 15
        assert used_gpus((os.getpid(),), nvml) == ()
    finally:
        child.communicate(timeout=10)


def test_without_a_driver_no_gpu_is_used() -> None:
    assert used_gpus((os.getpid(),), SimulatedNvml(VirtualClock(), idle_w=60.0, uuids=())) == ()


def test_a_board_that_is_lost_is_listed_with_everything_unknown() -> None:
    nvml = SimulatedNvml(VirtualClock(), idle_w=60.0, uuids=("GPU-a", "GPU-b"))
    nvml.gpus[0].offer_health(temperature_c=61, power_limit_w=400)
    nvml.gpus[1].fails_with = 15
    whole, lost = gpu_facts(nvml)
    assert (whole.uuid, whole.temperature_c, whole.power_limit_w) == ("GPU-a", 61, 400.0)
    assert (lost.index, lost.temperature_c, lost.foreign_pids) == (1, None, None)


def test_a_driver_that_never_answers_shows_no_gpu_and_holds_nothing_up() -> None:
    gone = threading.Event()

    class Hanging(SimulatedNvml):
        def nvmlInit(self) -> None:  # noqa: N802
            gone.wait(60)

    nvml = Hanging(VirtualClock(), idle_w=60.0)
    start = time.monotonic()
    assert gpu_facts(nvml, within_s=0.2) == ()
    assert used_gpus((os.getpid(),), nvml, within_s=0.2) == ()
    assert time.monotonic() - start < 5
    gone.set()


# Sick ones


def board(*uuids: str) -> SimulatedNvml:
    return SimulatedNvml(VirtualClock(), idle_w=60, uuids=uuids)


@pytest.mark.parametrize("code", [Code.GPU_IS_LOST, Code.UNKNOWN])
def test_a_lost_gpu_is_named_with_its_fault_beside_the_healthy_ones(code: int) -> None:
    nvml = board("GPU-a", "GPU-b", "GPU-c")
    nvml.gpus[1].fails_with = code
    healthy, lost, other = gpu_facts(nvml)
    assert (healthy.uuid, healthy.fault, other.uuid) == ("GPU-a", None, "GPU-c")
    assert (lost.index, lost.fault) == (1, str(SimulatedNvml.NVMLError(code)))
    assert not lost.unified_memory
    nvml.gpus[2].processes = [SimulatedProcess(os.getpid())]
    assert used_gpus([os.getpid()], nvml) == ("GPU-c",)


def test_a_board_without_memory_of_its_own_works_in_that_of_the_host() -> None:
    nvml = board("GPU-a", "GPU-b")
    nvml.gpus[0].fails["nvmlDeviceGetMemoryInfo"] = Code.NOT_SUPPORTED
    unified, own = gpu_facts(nvml)
    assert (unified.memory_bytes, unified.unified_memory, unified.fault) == (None, True, None)
    assert (own.memory_bytes, own.unified_memory) == (80 * 2**30, False)


def _refused(energy: EnergyConfig, nvml: SimulatedNvml, *used: str) -> bool:
    meters = choose_meters(energy, processes=list, nvml=nvml, rapl_root=Path("/nonexistent"))
    try:
        require_readable(energy, meters, used)
    except PreFlightError as error:
        return used[0] in error.message and error.hint is not None
    return False


def test_an_engine_on_a_gpu_that_can_not_be_read_is_refused_and_one_beside_it_is_not() -> None:
    silent, lost = board("GPU-a", "GPU-b"), board("GPU-a", "GPU-b")
    for name in (
        "nvmlDeviceGetTotalEnergyConsumption",
        "nvmlDeviceGetPowerUsage",
        "nvmlDeviceGetFieldValues",
    ):
        silent.gpus[0].fails[name] = Code.NOT_SUPPORTED
    lost.gpus[0].fails_with = Code.GPU_IS_LOST
    for nvml in (silent, lost):
        for gpus in ("auto", "all"):
            energy = EnergyConfig(gpus=gpus)
            assert _refused(energy, nvml, "GPU-a")
            assert not _refused(energy, nvml, "GPU-b")
            assert not _refused(energy, nvml)
        assert not _refused(EnergyConfig(gpus=("1",)), nvml, "GPU-a")
        assert not _refused(EnergyConfig(meter="estimate"), nvml, "GPU-a")


def test_no_model_of_the_cpu_stands_in_for_the_only_gpu_that_works() -> None:
    alone = board("GPU-a")
    for name in (
        "nvmlDeviceGetTotalEnergyConsumption",
        "nvmlDeviceGetPowerUsage",
        "nvmlDeviceGetFieldValues",
    ):
        alone.gpus[0].fails[name] = Code.NOT_SUPPORTED
    assert _refused(EnergyConfig(), alone, "GPU-a")
    assert not _refused(EnergyConfig(), alone)
