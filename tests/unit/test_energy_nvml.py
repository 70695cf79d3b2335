from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llenergymeasure.energy.meters.calibration import Characteristics, SensorFiles, remember
from llenergymeasure.energy.meters.gpu_choice import chosen_gpus, visible_gpus, why_unsure
from llenergymeasure.energy.meters.nvml import NvmlMeter, gpus_of
from llenergymeasure.energy.recording.recorder import Recorder
from llenergymeasure.exceptions import EnergyError
from llenergymeasure.measure.gpus import gpu_facts
from llenergymeasure.records import Domain
from llenergymeasure.simulation.clock import VirtualClock
from llenergymeasure.simulation.device import SimulatedNvml, SimulatedProcess, SimulatedSensor
from llenergymeasure.simulation.nvml_names import Code
from llenergymeasure.simulation.waveform import Waveform

UUIDS = [f"GPU-{letter}{number}" for number, letter in enumerate("aabbccddeeff")]


def _nvml(
    *, uuids: tuple[str, ...] = ("GPU-simulated-0",), fields: tuple[int, ...] = (83, 185, 186)
) -> SimulatedNvml:
    sensor = SimulatedSensor(fields=frozenset(fields))
    return SimulatedNvml(VirtualClock(), idle_w=60, uuids=uuids, sensor=sensor)


class WithoutFields(SimulatedNvml):
    """A driver that is too old for batched reads."""

    def nvmlDeviceGetFieldValues(self, gpu: object, fields: object) -> list[object]:  # type: ignore[override]  # noqa: N802
        raise self.NVMLError(Code.NOT_SUPPORTED)


def test_counter_and_both_powers_are_read_by_uuid() -> None:
    with NvmlMeter(_nvml()) as meter:
        (domain,) = meter.domains()
        samples = {sample.quantity: sample.raw for sample in meter.sample()}
    assert domain.name == "gpu:GPU-simulated-0"
    assert [q.source for q in domain.quantities if q.unit in "JW"] == [
        "nvml.total_energy",
        "nvml.power.instant",
        "nvml.power.average",
    ]
    assert samples["power_instant"] == samples["power_average"] == 60_000
    assert samples["energy"] > 0


@pytest.mark.parametrize(
    ("fields", "names"),
    [((83,), ["energy"]), ((185,), ["power_average"]), ((83, 186), ["energy", "power_instant"])],
)
def test_a_board_has_the_quantities_that_could_be_read(fields: tuple[int, ...], names: list[str]) -> None:
    with NvmlMeter(_nvml(fields=fields)) as meter:
        (board, *_) = meter.parts()
        assert [quantity.name for quantity in meter.domains()[0].quantities if quantity.unit in "JW"] == names
        assert [sample.quantity for sample in board.sample()] == names


def test_single_calls_stand_in_where_batched_ones_fail() -> None:
    with NvmlMeter(WithoutFields(VirtualClock(), idle_w=60)) as meter:
        sources = [q.source for q in meter.domains()[0].quantities if q.unit in "JW"]
        assert sources == ["nvml.total_energy", "nvml.power.usage"]
        assert {sample.quantity: sample.raw for sample in meter.sample()}["power_usage"] == 60_000


def test_a_lost_board_gives_nothing_and_the_others_go_on() -> None:
    nvml = _nvml(uuids=("GPU-a", "GPU-b"))
    with NvmlMeter(nvml) as meter:
        nvml.gpus[0].fails_with = Code.GPU_IS_LOST
        assert {sample.domain for sample in meter.sample()} == {"gpu:GPU-b"}


def test_a_board_that_can_not_be_read_is_told_and_the_others_are_taken() -> None:
    nvml = _nvml(uuids=("GPU-a", "GPU-b"))
    functions = ("nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetPowerUsage", "nvmlDeviceGetFieldValues")
    nvml.gpus[0].fails = dict.fromkeys(functions, Code.NOT_SUPPORTED)
    with NvmlMeter(nvml) as meter:
        assert [domain.name for domain in meter.domains()] == ["gpu:GPU-b"]
        (note,) = meter.notes
    assert note == "GPU-a is not read: Not Supported"


