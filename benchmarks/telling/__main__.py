"""How often does `compare` call two equal configurations different, and how often does it find a change?

    python -m benchmarks.telling [--tries N] [--whole N]

Each try draws the joules per output token of a few runs on both sides and asks the code of `llem compare` for
its verdict. The scatter between runs is normal, or skewed as disturbances are, which only ever add (an
exponential tail). 2,000 tries a row, the default, take about a minute. Then the same of twenty configurations
against one baseline, and of `llem compare --run`, which looks after each block and ends once a difference is
shown. `--whole N` measures N pairs of whole simulated runs in virtual time too, which takes seconds a pair.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Literal, TypeAlias

from llenergymeasure.analysis.compare import (
    ENERGY,
    Comparison,
    Side,
)
from llenergymeasure.analysis.judge import (
    ALPHA,
    Figure,
    judge,
)
from llenergymeasure.analysis.many import Compared, judged_together
from llenergymeasure.records import Estimate

Shape: TypeAlias = Literal["normal", "skewed"]
TRUE_J = 0.1
CALLED = ("higher", "lower")
# Wanted of rows (change, scatter, repeats): at most so many called different, or at least so many found.
MOST_FALSE = 0.05
FOUND = {(0.03, 0.01, 4): 0.85, (0.05, 0.015, 3): 0.70, (0.05, 0.015, 4): 0.90}


@dataclass(frozen=True, slots=True)
class Row:
    change: float
    scatter: tuple[float, float]  # of A and of B
    shape: Shape
    repeats: int

    def target(self) -> tuple[str, Callable[[float], bool]] | None:
        """What is wanted in words, and whether a share meets it."""
        if self.change == 0 and self.scatter[0] == self.scatter[1]:
            return f"≤ {MOST_FALSE:.0%}", lambda share: share <= MOST_FALSE + noise(MOST_FALSE, 2000)
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
    return fmean(judge(ENERGY, "", a, b, cancels=True).verdict in CALLED for a, b in pairs)


def print_families(studies: int) -> int:
    """How many targets were missed."""
    print(f"\n{studies} studies of 20 configurations against one baseline, 1 % scatter between runs\n")
    print("| changed | by | repeats | any called wrongly | wanted | found of the changed | met |")
    print("|---|---|---|---|---|---|---|")
    missed = 0
    for changed, change, repeats in ((0, 0.0, 3), (0, 0.0, 4), (5, 0.03, 4), (5, 0.05, 4), (19, 0.05, 4)):
        draw = random.Random(f"{changed} {change} {repeats}")
        pairs = [_family(changed, change, repeats, draw) for _ in range(studies)]
        wrong = fmean(any(one in CALLED for one in found[changed:]) for found in pairs)
        right = fmean(one == "higher" for found in pairs for one in found[:changed]) if changed else None
        met = wrong <= 0.05 + noise(0.05, studies)
        missed += not met
        shown = "" if right is None else f"{right:.1%}"
        print(
            f"| {changed} | {change:.0%} | {repeats} | {wrong:.1%} | ≤ 5% | {shown} | "
            f"{'yes' if met else 'no'} |",
            flush=True,
        )
    return missed


def _family(changed: int, change: float, repeats: int, draw: random.Random) -> list[str | None]:
    """The verdict on each of twenty, the changed ones first."""
    row = Row(0.0, (0.01, 0.01), "normal", repeats)
    baseline = side(row, TRUE_J, 0.01, draw)
    ratios = [
        judge(
            ENERGY,
            "",
            baseline,
            side(row, TRUE_J * (1 + (change if at < changed else 0.0)), 0.01, draw),
            cancels=True,
            alpha=ALPHA / 20,
        )
        for at in range(20)
    ]
    nobody = Side("", repeats, modelled=False, warnings=())
    whole = [Compared("", "", "", Comparison(nobody, nobody, (), (), True, (one,), 20)) for one in ratios]
    return [one.comparison.ratios[0].verdict for one in judged_together(whole)]


def print_looks(tries: int) -> int:
    """How many targets were missed."""
    print(f"\n{tries} comparisons in blocks, 30 at most, with a look after each\n")
    print(
        "| change | scatter between runs | called different | wanted | blocks, median | 1 % excluded | met |"
    )
    print("|---|---|---|---|---|---|---|")
    missed = 0
    shapes: tuple[Shape, ...] = ("normal", "skewed")
    for change, scatter, shape in (
        *((0.0, scatter, shape) for scatter in (0.01, 0.03) for shape in shapes),
        *((0.03, scatter, "normal") for scatter in (0.01, 0.02)),
    ):
        draw = random.Random(f"{change} {scatter} {shape}")
        found = [_looked(change, scatter, shape, draw) for _ in range(tries)]
        share = fmean(called for called, _, _ in found)
        met = share <= 0.05 + noise(0.05, tries) if change == 0 else share >= 0.85
        missed += not met
        blocks, excluded = median(count for _, count, _ in found), fmean(one for _, _, one in found)
        print(
            f"| {change:.0%} | {scatter:.0%} {shape} | {share:.1%} | {'≤ 5%' if change == 0 else '≥ 85%'} | "
            f"{blocks:g} | {excluded:.1%} | {'yes' if met else 'no'} |",
            flush=True,
        )
    return missed


def _looked(change: float, scatter: float, shape: Shape, draw: random.Random) -> tuple[bool, int, bool]:
    """Whether it was called different, after how many blocks it ended, and whether 1 % was excluded then."""
    row, blocks = Row(change, (scatter, scatter), shape, 30), tuple(map(str, range(30)))
    a, b = (side(row, mean, scatter, draw).runs for mean in (TRUE_J, TRUE_J * (1 + change)))
    found = None
    for count in range(3, 31):
        figures = [
            Figure(
                Estimate(fmean(one[:count]), "J/token", reason="each run has its own"),
                one[:count],
                count,
                blocks=blocks[:count],
            )
            for one in (a, b)
        ]
        found = judge(ENERGY, "", *figures, cancels=True, sequential=True)
        if found.verdict in CALLED:
            return True, count, False
    assert found is not None
    assert found.ratio.low is not None
    assert found.ratio.high is not None
    return False, 30, 1 / 1.01 < found.ratio.low < found.ratio.high < 1.01


def noise(share: float, tries: int) -> float:
    """What so many tries may add to a share by chance, once in a hundred."""
    return 2.33 * math.sqrt(share * (1 - share) / tries)


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
    missed += print_families(max(1, asked.tries // 4))
    missed += print_looks(max(1, asked.tries // 4))
    if asked.whole:
        from benchmarks.telling.whole import print_pairs

        print_pairs(asked.whole)
    print(f"\n{'all targets met' if not missed else f'targets missed: {missed}'}")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
