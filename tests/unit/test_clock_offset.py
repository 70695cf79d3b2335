"""Is another host's clock known as well as is said, however slow and uneven the way there?"""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest

from llenergymeasure.energy.recording.clock_offset import Offset, offset, quickest
from llenergymeasure.records import RoundTrip

S = 1_000_000_000
AHEAD_NS = 1_000 * S


def trips(
    clock: Callable[[float], float], *, seconds: float, way_ns: float, rng: random.Random, bend: float = 1.0
) -> list[RoundTrip]:
    """Four questions a second; each way takes up to `way_ns`, there `bend` times as long as back."""
    found = []
    for number in range(int(4 * seconds)):
        sent = number * S / 4
        there = sent + 20_000 + rng.random() * way_ns * bend
        received = there + 20_000 + rng.random() * way_ns
        found.append(RoundTrip("node2", int(sent), int(clock(there)), int(received) + 1))
    return found


def error(found: Offset, clock: Callable[[float], float], t_ns: float) -> tuple[float, float]:
    """By how much the offset at a moment is off, and by how much it may be."""
    there = round(clock(t_ns))
    off, half = found.at(np.array([there]))
    return abs(there + float(off[0]) - t_ns), float(half[0])


@pytest.mark.parametrize("bend", [1.0, 5.0])
@pytest.mark.parametrize(
    ("way_ms", "ppm", "seconds"), [(0.2, 40, 8), (0.2, -90, 60), (20, 40, 8), (20, -90, 90)]
)
def test_the_offset_lies_in_its_interval_under_drift_jitter_and_uneven_ways(
    way_ms: float, ppm: float, seconds: float, bend: float
) -> None:
    rng, inside = random.Random(7), 0
    for _ in range(200):

        def clock(t: float) -> float:
            return t * (1 + ppm * 1e-6) + AHEAD_NS

        found = offset(trips(clock, seconds=seconds, way_ns=way_ms * 1e6, rng=rng, bend=bend))
        off, half = error(found, clock, rng.uniform(0, seconds) * S)
        inside += off <= half + 2
    assert inside >= 198


def test_a_long_exchange_narrows_what_a_short_one_leaves_open() -> None:
    def clock(t: float) -> float:
        return t * (1 + 40e-6) + AHEAD_NS

    widths = []
    for seconds in (5, 120):
        found = offset(trips(clock, seconds=seconds, way_ns=20e6, rng=random.Random(3)))
        widths.append(error(found, clock, seconds / 2 * S)[1])
    assert widths[1] < widths[0] / 2
    assert widths[1] < 1e6


def test_a_clock_whose_drift_changes_stays_within_its_interval() -> None:
    def clock(t: float) -> float:
        return t + AHEAD_NS + 400e-6 * max(0.0, t - 60 * S)

    found = offset(trips(clock, seconds=120, way_ns=2e5, rng=random.Random(5)))
    assert not found.jumps
    for t_s in np.linspace(1, 119, 60):
        off, half = error(found, clock, t_s * S)
        assert off <= half + 2


def test_a_clock_that_jumps_is_found_out_and_both_stretches_keep_their_own_offset() -> None:
    def clock(t: float) -> float:
        return t + AHEAD_NS + (30 * S if t > 20 * S else 0)

    found = offset(trips(clock, seconds=40, way_ns=2e5, rng=random.Random(5)))
    ((before, after),) = found.jumps
    assert before <= clock(20 * S) <= clock(20 * S + 1) <= after
    for t_s in (5, 35):
        off, half = error(found, clock, t_s * S)
        assert off <= half + 2 < 1e6


def test_between_two_exchanges_the_bound_is_no_narrower_than_the_interval() -> None:
    def clock(t: float) -> float:
        return t + AHEAD_NS

    found = offset(trips(clock, seconds=10, way_ns=5e6, rng=random.Random(2)))
    for t_s in np.linspace(0.0, 12.0, 50):
        _, half = error(found, clock, t_s * S)
        assert found.clock.half_s(int(t_s * S)) * 1e9 >= half * 0.999


def test_of_each_second_the_quickest_round_trip_is_kept() -> None:
    made = [RoundTrip("a", 0, 10, 100), RoundTrip("a", 0, 20, 50), RoundTrip("a", 0, S + 5, S + 400)]
    assert quickest(made) == [made[1], made[2]]
