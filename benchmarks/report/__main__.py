"""How long does a report of many results take, and how much memory?

    python -m benchmarks.report [--quick] [--directory DIR]

One result is made in virtual time, and the others from it with other settings and figures; they share its
traces. A minute for 10,000 results, quick a few seconds for 500.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.overhead.turns import Row
from benchmarks.report.made import many_results, one_result

MOST_S, MOST_BYTES, PAGE_BYTES = 60.0, 1e9, 5e6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--directory", type=Path, help="on the disk that is read; by default a temporary one")
    asked = parser.parse_args()
    failed = False
    print("| cost | figure | target | |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(dir=asked.directory) as where:
        for count in (500,) if asked.quick else (500, 10_000):
            for row in measured(Path(where) / str(count), count):
                verdict = {True: "met", False: "NOT MET", None: ""}[row.met]
                print(f"| {row.name} | {row.figure} | {row.target} | {verdict} |", flush=True)
                failed |= row.met is False
    return 1 if failed else 0


def measured(folder: Path, count: int) -> Iterator[Row]:
    """`llem report` in a process of its own, whose time and peak memory are its alone."""
    many_results(one_result(folder / "made"), folder / "many", count)
    page = folder / "report.html"
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "llenergymeasure", "report", folder / "many", "-o", page], check=True
    )
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    # The largest of all children so far: the last one reads the most.
    peak = after.ru_maxrss * 1024
    size = page.stat().st_size
    figure = f"{seconds:.1f} s of processor, {wall:.1f} s by the clock"
    yield Row(f"report of {count:,} results", figure, f"≤ {MOST_S:.0f} s", seconds <= MOST_S)
    yield Row("  peak memory", f"{peak / 1e6:.0f} MB", f"≤ {MOST_BYTES / 1e6:.0f} MB", peak <= MOST_BYTES)
    limit = PAGE_BYTES if count <= 500 else None
    yield Row(
        "  size of the page",
        f"{size / 1e6:.1f} MB",
        "" if limit is None else f"≤ {limit / 1e6:.0f} MB",
        None if limit is None else size <= limit,
    )


if __name__ == "__main__":
    sys.exit(main())
