"""What is left of known joules when known watts are taken off, and what the sensors may hide of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from test_metrics import GPU, HOST, MODEL, S, measurement, one_pass, series
from virtual_result import virtual_result

from llenergymeasure.analysis.net import net_of_idle
from llenergymeasure.analysis.run_energy import RunEnergy, run_energy
from llenergymeasure.records import (
    Block,
    Domain,
    Estimate,
    Idle,
    Quantity,
    Series,
    SessionFacts,
    Trace,
    Window,
)

DOUBTFUL = replace(GPU, systematic_gain=(0.9, 1.2), systematic_offset_w=(-20.0, 10.0))
CPU = Domain("cpu:0", "cpu", (Quantity("energy", "rapl.package", "J", 1e-6),))
IDLE_W, ACTIVE_W = 60.0, 160.0
START_S, SECONDS = 20, 10.0


def board(domain: Domain, *, idle_w: float = IDLE_W, active_w: float = ACTIVE_W) -> Trace:
    """It draws `active_w` in the pass and `idle_w` at all other times."""
    flat = series(domain.quantities[0], idle_w / domain.quantities[0].scale)
    busy = np.clip(flat.t_before_ns / S - START_S, 0, SECONDS) * (active_w - idle_w)
    raw = flat.raw + np.round(busy / domain.quantities[0].scale).astype(np.int64)
    return Trace((domain,), {(domain.name, "energy"): replace(flat, raw=raw)})


def together(*traces: Trace) -> Trace:
    found: dict[tuple[str, str], Series] = {}
    for one in traces:
        found |= one.series
    return Trace(tuple(domain for one in traces for domain in one.domains), found)


def energy_of(trace: Trace, **changes: object) -> RunEnergy:
    """A single pass of 10 s."""
    passed = one_pass(START_S, SECONDS)
    start, end = passed.window.start_ns, passed.window.end_ns
    block = Block("full", Window(start - S, start), (passed,), Window(end, end + 6 * S // 5))
    return run_energy(replace(measurement(trace), blocks=(block,), **changes))  # type: ignore[arg-type]


def net_of(gross: Estimate, *energies: RunEnergy, which: str = "loaded") -> Estimate:
    return net_of_idle(gross, energies, which)


def spent(value: float, half: float = 0.0, *, systematic: tuple[float, float] | None = None) -> Estimate:
    return Estimate(value, "J", value - half, value + half, systematic)


def watts(value: float, half: float = 0.0) -> Estimate:
    return Estimate(value, "W", value - half, value + half)


def test_net_takes_idle_off_and_adds_the_intervals_in_quadrature() -> None:
    one = replace(energy_of(board(GPU)), loaded=watts(60, 0.4))
    net = net_of(spent(1000, 3), one)
    assert net.value == pytest.approx(400)
    assert net.half_width == pytest.approx(math.hypot(3, 4))


def test_each_run_s_own_idle_is_taken_off_for_its_own_passes() -> None:
    one = replace(energy_of(board(GPU)), loaded=watts(60, 0.3))
    other = replace(energy_of(board(GPU)), loaded=watts(50, 0.4))
    net = net_of(spent(2000, 0), one, other)
    assert net.value == pytest.approx(2000 - 600 - 500)
    assert net.half_width == pytest.approx(5.0)


def test_the_bare_idle_is_taken_off_where_it_was_asked_for() -> None:
    one = replace(energy_of(board(GPU)), loaded=watts(60), bare=watts(20))
    assert net_of(spent(1000), one, which="bare").value == pytest.approx(800)


def test_net_below_zero_is_not_clamped_and_says_so() -> None:
    net = net_of(spent(100, 1), replace(energy_of(board(GPU)), loaded=watts(20, 0.1)))
    assert net.value == pytest.approx(-100)
    assert (net.reason or "").startswith("below zero")


def test_net_of_an_unknown_idle_or_gross_is_missing_with_its_reason() -> None:
    unknown = replace(energy_of(board(GPU)), loaded=Estimate.missing("W", "idle power was not measured"))
    known = energy_of(board(GPU))
    assert net_of(spent(1), known, unknown) == Estimate(None, "J", reason="idle power was not measured")
    assert net_of(Estimate.missing("J", "no counter"), known) == Estimate(None, "J", reason="no counter")


def test_the_offset_of_one_sensor_cancels_and_its_gain_stays() -> None:
    one = energy_of(board(DOUBTFUL))
    net = net_of(spent(1600, systematic=(0.9 * 1600 - 200, 1.2 * 1600 + 100)), one)
    # 160 W less 60 W for 10 s, of a sensor whose true gain lies between 0.9 and 1.2
    assert net.value == pytest.approx(1000, rel=2e-3)
    assert net.systematic == pytest.approx((900, 1200), rel=2e-3)


def test_each_sensor_has_its_own_gain_and_one_without_doubt_adds_its_value() -> None:
    one = energy_of(together(board(DOUBTFUL), board(CPU, idle_w=10.0, active_w=15.0)))
    net = net_of(spent(1750, systematic=(1000, 2500)), one)
    assert net.systematic == pytest.approx((0.9 * 1000 + 50, 1.2 * 1000 + 50), rel=2e-3)


def test_the_ranges_of_several_runs_add_up_as_they_are() -> None:
    one = energy_of(board(DOUBTFUL))
    net = net_of(spent(3200, systematic=(2000, 5000)), one, one)
    assert net.systematic == pytest.approx((1800, 2400), rel=2e-3)


def test_below_zero_the_ends_of_the_gain_change_places() -> None:
    one = energy_of(board(DOUBTFUL, idle_w=110.0, active_w=100.0))
    net = net_of(spent(1000, systematic=(700, 1300)), one)
    assert net.systematic == pytest.approx((-120, -90), rel=2e-2)


def test_a_model_of_power_scales_with_what_is_left() -> None:
    time, size = HOST.quantities
    host = Trace(
        (HOST,),
        {
            ("host", "cpu_time"): series(time, 2e9),
            ("host", "resident"): series(size, 0.0, offset=1e9),
        },
    )
    one = replace(energy_of(host, facts=SessionFacts("cpu", {}, {})), loaded=watts(6))
    assert [domain.model for domain in one.domains] == [MODEL]
    net = net_of(spent(100, systematic=(75, 200)), one)
    assert net.systematic == pytest.approx((0.4 * 75, 0.4 * 200))


def test_where_idle_is_from_another_source_no_offset_cancels() -> None:
    """A counter that reads nothing before the pass: idle power is from the power field."""
    power = Quantity("power_instant", "nvml.power.instant", "W", 1e-3)
    both = replace(DOUBTFUL, quantities=(*DOUBTFUL.quantities, power))
    trace = board(both)
    counter = trace.series[both.name, "energy"]
    late = counter.t_before_ns > 12 * S
    cut = Series(counter.quantity, counter.t_before_ns[late], counter.t_after_ns[late], counter.raw[late])
    level = series(power, 0.0, offset=IDLE_W * 1000)
    found: Mapping[tuple[str, str], Series] = {(both.name, "energy"): cut, (both.name, power.name): level}
    one = energy_of(replace(trace, series=found))
    assert one.loaded.value == pytest.approx(60.0)
    net = net_of(spent(1000, systematic=(700, 1300)), one)
    assert net.systematic == pytest.approx((0.4 * 700, 0.4 * 1300))


@pytest.mark.parametrize("idle", [Idle(), Idle(bare=Window(2 * S, 5 * S))])
def test_without_an_idle_window_there_is_no_net(idle: Idle) -> None:
    one = energy_of(board(DOUBTFUL), idle=idle)
    net = net_of(spent(1000), one)
    assert net.value is None
    assert net.reason == "idle power was not measured: the run ended before"


def test_net_lies_within_its_systematic_range_however_short_the_idle_window() -> None:
    slow = {"counter_step_s": 0.5}
    one = virtual_result(
        baseline={"seconds": 1.0}, passes={"seconds": 1.0}, repeats={"count": 1}, simulated=slow
    )
    net = one.energy.net
    assert net.value is not None
    assert net.systematic is not None
    assert net.systematic[0] < net.value < net.systematic[1]
