"""How many passes should a run have, to know joules per output token to ± 2 % for the fewest joules?

    python -m benchmarks.stopping [--tries N] [RESULT ...]

A run costs joules before its first pass (loading, idle windows, warm-up), so that more passes a run look
cheap; but passes of one run share what differs between processes, which only more runs average out. Each try
draws runs whose cost scatters between processes and between passes, decides by llem's rule over repeats how
many there are to be (Stein's two stages), and counts their joules. The same is done with the figures of each
RESULT, a folder that `llem run --output` wrote, with three runs or more of three passes or more.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, variance

from llenergymeasure.analysis.run_energy import run_energy
from llenergymeasure.analysis.statistics import relative_half_width, stein_count
from llenergymeasure.energy.joules.amid import window_energy
from llenergymeasure.measure.replay import read_measurements
from llenergymeasure.records import Measurement, Window
from llenergymeasure.results import ExperimentResult

TARGET, FIRST, MOST = 0.02, 5, 30
PASSES = (1, 2, 3, 5, 10)
TRIES = 4000


@dataclass(frozen=True, slots=True)
class Kind:
    """An experiment: relative sds between runs and between passes of a run, and the joules of a run beside
    its passes, in units of those of a pass.
    """

    name: str
    between: float
    within: float
    before: float


ASSUMED = tuple(
    Kind(
        f"{between:.1%} between runs, {within:.1%} between passes, start = {before} passes",
        between,
        within,
        before,
    )
    for between, within in ((0.005, 0.01), (0.01, 0.01), (0.02, 0.01), (0.03, 0.01), (0.01, 0.03))
    for before in (1, 5)
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stopping", description=__doc__)
    parser.add_argument("results", nargs="*", type=Path, help="folders of stored results")
    parser.add_argument("--tries", type=int, default=TRIES)
    options = parser.parse_args()
    print(f"{options.tries} tries a cell, first stage of {FIRST} runs, at most {MOST}; joules in passes\n")
    print("| experiment | passes a run | median runs | mean joules | holds the truth | ± 2 % met |")
    print("|---|---|---|---|---|---|")
    cheapest: dict[int, int] = dict.fromkeys(PASSES, 0)
    for kind in (*ASSUMED, *(_measured(path) for path in options.results)):
        rows = {passes: _row(kind, passes, options.tries) for passes in PASSES}
        best = min(PASSES, key=lambda passes: rows[passes][1])
        cheapest[best] += 1
        for passes, (runs, joules, held, met) in rows.items():
            mark = " (fewest)" if passes == best else ""
            print(
                f"| {kind.name} | {passes} | {runs:g} | {joules:.0f}{mark} | {held:.1%} | {met:.0%} |",
                flush=True,
            )
    print(
        f"\nCheapest: {', '.join(f'{passes} passes in {count} rows' for passes, count in cheapest.items())}"
    )


def _row(kind: Kind, passes: int, tries: int) -> tuple[float, float, float, float]:
    draw = random.Random(17)
    runs, held, met = [], 0, 0
    for _ in range(tries):
        costs = [_cost(kind, passes, draw) for _ in range(FIRST)]
        wanted = min(MOST, stein_count(costs, target=TARGET, minimum=FIRST))
        costs += [_cost(kind, passes, draw) for _ in range(wanted - FIRST)]
        half = relative_half_width(costs, first_stage=FIRST) or math.inf
        runs.append(wanted)
        held += abs(fmean(costs) - 1) <= half * fmean(costs)
        met += half <= TARGET * 1.001
    joules = fmean(runs) * (kind.before + passes)
    return median(runs), joules, held / tries, met / tries


def _cost(kind: Kind, passes: int, draw: random.Random) -> float:
    return 1 + draw.gauss(0.0, kind.between) + draw.gauss(0.0, kind.within / math.sqrt(passes))


def _measured(path: Path) -> Kind:
    """The figures of a stored result: scatter of passes and runs, and what a run takes beside its passes."""
    result = ExperimentResult.load(path)
    measurements = read_measurements(path, [run.index for run in result.measured])
    costs = list(_pass_costs(measurements))
    within = fmean(variance(run) / fmean(run) ** 2 for run in costs)
    of_runs = [fmean(run) for run in costs]
    between = variance(of_runs) / fmean(of_runs) ** 2 - within / len(costs[0])
    before = fmean(_beside(one) for one in measurements)
    name = (
        f"{result.config.model} on {result.config.backend}: {math.sqrt(max(between, 0)):.1%} between runs, "
    )
    name += f"{math.sqrt(within):.1%} between passes, start = {before:.1f} passes"
    return Kind(name, math.sqrt(max(between, 0.0)), math.sqrt(within), before)


def _pass_costs(measurements: Sequence[Measurement]) -> Iterator[list[float]]:
    for one in measurements:
        shares = run_energy(one).shares
        if shares is None:
            raise SystemExit(f"run {one.index} has no joules for each of its passes")
        yield [j / each.generation.output_tokens for j, each in zip(shares, one.passes, strict=True)]


def _beside(one: Measurement) -> float:
    """Joules from the load to the last idle window less those of the full passes, in passes."""
    energy = run_energy(one)
    end_ns = one.idle.after.end_ns if one.idle.after is not None else one.blocks[-1].window.end_ns
    whole = Window(one.load.start_ns, end_ns)
    spent = [window_energy(one.trace, domain.name, whole).joules for domain in energy.domains]
    passes = energy.joules
    if passes is None or any(joules is None for joules in spent):
        raise SystemExit(f"run {one.index}: the joules of the whole run are not known")
    return (math.fsum(joules or 0.0 for joules in spent) - passes) / (passes / len(one.passes))


if __name__ == "__main__":
    main()