@pytest.mark.parametrize("code", [Code.GPU_IS_LOST, Code.UNKNOWN])
def test_a_board_that_is_lost_from_the_start_takes_no_other_away(code: int) -> None:
    nvml = _nvml(uuids=("GPU-a", "GPU-b"))
    nvml.gpus[0].fails_with = code
    for gpus in ("auto", "all", ["1"]):
        with NvmlMeter(nvml, gpus=gpus) as meter:
            assert [domain.name for domain in meter.domains()] == ["gpu:GPU-b"]
            assert {sample.domain for sample in meter.sample()} == {"gpu:GPU-b"}
        assert meter.unread == ({} if gpus == ["1"] else {"gpu:unknown-0": str(nvml.NVMLError(code))})
    assert str(nvml.NVMLError(code)) in (NvmlMeter(nvml, gpus=["0"]).why_unavailable() or "")


class OldBinding(SimulatedNvml):
    """The package pynvml 11.5: it knows no field above 170, no scope and no version of a structure."""

    def __getattribute__(self, name: str) -> object:
        if name in {"NVML_FI_DEV_POWER_INSTANT", "NVML_FI_DEV_POWER_AVERAGE", "nvmlMemory_v2"}:
            raise AttributeError(f"module 'pynvml' has no attribute {name!r}")
        return super().__getattribute__(name)

    def nvmlDeviceGetMemoryInfo(self, handle: object) -> object:  # type: ignore[override]  # noqa: N802
        return super().nvmlDeviceGetMemoryInfo(handle)  # type: ignore[arg-type]

    def nvmlDeviceGetFieldValues(self, handle: object, fields: list[int]) -> list[object]:  # type: ignore[override]  # noqa: N802
        if any(not isinstance(field, int) for field in fields):
            raise TypeError("'tuple' object cannot be interpreted as an integer")
        return super().nvmlDeviceGetFieldValues(handle, fields)  # type: ignore[arg-type, return-value]


class OlderBinding(OldBinding):
    """One from before fields."""

    def __getattribute__(self, name: str) -> object:
        if name == "nvmlDeviceGetFieldValues":
            raise AttributeError(f"module 'pynvml' has no attribute {name!r}")
        return super().__getattribute__(name)


@pytest.mark.parametrize("binding", [OldBinding, OlderBinding])
def test_an_old_binding_reads_what_it_can_and_says_which_package_to_remove(
    binding: type[SimulatedNvml],
) -> None:
    nvml = binding(VirtualClock(), idle_w=60)
    nvml.gpus[0].offer_health()
    with NvmlMeter(nvml, processes=list) as meter:
        sources = [
            q.source for q in meter.domains()[0].quantities if q.unit in "JW" and "limit" not in q.source
        ]
        assert sources == ["nvml.total_energy", "nvml.power.usage"]
        assert {sample.quantity: sample.raw for sample in meter.sample()}["power_usage"] == 60_000
    (note,) = meter.notes
    assert "NVML_FI_DEV_POWER_INSTANT" in note
    assert "pip uninstall -y pynvml; pip install --force-reinstall nvidia-ml-py" in note


class Virtual(SimulatedNvml):
    """A guest's driver: neither counter nor power of its vGPU."""

    def __init__(self) -> None:
        super().__init__(VirtualClock(), idle_w=60, sensor=SimulatedSensor(fields=frozenset()))

    def nvmlDeviceGetVirtualizationMode(self, handle: object) -> int:  # noqa: N802  the binding's
        return 2


def test_a_vgpu_is_said_to_be_one() -> None:
    why = NvmlMeter(Virtual()).why_unavailable() or ""
    assert "gpu:GPU-simulated-0: Not Supported (a vGPU: only its host can measure it)" in why


class NewBinding(SimulatedNvml):
    """nvidia-ml-py of 2026 above a driver of 2021: it has an error of its own for what that lacks."""

    class NVMLLibraryMismatchError(Exception):
        pass

    def nvmlDeviceGetComputeRunningProcesses(self, handle: object) -> list[SimulatedProcess]:  # noqa: N802
        raise self.NVMLLibraryMismatchError("Unversioned function called")

    nvmlDeviceGetFieldValues = nvmlDeviceGetComputeRunningProcesses  # type: ignore[assignment]  # noqa: N815


def test_a_binding_that_is_newer_than_the_driver_reads_what_that_has() -> None:
    nvml = NewBinding(VirtualClock(), idle_w=60)
    assert gpus_of([os.getpid()], nvml) == ()
    assert gpu_facts(nvml)[0].foreign_pids is None
    with NvmlMeter(nvml, processes=list) as meter:
        assert [q.source for q in meter.domains()[0].quantities] == ["nvml.total_energy", "nvml.power.usage"]


def test_a_module_of_that_name_that_is_not_the_binding_is_refused_with_the_way_out() -> None:
    why = NvmlMeter(object()).why_unavailable() or ""
    assert "pip uninstall -y pynvml" in why


