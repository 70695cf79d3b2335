from __future__ import annotations

import pytest
from benchmarks.boards.amdsmi import SimulatedAmdSmi, SimulatedAmdSmiLibraryError

from llenergymeasure.records import Window
from llenergymeasure.simulation.clock import VirtualClock
from llenergymeasure.simulation.gpu import SimulatedGpu
from llenergymeasure.simulation.sensor import SimulatedSensor

S = 1_000_000_000


def _opened(clock: VirtualClock, *uuids: str, two_dies: bool = False) -> SimulatedAmdSmi:
    smi = SimulatedAmdSmi(clock, idle_w=90, uuids=uuids or ("amd-a",), two_dies=two_dies)
    smi.amdsmi_init()
    return smi


def _joules(smi: SimulatedAmdSmi, die: SimulatedGpu) -> float:
    count = smi.amdsmi_get_energy_count(die)
    return count[smi.energy_key] * count["counter_resolution"] * 1e-6


def test_the_accumulator_counts_what_was_drawn_to_a_tick() -> None:
    clock = VirtualClock(0)
    smi = _opened(clock)
    (die,) = smi.amdsmi_get_processor_handles()
    before_j = _joules(smi, die)
    smi.set_power(500)
    clock.sleep(2)
    assert _joules(smi, die) - before_j == pytest.approx(1000, abs=32e-6)
    assert smi.true_energy_j(Window(0, 2 * S)) == pytest.approx(1000)
    assert smi.amdsmi_get_energy_count(die)["timestamp"] == 2 * S
    assert smi.amdsmi_get_gpu_device_uuid(die) == "amd-a"


def test_power_stands_where_its_generation_puts_it() -> None:
    clock = VirtualClock(0)
    smi = _opened(clock)
    (die,) = smi.gpus
    smi.set_power(500)
    clock.sleep(1)
    power = smi.amdsmi_get_power_info(die)
    assert (power["current_socket_power"], power["average_socket_power"]) == (500, "N/A")
    smi.kind = "MI200"
    power = smi.amdsmi_get_power_info(die)
    assert (power["current_socket_power"], power["average_socket_power"]) == ("N/A", 500)


def test_of_two_dies_the_first_shows_both_and_the_second_nothing() -> None:
    clock = VirtualClock(0)
    smi = _opened(clock, "amd-a", "amd-b", "amd-c", "amd-d", two_dies=True)
    before_j = [_joules(smi, die) for die in smi.gpus]
    smi.set_power(300, index=1)
    clock.sleep(1)
    drawn_j = [_joules(smi, die) - before for die, before in zip(smi.gpus, before_j, strict=True)]
    assert drawn_j == pytest.approx([390, 0, 180, 0], abs=1e-4)
    assert [smi.amdsmi_get_power_info(die)["socket_power"] for die in smi.gpus] == [390, 0, 180, 0]


def test_a_guest_has_no_counter() -> None:
    smi = _opened(VirtualClock())
    smi.guest = True
    with pytest.raises(smi.AmdSmiException) as refused:
        smi.amdsmi_get_energy_count(smi.gpus[0])
    assert isinstance(refused.value, SimulatedAmdSmiLibraryError)
    assert refused.value.get_error_code() == smi.amdsmi_wrapper.AMDSMI_STATUS_NOT_SUPPORTED == 2
    assert smi.amdsmi_get_power_info(smi.gpus[0])["socket_power"] == 90


def test_early_versions_name_the_accumulator_otherwise() -> None:
    smi = _opened(VirtualClock())
    smi.energy_key = "power"
    assert set(smi.amdsmi_get_energy_count(smi.gpus[0])) == {"power", "counter_resolution", "timestamp"}


def test_a_function_fails_as_it_is_told_and_a_closed_library_always() -> None:
    smi = _opened(VirtualClock())
    (die,) = smi.gpus
    die.fails["amdsmi_get_power_info"] = smi.amdsmi_wrapper.AMDSMI_STATUS_NO_PERM
    with pytest.raises(smi.AmdSmiLibraryException, match="10"):
        smi.amdsmi_get_power_info(die)
    assert _joules(smi, die) > 0
    smi.amdsmi_shut_down()
    with pytest.raises(smi.AmdSmiLibraryException, match="32"):
        smi.amdsmi_get_energy_count(die)
    smi.fails["amdsmi_init"] = smi.amdsmi_wrapper.AMDSMI_STATUS_DRIVER_NOT_LOADED
    with pytest.raises(smi.AmdSmiLibraryException, match="34"):
        smi.amdsmi_init()


def test_a_wrong_board_and_a_slow_driver_can_be_scripted() -> None:
    clock = VirtualClock(0)
    sensor = SimulatedSensor(step_s=0.001, counter_gain=0.5, latency_s=0.01)
    smi = SimulatedAmdSmi(clock, idle_w=90, sensor=sensor)
    smi.amdsmi_init()
    (die,) = smi.gpus
    before_j, start_ns = _joules(smi, die), clock.monotonic_ns()
    assert start_ns == 10_000_000
    clock.sleep(10)
    assert _joules(smi, die) - before_j == pytest.approx(450, abs=1)
