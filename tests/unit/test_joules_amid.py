from __future__ import annotations

import random

import numpy as np
import pytest
from benchmarks.boards.polled import DOMAIN, poll_times, polled

from llenergymeasure.energy.joules.amid import window_energy
from llenergymeasure.energy.joules.pool import added, estimate, reading
from llenergymeasure.energy.joules.pooled import pooled_energy
from llenergymeasure.energy.joules.quiet import idle_power
from llenergymeasure.energy.joules.silence import block_energy
from llenergymeasure.energy.joules.spent import Spent, Term
from llenergymeasure.energy.meters.cpu_power import power_model
from llenergymeasure.records import Domain, Quantity, Series, Trace, Window
from llenergymeasure.simulation.sensor import COUNTER, SimulatedSensor
from llenergymeasure.simulation.waveform import Serving, Waveform

S = 1_000_000_000
COUNTED = frozenset({COUNTER})


def _seen(power: Waveform, sensor: SimulatedSensor, *, seconds: int = 50, poll_ms: int = 50) -> Trace:
    return polled(power, sensor, poll_times(Window(10 * S, (10 + seconds) * S), poll_ms * 1_000_000))


@pytest.mark.parametrize("lag_s", [0.0, 0.1])
def test_windows_amid_a_load_hold_the_truth(lag_s: float) -> None:
    draw = random.Random(1)
    power = Waveform(60.0)
    power.serve(12 * S, Serving(), until_ns=58 * S, seed=3)
    held = 0
    for _ in range(60):
        sensor = SimulatedSensor(phase_s=draw.uniform(0, 0.1), lag_s=lag_s, fields=COUNTED)
        start = 14 * S + draw.randrange(5 * S)
        window = Window(start, start + 5 * S + draw.randrange(30 * S))
        spent = window_energy(_seen(power, sensor), DOMAIN, window)
        assert spent.joules is not None
        held += abs(spent.joules - power.energy_j(window.start_ns, window.end_ns)) <= spent.half_width_j
        assert spent.half_width_j < 0.2 * 450
    assert held >= 57


def test_a_lag_that_is_not_known_is_an_error_common_to_all_windows() -> None:
    power = Waveform(60.0)
    power.set(20 * S, 300.0)
    seen = _seen(power, SimulatedSensor(lag_s=0.1, fields=COUNTED))
    spent = window_energy(seen, DOMAIN, Window(20 * S, 26 * S))
    lag = next(term for term in spent.terms if term.name == "lag")
    assert lag.common
    # A lag of up to 0.15 s, taken from its middle, between 60 and 300 W.
    assert lag.half_width_j == pytest.approx(0.075 * 240, rel=0.2)
    assert abs((spent.joules or 0) - 1800) <= spent.half_width_j


