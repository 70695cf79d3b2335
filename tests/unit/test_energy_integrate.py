from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from llenergymeasure.energy.idle import idle_power
from llenergymeasure.energy.integrate import boundary, energy_between, energy_of, summed
from llenergymeasure.energy.nvml import NvmlMeter
from llenergymeasure.energy.recorder import Recorder
from llenergymeasure.records import (
    Domain,
    EnergyReading,
    Estimate,
    Gap,
    Method,
    PowerModel,
    Quantity,
    Series,
    Trace,
    Window,
)
from llenergymeasure.simulation.clock import VirtualClock
from llenergymeasure.simulation.device import SimulatedNvml, SimulatedSensor

S = 1_000_000_000
GPU = "gpu:GPU-simulated-0"
POWER_ONLY = frozenset({185, 186})


@dataclass(slots=True)
class Bench:
    clock: VirtualClock
    nvml: SimulatedNvml
    recorder: Recorder

    def window(self, seconds: float) -> Window:
        start_ns = self.clock.monotonic_ns()
        self.clock.sleep(seconds)
        return Window(start_ns, self.clock.monotonic_ns())


@contextmanager
def bench(directory: Path, *, sensor: SimulatedSensor | None = None, start_ns: int = S) -> Iterator[Bench]:
    clock = VirtualClock(start_ns)
    nvml = SimulatedNvml(clock, idle_w=60, sensor=sensor)
    recorder = Recorder([NvmlMeter(nvml, clock=clock)], clock=clock, directory=directory)
    recorder.start(threaded=False)
    with clock.every(recorder.tick_s, recorder.poll):
        yield Bench(clock, nvml, recorder)
        clock.sleep(2.5)
        recorder.stop()


def _value(reading: EnergyReading) -> float:
    assert reading.energy.value is not None, reading.energy.reason
    return reading.energy.value


@pytest.mark.parametrize("step_s", [0.02, 0.05, 0.1])
@pytest.mark.parametrize(("idle_w", "worst"), [(400, (0.006, 0.0015)), (60, (0.01, 0.0025))])
def test_random_windows_on_a_stepping_counter_hold_the_truth(
    tmp_path: Path, step_s: float, idle_w: float, worst: tuple[float, float]
) -> None:
    draw = random.Random(f"{step_s} {idle_w}")
    sensor = SimulatedSensor(step_s=step_s, phase_s=draw.uniform(0, step_s))
    windows: list[Window] = []
    two_reads: list[float] = []
    with bench(tmp_path, sensor=sensor, start_ns=draw.randrange(S, 2 * S)) as at:
        gpu = at.nvml.gpus[0]
        for number in range(60):
            at.nvml.set_power(idle_w)
            at.clock.sleep(draw.uniform(1.0, 1.5))
            at.recorder.dense(True)
            at.clock.sleep(0.3)
            at.nvml.set_power(400)
            before = gpu.read(83)
            windows.append(at.window(draw.uniform(5.0, 5.1) if number % 4 == 0 else draw.uniform(1.0, 1.1)))
            two_reads.append((gpu.read(83) - before) / 1000)
            at.nvml.set_power(idle_w)
            at.recorder.dense(False)
        truth = [at.nvml.true_energy_j(window) for window in windows]
    trace = at.recorder.trace()
    readings = [energy_between(trace, window, GPU) for window in windows]
    errors = [abs(_value(reading) / true - 1) for reading, true in zip(readings, truth, strict=True)]
    assert max(errors) < worst[0]
    assert max(error for number, error in enumerate(errors) if number % 4 == 0) < worst[1]
    assert max(abs(read / true - 1) for read, true in zip(two_reads, truth, strict=True)) > worst[0]
    held = [
        (reading.energy.low or 0) <= true <= (reading.energy.high or 0)
        for reading, true in zip(readings, truth, strict=True)
    ]
    assert np.mean(held) > 0.85
    assert {reading.method for reading in readings} == {"counter"}


def test_constant_power_of_300_w_for_10_s_is_3000_j_from_samples_that_never_change(tmp_path: Path) -> None:
    with bench(tmp_path, sensor=SimulatedSensor(fields=POWER_ONLY)) as at:
        at.nvml.set_power(300)
        at.clock.sleep(3)
        window = at.window(10)
    reading = energy_between(at.recorder.trace(), window, GPU)
    assert reading.energy.value == pytest.approx(3000)
    assert (reading.method, reading.source) == ("sampled", "nvml.power.instant")


def test_a_burst_in_idle_is_counted_as_long_as_it_lasted(tmp_path: Path) -> None:
    with bench(tmp_path, sensor=SimulatedSensor(fields=POWER_ONLY)) as at:
        start = at.window(5)
        at.nvml.set_power(400)
        at.clock.sleep(1)
        at.nvml.set_power(60)
        end = at.window(5)
        window = Window(start.start_ns + S, end.end_ns)
    reading = energy_between(at.recorder.trace(), window, GPU)
    assert reading.energy.value == pytest.approx(9 * 60 + 400, rel=0.03)


