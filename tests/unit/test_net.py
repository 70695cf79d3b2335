"""What is left of known joules when known watts are taken off, and what the sensors may hide of it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from llenergymeasure.analysis.estimates import half_width
from llenergymeasure.analysis.net import IdleLevel, SensorIdle, net_of_idle
from llenergymeasure.records import Domain, EnergyReading, Estimate, PowerModel, Quantity, Window

GPU = Domain(
    "gpu:a",
    "gpu",
    (Quantity("energy", "counter", "J", 1e-3),),
    systematic_gain=(0.9, 1.2),
    systematic_offset_w=(-20.0, 10.0),
)
CPU = Domain("cpu:0", "cpu", (Quantity("energy", "rapl", "J", 1e-6),))
SPENT = Estimate(1000.0, "J", 997.0, 1003.0, (0.9 * 1000 - 20 * 10, 1.2 * 1000 + 10 * 10))


def watts(value: float, half: float = 0.0) -> Estimate:
    return Estimate(value, "W", value - half, value + half)


def reading(domain: Domain, energy: Estimate) -> EnergyReading:
    source = domain.quantities[0].source
    return EnergyReading(domain.name, source, "counter", Window(0, 10 * 10**9), energy)


def test_net_takes_idle_off_and_adds_the_intervals_in_quadrature() -> None:
    net = net_of_idle(SPENT, IdleLevel(watts(60, 0.4)), 10.0)
    assert net.value == 400
    assert half_width(net) == pytest.approx(math.hypot(3, 4))


def test_net_below_zero_is_not_clamped() -> None:
    assert net_of_idle(Estimate(100, "J", 99, 101), IdleLevel(watts(20, 1)), 10.0).value == -100


def test_net_of_an_unknown_idle_is_missing_with_its_reason() -> None:
    net = net_of_idle(SPENT, IdleLevel(Estimate.missing("W", "idle power was not measured")), 10.0)
    assert net == Estimate(None, "J", reason="idle power was not measured")


def test_the_offset_of_one_sensor_cancels_and_its_gain_stays() -> None:
    idle = IdleLevel(watts(60), {"gpu:a": SensorIdle(GPU, "counter", 60.0)})
    net = net_of_idle(SPENT, idle, 10.0, readings=[reading(GPU, SPENT)])
    # 1000 J less 60 W for 10 s, of a sensor that may show from 1/1.2 to 1/0.9 of what is true
    assert net.systematic == pytest.approx((0.9 * 400, 1.2 * 400))


def test_each_sensor_has_its_own_gain_and_one_without_doubt_adds_its_value() -> None:
    idle = IdleLevel(
        watts(70), {"gpu:a": SensorIdle(GPU, "counter", 60.0), "cpu:0": SensorIdle(CPU, "rapl", 10.0)}
    )
    gross = Estimate(1150.0, "J", 1147.0, 1153.0, (850.0, 1450.0))
    readings = [reading(GPU, SPENT), reading(CPU, Estimate(150.0, "J", 150.0, 150.0))]
    net = net_of_idle(gross, idle, 10.0, readings=readings)
    assert net.value == 450
    assert net.systematic == pytest.approx((0.9 * 400 + 50, 1.2 * 400 + 50))


def test_below_zero_the_ends_of_the_gain_change_places() -> None:
    idle = IdleLevel(watts(110), {"gpu:a": SensorIdle(GPU, "counter", 110.0)})
    net = net_of_idle(SPENT, idle, 10.0, readings=[reading(GPU, SPENT)])
    assert net.systematic == pytest.approx((-120, -90))


@pytest.mark.parametrize("why", ["another sensor", "a model"])
def test_where_no_offset_cancels_all_doubt_scales_with_what_is_left(why: str) -> None:
    model = PowerModel("m", "c", 4.0, (3.0, 8.0), 0.0, (0.0, 0.0))
    domain = replace(GPU, model=model) if why == "a model" else GPU
    source = "power" if why == "another sensor" else "counter"
    idle = IdleLevel(watts(60), {"gpu:a": SensorIdle(domain, source, 60.0)})
    net = net_of_idle(SPENT, idle, 10.0, readings=[reading(domain, SPENT)])
    assert net.systematic == pytest.approx((0.4 * 700, 0.4 * 1300))
