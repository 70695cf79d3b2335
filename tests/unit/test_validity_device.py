"""Each code of a device is raised by a board that does it, read by the real meter and recorder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scripted_run import PASSES, S, close_looks, codes, message, result_of

from llenergymeasure.energy.meters.calibration import SensorFiles
from llenergymeasure.energy.meters.nvml import NvmlMeter
from llenergymeasure.energy.recording.recorder import Recorder
from llenergymeasure.records import Window
from llenergymeasure.results.models import ExperimentResult
from llenergymeasure.simulation.clock import VirtualClock
from llenergymeasure.simulation.device import SimulatedNvml
from llenergymeasure.simulation.nvml_names import SimulatedProcess
from llenergymeasure.simulation.sensor import COUNTER, INSTANT, SimulatedSensor

THERMAL, POWER = 1, 0
NO_PERMISSION, LOST = 4, 15
IN_A_PASS_S, AT_REST_S = 33.0, 50.0
# No process has it: Linux ends at 2²².
HIDDEN_PID = 2**22 + 1

Script = Callable[[SimulatedNvml], object]


class Machine:
    """Two boards in virtual time, at 400 W in the passes and else idle, and a script for them."""

    def __init__(self, directory: Path, *, sensor: SimulatedSensor | None = None) -> None:
        self.clock = VirtualClock()
        self.nvml = SimulatedNvml(self.clock, idle_w=95.0, sensor=sensor, uuids=("GPU-a", "GPU-b"))
        for gpu in self.nvml.gpus:
            gpu.offer_health()
        self.script: list[tuple[float, Script]] = []
        for one in PASSES:
            self.at(one.window.start_ns / S, lambda nvml: nvml.set_power(400.0))
            self.at(one.window.end_ns / S, lambda nvml: nvml.set_power(95.0))
        self._directory = directory

    def at(self, at_s: float, do: Script) -> Machine:
        self.script.append((at_s, do))
        return self

    def result(self) -> ExperimentResult:
        files = SensorFiles(self._directory / "calibration.json", self._directory / "sensors.json")
        meter = NvmlMeter(
            self.nvml, gpus="all", processes=lambda: (os.getpid(),), files=files, clock=self.clock
        )
        recorder = Recorder([meter], clock=self.clock, directory=self._directory)
        recorder.start(threaded=False)
        looks = [(at_s, lambda _, near=near: recorder.dense(near)) for at_s, near in close_looks()]
        script = [*self.script, *looks]
        with self.clock.every(recorder.tick_s, recorder.poll):
            for at_s, do in sorted(script, key=lambda one: one[0]):
                self.clock.sleep_until(round(at_s * S))
                do(self.nvml)
            self.clock.sleep_until(65 * S)
        recorder.stop()
        return result_of(recorder.trace(), PASSES)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def own_child() -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        yield child.pid


def test_a_clean_board_is_told_nothing_of(machine: Machine) -> None:
    result = machine.result()
    assert codes(result) == set()
    assert result.energy.valid
    assert result.energy.total.value == pytest.approx(18 * 400.0, rel=1e-3)
    assert result.energy.net.value == pytest.approx(18 * 305.0, rel=1e-3)


def test_heat_and_the_power_limit_are_told_by_their_own_counters(machine: Machine) -> None:
    board = machine.nvml.gpus[0]
    board.throttle(THERMAL, Window(31 * S, 34 * S))
    hot = machine.result()
    assert codes(hot) == {"thermal_throttle"}
    assert hot.devices[0].throttled_thermal_s == pytest.approx(3.0, abs=0.05)


def test_the_power_limit_that_holds_a_board_back_is_told(machine: Machine) -> None:
    machine.nvml.gpus[0].throttle(POWER, Window(22 * S, 25 * S))
    assert codes(machine.result()) == {"power_cap_active"}


def test_throttling_at_rest_is_not_of_the_passes(machine: Machine) -> None:
    for policy in (THERMAL, POWER):
        machine.nvml.gpus[0].throttle(policy, Window(50 * S, 58 * S))
    assert codes(machine.result()) == set()


def test_a_changed_limit_a_falling_clock_and_a_warming_board_are_told(machine: Machine) -> None:
    machine.at(28.0, lambda nvml: nvml.set_power_limit(300.0))
    machine.at(28.0, lambda nvml: nvml.set_clock(1200.0))
    machine.at(28.0, lambda nvml: nvml.set_temperature(72.0))
    result = machine.result()
    assert codes(result) == {"power_cap_active", "clock_changed", "temperature_drift"}
    assert "from 400 W to 300 W" in message(result, "power_cap_active")


def test_a_clock_and_a_temperature_that_move_at_rest_are_not_told(machine: Machine) -> None:
    for at_s, megahertz, celsius in ((13.0, 1410.0, 60.0), (47.0, 210.0, 35.0)):
        machine.at(at_s, lambda nvml, megahertz=megahertz: nvml.set_clock(megahertz))  # type: ignore[misc]
        machine.at(at_s, lambda nvml, celsius=celsius: nvml.set_temperature(celsius))  # type: ignore[misc]
    machine.nvml.set_clock(210.0)
    assert codes(machine.result()) == set()


def test_a_process_of_others_is_told_and_one_of_the_run_is_not(machine: Machine, own_child: int) -> None:
    machine.at(IN_A_PASS_S, lambda nvml: nvml.gpus[0].processes.append(SimulatedProcess(own_child)))
    assert codes(machine.result()) == set()


def test_a_process_of_others_makes_the_energy_invalid(machine: Machine) -> None:
    machine.at(IN_A_PASS_S, lambda nvml: nvml.gpus[0].processes.append(SimulatedProcess(1)))
    result = machine.result()
    assert codes(result) == {"foreign_gpu_process"}
    assert not result.energy.valid


def test_a_process_on_another_board_is_of_no_concern(machine: Machine) -> None:
    machine.nvml.gpus[1].processes.append(SimulatedProcess(1))
    assert codes(machine.result()) == set()


def test_a_process_that_this_host_does_not_show_can_not_be_excluded(machine: Machine) -> None:
    machine.at(IN_A_PASS_S, lambda nvml: nvml.gpus[0].processes.append(SimulatedProcess(HIDDEN_PID)))
    assert "cannot_exclude_foreign_processes" in codes(machine.result())


def test_memory_that_no_shown_process_holds_can_not_be_excluded(machine: Machine) -> None:
    machine.nvml.gpus[0].hidden_memory_bytes = 8 * 2**30
    result = machine.result()
    assert codes(result) == {"cannot_exclude_foreign_processes"}
    assert result.energy.valid


def test_a_list_of_processes_that_may_not_be_read_is_unknown(machine: Machine) -> None:
    machine.nvml.gpus[0].fails["nvmlDeviceGetComputeRunningProcesses"] = NO_PERMISSION
    result = machine.result()
    assert codes(result) == {"cannot_exclude_foreign_processes"}
    assert "could not be read" in message(result, "cannot_exclude_foreign_processes")


def test_a_shared_board_is_told(machine: Machine) -> None:
    machine.nvml.gpus[0].share_out("MIG-1", "MIG-2")
    assert codes(machine.result()) == {"mig_shared"}


def test_a_counter_that_starts_again_is_told(machine: Machine) -> None:
    machine.at(IN_A_PASS_S, lambda nvml: nvml.gpus[0].reset_counter())
    result = machine.result()
    assert "counter_reset" in codes(result)
    assert not result.energy.valid


def test_a_counter_that_starts_again_at_rest_is_not_told(machine: Machine) -> None:
    machine.at(AT_REST_S, lambda nvml: nvml.gpus[0].reset_counter())
    assert "counter_reset" not in codes(machine.result())


def test_a_counter_that_stands_still_is_told(machine: Machine) -> None:
    machine.at(15.0, lambda nvml: nvml.gpus[0].stick_counter())
    result = machine.result()
    assert "sensor_stuck" in codes(result)
    assert not result.energy.valid


def test_a_counter_with_another_gain_than_power_is_told(tmp_path: Path) -> None:
    wrong = Machine(tmp_path, sensor=SimulatedSensor(gain=1.0, counter_gain=0.57))
    result = wrong.result()
    assert "counter_power_mismatch" in codes(result)
    assert not result.energy.valid


def test_a_board_that_is_lost_in_a_pass_leaves_a_gap_and_no_zero(machine: Machine) -> None:
    machine.at(IN_A_PASS_S, lambda nvml: setattr(nvml.gpus[0], "fails_with", LOST))
    result = machine.result()
    assert "recorder_gap" in codes(result)
    assert not result.energy.valid
    assert result.energy.total.value is None


def test_power_alone_from_a_sensor_that_nobody_knows_is_told(tmp_path: Path) -> None:
    alone = Machine(tmp_path, sensor=SimulatedSensor(fields=frozenset({INSTANT})))
    whole = Machine(tmp_path / "b", sensor=SimulatedSensor(fields=frozenset({COUNTER, INSTANT})))
    (tmp_path / "b").mkdir()
    assert codes(alone.result()) & {"sensor_uncharacterised", "part_time_sensor"}
    assert not codes(whole.result()) & {"sensor_uncharacterised", "part_time_sensor"}
