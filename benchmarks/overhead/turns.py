"""How much faster is one way than another, when both are tried in turns?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from llenergymeasure.analysis.statistics import t_quantile


@dataclass(frozen=True, slots=True)
class Row:
    """One figure in words, what was to be reached, and whether it was (None where nothing was asked)."""

    name: str
    figure: str
    target: str = ""
    met: bool | None = None


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio of speeds with its 95 % interval, from so many pairs of turns."""

    value: float
    low: float
    high: float
    pairs: int

    def __str__(self) -> str:
        return f"{self.value:.4f} ({self.low:.4f} to {self.high:.4f}, {2 * self.pairs} turns)"


def turns(pairs: int) -> Iterator[bool]:
    """Which way comes next: A B B A A B B A, so that a drift of the machine favours neither."""
    for number in range(pairs):
        yield from (True, False) if number % 2 == 0 else (False, True)


def ratio(seconds: Sequence[tuple[float, float]]) -> Ratio:
    """How fast A is in units of B, from the seconds that both took for the same work in each pair."""
    logs = [math.log(b / a) for a, b in seconds]
    half = t_quantile(0.975, len(logs) - 1) * stdev(logs) / math.sqrt(len(logs))
    middle = fmean(logs)
    return Ratio(math.exp(middle), math.exp(middle - half), math.exp(middle + half), len(logs))