def test_a_board_of_unified_memory_without_a_counter_is_read_by_its_power() -> None:
    nvml = _nvml(fields=(185, 186))
    for name in ("nvmlDeviceGetMemoryInfo", "nvmlDeviceGetEnforcedPowerLimit"):
        nvml.gpus[0].fails[name] = Code.NOT_SUPPORTED
    nvml.gpus[0].fails["nvmlDeviceGetTotalEnergyConsumption"] = Code.NOT_SUPPORTED
    with NvmlMeter(nvml, processes=list) as meter:
        assert {q.source for q in meter.domains()[0].quantities if q.unit in "JW"} == {
            "nvml.power.instant",
            "nvml.power.average",
        }


def test_no_board_and_no_readable_field_are_reasons() -> None:
    assert "no NVIDIA GPU" in (NvmlMeter(_nvml(uuids=())).why_unavailable() or "")
    assert "neither energy nor power" in (NvmlMeter(_nvml(fields=())).why_unavailable() or "")
    assert NvmlMeter(_nvml()).why_unavailable() is None


def test_the_driver_is_closed_again_also_after_a_failure() -> None:
    nvml = _nvml(fields=())
    assert NvmlMeter(nvml).why_unavailable() is not None
    with pytest.raises(nvml.NVMLError, match="Uninitialized"):
        nvml.nvmlDeviceGetCount()


def test_auto_opens_what_cuda_leaves_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = _nvml(uuids=("GPU-a", "GPU-b", "GPU-c"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-a")
    with NvmlMeter(nvml) as meter:
        assert [domain.name for domain in meter.domains()] == ["gpu:GPU-c", "gpu:GPU-a"]
    with NvmlMeter(nvml, gpus="all") as meter:
        assert len(meter.domains()) == 3
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "hides every" in (NvmlMeter(nvml).why_unavailable() or "")


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (None, tuple(range(12))),
        ("", ()),
        ("-1", ()),
        ("10", (10,)),
        ("3,1", (3, 1)),
        ("1,-1,2", (1,)),
        ("1,99,2", (1,)),
        ("1,,2", (1,)),
        ("GPU-b3, GPU-c", (3,)),
        ("GPU-f11,0", (11, 0)),
        ("NoDevFiles", ()),
        ("MIG-1234", tuple(range(12))),
        ("MIG-b", (3,)),
        ("MIG-b,MIG-b,0", (3, 0)),
    ],
)
def test_cuda_visible_devices_is_read_as_cuda_reads_it(spec: str | None, expected: tuple[int, ...]) -> None:
    instances = {"MIG-b": "GPU-b3"}
    assert visible_gpus(spec, UUIDS, pci_order=True, board_of=instances.get) == expected


def test_integers_mean_nothing_where_cuda_orders_unlike_boards_by_speed() -> None:
    assert visible_gpus("1", UUIDS, pci_order=False) == tuple(range(12))
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in (why_unsure("1", UUIDS, pci_order=False) or "")
    assert visible_gpus("GPU-b3", UUIDS, pci_order=False) == (3,)
    assert why_unsure("GPU-b3", UUIDS, pci_order=False) is None


def test_named_boards_are_indices_uuids_or_beginnings_that_mean_one() -> None:
    assert chosen_gpus(["10", "GPU-a0", "GPU-b3", "0"], UUIDS) == (10, 0, 3)
    with pytest.raises(EnergyError, match=r"'GPU-a' means 2 GPUs .*0: GPU-a0, 1: GPU-a1, 2: GPU-b2"):
        chosen_gpus(["GPU-a"], UUIDS)
    with pytest.raises(EnergyError, match="'12' means no GPU"):
        chosen_gpus(["12"], UUIDS)


def _energy_and_power(domain: Domain) -> list[str]:
    return [quantity.name for quantity in domain.quantities if quantity.unit in "JW"]


def test_the_order_of_unlike_boards_is_said_to_be_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = _nvml(uuids=("GPU-a", "GPU-b"))
    nvml.gpus[0].name = "Another GPU"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    with NvmlMeter(nvml) as meter:
        assert len(meter.domains()) == 2
        assert "counts GPUs from fast to slow" in meter.notes[0]
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    with NvmlMeter(nvml) as meter:
        assert [domain.name for domain in meter.domains()] == ["gpu:GPU-b"]
        assert meter.notes == ()


