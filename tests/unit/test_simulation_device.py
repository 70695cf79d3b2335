from __future__ import annotations

import inspect

import pynvml
import pytest

from llenergymeasure.records import Window
from llenergymeasure.simulation.clock import VirtualClock
from llenergymeasure.simulation.device import (
    SimulatedNvml,
    SimulatedNvmlError,
    SimulatedProcess,
    SimulatedSensor,
)
from llenergymeasure.simulation.nvml_names import ERRORS, Code
from llenergymeasure.simulation.waveform import Waveform

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
    assert codes == [nvml.NVML_SUCCESS, Code.NOT_SUPPORTED]


def test_a_lost_board_and_a_closed_driver_raise() -> None:
    nvml = _opened(VirtualClock())
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    gpu.fails_with = Code.GPU_IS_LOST
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


def _offered(kind: str) -> list[str]:
    return [name for name in dir(SimulatedNvml) if name.startswith(kind)]


def test_every_name_is_the_bindings_own() -> None:
    assert len(_offered("nvml")) > 20
    for name in _offered("nvml"):
        real, ours = getattr(pynvml, name), getattr(SimulatedNvml, name)
        if callable(real):
            parameters = list(inspect.signature(ours).parameters)
            assert parameters[1:] == list(inspect.signature(real).parameters), name
        else:
            assert ours == real, name
    for name in _offered("NVML_"):
        assert getattr(SimulatedNvml, name) == getattr(pynvml, name), name


def test_errors_are_of_the_class_of_their_code_with_the_bindings_words() -> None:
    for name in _offered("NVMLError_"):
        ours, real = getattr(SimulatedNvml, name)(), getattr(pynvml, name)()
        assert (ours.value, str(ours)) == (real.value, str(real))
        assert type(SimulatedNvmlError(real.value)) is type(ours)
    assert type(SimulatedNvmlError(77)) is SimulatedNvmlError
    assert SimulatedNvmlError(77).value == 77


def test_structures_have_the_fields_that_a_reader_uses() -> None:
    nvml = _opened(VirtualClock())
    (gpu,) = nvml.gpus
    gpu.offer_health()
    gpu.processes.append(SimulatedProcess(17, 2**30))
    pairs = [
        (nvml.nvmlDeviceGetFieldValues(gpu, [186])[0], pynvml.c_nvmlFieldValue_t),
        (nvml.nvmlDeviceGetComputeRunningProcesses(gpu)[0], pynvml.c_nvmlProcessInfo_v3_t),
        (nvml.nvmlDeviceGetMemoryInfo(gpu, nvml.nvmlMemory_v2), pynvml.c_nvmlMemory_v2_t),
        (nvml.nvmlDeviceGetViolationStatus(gpu, 0), pynvml.c_nvmlViolationTime_t),
    ]
    for ours, real in pairs:
        assert all(hasattr(ours, name) for name, _ in real._fields_), real


def test_a_function_or_a_field_fails_as_it_is_told() -> None:
    nvml = _opened(VirtualClock())
    (gpu,) = nvml.gpus
    gpu.fails = {"nvmlDeviceGetPowerUsage": Code.NO_PERMISSION, 83: Code.UNKNOWN}
    with pytest.raises(ERRORS[Code.NO_PERMISSION], match="Permissions"):
        nvml.nvmlDeviceGetPowerUsage(gpu)
    with pytest.raises(ERRORS[Code.UNKNOWN]):
        nvml.nvmlDeviceGetTotalEnergyConsumption(gpu)
    counter, instant = nvml.nvmlDeviceGetFieldValues(gpu, [83, 186])
    assert (counter.nvmlReturn, instant.nvmlReturn, instant.value.uiVal) == (999, 0, 50_000)


def test_a_driver_that_is_not_there_refuses_to_start() -> None:
    nvml = SimulatedNvml(VirtualClock(), idle_w=50)
    nvml.fails["nvmlInit"] = Code.DRIVER_NOT_LOADED
    with pytest.raises(ERRORS[Code.DRIVER_NOT_LOADED]):
        nvml.nvmlInit()


