"""How often do llem's intervals hold the truth? Simulated passes, counted; prints the table of the docs.

python -m benchmarks.coverage [RUNS]
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Callable, Sequence
from statistics import fmean, stdev

from llenergymeasure.analysis.statistics import correlated, relative_half_width, stein_count, t_quantile

TARGET = 0.02
RUNS = 5

Draw = Callable[[random.Random, int], list[float]]


def normal(scatter: float) -> Draw:
    return lambda source, count: [source.gauss(1.0, scatter) for _ in range(count)]


def skewed(scatter: float) -> Draw:
    """A gamma of shape 16: skewness 0.5, a tail towards slow and expensive passes."""
    return lambda source, count: [
        1.0 + scatter * (source.gammavariate(16, 1.0) - 16) / 4 for _ in range(count)
    ]


def correlating(scatter: float, phi: float) -> Draw:
    """A stationary first-order autoregression."""

    def draw(source: random.Random, count: int) -> list[float]:
        at, found = source.gauss(0.0, 1.0), []
        for _ in range(count):
            found.append(1.0 + scatter * at)
            at = phi * at + (1 - phi * phi) ** 0.5 * source.gauss(0.0, 1.0)
        return found

    return draw


def plain_half_width(values: Sequence[float]) -> float:
    """Student's t as if passes were independent, whatever they are."""
    return t_quantile(0.975, len(values) - 1) * stdev(values) / math.sqrt(len(values))


def covered(values: Sequence[float], half: float | None) -> bool:
    return half is not None and abs(fmean(values) - 1.0) <= half * fmean(values)


def fixed(draw: Draw, count: int, runs: int) -> tuple[float, float, float]:
    """Coverage of llem's interval, of plain t, and how often passes are called correlated."""
    source = random.Random(count)
    llem = plain = raised = 0
    for _ in range(runs):
        values = draw(source, count)
        llem += covered(values, relative_half_width(values))
        plain += abs(fmean(values) - 1.0) <= plain_half_width(values)
        raised += correlated(values)
    return llem / runs, plain / runs, raised / runs


def two_stages(draw: Draw, runs: int) -> tuple[float, float]:
    """Coverage after the second stage, and the median number of passes."""
    source = random.Random(7)
    held, counts = 0, []
    for _ in range(runs):
        values = draw(source, 5)
        wanted = min(stein_count(values, target=TARGET, minimum=5), 2000)
        values += draw(source, wanted - 5)
        held += covered(values, relative_half_width(values, first_stage=5))
        counts.append(wanted)
    return held / runs, sorted(counts)[runs // 2]


def over_runs(phi: float, runs: int) -> float:
    """Coverage over the means of a few fresh processes, whose passes correlate within."""
    source = random.Random(11)
    draw = correlating(0.03, phi)
    held = 0
    for _ in range(runs):
        means = [fmean(draw(source, 5)) for _ in range(RUNS)]
        held += covered(means, relative_half_width(means))
    return held / runs


def main(runs: int) -> None:
    print(f"{runs} runs a cell; scatter 3 % where not said otherwise\n")
    print("| passes | n | holds the truth | plain t | called correlated |")
    print("|---|---|---|---|---|")
    for name, draw in (("independent, normal", normal(0.03)), ("independent, skewed", skewed(0.03))):
        for count in (3, 5, 10, 30):
            llem, plain, raised = fixed(draw, count, runs)
            print(f"| {name} | {count} | {llem:.1%} | {plain:.1%} | {raised:.0%} |")
    for phi in (0.3, 0.6, 0.9):
        for count in (5, 10, 20, 30, 60):
            llem, plain, raised = fixed(correlating(0.03, phi), count, runs)
            print(f"| autocorrelation {phi} | {count} | {llem:.1%} | {plain:.1%} | {raised:.0%} |")
    print("\n| two stages, target ± 2 %: scatter | holds the truth | median count |")
    print("|---|---|---|")
    for scatter in (0.005, 0.01, 0.02, 0.05, 0.1):
        held, median = two_stages(normal(scatter), max(200, runs if scatter < 0.05 else runs // 5))
        print(f"| {scatter:.1%} | {held:.1%} | {median} |")
    print(f"\n| {RUNS} runs of 5 correlated passes | holds the truth |")
    print("|---|---|")
    for phi in (0.3, 0.6, 0.9):
        print(f"| autocorrelation {phi} | {over_runs(phi, runs):.1%} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=__doc__)
    parser.add_argument("runs", nargs="?", type=int, default=10_000, help="experiments of each kind")
    main(parser.parse_args().runs)
