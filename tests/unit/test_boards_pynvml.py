from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pydantic
import pytest
from benchmarks.boards.scenario import (
    Board,
    Change,
    Scenario,
    play,
    read_scenario,
    waveform,
    write_scenario,
)

from llenergymeasure.config.loader import load_experiment_config
from llenergymeasure.exceptions import ConfigError
from llenergymeasure.records import Window
from llenergymeasure.simulation.device import SimulatedSensor

STAND_IN = Path(__file__).parents[2] / "benchmarks/boards/pynvml"
UUIDS = ("GPU-11111111-aaaa", "GPU-22222222-bbbb")

WATCH = """
import json, pynvml, sys, time
pynvml.nvmlInit()
handle = pynvml.nvmlDeviceGetHandleByIndex(1)
end = time.monotonic() + 0.6
while time.monotonic() < end:
    before = time.monotonic_ns()
    energy = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    middle = time.monotonic_ns()
    power = pynvml.nvmlDeviceGetFieldValues(handle, [(186, pynvml.NVML_POWER_SCOPE_GPU)])[0].value.uiVal
    print(json.dumps([before, energy, middle, power, time.monotonic_ns()]))
    time.sleep(0.005)
"""


class At:
    """A clock that stands where it is put."""

    def __init__(self, t_ns: int) -> None:
        self.t_ns = t_ns

    def monotonic_ns(self) -> int:
        return self.t_ns

    def sleep(self, seconds: float, /) -> None:
        self.t_ns += round(seconds * 1e9)


def _scenario() -> Scenario:
    ramp = Change("ramp", 0.0, 20.0, {"watts": 2000.0})
    sensor = SimulatedSensor(step_s=0.02, phase_s=0.007, step_jitter_s=0.002, seed=5)
    return Scenario(time.monotonic_ns(), tuple(Board(uuid, 50.0, (ramp,), sensor) for uuid in UUIDS))


