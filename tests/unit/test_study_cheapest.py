"""Which configuration is called the cheapest, and how often by mistake."""

from __future__ import annotations

import random

import pytest

from llenergymeasure.analysis.cheapest import Candidate, cheapest
from llenergymeasure.analysis.statistics import t_quantile, t_tail


@pytest.mark.parametrize("degrees", [1.0, 2.5, 4.0, 30.0])
@pytest.mark.parametrize("probability", [0.6, 0.9, 0.975, 0.999])
def test_the_tail_is_what_the_quantile_leaves(degrees: float, probability: float) -> None:
    assert t_tail(t_quantile(probability, degrees), degrees) == pytest.approx(1 - probability, rel=1e-9)


def test_a_clear_lead_is_shown_and_a_small_one_is_left_open() -> None:
    found = cheapest(
        [
            Candidate("b=1", (10.0, 10.1, 9.9), "m"),
            Candidate("b=4", (4.0, 4.02, 3.98), "m"),
            Candidate("b=8", (3.99, 4.03, 3.96), "m"),
            Candidate("other", (4.5, 4.6, 4.4), "another model of power"),
        ]
    )
    assert found is not None
    assert found.label == "b=8"
    assert (found.ahead, found.open, found.incomparable) == (("b=1",), ("b=4",), ("other",))


def test_two_runs_show_nothing_and_one_candidate_is_no_comparison() -> None:
    found = cheapest([Candidate("a", (1.0, 1.0), "m"), Candidate("b", (2.0, 2.0), "m")])
    assert found is not None
    assert (found.open, found.few) == ((), ("b",))
    assert cheapest([Candidate("a", (1.0, 1.0, 1.0), "m"), Candidate("b", (), "m")]) is None


def test_what_other_work_disturbed_gets_no_verdict() -> None:
    slow, slower = (10.0, 10.1, 9.9), (20.0, 20.1, 19.9)
    found = cheapest(
        [
            Candidate("best", (4.0, 4.02, 3.98), "m"),
            Candidate("quiet", slow, "m"),
            Candidate("busy", slower, "m", withheld=("host_busy",)),
        ]
    )
    assert found is not None
    assert (found.ahead, found.withheld, found.codes) == (("quiet",), ("busy",), ("host_busy",))
    found = cheapest([Candidate("best", slow, "m", withheld=("not_steady",)), Candidate("b", slower, "m")])
    assert found is not None
    assert (found.ahead, found.open, found.few, found.withheld) == ((), (), (), ("b",))


@pytest.mark.parametrize("count", [2, 8])
def test_among_equal_configurations_few_studies_show_a_lead(count: int) -> None:
    draw = random.Random(7)
    studies = 300
    shown = 0
    for _ in range(studies):
        candidates = [
            Candidate(str(at), tuple(draw.gauss(1, 0.02) for _ in range(4)), "m") for at in range(count)
        ]
        found = cheapest(candidates)
        shown += found is not None and bool(found.ahead)
    assert shown / studies <= 0.075


def visited(label: str, costs: tuple[float, ...], *servers: str | None) -> Candidate:
    return Candidate(label, costs, "m", tuple(enumerate(servers, start=1)))


def test_loads_that_share_a_server_are_compared_within_it() -> None:
    # Each server differs from the others by far more than the loads do.
    low, high = (1.0, 3.0, 9.0), (1.11, 3.30, 9.91)
    alone = cheapest([Candidate("8", low, "m"), Candidate("1", high, "m")])
    assert alone is not None
    assert (alone.ahead, alone.paired) == ((), ())
    found = cheapest([visited("8", low, "a", "b", "c"), visited("1", high, "a", "b", "c")])
    assert found is not None
    assert (found.ahead, found.paired, found.servers) == (("1",), ("1",), 3)


def test_a_repeat_that_two_servers_answered_is_no_pair() -> None:
    found = cheapest(
        [visited("8", (1.0, 1.01, 1.02), "a", "b", "c"), visited("1", (1.1, 1.11, 1.12), "a", "b", "d")]
    )
    assert found is not None
    assert found.servers == 2
    # Two pairs show nothing.
    assert (found.ahead, found.open, found.few) == ((), (), ("1",))


def test_repeats_on_one_server_are_one_replicate_against_another_server() -> None:
    costs = (1.0, 1.001, 0.999)
    theirs = tuple(2 * cost for cost in costs)
    one_each = cheapest([visited("a", costs, "s", "s", "s"), visited("b", theirs, "t", "t", "t")])
    assert one_each is not None
    assert (one_each.ahead, one_each.few) == ((), ("b",))
    both = cheapest([visited("a", costs, "s", "s", "s"), visited("b", theirs, "s", "s", "s")])
    assert both is not None
    assert (both.ahead, both.servers) == (("b",), 1)
