"""Faults found in other tools, each as a test; those of integrals and counters stand with their rooms."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from benchmarks.boards.scenario import Board, Scenario, write_scenario
from example_result import example_result

from llenergymeasure.api import run_experiment
from llenergymeasure.cli._display import print_result_summary
from llenergymeasure.config.models import EnergyConfig, ExperimentConfig
from llenergymeasure.energy.joules.amid import window_energy
from llenergymeasure.energy.joules.quiet import idle_power
from llenergymeasure.energy.meters.cpu_power import power_model
from llenergymeasure.energy.meters.gpu_choice import chosen_gpus, visible_gpus
from llenergymeasure.energy.meters.nvml import NvmlMeter
from llenergymeasure.energy.meters.selection import choose_meters
from llenergymeasure.energy.recording.recorder import Recorder
from llenergymeasure.exceptions import EnergyError
from llenergymeasure.models.formulas import parameters
from llenergymeasure.models.shapes import SHAPES
from llenergymeasure.records import Trace, Window
from llenergymeasure.simulation.clock import VirtualClock
from llenergymeasure.simulation.device import SimulatedNvml, SimulatedSensor
from llenergymeasure.simulation.nvml_names import Code

STAND_IN = Path(__file__).parents[2] / "benchmarks/boards/pynvml"
UUIDS = ("GPU-11111111-aaaa", "GPU-22222222-bbbb")
TWELVE = [f"GPU-{number:02d}" for number in range(12)]
S = 1_000_000_000

SEEN = """
from llenergymeasure.energy.meters.nvml import NvmlMeter
meter = NvmlMeter()
print(meter.why_unavailable())
with meter:
    print(*[domain.name for domain in meter.domains()])
