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
    faulty_reading,
    judged,
)
from benchmarks.accuracy.virtual import LIMITS, counter_errors

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