def test_a_window_under_one_second_is_refused_and_one_under_five_is_flagged(tmp_path: Path) -> None:
    with bench(tmp_path) as at:
        at.clock.sleep(2)
        short, fair, long = at.window(0.9), at.window(2), at.window(6)
    trace = at.recorder.trace()
    refused = energy_between(trace, short, GPU)
    assert refused.energy.value is None
    assert refused.flags == ("window_too_short",)
    assert energy_between(trace, fair, GPU).flags == ("window_too_short",)
    assert energy_between(trace, long, GPU).flags == ()
    assert energy_of(trace, [long, short], GPU).energy.value is None


def test_passes_add_up_and_their_resolutions_add_in_quadrature(tmp_path: Path) -> None:
    windows = []
    with bench(tmp_path) as at:
        at.recorder.dense(True)
        for _ in range(3):
            at.clock.sleep(1.23)
            at.nvml.set_power(400)
            windows.append(at.window(5))
            at.nvml.set_power(60)
    trace = at.recorder.trace()
    each = [energy_between(trace, window, GPU) for window in windows]
    together = energy_of(trace, windows, GPU)
    assert _value(together) == pytest.approx(sum(_value(reading) for reading in each))
    assert together.resolution_j == pytest.approx(
        np.sqrt(sum((reading.resolution_j or 0) ** 2 for reading in each))
    )
    assert together.window == Window(windows[0].start_ns, windows[-1].end_ns)
    assert together.energy.systematic is not None
    assert together.energy.systematic[0] == pytest.approx(
        sum((r.energy.systematic or (0, 0))[0] for r in each)
    )


@pytest.mark.parametrize(("gain", "offset_w"), [(0.873, -24), (1.065, 16), (0.95, 0), (1.05, -22)])
def test_systematic_bounds_hold_the_truth_of_every_published_board(
    tmp_path: Path, gain: float, offset_w: float
) -> None:
    with bench(tmp_path, sensor=SimulatedSensor(gain=gain, offset_w=offset_w)) as at:
        at.nvml.set_power(350)
        at.clock.sleep(2)
        window = at.window(6)
    reading = energy_between(at.recorder.trace(), window, GPU)
    assert reading.energy.systematic is not None
    low, high = reading.energy.systematic
    slack = (reading.resolution_j or 0) * 1.2
    assert low - slack <= 350 * 6 <= high + slack


def _damaged(trace: Trace, quantity: str, change: Callable[[Series], Series]) -> Trace:
    key = (GPU, quantity)
    return replace(trace, series={**trace.series, key: change(trace.series[key])})


def _recorded(tmp_path: Path) -> tuple[Trace, Window]:
    with bench(tmp_path) as at:
        at.recorder.dense(True)
        at.nvml.set_power(300)
        at.clock.sleep(2)
        window = at.window(8)
    return at.recorder.trace(), window