def test_a_board_is_lost_in_the_midst_of_a_run_and_the_next_one_stays() -> None:
    clock = VirtualClock(0)
    nvml = SimulatedNvml(clock, idle_w=50, uuids=("GPU-a", "GPU-b"))
    nvml.nvmlInit()
    nvml.gpus[0].lost_from_ns = 1_000 * MS
    clock.sleep(0.9)
    assert nvml.nvmlDeviceGetPowerUsage(nvml.gpus[0]) == 50_000
    clock.sleep(0.2)
    with pytest.raises(ERRORS[Code.GPU_IS_LOST]):
        nvml.nvmlDeviceGetFieldValues(nvml.gpus[0], [83])
    assert nvml.nvmlDeviceGetPowerUsage(nvml.gpus[1]) == 50_000


def test_a_vgpu_has_power_and_no_counter() -> None:
    nvml = _opened(VirtualClock(), SimulatedSensor(fields=frozenset({185, 186})))
    (gpu,) = nvml.gpus
    with pytest.raises(ERRORS[Code.NOT_SUPPORTED]):
        nvml.nvmlDeviceGetTotalEnergyConsumption(gpu)
    assert nvml.nvmlDeviceGetPowerUsage(gpu) == 50_000


def test_an_old_board_shows_instant_power_by_the_plain_function_alone() -> None:
    clock = VirtualClock(0)
    nvml = _opened(clock, SimulatedSensor(step_s=0.02, window_s=0.01, fields=frozenset({83}), usage=186))
    (gpu,) = nvml.gpus
    nvml.set_power(300)
    clock.sleep(0.02)
    assert nvml.nvmlDeviceGetPowerUsage(gpu) == 300_000
    assert nvml.nvmlDeviceGetFieldValues(gpu, [186])[0].nvmlReturn == Code.NOT_SUPPORTED


def test_mig_instances_have_memory_and_processes_and_no_watts() -> None:
    nvml = _opened(VirtualClock())
    (gpu,) = nvml.gpus
    with pytest.raises(ERRORS[Code.NOT_SUPPORTED]):
        nvml.nvmlDeviceGetMigMode(gpu)
    gpu.share_out("MIG-a", "MIG-b")
    gpu.processes += [SimulatedProcess(17, 2**30, gpuInstanceId=1), SimulatedProcess(18, gpuInstanceId=2)]
    assert nvml.nvmlDeviceGetMigMode(gpu) == [1, 1]
    assert nvml.nvmlDeviceGetMaxMigDeviceCount(gpu) == 7
    first, second = (nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, index) for index in range(2))
    with pytest.raises(ERRORS[Code.NOT_FOUND]):
        nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, 2)
    assert nvml.nvmlDeviceGetUUID(second) == "MIG-b"
    assert nvml.nvmlDeviceGetHandleByUUID("MIG-a") is first
    assert nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(first) is gpu
    assert nvml.nvmlDeviceIsMigDeviceHandle(first)
    assert not nvml.nvmlDeviceIsMigDeviceHandle(gpu)
    assert [one.pid for one in nvml.nvmlDeviceGetComputeRunningProcesses(first)] == [17]
    assert [one.pid for one in nvml.nvmlDeviceGetComputeRunningProcesses_v3(gpu)] == [17, 18]
    assert nvml.nvmlDeviceGetMemoryInfo(first, nvml.nvmlMemory_v2).used == 2**30
    for ask in (nvml.nvmlDeviceGetTotalEnergyConsumption, nvml.nvmlDeviceGetPowerUsage):
        assert ask(gpu) > 0
        with pytest.raises(ERRORS[Code.NOT_SUPPORTED]):
            ask(first)


def test_a_modules_power_holds_the_processors_beside_the_gpus() -> None:
    clock = VirtualClock(0)
    nvml = _opened(clock)
    (gpu,) = nvml.gpus
    gpu_scope, module_scope = (186, nvml.NVML_POWER_SCOPE_GPU), (186, nvml.NVML_POWER_SCOPE_MODULE)
    assert nvml.nvmlDeviceGetFieldValues(gpu, [module_scope])[0].nvmlReturn == Code.NOT_SUPPORTED
    gpu.cpu_power = Waveform(120)
    alone, together, counter = nvml.nvmlDeviceGetFieldValues(gpu, [gpu_scope, module_scope, (83, 1)])
    assert (alone.value.uiVal, together.value.uiVal, together.scopeId) == (50_000, 170_000, 1)
    assert counter.nvmlReturn == Code.NOT_SUPPORTED


