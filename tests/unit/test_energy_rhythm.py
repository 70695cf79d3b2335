from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llenergymeasure.energy.rhythm import Pace, Rhythm
from llenergymeasure.simulation.sensor import SimulatedSensor

S = 1_000_000_000
EVERY_STEP = Pace(gap_s=0.05, stride_s=0.0, polls_per_s=10_000)


@dataclass(slots=True)
class Watched:
    """A counter that is read whenever its rhythm asks for it."""

    count: Callable[[int], int]
    latency_ns: int = 50_000
    rhythm: Rhythm = field(default_factory=Rhythm)
    t_ns: int = S
    reads: list[tuple[int, int, int]] = field(default_factory=list)

    def run(self, seconds: float, pace: Pace) -> list[tuple[int, int, int]]:
        """Read for so long; the reads of that time."""
        first, end_ns = len(self.reads), self.t_ns + round(seconds * S)
        while self.t_ns < end_ns:
            looked_ns, after_ns = self.t_ns + self.latency_ns // 2, self.t_ns + self.latency_ns
            self.reads.append((self.t_ns, after_ns, self.count(looked_ns)))
            self.rhythm.saw(*self.reads[-1])
            # A sleep ends a little late.
            self.t_ns = max(after_ns, self.rhythm.due_ns(pace)) + 60_000
        return self.reads[first:]


def _brackets_ns(reads: list[tuple[int, int, int]]) -> list[int]:
    """How closely each move of the counter was caught between two reads."""
    return [
        after_ns - before_ns
        for (before_ns, _, earlier), (_, after_ns, later) in pairwise(reads)
        if later != earlier
    ]


@settings(max_examples=40, deadline=None)
@given(
    step_ms=st.floats(18, 120),
    phase=st.floats(0, 1),
    jitter=st.floats(0, 0.06),
    latency_ms=st.floats(0.05, 1),
    seed=st.integers(0, 10**6),
)
def test_any_rhythm_is_learnt_and_its_steps_are_caught(
    step_ms: float, phase: float, jitter: float, latency_ms: float, seed: int
) -> None:
    step_s = step_ms / 1e3
    sensor = SimulatedSensor(step_s=step_s, phase_s=phase * step_s, step_jitter_s=jitter * step_s, seed=seed)
    watched = Watched(sensor.last_step_ns, latency_ns=round(latency_ms * 1e6))
    watched.run(3, EVERY_STEP)
    assert watched.rhythm.period_ns == pytest.approx(step_s * S, rel=0.04)
    reads = watched.run(100 * step_s, EVERY_STEP)
    widths = sorted(_brackets_ns(reads))
    assert 98 <= len(widths) <= 102
    fine_ns = max(step_s * S / 20, 2 * jitter * step_s * S, latency_ms * 1e6)
    assert widths[85] < 1.7 * fine_ns + latency_ms * 1e6
    assert len(reads) < 100 * 8


def test_a_steady_step_costs_little_more_than_the_two_reads_around_it() -> None:
    watched = Watched(SimulatedSensor(step_s=0.02, phase_s=0.007).last_step_ns)
    watched.run(2, EVERY_STEP)
    assert len(watched.run(10, EVERY_STEP)) < 10 / 0.02 * 2.8


def test_a_budget_is_kept_with_rows_of_neighbouring_steps_between_pauses() -> None:
    watched = Watched(SimulatedSensor(step_s=0.02, phase_s=0.007).last_step_ns)
    watched.run(2, EVERY_STEP)
    reads = watched.run(20, Pace(gap_s=0.2, stride_s=0.0, polls_per_s=40))
    assert 20 * 20 < len(reads) < 20 * 50
    close = [width < 4_000_000 for width in _brackets_ns(reads)]
    longest = max(len(row) for row in "".join("x" if one else " " for one in close).split())
    assert longest >= 8


def test_a_glance_now_and_then_keeps_the_rhythm_for_a_close_look() -> None:
    sensor = SimulatedSensor(step_s=0.1, phase_s=0.03, step_jitter_s=0.001)
    watched = Watched(sensor.last_step_ns)
    glances = Pace(gap_s=0.2, stride_s=0.4, polls_per_s=60)
    watched.run(2, glances)
    reads = watched.run(60, glances)
    assert len(reads) < 60 * 15
    widths = _brackets_ns(watched.run(1, EVERY_STEP))[1:]
    assert max(widths) < 10_000_000


def test_a_counter_that_stands_still_is_left_alone_and_found_again() -> None:
    stuck = [True]
    steps = SimulatedSensor(step_s=0.1).last_step_ns
    watched = Watched(lambda t_ns: 0 if stuck[0] else steps(t_ns))
    watched.run(3, EVERY_STEP)
    assert watched.rhythm.period_ns is None
    assert len(watched.run(5, EVERY_STEP)) < 5 / 0.05 * 1.4
    stuck[0] = False
    watched.run(15, EVERY_STEP)
    assert watched.rhythm.period_ns == pytest.approx(0.1 * S, rel=0.03)


def test_a_rhythm_that_changes_is_learnt_anew() -> None:
    slow, quick = SimulatedSensor(step_s=0.1), SimulatedSensor(step_s=0.02)
    watched = Watched(lambda t_ns: (slow if t_ns < 5 * S else quick).last_step_ns(t_ns))
    watched.run(3.5, EVERY_STEP)
    assert watched.rhythm.period_ns == pytest.approx(0.1 * S, rel=0.03)
    watched.run(20, EVERY_STEP)
    assert watched.rhythm.period_ns == pytest.approx(0.02 * S, rel=0.03)


def test_steps_faster_than_a_call_are_no_rhythm() -> None:
    watched = Watched(SimulatedSensor(step_s=0.02).last_step_ns, latency_ns=20_000_000)
    reads = watched.run(10, EVERY_STEP)
    assert watched.rhythm.period_ns is None
    assert len(reads) < 10 / 0.04


def test_nothing_is_learnt_while_it_may_not() -> None:
    watched = Watched(SimulatedSensor(step_s=0.1).last_step_ns)
    waiting = Pace(gap_s=0.5, stride_s=0.0, polls_per_s=100, may_learn=False)
    assert len(watched.run(5, waiting)) < 16
    assert watched.rhythm.period_ns is None
    watched.run(2, EVERY_STEP)
    assert watched.rhythm.period_ns is not None
