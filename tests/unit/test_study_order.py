"""In which order the repeats of a study's experiments run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import pytest

from llenergymeasure.study.order import Order, turns


def sequence(order: Order, repeats: Sequence[int], *, seed: str) -> list[tuple[int, int]]:
    """All (experiment, repeat) that are planned at the start; a target may ask for more."""
    if order == "sequential":
        return [(number, repeat) for number, most in enumerate(repeats) for repeat in range(1, most + 1)]
    rounds = range(1, max(repeats, default=0) + 1)
    return [
        (number, repeat)
        for repeat in rounds
        for number in turns(order, len(repeats), repeat, seed=seed)
        if repeat <= repeats[number]
    ]


def test_sequential_finishes_one_experiment_before_the_next() -> None:
    assert sequence("sequential", [2, 1, 2], seed="s") == [(0, 1), (0, 2), (1, 1), (2, 1), (2, 2)]


def test_interleaved_makes_one_repeat_of_each_in_turn() -> None:
    assert sequence("interleaved", [3, 1, 2], seed="s") == [(0, 1), (1, 1), (2, 1), (0, 2), (2, 2), (0, 3)]


@pytest.mark.parametrize("order", ["sequential", "interleaved", "shuffled", "balanced"])
def test_every_repeat_runs_once_in_any_order_and_the_same_seed_gives_the_same(order: Order) -> None:
    found = sequence(order, [3, 2, 3, 1], seed="study")
    assert sorted(found) == [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (2, 1), (2, 2), (2, 3), (3, 1)]
    assert found == sequence(order, [3, 2, 3, 1], seed="study")


def test_shuffled_draws_another_order_for_each_repeat_and_seed() -> None:
    orders = {tuple(turns("shuffled", 8, repeat, seed="a")) for repeat in range(1, 6)}
    assert len(orders) == 5
    assert turns("shuffled", 8, 1, seed="a") != turns("shuffled", 8, 1, seed="b")


@pytest.mark.parametrize("count", [2, 4, 6])
def test_balanced_puts_each_experiment_at_each_place_and_after_each_other_equally_often(count: int) -> None:
    rows = [turns("balanced", count, repeat, seed="a") for repeat in range(1, count + 1)]
    assert all(sorted(column) == list(range(count)) for column in zip(*rows, strict=True))
    before = Counter(pair for row in rows for pair in pairwise(row))
    assert set(before.values()) == {1}
    assert len(before) == count * (count - 1)
