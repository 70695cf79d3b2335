"""Are prefill and decode told apart, by both ways, with intervals that hold? Whole runs in virtual time.

    python -m benchmarks.phases [--quick]

Every run measures a board whose joules per token are known: its batches differ in prompt and in output
tokens, and their durations and powers scatter. Joules per prompt token and per output token after the first
come from the times of the phases (gross) and from the regression on tokens (net of idle); counted is how
often an interval held the truth. --quick does 20 runs a row, which tell little of coverage.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Sequence
from functools import partial
from multiprocessing import get_context
from statistics import fmean, median

from benchmarks.phases.runs import Device, Found, run

# Board, passes of a run, runs.
ROWS: dict[str, tuple[Device, int, int]] = {
    "20 passes": (Device(), 20, 200),
    "20 passes, batches shorter than a step": (Device(s_per_prompt_token=2.5e-5, s_per_step=2e-3), 20, 100),
    "20 passes, scatter 3 % of batches and of passes": (Device(scatter=0.03, pass_scatter=0.03), 20, 100),
    "20 passes, a power field and no counter": (Device(counter=False), 20, 100),
    "5 passes": (Device(), 5, 100),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.phases")
    parser.add_argument("--quick", action="store_true", help="20 runs a row")
    quick = parser.parse_args(arguments).quick
    print("Batches of 4 requests, 8 in a walk; counter steps every 100 ms, scatter 1 % of every batch and of")
    print("every pass where not said otherwise; half-widths relative to the truth\n")
    print("| board and run | runs | way | holds prefill | holds decode | half-width, prefill | …, decode |")
    print("|---|---|---|---|---|---|---|")
    # Each pass collects garbage, and would look through all that was imported.
    with get_context("spawn").Pool(initializer=gc.freeze) as workers:
        for name, (device, passes, many) in ROWS.items():
            runs = 20 if quick else many
            one = partial(run, device=device, passes=passes)
            found = [cost for costs in workers.imap_unordered(one, range(runs)) for cost in costs]
            for way in ("phases", "regression"):
                print(
                    f"| {name} | {runs} | {way} | {_row([cost for cost in found if cost.way == way])} |",
                    flush=True,
                )


def _row(found: Sequence[Found]) -> str:
    kinds = [[cost for cost in found if cost.cost == kind] for kind in ("prefill", "decode")]
    held = [f"{fmean(cost.held for cost in costs):.1%}" for costs in kinds]
    widths = [[cost.half_width for cost in costs] for costs in kinds]
    shown = [f"± {median(width):.1%}, at most {max(width):.1%}" for width in widths]
    return " | ".join([*held, *shown])


if __name__ == "__main__":
    main()
