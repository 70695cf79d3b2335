from __future__ import annotations

import pytest

from llenergymeasure.records import Window
from llenergymeasure.simulation.clock import VirtualClock
from llenergymeasure.simulation.device import SimulatedNvml, SimulatedNvmlError, SimulatedSensor

MS = 1_000_000


def _opened(clock: VirtualClock, sensor: SimulatedSensor | None = None) -> SimulatedNvml:
    nvml = SimulatedNvml(clock, idle_w=50, sensor=sensor)
    nvml.nvmlInit()
    return nvml


def test_the_counter_moves_only_at_its_steps() -> None:
    clock = VirtualClock(start_ns=0)
    nvml = _opened(clock, SimulatedSensor(step_s=0.1, phase_s=0.03))
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    clock.sleep(0.04)
    nvml.set_power(400)
    start = nvml.nvmlDeviceGetTotalEnergyConsumption(gpu)
    clock.sleep(0.08)
    assert nvml.nvmlDeviceGetTotalEnergyConsumption(gpu) == start
    clock.sleep(0.015)
    assert nvml.nvmlDeviceGetTotalEnergyConsumption(gpu) - start == 500 + 400 * 90


def test_instant_and_average_power_are_means_over_their_windows() -> None:
    clock = VirtualClock(start_ns=0)
    nvml = _opened(clock, SimulatedSensor(step_s=0.1, window_s=0.025))
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    nvml.set_power(450)
    clock.sleep(0.25)
    instant, average = nvml.nvmlDeviceGetFieldValues(gpu, [186, 185])
    assert instant.value.uiVal == 450_000
    assert average.value.uiVal == 50_000 + 400_000 * 0.2


def test_gain_and_offset_distort_what_is_shown_and_not_what_is_true() -> None:
    clock = VirtualClock(start_ns=0)
    nvml = _opened(clock, SimulatedSensor(gain=0.9, offset_w=10))
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    before = nvml.nvmlDeviceGetTotalEnergyConsumption(gpu)
    clock.sleep(10)
    assert nvml.nvmlDeviceGetTotalEnergyConsumption(gpu) - before == pytest.approx(550_000, abs=1)
    assert nvml.true_energy_j(Window(0, 10_000 * MS)) == pytest.approx(500)


def test_a_field_the_board_lacks_says_so_in_its_own_place() -> None:
    nvml = _opened(VirtualClock(), SimulatedSensor(fields=frozenset({83})))
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    codes = [value.nvmlReturn for value in nvml.nvmlDeviceGetFieldValues(gpu, [83, 186])]
    assert codes == [nvml.NVML_SUCCESS, nvml.NVML_ERROR_NOT_SUPPORTED]


def test_a_lost_board_and_a_closed_driver_raise() -> None:
    nvml = _opened(VirtualClock())
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    gpu.fails_with = nvml.NVML_ERROR_GPU_IS_LOST
    with pytest.raises(SimulatedNvmlError, match="lost"):
        nvml.nvmlDeviceGetFieldValues(gpu, [83])
    nvml.nvmlShutdown()
    with pytest.raises(SimulatedNvmlError, match="Uninitialized"):
        nvml.nvmlDeviceGetCount()


def test_boards_have_power_of_their_own() -> None:
    clock = VirtualClock(start_ns=0)
    nvml = SimulatedNvml(clock, idle_w=50, uuids=("GPU-a", "GPU-b"))
    nvml.set_power(300, index=1)
    clock.sleep(2)
    window = Window(0, 2_000 * MS)
    assert nvml.true_energy_j(window) == pytest.approx(100)
    assert nvml.true_energy_j(window, index=1) == pytest.approx(600)
