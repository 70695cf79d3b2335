from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

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
    assert np.mean(held) >= 0.9
    assert {reading.method for reading in readings} == {"counter"}


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


def test_a_calibration_is_applied_and_flags_of_the_domain_reach_its_readings(tmp_path: Path) -> None:
    trace, window = _recorded(tmp_path)
    plain = energy_between(trace, window, GPU)
    board = replace(trace.domain(GPU), gain=1.05, offset_w=-4.0, systematic_gain=None, flags=("mig_shared",))
    reading = energy_between(replace(trace, domains=(board,)), window, GPU)
    assert _value(reading) == pytest.approx(1.05 * _value(plain) - 4.0 * 8)
    assert reading.resolution_j == pytest.approx(1.05 * (plain.resolution_j or 0))
    assert reading.energy.systematic is None
    assert reading.flags == ("mig_shared",)


def test_a_counter_that_stops_within_the_window_is_stuck(tmp_path: Path) -> None:
    trace, window = _recorded(tmp_path)
    middle_ns = (window.start_ns + window.end_ns) // 2
    stopped = _damaged(
        trace, "energy", lambda s: replace(s, raw=np.minimum(s.raw, s.raw[s.t_before_ns < middle_ns][-1]))
    )
    reading = energy_between(stopped, window, GPU)
    assert "sensor_stuck" in reading.flags
    assert reading.method == "sampled"
    assert reading.energy.value == pytest.approx(2400, rel=0.02)


def _power_of(levels_w: list[tuple[float, float]]) -> tuple[Trace, Window]:
    """Power that was read every 10 ms and holds each level for its seconds; the window begins after 3 s."""
    quantity = Quantity("power_instant", "nvml.power.instant", "W", 1e-3)
    at = np.arange(0, round(sum(seconds for _, seconds in levels_w) * 100), dtype=np.int64) * 10_000_000
    ends = np.cumsum([seconds for _, seconds in levels_w])
    watts = np.array([level for level, _ in levels_w])[np.searchsorted(ends, at / S, side="right")]
    raw = np.round(watts * 1000).astype(np.int64)
    domain = Domain(GPU, "gpu", (quantity,))
    series = {(GPU, quantity.name): Series(quantity, at, at, raw)}
    return Trace((domain,), series), Window(3 * S, round((ends[-1] - 3) * S))


def test_equal_samples_are_data_300_w_for_10_s_is_3000_j() -> None:
    trace, window = _power_of([(300, 16)])
    assert _value(energy_between(trace, window, GPU)) == pytest.approx(3000)


def test_a_burst_of_400_w_for_1_s_in_idle_of_100_w_is_300_j_more() -> None:
    trace, window = _power_of([(100, 7), (400, 1), (100, 8)])
    assert _value(energy_between(trace, window, GPU)) == pytest.approx(1300, rel=0.01)


def test_60_then_650_then_60_w_is_no_trapezoid() -> None:
    trace, window = _power_of([(60, 8), (650, 5), (60, 8)])
    assert _value(energy_between(trace, window, GPU)) == pytest.approx(60 * 10 + 650 * 5, rel=0.01)


def test_what_the_lag_leaves_open_adds_up_over_passes_instead_of_averaging_out(tmp_path: Path) -> None:
    windows = []
    with bench(tmp_path, sensor=SimulatedSensor(fields=POWER_ONLY)) as at:
        at.recorder.dense(True)
        for _ in range(4):
            at.clock.sleep(3)
            at.nvml.set_power(400)
            windows.append(at.window(5))
            at.nvml.set_power(60)
    trace = at.recorder.trace()
    instant = next(one for one in trace.domain(GPU).quantities if one.name == "power_instant")
    known = replace(instant, step_ns=S // 10, window_ns=S // 10, lag_ns=0)
    trace = replace(trace, domains=(replace(trace.domain(GPU), quantities=(known,)),))
    single = energy_between(trace, windows[0], GPU).resolution_j or 0
    together = energy_of(trace, windows, GPU).resolution_j or 0
    # Four times one in a line, twice in quadrature; one is mostly of the first kind.
    assert together > 2.5 * single


def test_a_window_of_a_long_trace_costs_no_more_than_one_of_a_short_trace() -> None:
    quantity = Quantity("energy", "nvml.total_energy", "J", 1e-3)
    at = np.arange(0, 3600 * S, 17_000_000, dtype=np.int64)
    series = Series(quantity, at, at, at // 100_000_000 * 30_000)
    trace = Trace((Domain(GPU, "gpu", (quantity,)),), {(GPU, "energy"): series})
    began = time.perf_counter()
    values = [
        _value(energy_between(trace, Window(start * S, (start + 10) * S), GPU))
        for start in range(100, 3500, 340)
    ]
    assert time.perf_counter() - began < 1.0
    assert values == pytest.approx([3000] * 10, rel=1e-3)


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