def test_memory_is_what_processes_hold_shown_or_not_and_a_part_the_driver_keeps() -> None:
    nvml = _opened(VirtualClock())
    (gpu,) = nvml.gpus
    idle = nvml.nvmlDeviceGetMemoryInfo(gpu, nvml.nvmlMemory_v2)
    assert (idle.used, idle.total) == (0, idle.free + idle.reserved)
    gpu.processes.append(SimulatedProcess(17, 2**30))
    gpu.hidden_memory_bytes = 3 * 2**30
    assert nvml.nvmlDeviceGetMemoryInfo(gpu, nvml.nvmlMemory_v2).used == 4 * 2**30
    assert nvml.nvmlDeviceGetMemoryInfo(gpu).used == 4 * 2**30 + idle.reserved


def test_health_follows_its_script_and_is_unknown_without_one() -> None:
    clock = VirtualClock(0)
    nvml = _opened(clock)
    (gpu,) = nvml.gpus

    def health() -> tuple[int, int, int]:
        return (
            nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU),
            nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM),
            nvml.nvmlDeviceGetEnforcedPowerLimit(gpu),
        )

    with pytest.raises(ERRORS[Code.NOT_SUPPORTED]):
        health()
    with pytest.raises(ERRORS[Code.NOT_SUPPORTED]):
        nvml.nvmlDeviceGetViolationStatus(gpu, nvml.NVML_PERF_POLICY_THERMAL)
    gpu.offer_health(temperature_c=50, sm_clock_mhz=1980, power_limit_w=700)
    assert health() == (50, 1980, 700_000)
    clock.sleep(1)
    nvml.set_temperature(83)
    nvml.set_clock(1410)
    nvml.set_power_limit(500)
    assert health() == (83, 1410, 500_000)


def test_violation_time_runs_while_the_board_is_throttled() -> None:
    clock = VirtualClock(0)
    nvml = _opened(clock)
    (gpu,) = nvml.gpus
    gpu.offer_health()
    gpu.throttle(nvml.NVML_PERF_POLICY_THERMAL, Window(1_000 * MS, 1_500 * MS))
    seen = []
    for _ in range(4):
        clock.sleep(0.6)
        seen.append(nvml.nvmlDeviceGetViolationStatus(gpu, nvml.NVML_PERF_POLICY_THERMAL).violationTime // MS)
    assert seen == [0, 200, 500, 500]
    assert nvml.nvmlDeviceGetViolationStatus(gpu, nvml.NVML_PERF_POLICY_POWER).violationTime == 0


def test_twelve_boards_are_found_by_index_and_uuid_and_tick_apart() -> None:
    uuids = [f"GPU-{number}" for number in range(12)]
    clock = VirtualClock(0)
    sensor = SimulatedSensor(step_jitter_s=0.01)
    nvml = SimulatedNvml(clock, idle_w=50, uuids=uuids, sensor=sensor)
    nvml.nvmlInit()
    assert nvml.nvmlDeviceGetCount() == 12
    handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(12)]
    assert [nvml.nvmlDeviceGetUUID(one) for one in handles] == uuids
    assert nvml.nvmlDeviceGetHandleByUUID("GPU-11") is handles[11]
    with pytest.raises(ERRORS[Code.INVALID_ARGUMENT]):
        nvml.nvmlDeviceGetHandleByIndex(12)
    with pytest.raises(ERRORS[Code.NOT_FOUND]):
        nvml.nvmlDeviceGetHandleByUUID("GPU-12")
    assert len({one.sensor.step_at_ns(5) for one in handles}) == 12


def test_a_batched_call_waits_once_and_a_call_per_field_waits_for_each() -> None:
    clock = VirtualClock(0)
    nvml = _opened(clock, SimulatedSensor(latency_s=0.02))
    (gpu,) = nvml.gpus
    nvml.nvmlDeviceGetFieldValues(gpu, [83, 185, 186])
    assert clock.monotonic_ns() == 20 * MS
    nvml.nvmlDeviceGetTotalEnergyConsumption(gpu)
    nvml.nvmlDeviceGetPowerUsage(gpu)
    assert clock.monotonic_ns() == 60 * MS
