"""Whose turn is it: in which order do the repeats of all experiments run?"""

from __future__ import annotations

import random
from typing import Literal, TypeAlias

Order: TypeAlias = Literal["sequential", "interleaved", "shuffled", "balanced"]


def turns(order: Order, count: int, repeat: int, *, seed: str) -> list[int]:
    """Which of `count` experiments run their repeat number `repeat` (from 1 on), one after another.

    interleaved keeps the order of the file; shuffled draws an order for each repeat; balanced takes the rows
    of a Latin square whose rows also balance which experiment comes right before which (Williams 1949, for
    an even count), in an order that is drawn, so that each one comes first, second, … equally often.
    """
    if order == "shuffled":
        return _drawn(count, f"{seed}/{repeat}")
    if order == "balanced":
        labels = _drawn(count, seed)
        zigzag = [at // 2 if at % 2 == 0 else count - (at + 1) // 2 for at in range(count)]
        return [labels[(place + repeat - 1) % count] for place in zigzag]
    return list(range(count))


def _drawn(count: int, seed: str) -> list[int]:
    found = list(range(count))
    random.Random(seed).shuffle(found)  # noqa: S311  an order, not a secret
    return found