def _python(code: str, scenario: Path | None, *flags: str, also: str = "") -> subprocess.Popen[str]:
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(STAND_IN), also] if also else [str(STAND_IN)])}
    environ.pop("LLEM_SIMULATED_NVML", None)
    if scenario is not None:
        environ["LLEM_SIMULATED_NVML"] = str(scenario)
    return subprocess.Popen(
        [sys.executable, *flags, "-c", code],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _output(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out


def test_two_processes_see_the_same_counter_and_power_at_the_same_time(tmp_path: Path) -> None:
    scenario = _scenario()
    write_scenario(tmp_path / "scenario.json", scenario)
    children = [_python(WATCH, tmp_path / "scenario.json") for _ in range(2)]
    clock = At(scenario.start_ns)
    driver = play(scenario, clock=clock)
    driver.nvmlInit()
    gpu = driver.gpus[1]

    def energy(t_ns: int) -> int:
        clock.t_ns = t_ns
        return driver.nvmlDeviceGetTotalEnergyConsumption(gpu)

    def power(t_ns: int) -> int:
        clock.t_ns = t_ns
        return int(driver.nvmlDeviceGetFieldValues(gpu, [186])[0].value.uiVal)

    for child in children:
        seen = [json.loads(line) for line in _output(child).splitlines()]
        assert len({row[1] for row in seen}) > 5
        assert len({row[3] for row in seen}) > 5
        for before, joules, middle, watts, after in seen:
            assert energy(before) <= joules <= energy(middle)
            assert power(middle) <= watts <= power(after)


def test_the_stand_in_needs_no_installed_llem(tmp_path: Path) -> None:
    write_scenario(tmp_path / "scenario.json", _scenario())
    code = """
import pynvml, sys
pynvml.nvmlInit()
print(pynvml.nvmlDeviceGetCount(), hasattr(sys.modules["llenergymeasure"], "run_experiment"))
"""
    # without `site` nobody reads the .pth file that makes a checkout importable
    child = _python(code, tmp_path / "scenario.json", "-S", also=str(Path(pydantic.__file__).parents[1]))
    assert _output(child).split() == ["2", "False"]


def test_errors_are_the_bindings_classes_and_carry_its_codes(tmp_path: Path) -> None:
    write_scenario(
        tmp_path / "scenario.json",
        Scenario(0, (Board("GPU-1", 50.0, sensor=SimulatedSensor(fields=frozenset({185, 186}))),)),
    )
    code = """
import pynvml
try: pynvml.nvmlDeviceGetCount()
except pynvml.NVMLError_Uninitialized as error: print(error.value, error)
pynvml.nvmlInit()
handle = pynvml.nvmlDeviceGetHandleByIndex(0)
try: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
except pynvml.NVMLError_NotSupported as error: print(error.value, error)
try: pynvml.nvmlDeviceGetHandleByIndex(7)
except pynvml.NVMLError_InvalidArgument as error: print(isinstance(error, pynvml.NVMLError))
try: raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
except pynvml.NVMLError_GpuIsLost as error: print(error.value)
print(pynvml.nvmlDeviceGetFieldValues(handle, [(185, pynvml.NVML_POWER_SCOPE_MEMORY)])[0].nvmlReturn)
"""
    assert _output(_python(code, tmp_path / "scenario.json")).splitlines() == [
        "1 Uninitialized",
        "3 Not Supported",
        "True",
        "15",
        "3",
    ]


def test_a_machine_without_a_driver_refuses_to_initialise(tmp_path: Path) -> None:
    write_scenario(tmp_path / "scenario.json", Scenario(0, init_fails_with=12))
    code = """
import pynvml
try: pynvml.nvmlInit()
except pynvml.NVMLError_LibraryNotFound: print("none")
"""
    assert _output(_python(code, tmp_path / "scenario.json")) == "none\n"


def test_without_a_scenario_the_import_says_what_is_missing() -> None:
    child = _python("import pynvml", None)
    _, err = child.communicate(timeout=60)
    assert child.returncode != 0
    assert "LLEM_SIMULATED_NVML names none" in err


def test_the_variable_is_no_setting_of_an_experiment(tmp_path: Path) -> None:
    config = load_experiment_config(
        cli_overrides={"model": "gpt2"},
        environ={"LLEM_SIMULATED_NVML": "somewhere.json"},
        user_config=tmp_path / "none.yaml",
    )
    assert config.model == "gpt2"


def test_a_scenario_comes_back_from_its_file_as_it_was(tmp_path: Path) -> None:
    scenario = _scenario()
    write_scenario(tmp_path / "scenario.json", scenario)
    assert read_scenario(tmp_path / "scenario.json") == scenario


def test_the_true_power_follows_the_changes_in_order() -> None:
    board = Board(
        "GPU-1",
        60.0,
        (
            Change("burst", 1.0, 2.0, {"watts": 400.0}),
            Change("square", 3.0, 4.0, {"levels_w": (200.0, 100.0), "period_s": 0.1}),
            Change("serve", 5.0, 6.0, {"seed": 1, "prefill_w": 500.0, "prefill_s": 10.0}),
        ),
    )
    power = waveform(board, 10**9)
    parts = [power.energy_j(10**9 + a * 10**9, 10**9 + (a + 1) * 10**9) for a in range(7)]
    assert parts == pytest.approx([60, 400, 60, 150, 60, 500, 60])


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe", b"[]", b'{"start_ns": 1, "board": []}', b'{"start_ns": "soon"}'],
)
def test_a_file_that_is_no_scenario_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "scenario.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="scenario"):
        read_scenario(path)


def test_a_missing_scenario_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.json"):
        read_scenario(tmp_path / "nowhere.json")


def test_a_change_that_the_waveform_does_not_know_names_the_board() -> None:
    board = Board("GPU-1", 60.0, (Change("burst", 1.0, 2.0, {"joules": 400.0}),))
    with pytest.raises(ConfigError, match="board GPU-1, change 0"):
        waveform(board, 0)


def test_the_true_energy_is_the_boards_own(tmp_path: Path) -> None:
    clock = At(0)
    boards = (Board("GPU-1", 100.0), Board("GPU-2", 100.0, (Change("set", 1.0, None, {"watts": 300.0}),)))
    driver = play(Scenario(0, boards), clock=clock)
    window = Window(0, 2 * 10**9)
    assert driver.true_energy_j(window, index=0) == pytest.approx(200)
    assert driver.true_energy_j(window, index=1) == pytest.approx(400)
