"""What does a Monitor cost the script that it measures, and does `llem exec` time commands as hyperfine does?

    python -m benchmarks.monitor [--quick] [--only cost marks exec]

A script with a Monitor and one empty window takes turns with the same script without; its seconds, memory and
imports are the difference. `llem exec` takes turns with hyperfine (Debian's package; left out where it is not
installed) on a command that sleeps and one that works. Run it on a machine that is left alone.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from benchmarks.overhead.turns import Row, turns
from llenergymeasure.measure.own_code import Monitor

PARTS = ("cost", "marks", "exec")
HEAVY = ("torch", "pyarrow", "numpy")
MOST_S, MOST_BYTES, MOST_MARK_S = 0.3, 20_000_000, 20e-6

_PLAIN = "import json, sys\n"
_END = """
heavy = [name for name in {heavy!r} if name in sys.modules]
# Not ru_maxrss, which begins at the size of whoever started this.
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM:"))
print(json.dumps([peak * 1024, heavy]))
"""
_WITH = """
from llenergymeasure import Monitor
with Monitor() as m:
    with m.window("empty"):
        pass
"""
_BUSY = "import time\nwhile time.process_time() < 1.0: pass\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.monitor", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer turns: a look")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="some parts instead of all")
    options = parser.parse_args()
    missed = 0
    print("| cost | figure | target | |\n|---|---|---|---|", flush=True)
    for row in _rows(options.only, quick=options.quick):
        verdict = {True: "met", False: "NOT MET", None: ""}[row.met]
        print(f"| {row.name} | {row.figure} | {row.target} | {verdict} |", flush=True)
        missed += row.met is False
    return 1 if missed else 0


def _rows(parts: list[str], *, quick: bool) -> Iterator[Row]:
    if "cost" in parts:
        yield from _cost(5 if quick else 20)
    if "marks" in parts:
        yield from _marks(2_000 if quick else 20_000)
    if "exec" in parts:
        yield from _exec(5 if quick else 10)


def _cost(pairs: int) -> Iterator[Row]:
    end = _END.format(heavy=HEAVY)
    taken: dict[bool, list[tuple[float, int]]] = {True: [], False: []}
    heavy: set[str] = set()
    for monitored in turns(pairs):
        began = time.perf_counter()
        script = _PLAIN + (_WITH if monitored else "") + end
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        seconds = time.perf_counter() - began
        resident, imported = json.loads(done.stdout)
        taken[monitored].append((seconds, resident))
        heavy |= set(imported)
    (with_s, with_bytes), (plain_s, plain_bytes) = (
        (median(one[0] for one in taken[which]), median(one[1] for one in taken[which]))
        for which in (True, False)
    )
    more_s, more_bytes = with_s - plain_s, with_bytes - plain_bytes
    yield Row("Monitor and one empty window, seconds", f"{more_s:.3f} s", f"≤ {MOST_S} s", more_s <= MOST_S)
    yield Row(
        "the same, memory of the script",
        f"{more_bytes / 1e6:.1f} MB",
        f"≤ {MOST_BYTES / 1e6:.0f} MB",
        more_bytes <= MOST_BYTES,
    )
    yield Row("the same, heavy imports in the script", ", ".join(sorted(heavy)) or "none", "none", not heavy)


def _marks(count: int) -> Iterator[Row]:
    taken = []
    with Monitor(meter="estimate") as monitor:
        window = monitor.window("x")
        for _ in range(count):
            began_ns = time.perf_counter_ns()
            with window:
                pass
            taken.append((time.perf_counter_ns() - began_ns) / 1e9)
            time.sleep(0.0002)
    p50, p99 = sorted(taken)[count // 2], sorted(taken)[count * 99 // 100]
    yield Row(
        "the marks of one window",
        f"p50 {p50 * 1e6:.1f} µs, p99 {p99 * 1e6:.1f} µs",
        f"p50 ≤ {MOST_MARK_S * 1e6:.0f} µs",
        p50 <= MOST_MARK_S,
    )


def _exec(runs: int) -> Iterator[Row]:
    if shutil.which("hyperfine") is None:
        yield Row("llem exec beside hyperfine", "hyperfine is not installed")
        return
    with tempfile.TemporaryDirectory() as directory:
        busy = Path(directory) / "busy.py"
        busy.write_text(_BUSY)
        for name, command in (("sleep 1", ["sleep", "1"]), ("1 CPU s", [sys.executable, "-S", str(busy)])):
            theirs, ours, joules = _both(command, runs, Path(directory))
            (mean, half), (our_mean, our_half) = theirs, ours
            met = abs(our_mean - mean) <= half + our_half
            figure = f"{our_mean:.4f} ± {our_half:.4f} s against {mean:.4f} ± {half:.4f} s; {joules}"
            yield Row(f"llem exec {name}", figure, "within both ±", met)


def _both(
    command: list[str], runs: int, directory: Path
) -> tuple[tuple[float, float], tuple[float, float], str]:
    """Mean seconds with hyperfine's ± (its standard deviation) and llem's interval."""
    export = directory / "hyperfine.json"
    quoted = " ".join(command)
    subprocess.run(
        ["hyperfine", "-N", "--runs", str(runs), "--export-json", str(export), quoted],
        capture_output=True,
        check=True,
    )
    (theirs,) = json.loads(export.read_text())["results"]
    done = subprocess.run(
        [sys.executable, "-m", "llenergymeasure", "exec", "-q", "-n", str(runs), "--json", "--", *command],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ},
    )
    (ours,) = json.loads(done.stdout)["windows"]
    each, energy = ours["seconds_each"], ours["energy_each"]
    width = (each["high"] - each["low"]) / 2
    low, high = energy["systematic"] or (energy["low"], energy["high"])
    return (
        (theirs["mean"], theirs["stddev"]),
        (each["value"], width),
        f"{energy['value']:.3f} ({low:.3f} to {high:.3f}) J",
    )


if __name__ == "__main__":
    sys.exit(main())
