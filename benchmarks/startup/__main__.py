"""How long does `llem` take before it does anything, against llenergymeasure 0.7.0 and against its libraries?

    python -m benchmarks.startup [--quick]

Each pair of commands takes turns, so that a busy machine slows both. Version 0.7.0 is installed once from the
package index into an environment of its own, in the user's cache. About two minutes, quick half a minute.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median

import llenergymeasure
from benchmarks.overhead.turns import Row, ratio, turns
from llenergymeasure.config.places import cache_dir

PAIRS = (15, 5)
EARLIER = "llenergymeasure==0.7.0"
LLEM = [sys.executable, "-m", "llenergymeasure"]
LIBRARIES = [sys.executable, "-c", "import typer, pydantic"]
# A model of which only the header is read.
DRY_RUN = ["run", "-m", "smollm2-135m", "--dry-run"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer turns: a look")
    pairs = PAIRS[parser.parse_args().quick]
    missed = 0
    print("| command | figure | target | |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(prefix="llem-startup-") as folder:
        for row in _rows(pairs, _environment(Path(folder))):
            print(
                f"| {row.name} | {row.figure} | {row.target} | {'met' if row.met else 'NOT MET'} |",
                flush=True,
            )
            missed += not row.met
    return 1 if missed else 0


def _rows(pairs: int, environment: Mapping[str, str]) -> Iterator[Row]:
    earlier = [str(_installed() / "bin" / "llem")]
    for arguments, most in ((["--version"], 0.5), (["run", "--help"], 0.7)):
        timed = _timed([*LLEM, *arguments], [*earlier, *arguments], pairs, environment)
        found = ratio([(theirs, ours) for ours, theirs in timed])
        figure = f"{_medians(timed)} with {EARLIER}: {found} of it"
        yield Row(f"llem {' '.join(arguments)}", figure, f"≤ {most} of it", found.value <= most)
    for arguments, most_s in ((DRY_RUN, 0.5), (["doctor"], 1.0)):
        timed = _timed([*LLEM, *arguments], LIBRARIES, pairs, environment)
        found = ratio([(theirs, ours) for ours, theirs in timed])
        figure = f"{_medians(timed)} for importing typer and pydantic: {found} of it"
        met = median(ours for ours, _ in timed) <= most_s
        yield Row(f"llem {' '.join(arguments)}", figure, f"≤ {most_s} s on a machine left alone", met)


def _timed(
    ours: Sequence[str], theirs: Sequence[str], pairs: int, environment: Mapping[str, str]
) -> list[tuple[float, float]]:
    """Seconds of both in each pair of turns, after one of each that fills caches."""
    # The code that this benchmark belongs to, even where another is installed.
    source = {**environment, "PYTHONPATH": str(Path(llenergymeasure.__file__).parents[1])}
    _seconds(ours, source), _seconds(theirs, environment)
    taken: dict[bool, list[float]] = {True: [], False: []}
    for first in turns(pairs):
        taken[first].append(_seconds(ours, source) if first else _seconds(theirs, environment))
    return list(zip(taken[True], taken[False], strict=True))


def _seconds(command: Sequence[str], environment: Mapping[str, str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def _medians(timed: Sequence[tuple[float, float]]) -> str:
    ours, theirs = (median(seconds) for seconds in zip(*timed, strict=True))
    return f"{ours:.3f} s against {theirs:.3f} s"


def _environment(folder: Path) -> Mapping[str, str]:
    """As an installed package has it: compiled once, and nothing but itself on the path of its modules."""
    left_out = {"PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "COLUMNS"}
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return {**kept, "PYTHONPYCACHEPREFIX": str(folder)}


def _installed() -> Path:
    """The environment that holds the earlier version."""
    place = cache_dir() / "startup" / EARLIER
    if not (place / "bin" / "llem").is_file():
        venv.create(place, with_pip=True)
        subprocess.run([place / "bin" / "pip", "install", "--quiet", EARLIER], check=True)
    return place


if __name__ == "__main__":
    sys.exit(main())
