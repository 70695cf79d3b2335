"""How often does `compare` call two equal configurations different, and how often does it find a change?

    python -m benchmarks.telling [--tries N] [--whole N]

Each try draws the joules per output token of a few runs on both sides and asks the code of `llem compare` for
its verdict. The scatter between runs is normal, or skewed as disturbances are, which only ever add (an
exponential tail). 2,000 tries a row, the default, take about half a minute. `--whole N` measures N pairs of
whole simulated runs in virtual time besides, which takes seconds a pair.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal, TypeAlias

from llenergymeasure.analysis.compare import ENERGY, Figure, judge
from llenergymeasure.records import Estimate

Shape: TypeAlias = Literal["normal", "skewed"]
TRUE_J = 0.1
# Wanted of rows (change, scatter, repeats): at most so many called different, or at least so many found.
MOST_FALSE = 0.06
FOUND = {(0.05, 0.015, 3): 0.70, (0.05, 0.015, 4): 0.90}


@dataclass(frozen=True, slots=True)
class Row:
    change: float
    scatter: tuple[float, float]  # of A and of B
    shape: Shape
    repeats: int

    def target(self) -> tuple[str, Callable[[float], bool]] | None:
        """What is wanted in words, and whether a share meets it."""
        if self.change == 0 and self.scatter[0] == self.scatter[1]:
            return f"≤ {MOST_FALSE:.0%}", lambda share: share <= MOST_FALSE
        least = FOUND.get((self.change, self.scatter[0], self.repeats))
        if least is None or self.shape != "normal":
            return None
        return f"≥ {least:.0%}", lambda share: share >= least


def rows() -> Iterator[Row]:
    shapes: tuple[Shape, ...] = ("normal", "skewed")
    for change in (0.0, 0.03, 0.05):
        for scatter in (0.0, 0.01, 0.015, 0.02, 0.05):
            for shape in shapes if scatter else shapes[:1]:
                for repeats in (3, 4, 5):
                    yield Row(change, (scatter, scatter), shape, repeats)
    # No target: what unlike scatter does, at which Welch's rule is at its weakest.
    for shape in shapes:
        for repeats in (3, 4, 5):
            yield Row(0.0, (0.01, 0.05), shape, repeats)


def side(row: Row, mean: float, scatter: float, draw: random.Random) -> Figure:
    """As many runs as the row asks for."""
    normal = row.shape == "normal"
    noise = [draw.gauss(0.0, 1.0) if normal else draw.expovariate(1.0) - 1 for _ in range(row.repeats)]
    costs = tuple(mean * (1 + scatter * one) for one in noise)
    return Figure(Estimate(fmean(costs), "J/token", reason="each run has its own"), costs, len(costs))


def share_called_different(row: Row, tries: int) -> float:
    draw = random.Random(repr(row))
    means = TRUE_J, TRUE_J * (1 + row.change)
    pairs = (
        [side(row, mean, scatter, draw) for mean, scatter in zip(means, row.scatter, strict=True)]
        for _ in range(tries)
    )
    return fmean(judge(ENERGY, "", a, b, cancels=True).verdict in ("higher", "lower") for a, b in pairs)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.telling")
    parser.add_argument("--tries", type=int, default=2000, help="pairs a row")
    parser.add_argument("--whole", type=int, default=0, metavar="N", help="pairs of whole simulated runs")
    asked = parser.parse_args(arguments)
    missed = 0
    print(f"{asked.tries} pairs a row; called different is a verdict `higher` or `lower`\n")
    print("| change | scatter between runs | repeats | called different | wanted | met |")
    print("|---|---|---|---|---|---|")
    for row in rows():
        share, target = share_called_different(row, asked.tries), row.target()
        wanted, met = "", ""
        if target is not None:
            wanted, met = target[0], "yes" if target[1](share) else "no"
            missed += met == "no"
        scatter = " and ".join(dict.fromkeys(f"{one:.1%}" for one in row.scatter))
        print(
            f"| {row.change:.0%} | {scatter} {row.shape} | {row.repeats} | {share:.1%} | {wanted} | {met} |",
            flush=True,
        )
    if asked.whole:
        from benchmarks.telling.whole import print_pairs

        print_pairs(asked.whole)
    print(f"\n{'all targets met' if not missed else f'targets missed: {missed}'}")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
