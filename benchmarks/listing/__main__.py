"""How long do `llem list` and `llem show` take beside 10,000 results?

    python -m benchmarks.listing [--results N]

The results are copies of one of a simulated run, of the usual size, in a temporary folder. `first` is without
the index that `llem list` keeps in the user's cache, `again` with it. Each command is a process of its own,
the median of three; the files are in the page cache. The targets are for the processor's seconds, which a
busy machine does not stretch.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.telling.whole import experiment
from llenergymeasure.results.store import RESULT_FILE

LLEM = [sys.executable, "-m", "llenergymeasure"]
TIMES = 3


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.listing")
    parser.add_argument("--results", type=int, default=10_000)
    count = parser.parse_args().results
    missed = 0
    with tempfile.TemporaryDirectory(prefix="llem-listing-") as folder:
        place, cache = Path(folder) / "results", Path(folder) / "cache"
        size = _fill(place, count)
        print(
            f"{count} results of {size / 1e3:.0f} kB\n\n"
            "| command | CPU s | clock s | target | |\n|---|---|---|---|---|"
        )
        for name, command, most_s, first in (
            ("llem list, first", ["list", str(place)], 5.0, True),
            ("llem list, again", ["list", str(place)], 1.0, False),
            ("llem list --json, again", ["list", str(place), "--json"], 1.0, False),
            (
                "llem show last --field",
                ["show", "last", "--field", "tokens.output", "--dir", str(place)],
                1.0,
                False,
            ),
            ("llem show 2026-04242", ["show", "2026-04242", "--dir", str(place)], 1.0, False),
        ):
            timed = [_timed(command, cache, first=first) for _ in range(TIMES)]
            seconds, clock_s = map(median, zip(*timed, strict=True))
            met = seconds <= most_s
            missed += not met
            print(
                f"| {name} | {seconds:.2f} | {clock_s:.2f} | ≤ {most_s:g} | {'met' if met else 'NOT MET'} |",
                flush=True,
            )
    return int(missed > 0)


def _fill(place: Path, count: int) -> int:
    """The size of one."""
    whole = experiment(400.0, 1).as_json()
    text = ""
    for number in range(count):
        whole["experiment_id"] = f"2026-{number:05d}-any"
        folder = place / str(whole["experiment_id"])
        folder.mkdir(parents=True)
        text = json.dumps(whole, indent=2)
        (folder / RESULT_FILE).write_text(text, encoding="utf-8")
    return len(text)


def _timed(command: list[str], cache: Path, *, first: bool) -> tuple[float, float]:
    """Seconds of the processor, and by the clock."""
    if first:
        shutil.rmtree(cache, ignore_errors=True)
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [*LLEM, *command],
        env={**os.environ, "LLEM_CACHE_DIR": str(cache), "COLUMNS": "80"},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main())
