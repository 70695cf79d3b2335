"""Intervals hold the truth and errors stay within their limits, over random windows of the benchmark."""

from __future__ import annotations

import random

import pytest
from benchmarks.accuracy import virtual
from benchmarks.accuracy.blocks import SHAPES, TAILS
from benchmarks.accuracy.virtual import COMBINED, COUNTER_FAULTS, FIELDS, HARD_TAILS, MILD, STEPS_S

RUNS = 40


@pytest.mark.parametrize("step_s", STEPS_S)
@pytest.mark.parametrize("shape", [*SHAPES, *TAILS])
def test_blocks_of_every_shape_are_near_the_truth_and_hold_it(shape: str, step_s: float) -> None:
    row = virtual.block_row((shape,), 5.0, step_s, names=(), runs=RUNS, label=shape)
    assert (row.worst or 0.0) <= (0.35 if shape in MILD else 1.5)
    # Of 40 intervals that hold in 95 of 100, fewer than 34 hold once in a thousand times.
    assert (row.covered or 0.0) * RUNS >= 34
    assert (row.ratio or 0.0) <= 6


@pytest.mark.parametrize("names", COMBINED, ids=" and ".join)
def test_counters_with_one_fault_or_two_are_near_the_truth_and_hold_it(names: tuple[str, ...]) -> None:
    for shapes in (MILD, HARD_TAILS):
        row = virtual.block_row(shapes, 5.0, 0.1, names=names, runs=RUNS, label="")
        assert (row.worst or 0.0) <= (0.4 if shapes is MILD else 2.0)
        assert (row.covered or 0.0) * RUNS >= 34


def test_pooled_blocks_err_by_no_more_than_what_is_stated_as_common() -> None:
    row = virtual.pooled_row("bursts", ("lag of 0 to 120 ms",), pools=10)
    assert (row.worst or 0.0) <= 0.1
    assert (row.covered or 0.0) >= 0.9


@pytest.mark.parametrize("shape", SHAPES)
def test_shares_of_passes_hold_the_truth(shape: str) -> None:
    row = virtual.share_row(shape, 0.1, 0.05, runs=RUNS)
    assert (row.covered or 0.0) * RUNS >= 34
    assert (row.worst or 0.0) <= 1.5


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("name", FIELDS)
def test_power_fields_hold_the_truth_without_a_counter(name: str, known: bool) -> None:
    row = virtual.field_row(name, seconds=5.0, known=known, runs=RUNS)
    assert (row.covered or 0.0) * RUNS >= 34
    assert (row.worst or 0.0) <= (2.0 if FIELDS[name][2] else 20.0)


def test_windows_without_silences_hold_the_truth() -> None:
    for shape in virtual.AMID:
        row = virtual.amid_row(shape, 5.0, runs=RUNS)
        assert (row.covered or 0.0) * RUNS >= 36


def test_value_and_systematic_together_hold_the_truth_on_uncalibrated_boards() -> None:
    assert (virtual.systematic_row(runs=RUNS).covered or 0.0) >= 0.95


@pytest.mark.parametrize("name", COUNTER_FAULTS)
def test_a_counter_that_lies_is_named(name: str) -> None:
    assert virtual.fault_row(name, runs=15).met


def test_a_sound_counter_raises_no_alarm() -> None:
    draw = random.Random("clean")
    for shape in ("square wave of 37 and 61 ms", *MILD):
        for _ in range(10):
            assert "counter_power_mismatch" not in virtual.both(draw, shape, 5.0, None).flags