def test_a_mig_instance_means_its_whole_board_which_is_flagged(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = _nvml(uuids=("GPU-a", "GPU-b"))
    nvml.gpus[1].share_out("MIG-1111", "MIG-2222")
    for spec in ("MIG-2222", "MIG-GPU-b/1/0"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", spec)
        with NvmlMeter(nvml) as meter:
            (domain,) = meter.domains()
            assert (domain.name, domain.flags) == ("gpu:GPU-b", ("mig_shared",))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-3333")
    with NvmlMeter(nvml) as meter:
        assert [domain.flags for domain in meter.domains()] == [(), ("mig_shared",)]
        assert "MIG-3333" in meter.notes[0]
    with NvmlMeter(nvml, gpus=["MIG-1111"]) as meter:
        assert [domain.name for domain in meter.domains()] == ["gpu:GPU-b"]


def test_a_module_that_reads_more_than_its_gpu_is_a_domain_of_its_own() -> None:
    nvml = _nvml(uuids=("GPU-a", "GPU-b"))
    nvml.gpus[0].cpu_power = Waveform(100)
    nvml.gpus[1].cpu_power = Waveform(0)
    with NvmlMeter(nvml) as meter:
        domains = {domain.name: domain for domain in meter.domains()}
        read = {(one.domain, one.quantity): one.raw for one in meter.sample()}
    assert list(domains) == ["gpu:GPU-a", "module:GPU-a", "gpu:GPU-b"]
    assert domains["module:GPU-a"].kind == "module"
    assert _energy_and_power(domains["module:GPU-a"]) == ["power_instant", "power_average"]
    assert read["gpu:GPU-a", "power_instant"] == 60_000
    assert read["module:GPU-a", "power_instant"] == 160_000


def test_a_virtual_gpu_without_a_counter_is_read_by_its_power() -> None:
    nvml = _nvml()
    nvml.gpus[0].fails[83] = Code.NOT_SUPPORTED
    nvml.gpus[0].fails["nvmlDeviceGetTotalEnergyConsumption"] = Code.NOT_SUPPORTED
    with NvmlMeter(nvml) as meter:
        assert _energy_and_power(meter.domains()[0]) == ["power_instant", "power_average"]


@pytest.mark.parametrize(("code", "words"), [(4, "(?i)permission"), (15, "(?i)lost")])
def test_a_driver_that_goes_away_leaves_a_gap_with_its_reason_and_the_run_goes_on(
    tmp_path: Path, code: int, words: str
) -> None:
    clock = VirtualClock()
    nvml = SimulatedNvml(clock, idle_w=60, uuids=("GPU-a", "GPU-b"))
    recorder = Recorder([NvmlMeter(nvml, clock=clock)], clock=clock, directory=tmp_path)
    recorder.start(threaded=False)
    with clock.every(recorder.tick_s, recorder.poll):
        clock.sleep(2)
        nvml.gpus[0].fails_with = code
        lost_ns = clock.monotonic_ns()
        calls = next(nvml.gpus[0]._calls)
        clock.sleep(2)
        assert next(nvml.gpus[0]._calls) - calls < 50
        recorder.stop()
    trace = recorder.trace()
    (gap,) = trace.gaps
    assert gap.domain == "gpu:GPU-a"
    assert lost_ns <= gap.window.start_ns <= lost_ns + 250_000_000
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(gap.reason)
    assert trace.series["gpu:GPU-a", "energy"].t_after_ns[-1] <= lost_ns
    assert trace.series["gpu:GPU-b", "energy"].t_after_ns[-1] > lost_ns + 1_700_000_000


def test_the_state_of_a_board_is_read_once_a_second_where_the_driver_tells_it(tmp_path: Path) -> None:
    clock = VirtualClock()
    nvml = SimulatedNvml(clock, idle_w=60, uuids=("GPU-a", "GPU-b"))
    nvml.gpus[0].offer_health(temperature_c=51, sm_clock_mhz=1410, power_limit_w=350)
    recorder = Recorder([NvmlMeter(nvml, clock=clock)], clock=clock, directory=tmp_path)
    recorder.start(threaded=False)
    with clock.every(recorder.tick_s, recorder.poll):
        clock.sleep(10)
        nvml.set_temperature(60)
        clock.sleep(10)
        recorder.stop()
    trace = recorder.trace()
    shown = {
        quantity: series.raw[0] * series.quantity.scale
        for (domain, quantity), series in trace.series.items()
        if domain == "gpu:GPU-a"
    }
    expected = {"temperature": 51, "sm_clock": 1410e6, "power_limit": 350, "throttle_power": 0}
    assert {name: shown[name] for name in expected} == pytest.approx(expected)
    temperature = trace.series["gpu:GPU-a", "temperature"].raw
    assert 18 <= temperature.size <= 23
    assert temperature[-1] == 60
    assert ("gpu:GPU-b", "temperature") not in trace.series
    assert trace.gaps == ()


def test_a_slow_driver_is_asked_for_its_state_in_turns() -> None:
    clock = VirtualClock()
    nvml = SimulatedNvml(clock, idle_w=60, sensor=SimulatedSensor(latency_s=0.02))
    nvml.gpus[0].offer_health()
    with NvmlMeter(nvml, clock=clock) as meter:
        _, health = meter.parts()
        turns = [{one.quantity for one in health.sample()} for _ in range(6)]
    assert all(len(turn) == 1 for turn in turns)
    assert len(set.union(*turns)) == 6
    assert health.period_s == pytest.approx(1 / 6)


SLEEPER = "import sys; print(1, flush=True); sys.stdin.read()"
FAMILY = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SLEEPER!r}])"