"""


def _seen(tmp_path: Path, scenario: Scenario, **environ: str) -> str:
    write_scenario(tmp_path / "scenario.json", scenario)
    given = {"PYTHONPATH": str(STAND_IN), "LLEM_SIMULATED_NVML": str(tmp_path / "scenario.json"), **environ}
    done = subprocess.run(
        [sys.executable, "-c", SEEN], env=os.environ | given, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def _recorded(tmp_path: Path, nvml: SimulatedNvml, clock: VirtualClock, script: Callable[[], None]) -> Trace:
    """What a recorder saw on virtual time while `script` ran."""
    recorder = Recorder([NvmlMeter(nvml, clock=clock)], clock=clock, directory=tmp_path)
    recorder.start(threaded=False)
    with clock.every(recorder.tick_s, recorder.poll):
        script()
    recorder.stop()
    return recorder.trace()


def test_zeus_a_machine_without_a_driver_has_a_reason_and_no_joules(tmp_path: Path) -> None:
    said = _seen(tmp_path, Scenario(0, init_fails_with=12))
    assert said.startswith("the NVIDIA driver can't be used: NVML Shared Library Not Found")
    assert "EnergyError" in said
    assert "gpu:" not in said


def test_zeus_a_driver_without_a_board_has_a_reason_and_no_joules(tmp_path: Path) -> None:
    assert _seen(tmp_path, Scenario(0)).startswith("there is no NVIDIA GPU in this machine")


def test_zeus_a_gpu_uuid_in_cuda_visible_devices_means_that_gpu(tmp_path: Path) -> None:
    scenario = Scenario(0, tuple(Board(uuid, 100.0) for uuid in UUIDS))
    assert _seen(tmp_path, scenario, CUDA_VISIBLE_DEVICES=UUIDS[1]).split() == ["None", f"gpu:{UUIDS[1]}"]
    assert _seen(tmp_path, scenario, CUDA_VISIBLE_DEVICES="GPU-11").split() == ["None", f"gpu:{UUIDS[0]}"]


def test_zeus_measuring_loads_no_library_for_data_science() -> None:
    code = (
        "import sys; from llenergymeasure.energy.meters import nvml;"
        "from llenergymeasure.energy.recording import recorder;"
        "from llenergymeasure.energy.joules import silence;"
        "print(*{'pandas', 'sklearn', 'scipy', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_codecarbon_a_burst_that_nobody_announced_is_seen_in_time(tmp_path: Path) -> None:
    """A default interval of 15 s would see none of it."""
    clock = VirtualClock()
    sensor = SimulatedSensor(fields=frozenset({186}))
    nvml = SimulatedNvml(clock, idle_w=100, sensor=sensor)

    def script() -> None:
        clock.sleep(5.0)
        nvml.set_power(400)
        clock.sleep(1.0)
        nvml.set_power(100)
        clock.sleep(8.0)

    start_ns = clock.monotonic_ns()
    trace = _recorded(tmp_path, nvml, clock, script)
    window = Window(start_ns + 2 * S, start_ns + 12 * S)
    spent = window_energy(trace, trace.domains[0].name, window)
    assert spent.joules == pytest.approx(nvml.true_energy_j(window), rel=0.05)


def test_codecarbon_what_a_model_of_power_says_is_marked_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    result = example_result(energy="modelled")
    print_result_summary(result)
    assert "estimated, not measured" in capsys.readouterr().out
    assert "energy_modelled" in {warning.code for warning in result.warnings}
    assert result.energy.boundary == result.energy.method == "modelled"
    assert result.energy.total.systematic is not None


@pytest.mark.parametrize("cpu", ["", "vendor_id : AuthenticAMD\ncpu family : 25\nmodel : 1\n"])
def test_codecarbon_memory_of_a_small_machine_costs_less_than_its_busy_cpu(cpu: str) -> None:
    model = power_model(cpu)
    assert 2 * 2**30 * model.w_per_byte < 2 * model.w_per_busy_vcpu


def test_perun_gpu_10_is_not_gpu_1() -> None:
    assert chosen_gpus(["10"], TWELVE) == (10,)
    assert visible_gpus("10,1", TWELVE, pci_order=True) == (10, 1)


def test_perun_a_read_that_fails_is_never_0_w(tmp_path: Path) -> None:
    clock = VirtualClock()
    nvml = SimulatedNvml(clock, idle_w=100)

    def script() -> None:
        clock.sleep(2.0)
        nvml.gpus[0].fails_with = Code.UNKNOWN
        clock.sleep(10.0)
        nvml.gpus[0].fails_with = None
        clock.sleep(2.0)

    start_ns = clock.monotonic_ns()
    trace = _recorded(tmp_path, nvml, clock, script)
    assert all(series.raw.min() > 0 for series in trace.series.values() if series.quantity.unit == "W")
    spent = window_energy(trace, trace.domains[0].name, Window(start_ns + 4 * S, start_ns + 9 * S))
    assert "recorder_gap" in spent.flags
    assert spent.joules is None or spent.joules == pytest.approx(500, rel=0.05)
    (gap,) = [gap for gap in trace.gaps if gap.domain == trace.domains[0].name]
    assert gap.window.duration_s == pytest.approx(10, abs=0.5)


def test_ai_energy_score_missing_energy_is_no_zero_in_the_file() -> None:
    energy = json.loads(example_result(energy="missing").model_dump_json())["energy"]
    assert energy["total"]["value"] is None
    assert energy["total"]["reason"]
    assert energy["valid"] is False


def test_ai_energy_score_joules_are_not_rounded_to_kilowatt_hours() -> None:
    result = example_result(energy="measured")
    stored = json.loads(result.model_dump_json())["energy"]["net"]["value"]
    assert stored == result.energy.net.value
    assert 36 * round(stored / 36) != stored


def test_optimum_benchmark_the_parent_does_not_keep_a_core_busy() -> None:
    config = ExperimentConfig.model_validate(
        {
            "model": "any",
            "backend": "simulated",
            "n": 2,
            "dataset": {"name": "synthetic", "prompt_tokens": 4},
            "max_output_tokens": 4,
            "repeats": {"count": 1},
            "passes": {"seconds": 1.0, "count": 1},
            "baseline": {"seconds": 1.0},
            "warmup": {"max_seconds": 1.0},
        }
    )
    began_s, cpu_s = time.monotonic(), time.process_time()
    run_experiment(config)
    took_s, used_s = time.monotonic() - began_s, time.process_time() - cpu_s
    assert took_s > 3
    assert used_s < 0.4 * took_s


def test_an_earlier_llem_gated_feed_forward_has_three_matrices() -> None:
    shape = SHAPES["llama-3.1-8b"]
    embeddings = 2 * shape.vocab * shape.hidden
    assert parameters(shape) - embeddings == pytest.approx(6.98e9, rel=1e-3)


def test_an_earlier_llem_idle_after_the_run_is_measured_anew(tmp_path: Path) -> None:
    clock = VirtualClock()
    nvml = SimulatedNvml(clock, idle_w=60)

    def script() -> None:
        clock.sleep(8.0)
        nvml.set_power(80)
        clock.sleep(8.0)

    start_ns = clock.monotonic_ns()
    trace = _recorded(tmp_path, nvml, clock, script)
    name = trace.domains[0].name
    before = idle_power(trace, Window(start_ns + 1 * S, start_ns + 6 * S), name)
    after = idle_power(trace, Window(start_ns + 10 * S, start_ns + 15 * S), name)
    assert before.value == pytest.approx(60, rel=0.01)
    assert after.value == pytest.approx(80, rel=0.01)


def test_an_earlier_llem_a_machine_without_a_gpu_is_not_refused(tmp_path: Path) -> None:
    nvml = SimulatedNvml(VirtualClock(), idle_w=60, uuids=())
    chosen = choose_meters(EnergyConfig(), processes=list, nvml=nvml, rapl_root=tmp_path / "none")
    assert chosen.method == "modelled"
    assert dict(chosen.refused)["nvml"] == "there is no NVIDIA GPU in this machine"
    with pytest.raises(EnergyError, match="no NVIDIA GPU"):
        choose_meters(
            EnergyConfig(require_measured=True), processes=list, nvml=nvml, rapl_root=tmp_path / "none"
        )
