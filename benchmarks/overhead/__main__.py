"""What does measuring cost the work that is measured?

    python -m benchmarks.overhead [--quick] [--only parent session recorder] [--threads N]

The parent is stopped and continued in turns while the worker of a real run works; llem's sessions and the
bare engines take turns in one process, those that are installed; and the recorder reads every kind of meter
over silences and blocks. Run it on a machine that is left alone: ratios are taken in turns, but a busy
machine makes their intervals wide. About half an hour, quick ten minutes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from benchmarks.accuracy import recorder
from benchmarks.overhead import parent, session
from benchmarks.overhead.turns import Row

PARTS = ("parent", "session", "recorder")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer turns: a look")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="some parts instead of all")
    parser.add_argument("--threads", type=int, help="threads of the engine; all cores where not given")
    options = parser.parse_args()
    missed = 0
    print("| cost | figure | target | |\n|---|---|---|---|", flush=True)
    for row in _rows(options.only, quick=options.quick, threads=options.threads):
        verdict = {True: "met", False: "NOT MET", None: ""}[row.met]
        print(f"| {row.name} | {row.figure} | {row.target} | {verdict} |", flush=True)
        missed += row.met is False
    return 1 if missed else 0


def _rows(parts: list[str], *, quick: bool, threads: int | None) -> Iterator[Row]:
    if "parent" in parts:
        yield parent.row(quick=quick, threads=threads)
    if "session" in parts:
        for engine in session.ENGINES:
            yield session.row(engine, quick=quick, threads=threads)
    if "recorder" in parts:
        for one in recorder.cost_rows(quick=quick):
            yield Row(f"recorder: {one.name}", one.figure, one.target, one.passed)


if __name__ == "__main__":
    sys.exit(main())
