from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llenergymeasure.energy.counter import count_between, unwrap
from llenergymeasure.records import Quantity, Series, Window

S = 1_000_000_000
MS = 1_000_000
# 2³² counts of 61 µJ, in µJ.
RAPL_WRAP = 262_143_328_850


def _series(
    times_ns: list[int], raw: list[int], *, wrap: int | None = None, step_ns: int | None = None
) -> Series:
    quantity = Quantity("energy", "test", "J", 1e-6, wrap=wrap, step_ns=step_ns)
    at = np.array(times_ns, dtype=np.int64)
    return Series(quantity, at, at, np.array(raw, dtype=np.int64))


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


def test_a_failed_read_across_a_wrap_changes_nothing() -> None:
    # 100 W read every second; the counter wraps at 1 kJ, between the reads at 9 s and 11 s.
    times = [t * S for t in range(21) if t != 10]
    raw = [t * 100_000_000 % 1_000_000_000 for t in range(21) if t != 10]
    counted = count_between(
        _series(times, raw, wrap=1_000_000_000, step_ns=MS), Window(2 * S, 18 * S), outside=(None, None)
    )
    assert counted.amount == pytest.approx(1600, abs=0.2)
    assert counted.blind_s == 2


def test_an_edge_between_idle_and_load_is_placed_from_the_idle_side() -> None:
    # Steps every 100 ms, read every 10 ms; 50 W until 5.06 s, 400 W until 7.03 s, then 50 W.
    def true_uj(t_ms: int) -> int:
        return 1000 * (50 * t_ms + 350 * max(0, min(t_ms, 7030) - 5060))

    times = [t * MS for t in range(0, 10_000, 10)]
    raw = [true_uj(t // 100 * 100) for t in range(0, 10_000, 10)]
    counted = count_between(_series(times, raw), Window(5060 * MS, 7030 * MS), outside=(None, None))
    assert counted.amount == pytest.approx(400 * 1.97, rel=0.002)
    assert counted.sd < 0.005 * 400 * 1.97


def test_known_power_outside_replaces_what_the_trace_can_not_say() -> None:
    # 100 W until 1.08 s, then 400 W; a single step was read before the load began.
    def true_uj(t_ms: int) -> int:
        return 1000 * (100 * t_ms + 300 * max(0, t_ms - 1080))

    times = [t * MS for t in range(995, 4_000, 10)]
    raw = [true_uj(t // 100 * 100) for t in range(995, 4_000, 10)]
    series, window = _series(times, raw), Window(1_080 * MS, 3_050 * MS)
    told = count_between(series, window, outside=(100.0, 400.0))
    assert told.amount == pytest.approx(400 * 1.97, rel=1e-3)
    assert told.sd < 1.5


@pytest.mark.parametrize("window", [Window(0, 5 * S), Window(5 * S, 30 * S)])
def test_a_window_that_the_trace_does_not_cover_has_no_amount(window: Window) -> None:
    times = [t * 10 * MS + S for t in range(1000)]
    counted = count_between(_series(times, list(range(1000))), window, outside=(None, None))
    assert counted.amount is None
    assert counted.reason is not None
    assert "does not reach" in counted.reason


def test_a_counter_that_stands_still_is_stuck_and_not_zero() -> None:
    times = [t * 10 * MS for t in range(1000)]
    counted = count_between(_series(times, [7] * 1000), Window(S, 5 * S), outside=(None, None))
    assert counted.amount is None
    assert counted.stuck


def test_steps_that_were_caught_one_by_one_but_never_as_neighbours_still_count() -> None:
    # 8 J every 100 ms; each third step is read closely before and after, the two between it never.
    reads = [(100 * step + 13 + off, 8 * step + (off > 0)) for step in range(0, 120, 3) for off in (-2, 2)]
    at = np.array([ms * 1_000_000 for ms, _ in reads])
    raw = np.array([8_000 * (-(-joules // 8)) for _, joules in reads])
    series = Series(Quantity("energy", "test", "J", 1e-3), at, at, raw)
    counted = count_between(series, Window(4 * S, 9 * S), outside=(None, None))
    assert counted.amount == pytest.approx(400, abs=10)


@pytest.mark.parametrize("period_ms", [50, 100, 200])
def test_work_whose_rhythm_is_locked_to_the_counter_is_placed_from_the_idle_side(period_ms: int) -> None:
    # 60 W, and from 5.03 to 6.56 s a square wave of 450 and 200 W; steps every 100 ms, read every 5 ms.
    def true_uj(t_ms: int) -> int:
        worked = max(0, min(t_ms, 6560) - 5030)
        whole, rest = divmod(worked, period_ms)
        high = whole * period_ms // 2 + min(rest, period_ms // 2)
        return 1000 * (60 * (t_ms - worked) + 450 * high + 200 * (worked - high))

    times = [t * MS for t in range(0, 10_000, 5)]
    raw = [true_uj(t // 100 * 100) for t in range(0, 10_000, 5)]
    counted = count_between(_series(times, raw), Window(5030 * MS, 6560 * MS), outside=(None, None))
    truth = (true_uj(6560) - true_uj(5030)) * 1e-6
    assert counted.amount == pytest.approx(truth, rel=0.003)
    assert abs((counted.amount or 0.0) - truth) < 1.96 * counted.sd
