from __future__ import annotations

import random
import statistics

import numpy as np
import pytest
from benchmarks.accuracy.scenes import (
    APART,
    COUNTER_FAULTS,
    KINDS,
    NAMED,
    STEPS_S,
    Fault,
    Kind,
    S,
    faulty_reading,
    judged,
    polls,
    sensor_of,
)
from benchmarks.accuracy.virtual import LIMITS, counter_errors

from llenergymeasure.energy.integrate import energy_between
from llenergymeasure.records import Window
from llenergymeasure.simulation.polled import DOMAIN, polled
from llenergymeasure.simulation.sensor import COUNTER
from llenergymeasure.simulation.waveform import Waveform

# The benchmark does thousands of each; these are enough to notice a broken rule.
RUNS = 60


@pytest.mark.parametrize("load", LIMITS)
def test_windows_of_every_length_stay_within_the_limits_and_two_bare_reads_do_not(load: str) -> None:
    for seconds, limit in LIMITS[load].items():
        found = [counter_errors(load, step_s, seconds, runs=15) for step_s in STEPS_S]
        assert max(abs(error) for ours, _ in found for error in ours) <= limit
        assert max(abs(error) for _, two_reads in found for error in two_reads) > limit


@pytest.mark.parametrize("drift", [False, True])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_intervals_hold_the_truth_and_are_no_wider_than_they_need_to_be(kind: Kind, drift: bool) -> None:
    draw = random.Random(f"{kind.name} {drift}")
    found = [judged(kind, draw, drift=drift) for _ in range(RUNS)]
    # Of 60 runs whose intervals hold in 93 of 100, fewer than 50 hold once in 200 times.
    assert sum(one.held for one in found) >= 50
    widest = max(abs(one.error) for one in found)
    assert statistics.fmean(one.half for one in found) <= 3 * widest


@pytest.mark.parametrize("load", APART)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_work_that_does_not_fill_its_window_or_wanders_is_allowed_for(kind: Kind, load: str) -> None:
    draw = random.Random(f"{load} {kind.name}")
    found = [judged(kind, draw, drift=False, load=load) for _ in range(RUNS)]
    assert sum(one.held for one in found) >= 50


@pytest.mark.parametrize("step_s", STEPS_S)
def test_an_idle_gap_that_is_shorter_than_a_step_is_allowed_for(step_s: float) -> None:
    draw = random.Random(f"gap {step_s}")
    held = 0
    for _ in range(RUNS):
        start_ns = 20 * S + draw.randrange(S)
        begin_ns = start_ns + round(draw.uniform(2.5, 3.0) * S)
        end_ns = begin_ns + round(draw.uniform(2.0, 2.3) * S)
        gap_ns = round(draw.uniform(0.01, 0.08) * S)
        power = Waveform(350.0)
        for at_ns, watts in (
            (begin_ns - gap_ns, 55.0),
            (begin_ns, 380.0),
            (end_ns, 55.0),
            (end_ns + gap_ns, 350.0),
        ):
            power.set(at_ns, watts)
        window = Window(begin_ns, end_ns)
        seen = polls(Window(start_ns, end_ns + 3 * S))
        energy = energy_between(polled(power, sensor_of(draw, step_s, COUNTER), seen), window, DOMAIN).energy
        assert energy.low is not None
        assert energy.high is not None
        held += energy.low <= power.energy_j(begin_ns, end_ns) <= energy.high
    assert held >= 50


def test_value_and_systematic_together_hold_the_truth_on_uncalibrated_boards() -> None:
    draw = random.Random("boards")
    held = []
    for number in range(RUNS):
        one = judged(KINDS[number % 3], draw, drift=False, calibrated=False)
        low, high = one.reading.energy.systematic or (0.0, 0.0)
        held.append(low - one.half * one.true_j <= one.true_j <= high + one.half * one.true_j)
    assert np.mean(held) >= 0.95


@pytest.mark.parametrize(
    ("fault", "flag"),
    [pair for pair in COUNTER_FAULTS.values() if pair[0] is not None],
    ids=list(COUNTER_FAULTS)[1:],
)
def test_a_counter_that_lies_is_named(fault: Fault, flag: str) -> None:
    draw = random.Random(flag)
    for _ in range(15):
        assert flag in faulty_reading(draw, fault).flags


def test_a_sound_counter_raises_no_alarm() -> None:
    draw = random.Random("clean")
    assert sum(bool(NAMED & set(faulty_reading(draw, None).flags)) for _ in range(RUNS)) == 0
