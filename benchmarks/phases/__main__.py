"""Are prefill and decode apart, with intervals that hold, whatever the host does? In virtual time.

    python -m benchmarks.phases [--quick]

Every try is an experiment of five repeats on a board whose joules per token are known. The error is that of
the value against the truth; the requirement is on its median over the tries, since one try holds the scatter
of five runs. Counted is how often the interval held the truth. --quick makes 20 tries a row.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Sequence
from functools import partial
from multiprocessing import get_context
from statistics import fmean, median

from benchmarks.phases.runs import Device, Found, run

TRIES, QUICK = 200, 20
MOST_ERROR, LEAST_HELD = 0.01, 0.93
ROWS: dict[str, Device] = {
    "no host work": Device(),
    "20 ms of host work before each prefill": Device(host_s=0.02),
    "50 ms of host work before each prefill": Device(host_s=0.05),
    "power varies by ± 25 % in a batch": Device(within=0.25),
    "prefill at 3 × the power of decode": Device(prefill_w=600.0, decode_w=200.0),
    "all three": Device(host_s=0.05, within=0.25, prefill_w=600.0, decode_w=200.0),
    "all three, counter of 20 ms": Device(
        host_s=0.05, within=0.25, prefill_w=600.0, decode_w=200.0, step_s=0.02
    ),
    "all three, no counter": Device(host_s=0.05, within=0.25, prefill_w=600.0, decode_w=200.0, counter=False),
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.phases")
    parser.add_argument("--quick", action="store_true", help="20 tries a row")
    tries = QUICK if parser.parse_args(arguments).quick else TRIES
    print(f"{tries} tries a row, each of 5 repeats; scatter 1 % of every batch, 0.5 % of every run;")
    print(f"wanted: bias of at most {MOST_ERROR:.0%}, held in at least {LEAST_HELD:.0%}\n")
    print("| board | cost | bias | p95 of errors | median half-width | interval held | met |")
    print("|---|---|---|---|---|---|---|")
    missed = 0
    # Each block collects garbage, and would look through all that was imported.
    with get_context("spawn").Pool(initializer=gc.freeze) as workers:
        for name, device in ROWS.items():
            one = partial(run, device=device)
            found = [cost for costs in workers.imap_unordered(one, range(tries)) for cost in costs]
            for kind in ("prefill", "decode"):
                text, met = _row([cost for cost in found if cost.cost == kind])
                missed += not met
                print(f"| {name} | {kind} | {text} | {'yes' if met else 'NO'} |", flush=True)
    return 1 if missed else 0


def _row(found: Sequence[Found]) -> tuple[str, bool]:
    errors = sorted(abs(cost.error) for cost in found)
    bias, held = fmean(cost.error for cost in found), fmean(cost.held for cost in found)
    p95 = errors[min(len(errors) - 1, round(0.95 * len(errors)))]
    text = f"{bias:+.2%} | {p95:.2%} | ± {median(cost.half_width for cost in found):.2%} | {held:.1%}"
    # A row of few tries may miss by chance alone.
    return text, abs(bias) <= MOST_ERROR and held >= LEAST_HELD - (0.0 if len(found) >= TRIES else 0.1)


if __name__ == "__main__":
    sys.exit(main())
