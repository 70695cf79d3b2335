from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llenergymeasure.energy.counter import unwrap

# 2³² counts of 61 µJ, in µJ.
RAPL_WRAP = 262_143_328_850


@given(
    st.integers(1_000, 10**12).flatmap(
        lambda wrap: st.tuples(
            st.just(wrap), st.integers(0, wrap - 1), st.lists(st.integers(0, wrap // 2), max_size=50)
        )
    )
)
def test_wraps_are_undone_whatever_the_range(case: tuple[int, int, list[int]]) -> None:
    wrap, start, steps = case
    true = np.cumsum([start, *steps], dtype=np.int64)
    counts, resets = unwrap(true % wrap, wrap)
    assert counts.tolist() == (true - start).tolist()
    assert not resets.any()


def test_a_wrap_costs_nothing_where_a_peer_reads_minus_262_kilojoules() -> None:
    counts, resets = unwrap(np.array([262_143_300_000, 6_672_000]), 262_143_328_850)
    assert counts.tolist() == [0, 6_700_850]
    assert not resets.any()


def test_a_fall_that_no_wrap_explains_is_a_reset() -> None:
    _, resets = unwrap(np.array([100_000, 90_000, 95_000]), 1_000_000)
    assert resets.tolist() == [True, False]
    _, resets = unwrap(np.array([100, 200, 0, 50]), None)
    assert resets.tolist() == [False, True, False]


@given(st.integers(0, RAPL_WRAP - 1), st.floats(0.001, 60.0), st.floats(0.0, 900.0))
def test_a_wrap_is_undone_whenever_its_power_is_possible(start: int, seconds: float, watts: float) -> None:
    counted = int(watts * seconds * 1e6)
    raw = np.array([start, start + counted]) % RAPL_WRAP
    counts, resets = unwrap(raw, RAPL_WRAP, seconds=np.array([0.0, seconds]), most_per_s=1e9)
    assert counts.tolist() == [0, counted]
    assert not resets.any()


@given(st.integers(10**9, RAPL_WRAP - 10**9), st.floats(0.001, 0.5))
def test_a_restart_at_0_is_a_reset_and_never_kilojoules(start: int, seconds: float) -> None:
    raw = np.array([start, start + 5_000_000, 1_000_000, 6_000_000])
    at = np.array([0.0, seconds, 2 * seconds, 3 * seconds])
    counts, resets = unwrap(raw, RAPL_WRAP, seconds=at, most_per_s=1e9)
    assert resets.tolist() == [False, True, False]
    assert counts.tolist() == [0, 5_000_000, 5_000_000, 10_000_000]


def test_a_rise_that_nothing_can_draw_is_a_reset_and_one_that_catches_up_is_none() -> None:
    at = np.array([0.0, 0.1, 0.2, 0.3, 5.0, 5.1])
    raw = np.array([0, 40_000, 80_000, 1_080_000, 1_080_000, 3_000_000])
    counts, resets = unwrap(raw, None, seconds=at, most_per_s=3_000_000)
    assert resets.tolist() == [False, False, True, False, False]
    assert counts.tolist() == [0, 40_000, 80_000, 80_000, 80_000, 2_000_000]