def _health(nvml: SimulatedNvml, roots: list[int]) -> dict[str, int]:
    with NvmlMeter(nvml, processes=lambda: roots) as meter:
        return {one.quantity: one.raw for one in meter.sample() if one.quantity.endswith("_processes")}


def test_foreign_processes_are_those_outside_the_trees_of_the_run() -> None:
    nvml = _nvml(uuids=("GPU-a", "GPU-b"))
    with subprocess.Popen(
        [sys.executable, "-c", FAMILY], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as root:
        assert root.stdout is not None
        root.stdout.readline()
        children = Path(f"/proc/{root.pid}/task/{root.pid}/children").read_text().split()
        nvml.gpus[0].processes = [SimulatedProcess(root.pid), SimulatedProcess(int(children[0]))]
        assert _health(nvml, [root.pid]) == {"foreign_processes": 0, "hidden_processes": 0}
        nvml.gpus[0].processes.append(SimulatedProcess(os.getppid()))
        with NvmlMeter(nvml, processes=lambda: [root.pid], gpus=["0"]) as meter:
            seen = {one.quantity: one.raw for one in meter.sample()}
        assert (seen["foreign_processes"], seen["hidden_processes"]) == (1, 0)
        assert gpus_of([root.pid], nvml) == ("GPU-a",)
        assert gpus_of([], nvml) == ()
        root.communicate()


def test_hidden_processes_are_those_that_this_host_does_not_show() -> None:
    nvml = _nvml()
    nvml.gpus[0].processes = [SimulatedProcess(2**22 + 7), SimulatedProcess(2**22 + 8)]
    assert _health(nvml, [])["hidden_processes"] == 2
    nvml.gpus[0].processes = []
    assert _health(nvml, [])["hidden_processes"] == 0
    nvml.gpus[0].hidden_memory_bytes = 2**30
    assert _health(nvml, [])["hidden_processes"] == 1


def test_a_machine_without_a_driver_uses_no_gpu() -> None:
    nvml = _nvml()
    nvml.fails["nvmlInit"] = Code.DRIVER_NOT_LOADED
    assert gpus_of([os.getpid()], nvml) == ()
    assert "can't be used" in (NvmlMeter(nvml).why_unavailable() or "")


def test_what_is_known_of_a_board_stands_in_its_domain(tmp_path: Path) -> None:
    files = SensorFiles(tmp_path / "calibration.json", tmp_path / "sensors.json")
    (tmp_path / "calibration.json").write_text(
        json.dumps({"GPU-a": {"gain": 1.04, "offset_w": -3.5, "when": "2026-05-01", "against": "a meter"}})
    )
    remember(
        "GPU-a",
        "simulated",
        {"power_instant": Characteristics(100_000_000, 25_000_000, 75_000_000)},
        files=files,
    )
    remember("GPU-a", "older", {"power_average": Characteristics(step_ns=1)}, files=files)
    with NvmlMeter(_nvml(uuids=("GPU-a", "GPU-b")), files=files) as meter:
        known, unknown = meter.domains()
    assert (known.gain, known.offset_w) == (1.04, -3.5)
    assert (known.systematic_gain, known.systematic_offset_w) == (None, None)
    energy, instant, average = known.quantities[:3]
    assert (instant.step_ns, instant.window_ns, instant.lag_ns) == (100_000_000, 25_000_000, 75_000_000)
    assert energy.step_ns is average.step_ns is None
    assert (unknown.gain, unknown.quantities[1].step_ns) == (1.0, None)
    assert unknown.systematic_gain is not None
