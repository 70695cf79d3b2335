from __future__ import annotations

import pytest

from llenergymeasure.simulation.clock import VirtualClock


def test_sleep_moves_time_by_what_it_says() -> None:
    clock = VirtualClock(start_ns=5)
    clock.sleep(0.25)
    assert clock.monotonic_ns() == 250_000_005


def test_callbacks_run_at_their_own_times_in_order() -> None:
    clock = VirtualClock(start_ns=0)
    seen: list[tuple[str, int]] = []
    with (
        clock.every(0.02, lambda: seen.append(("a", clock.monotonic_ns()))),
        clock.every(0.03, lambda: seen.append(("b", clock.monotonic_ns()))),
    ):
        clock.sleep(0.065)
    clock.sleep(1)
    ms = 1_000_000
    assert seen == [("a", 20 * ms), ("b", 30 * ms), ("a", 40 * ms), ("a", 60 * ms), ("b", 60 * ms)]


def test_a_callback_that_sleeps_delays_its_next_turn_and_not_the_sleeper() -> None:
    clock = VirtualClock(start_ns=0)
    starts: list[int] = []

    def slow() -> None:
        starts.append(clock.monotonic_ns())
        clock.sleep(0.025)

    with clock.every(0.01, slow):
        clock.sleep(0.1)
    assert starts == [10_000_000, 40_000_000, 70_000_000, 100_000_000]


def test_time_does_not_go_back() -> None:
    with pytest.raises(ValueError, match="non-negative"):
        VirtualClock().sleep(-1)
