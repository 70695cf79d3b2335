from __future__ import annotations

from statistics import mean, pstdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llenergymeasure.simulation.clock import VirtualClock
from llenergymeasure.simulation.device import SimulatedGpu, SimulatedSensor

MS = 1_000_000
S = 1_000_000_000


def _gpu(clock: VirtualClock, sensor: SimulatedSensor) -> SimulatedGpu:
    return SimulatedGpu(clock, "GPU-a", idle_w=100, sensor=sensor)


@given(st.floats(0.02, 0.1), st.floats(0, 0.1), st.floats(0, 0.1), st.integers(0, 10**18), st.integers(0, 99))
def test_the_last_step_is_the_last_of_all_steps_before_now(
    step_s: float, phase_s: float, jitter_s: float, now_ns: int, seed: int
) -> None:
    sensor = SimulatedSensor(step_s=step_s, phase_s=phase_s, step_jitter_s=jitter_s, seed=seed)
    around = now_ns // round(step_s * 1e9)
    steps = [sensor.step_at_ns(index) for index in range(around - 9, around + 10)]
    assert steps == sorted(set(steps))
    assert sensor.last_step_ns(now_ns) == max(step for step in steps if step <= now_ns)


def test_steps_scatter_around_their_grid_by_what_the_sensor_says() -> None:
    sensor = SimulatedSensor(step_s=0.1, phase_s=0.03, step_jitter_s=0.004, seed=7)
    late_ms = [(sensor.step_at_ns(index) - index * 100 * MS - 30 * MS) / MS for index in range(4000)]
    assert mean(late_ms) == pytest.approx(0, abs=0.2)
    assert pstdev(late_ms) == pytest.approx(4, rel=0.05)
    other = SimulatedSensor(step_s=0.1, phase_s=0.03, step_jitter_s=0.004, seed=8)
    assert other.step_at_ns(5) != sensor.step_at_ns(5)


def test_reading_is_a_pure_function_of_time() -> None:
    sensor = SimulatedSensor(step_jitter_s=0.01, seed=3)
    often, once = VirtualClock(0), VirtualClock(0)
    read_often, read_once = _gpu(often, sensor), _gpu(once, sensor)
    for _ in range(100):
        often.sleep(0.017)
        read_often.read(83)
    once.sleep(1.7)
    assert read_often.read(83) == read_once.read(83)


def test_power_and_counter_show_what_was_true_a_lag_ago() -> None:
    clock = VirtualClock(10 * S)
    gpu = _gpu(clock, SimulatedSensor(step_s=0.02, window_s=0.02, lag_s=0.1, counter_lag_s=0.04))
    before = gpu.read(83)
    gpu.power.set(10 * S, 500)
    clock.sleep(0.1)
    assert gpu.read(186) == 100_000
    assert gpu.read(83) - before == pytest.approx(100 * 40 + 500 * 60)
    clock.sleep(0.02)
    assert gpu.read(186) == 500_000


def test_a_counter_can_be_wrong_by_itself() -> None:
    clock = VirtualClock(S)
    gpu = _gpu(clock, SimulatedSensor(gain=0.9, offset_w=5, counter_gain=0.57, counter_offset_w=0))
    before = gpu.read(83)
    clock.sleep(10)
    assert gpu.read(83) - before == pytest.approx(570_000, abs=1)
    assert gpu.read(186) == 95_000


def test_a_stuck_counter_stands_still_while_power_goes_on() -> None:
    clock = VirtualClock(S)
    gpu, born_stuck = _gpu(clock, SimulatedSensor()), _gpu(clock, SimulatedSensor(counter_stuck=True))
    clock.sleep(1)
    assert gpu.read(83) - born_stuck.read(83) == 100_000
    gpu.stick_counter()
    shown = gpu.read(83)
    gpu.power.set(clock.monotonic_ns(), 300)
    clock.sleep(1)
    assert (gpu.read(83), gpu.read(186)) == (shown, 300_000)


def test_a_reset_counter_starts_at_nothing() -> None:
    clock = VirtualClock(S)
    gpu = _gpu(clock, SimulatedSensor())
    assert gpu.read(83) > 100 * 3_500_000
    gpu.reset_counter()
    assert gpu.read(83) == 0
    clock.sleep(1)
    assert gpu.read(83) == 100_000


def test_a_counter_that_was_just_reset_has_nothing_from_before() -> None:
    # below its offset the board would else seem to have drawn something before its time
    gpu = _gpu(VirtualClock(S), SimulatedSensor(lag_s=0.5, offset_w=-150))
    gpu.reset_counter()
    assert gpu.read(83) == 0


def test_a_call_takes_its_latency_and_looks_somewhere_inside_it() -> None:
    clock = VirtualClock(0)
    gpu = _gpu(clock, SimulatedSensor(step_s=0.001, latency_s=(0.001, 0.02), seed=1))
    took_s, looked = [], []
    for _ in range(300):
        start_ns, counted = clock.monotonic_ns(), gpu.read(83)
        took_s.append((clock.monotonic_ns() - start_ns) / 1e9)
        looked.append((counted / 100 - start_ns / 1e6 - 3_600_000) / 1e3 / took_s[-1])
    assert min(took_s) == pytest.approx(0.001, abs=0.0005)
    assert max(took_s) == pytest.approx(0.02, abs=0.0005)
    assert mean(took_s) == pytest.approx(0.0105, rel=0.1)
    assert 0.3 < mean(looked) < 0.6
    again = VirtualClock(0)
    other = _gpu(again, SimulatedSensor(step_s=0.001, latency_s=(0.001, 0.02), seed=1))
    other.read(83)
    assert again.monotonic_ns() / 1e9 == took_s[0]
