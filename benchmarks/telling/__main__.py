"""Do intervals tell a change of 3 % apart, and do they leave no change alone? Whole runs in virtual time.

    python -m benchmarks.telling [TRIES]

Each try measures two simulated configurations with five cycles each, as `rigorous` does, and compares their
joules per output token as `llem compare` does. Called different is an interval of the ratio that leaves 1
out: a change of 0 should be called so in 5 of 100 tries, a change of 3 % in nearly all. 2,000 tries, the
default, take about half an hour on two cores that are idle.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from functools import partial
from multiprocessing import get_context
from statistics import fmean

from benchmarks.telling.runs import called_different


def main(arguments: Sequence[str]) -> None:
    tries = int(arguments[0]) if arguments else 2000
    print(f"{tries} tries a row, 5 cycles of 3 passes on each side, scatter 1.5 % of every pass\n")
    print("| change of power | called different | wanted |")
    print("|---|---|---|")
    # Each pass collects garbage first; what was imported is none and need not be looked at every time.
    with get_context("spawn").Pool(initializer=gc.freeze) as workers:
        for change, wanted in ((0.0, "≤ 6.5 %"), (0.03, "nearly always")):
            found = workers.map(partial(called_different, change=change), range(tries), chunksize=4)
            print(f"| {change:.0%} | {fmean(found):.1%} | {wanted} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