def test_short_windows_are_refused_and_a_trace_that_ends_says_so() -> None:
    trace = _seen(Waveform(100.0), SimulatedSensor(fields=COUNTED))
    short = window_energy(trace, DOMAIN, Window(20 * S, 20 * S + S // 2))
    assert (short.joules, short.flags) == (None, ("window_too_short",))
    beyond = window_energy(trace, DOMAIN, Window(50 * S, 70 * S))
    assert beyond.joules is None
    assert "does not reach" in (beyond.reason or "")


def test_a_counter_that_stands_still_is_stuck_and_not_zero() -> None:
    trace = _seen(Waveform(100.0), SimulatedSensor(fields=COUNTED, counter_stuck=True))
    spent = window_energy(trace, DOMAIN, Window(20 * S, 30 * S))
    assert (spent.joules, spent.flags) == (None, ("sensor_stuck",))


def _modelled(*, vcpus: float, resident: int) -> Trace:
    """CPU seconds in ticks of 10 ms, read every quarter of a second."""
    model = power_model("vendor_id : GenuineIntel\ncpu family : 6\nmodel : 106\nstepping : 6\n")
    times = np.arange(0, 60 * S, S // 4, dtype=np.int64)
    busy = Quantity("cpu_time", "cpu-time-model", "s", 1e-9, step_ns=10_000_000)
    size = Quantity("resident", "cpu-time-model", "bytes", 1.0)
    used = (times * vcpus).astype(np.int64) // 10_000_000 * 10_000_000
    domain = Domain("host", "host", (busy, size), model=model)
    series = {
        ("host", "cpu_time"): Series(busy, times, times, used),
        ("host", "resident"): Series(size, times, times, np.full(times.size, resident)),
    }
    return Trace((domain,), series)


def test_cpu_time_and_memory_give_modelled_joules_and_the_width_of_the_model() -> None:
    trace = _modelled(vcpus=1.5, resident=2_000_000_000)
    passes = [Window(10 * S, 14 * S), Window(14 * S, 20 * S)]
    spent = block_energy(
        trace, "host", before=Window(9 * S, 10 * S), passes=passes, after=Window(20 * S, 21 * S)
    )
    # Ice Lake: 3.76 W per busy vCPU; 0.19 to 0.54 W/GB.
    assert spent.joules == pytest.approx(15 * 3.76 + 20 * 0.365, abs=spent.half_width_j)
    assert spent.half_width_j < 0.3
    assert spent.joules is not None
    assert spent.shares == pytest.approx((spent.joules * 0.4, spent.joules * 0.6), rel=0.02)
    assert spent.systematic == pytest.approx(
        (15 * (3.76 - 0.77) + 20 * 0.19, 15 * 2 * 3.76 + 20 * 0.54), rel=0.01
    )
    assert spent.method == "modelled"


def test_a_window_just_after_the_first_read_is_read_from_it() -> None:
    trace = _modelled(vcpus=1.0, resident=0)
    busy = trace.series["host", "cpu_time"]
    # It works until the second read, and then no more.
    rests = Series(busy.quantity, busy.t_before_ns, busy.t_after_ns, np.minimum(busy.raw, S // 4))
    trace = Trace(trace.domains, {**trace.series, ("host", "cpu_time"): rests})
    window = Window(S // 100, 2 * S)
    for spent in (window_energy(trace, "host", window), pooled_energy(trace, "host", [window])):
        assert spent.joules == pytest.approx(0.24 * 3.76, rel=0.02)
        assert spent.half_width_j < 0.1 * 0.24 * 3.76


def test_a_tick_between_two_reads_close_together_is_no_ten_processors() -> None:
    trace = _modelled(vcpus=0.5, resident=0)
    busy = trace.series["host", "cpu_time"]
    # One millisecond after a read there is another one, which shows one tick more.
    times = np.insert(busy.t_before_ns, 41, 10 * S + S // 1000)
    again = Series(busy.quantity, times, times, np.insert(busy.raw, 41, busy.raw[40] + 10_000_000))
    closer = Trace(trace.domains, {**trace.series, ("host", "cpu_time"): again})
    window = [Window(10 * S + S // 10, 10 * S + 9 * S // 10)]
    spent, plain = pooled_energy(closer, "host", window), pooled_energy(trace, "host", window)
    assert spent.half_width_j < 2.5 * plain.half_width_j


def test_an_idle_process_is_no_fault() -> None:
    spent = window_energy(_modelled(vcpus=0.0, resident=10**9), "host", Window(10 * S, 20 * S))
    assert spent.joules == pytest.approx(10 * 0.365)
    assert spent.flags == ()


def test_idle_power_is_the_mean_within_a_small_interval() -> None:
    power = idle_power(
        _seen(Waveform(60.0), SimulatedSensor(fields=COUNTED), poll_ms=17), Window(13 * S, 17 * S), DOMAIN
    )
    assert power.value == pytest.approx(60, rel=0.005)
    assert power.low is not None
    assert power.high is not None
    assert power.low <= 60 <= power.high
    assert power.high - power.low < 0.8


def test_drift_between_the_halves_widens_the_interval() -> None:
    ramp = Waveform(60.0)
    ramp.ramp(13 * S, 80.0, until_ns=17 * S)
    power = idle_power(
        _seen(ramp, SimulatedSensor(fields=COUNTED), poll_ms=17), Window(13 * S, 17 * S), DOMAIN
    )
    assert power.value == pytest.approx(70, rel=0.01)
    assert power.high is not None
    # Halves of a ramp from 60 to 80 W have means of 65 and 75 W.
    assert power.high - (power.value or 0) == pytest.approx(5, rel=0.15)


def test_idle_power_of_a_moment_is_unknown_and_not_0() -> None:
    power = idle_power(_seen(Waveform(60.0), SimulatedSensor()), Window(13 * S, 13 * S), DOMAIN)
    assert power.value is None
    assert power.reason


def test_idle_power_of_a_model_is_that_of_its_processes() -> None:
    power = idle_power(_modelled(vcpus=0.1, resident=0), Window(10 * S, 20 * S), "host")
    assert power.value == pytest.approx(0.376, rel=0.05)


def _part(joules: float, alone: float, common: float, systematic: tuple[float, float] | None = None) -> Spent:
    terms = (Term("timing", alone), Term("lag", common, common=True))
    return Spent("test", "counter", joules, terms, systematic=systematic)


def test_chance_adds_in_quadrature_and_what_is_common_linearly() -> None:
    whole = added([_part(100, 3, 1, (90, 120)), _part(200, 4, 1)])
    assert whole.joules == pytest.approx(300)
    assert whole.independent_j == pytest.approx(5)
    assert whole.common_j == pytest.approx(2)
    # A part without bounds is what it says.
    assert whole.systematic == pytest.approx((290, 320))
    energy = estimate(whole)
    assert (energy.low, energy.high) == pytest.approx((293, 307))


def test_one_unknown_block_makes_the_sum_unknown() -> None:
    lost = Spent("test", "counter", None, flags=("counter_reset",), reason="it was reset")
    found = reading("gpu:0", Window(0, S), [_part(100, 3, 1), lost])
    assert found.energy.value is None
    assert found.energy.reason == "it was reset"
    assert found.flags == ("counter_reset",)