def test_a_counter_that_shows_57_percent_of_the_power_is_named(tmp_path: Path) -> None:
    trace, window = _recorded(tmp_path)
    assert energy_between(trace, window, GPU).flags == ()
    low = _damaged(trace, "energy", lambda s: replace(s, raw=(s.raw * 57) // 100))
    assert energy_between(low, window, GPU).flags == ("counter_power_mismatch",)


def test_a_stuck_counter_gives_way_to_sampled_power(tmp_path: Path) -> None:
    trace, window = _recorded(tmp_path)
    stuck = _damaged(trace, "energy", lambda s: replace(s, raw=np.full_like(s.raw, 5)))
    reading = energy_between(stuck, window, GPU)
    assert reading.energy.value == pytest.approx(2400)
    assert reading.method == "sampled"
    assert "sensor_stuck" in reading.flags


def test_a_reset_counter_is_named_and_never_a_negative_energy(tmp_path: Path) -> None:
    trace, window = _recorded(tmp_path)
    middle_ns = (window.start_ns + window.end_ns) // 2
    reset = _damaged(
        trace,
        "energy",
        lambda s: replace(s, raw=np.where(s.t_before_ns < middle_ns, s.raw, s.raw - s.raw[0])),
    )
    reading = energy_between(reset, window, GPU)
    assert "counter_reset" in reading.flags
    assert reading.energy.value == pytest.approx(2400)


def test_a_gap_in_the_window_is_flagged_and_one_outside_is_not(tmp_path: Path) -> None:
    trace, window = _recorded(tmp_path)
    inside = Gap(Window(window.start_ns + S, window.start_ns + 2 * S), "blocked", GPU)
    assert energy_between(replace(trace, gaps=(inside,)), window, GPU).flags == ("recorder_gap",)
    outside = Gap(Window(window.end_ns, window.end_ns + S), "blocked", GPU)
    other = replace(inside, domain="cpu:0")
    assert energy_between(replace(trace, gaps=(outside, other)), window, GPU).flags == ()


def test_samples_missing_for_seconds_are_flagged_without_a_recorded_gap(tmp_path: Path) -> None:
    trace, window = _recorded(tmp_path)
    hole = (window.start_ns + 2 * S, window.start_ns + 5 * S)

    def without(series: Series) -> Series:
        kept = (series.t_before_ns < hole[0]) | (series.t_before_ns > hole[1])
        return Series(
            series.quantity, *(part[kept] for part in (series.t_before_ns, series.t_after_ns, series.raw))
        )

    reading = energy_between(_damaged(trace, "energy", without), window, GPU)
    assert reading.flags == ("recorder_gap",)
    assert reading.energy.value == pytest.approx(2400, rel=1e-3)


def test_a_domain_that_was_never_read_has_a_reason_and_no_zero(tmp_path: Path) -> None:
    trace, window = _recorded(tmp_path)
    reading = energy_between(replace(trace, series={}), window, GPU)
    assert reading.energy.value is None
    assert reading.energy.reason == f"{GPU} was never read"


def _modelled_trace(busy: float, gigabytes: float) -> Trace:
    model = PowerModel("m", "c", 4.0, (3.0, 8.0), 0.4e-9, (0.2e-9, 0.5e-9))
    time = Quantity("cpu_time", "cpu-time-model", "s", 1e-9, step_ns=10_000_000)
    size = Quantity("resident", "cpu-time-model", "bytes", 1.0)
    at = np.arange(0, 20 * S, S // 10, dtype=np.int64)
    cpu = (at * busy / 1e7).astype(np.int64) * 10_000_000
    resident = np.full_like(at, int(gigabytes * 1e9))
    host = Domain("host", "host", (time, size), model=model)
    return Trace(
        (host,),
        {
            ("host", "cpu_time"): Series(time, at, at, cpu),
            ("host", "resident"): Series(size, at, at, resident),
        },
    )


def test_modelled_energy_is_busy_seconds_and_memory_times_watts_with_the_models_range() -> None:
    reading = energy_between(_modelled_trace(1.5, 2.0), Window(5 * S, 15 * S), "host")
    assert reading.energy.value == pytest.approx(15 * 4.0 + 20 * 0.4, rel=0.01)
    assert reading.energy.systematic == pytest.approx((15 * 3.0 + 20 * 0.2, 15 * 8.0 + 20 * 0.5), rel=0.01)
    assert reading.method == "modelled"
    assert reading.resolution_j is not None
    assert reading.resolution_j < 1


def test_processes_that_do_nothing_cost_their_memory_only() -> None:
    reading = energy_between(_modelled_trace(0.0, 2.0), Window(5 * S, 15 * S), "host")
    assert reading.energy.value == pytest.approx(8.0)


def test_idle_power_is_the_mean_and_drift_widens_it(tmp_path: Path) -> None:
    with bench(tmp_path) as at:
        at.recorder.dense(True)
        at.clock.sleep(2)
        steady = at.window(4)
        now_ns = at.clock.monotonic_ns()
        at.nvml.gpus[0].power.ramp(now_ns, 80, until_ns=now_ns + 4 * S)
        drifting = at.window(4)
    trace = at.recorder.trace()
    calm, moving = idle_power(trace, steady, GPU), idle_power(trace, drifting, GPU)
    assert calm.value == pytest.approx(60, rel=0.005)
    assert moving.value == pytest.approx(70, rel=0.005)
    assert calm.low is not None
    assert calm.high is not None
    assert calm.high - calm.low < 1
    assert moving.high is not None
    # Halves of a ramp from 60 to 80 W have means of 65 and 75 W.
    assert moving.high - 70 == pytest.approx(5, rel=0.05)


def test_idle_power_of_a_moment_is_unknown(tmp_path: Path) -> None:
    trace, window = _recorded(tmp_path)
    power = idle_power(trace, Window(window.start_ns, window.start_ns), GPU)
    assert power.value is None


def _some(domain: str, method: Method = "counter") -> EnergyReading:
    return EnergyReading(domain, "s", method, Window(0, 1), Estimate(1.0, "J", 1.0, 1.0))


@pytest.mark.parametrize(
    ("domains", "name", "kept"),
    [
        ([], None, []),
        (["gpu:a", "gpu:b"], "gpu", ["gpu:a", "gpu:b"]),
        (["dram:0", "cpu:0", "gpu:a"], "gpu+cpu+dram", ["dram:0", "cpu:0", "gpu:a"]),
        (["cpu:0", "dram:0"], "cpu+dram", ["cpu:0", "dram:0"]),
        (["cpu:0", "host"], "cpu", ["cpu:0"]),
        (["gpu:a", "module:a"], "gpu", ["gpu:a"]),
        (["module:a", "cpu:0", "dram:0"], "module", ["module:a"]),
        (["host"], "modelled", ["host"]),
    ],
)
def test_a_boundary_counts_nothing_twice(domains: list[str], name: str | None, kept: list[str]) -> None:
    readings = [_some(domain, "modelled" if domain == "host" else "counter") for domain in domains]
    assert boundary(readings) == name
    assert [reading.domain for reading in summed(readings)] == kept
