from __future__ import annotations

import random
import statistics
from dataclasses import replace

import numpy as np
import pytest
from benchmarks.accuracy.scenes import joint_run

from llenergymeasure.energy.joint import joint_powers
from llenergymeasure.records import Trace, Window
from llenergymeasure.simulation.polled import DOMAIN, poll_times, polled
from llenergymeasure.simulation.sensor import AVERAGE, COUNTER, INSTANT, SimulatedSensor
from llenergymeasure.simulation.waveform import Waveform

S = 1_000_000_000
MS = 1_000_000


def _phases(
    field: int = COUNTER, *, lag_s: float = 0.0, rest_w: float = 100.0
) -> tuple[Trace, dict[str, list[Window]]]:
    """40 times 70 ms at 600 W, 130 ms at 300 W and a rest of 11 ms."""
    power, at_ns = Waveform(rest_w), 13 * S
    windows: dict[str, list[Window]] = {"prefill": [], "decode": []}
    for number in range(40):
        lengths = (70 * MS, (100 + 20 * (number % 4)) * MS)
        for kind, watts, length_ns in zip(windows, (600.0, 300.0), lengths, strict=True):
            power.set(at_ns, watts)
            windows[kind].append(Window(at_ns, at_ns + length_ns))
            at_ns += length_ns
        power.set(at_ns, rest_w)
        at_ns += 11 * MS
    sensor = SimulatedSensor(phase_s=0.03, lag_s=lag_s, counter_lag_s=0.0, fields=frozenset({field}))
    return polled(power, sensor, poll_times(Window(10 * S, at_ns + 3 * S), 7 * MS)), windows


def test_windows_far_shorter_than_a_step_are_told_apart() -> None:
    trace, windows = _phases()
    found = joint_powers(trace, windows, DOMAIN)
    assert found["prefill"].energy.value == pytest.approx(40 * 0.07 * 600, rel=0.02)
    assert found["decode"].energy.value == pytest.approx(40 * 0.13 * 300, rel=0.02)
    assert found["prefill"].method == "counter"
    assert found["prefill"].window == Window(windows["prefill"][0].start_ns, windows["prefill"][-1].end_ns)


def test_a_power_field_does_it_too_and_its_lag_is_found() -> None:
    trace, windows = _phases(INSTANT, lag_s=0.06)
    found = joint_powers(trace, windows, DOMAIN)
    assert found["prefill"].energy.value == pytest.approx(40 * 0.07 * 600, rel=0.03)
    assert found["prefill"].method == "sampled"


@pytest.mark.parametrize("step_s", [0.02, 0.05, 0.1])
def test_intervals_from_the_residuals_hold_the_truth(step_s: float) -> None:
    draw = random.Random(f"{step_s}")
    runs = [joint_run(draw, step_s) for _ in range(60)]
    for kind in ("prefill", "decode"):
        assert statistics.fmean(run[kind].held for run in runs) >= 0.93
        assert statistics.fmean(run[kind].half for run in runs) < 0.03


def test_kinds_that_always_come_together_are_not_told_apart() -> None:
    trace, windows = _phases()
    whole = {"a": windows["decode"], "b": windows["decode"]}
    found = joint_powers(trace, whole, DOMAIN)
    assert found["a"].energy.value is None
    assert "same proportions" in (found["a"].energy.reason or "")


def test_few_steps_are_too_few() -> None:
    trace, windows = _phases()
    short = {kind: some[:2] for kind, some in windows.items()}
    found = joint_powers(trace, short, DOMAIN)
    assert found["decode"].energy.value is None
    assert "too few" in (found["decode"].energy.reason or "")


def test_a_mean_over_1_s_does_not_tell_short_windows_apart() -> None:
    trace, windows = _phases(AVERAGE)
    found = joint_powers(trace, windows, DOMAIN)
    assert found["decode"].energy.value is None
    assert found["decode"].energy.reason


def test_a_reset_between_the_windows_leaves_no_value() -> None:
    trace, windows = _phases()
    series = trace.series[DOMAIN, "energy"]
    raw = np.where(series.t_before_ns < 16 * S, series.raw, series.raw - series.raw[600])
    broken = replace(trace, series={(DOMAIN, "energy"): replace(series, raw=raw)})
    found = joint_powers(broken, windows, DOMAIN)
    assert found["prefill"].energy.value is None
    assert "reset" in (found["prefill"].energy.reason or "")


def test_calibration_bounds_and_flags_of_the_domain_hold() -> None:
    trace, windows = _phases()
    plain = joint_powers(trace, windows, DOMAIN)["decode"].energy.value or 0
    seconds = sum(window.duration_s for window in windows["decode"])
    board = replace(trace.domains[0], gain=1.1, offset_w=5.0, flags=("mig_shared",))
    found = joint_powers(replace(trace, domains=(board,)), windows, DOMAIN)["decode"]
    assert found.energy.value == pytest.approx(1.1 * plain + 5 * seconds)
    assert found.flags == ("mig_shared",)
    bounded = replace(trace.domains[0], systematic_gain=(0.9, 1.1), systematic_offset_w=(-1.0, 1.0))
    systematic = joint_powers(replace(trace, domains=(bounded,)), windows, DOMAIN)["decode"].energy.systematic
    assert systematic == pytest.approx((0.9 * plain - seconds, 1.1 * plain + seconds))


def test_no_window_at_all_is_a_mistake_of_the_caller() -> None:
    trace, _ = _phases()
    with pytest.raises(ValueError, match="no window"):
        joint_powers(trace, {"prefill": []}, DOMAIN)
