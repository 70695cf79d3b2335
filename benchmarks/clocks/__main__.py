"""Is the offset of another host's clock in its stated interval?

1,000 estimates against a recorder whose clock is off by a known amount, straight and through a pipe that
delays every line.

    python -m benchmarks.clocks [-n 1000] [--ssh "ssh -p 2222 localhost"]
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parents[2] / "tests" / "unit"))
from other_hosts import AHEAD_S, DELAY, RECORD, in_namespace

from llenergymeasure.energy.recording.clock_offset import offset
from llenergymeasure.measure.marks import MARKS_VERSION
from llenergymeasure.records import RoundTrip

# Round trips in each estimate.
_TRIPS = 20


def round_trips(command: list[str], count: int) -> list[RoundTrip]:
    found = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def heard(kind: str) -> dict[str, int]:
            for line in process.stdout or ():
                # A login script may print what is not for us.
                said = json.loads(line) if line.startswith(b"{") else {}
                if said.get("say") == kind:
                    return dict(said)
            raise SystemExit("the recorder ended")

        assert heard("hello")["version"] == MARKS_VERSION
        heard("ready")
        for number in range(count):
            sent_ns = time.monotonic_ns()
            process.stdin.write(b'{"do": "clock", "id": %d}\n' % number)
            process.stdin.flush()
            there_ns = heard("clock")["t_ns"]
            found.append(RoundTrip("there", sent_ns, there_ns, time.monotonic_ns()))
        process.stdin.close()
        process.stdout.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("-n", type=int, default=1000)
    parser.add_argument("--ssh", default="", help="how root starts commands there, without a question")
    given = parser.parse_args()
    there = [*shlex.split(given.ssh), *in_namespace(*RECORD)]
    with tempfile.TemporaryDirectory() as folder:
        delay = Path(folder) / "delay.py"
        delay.write_text(DELAY)
        for name, way in (("straight", []), ("20 ms of jitter", [sys.executable, str(delay), "0.02"])):
            trips = round_trips([*way, *there], given.n + _TRIPS - 1)
            inside, halves = 0, []
            for first in range(given.n):
                found = offset(trips[first : first + _TRIPS])
                middle = trips[first + _TRIPS // 2].there_ns
                off, half = found.at(np.array([middle]))
                inside += abs(float(off[0]) + AHEAD_S * 1e9) <= float(half[0]) + 1
                halves.append(float(half[0]) / 1e6)
            share = inside / given.n
            print(f"{name}: {share:.1%} of {given.n} inside, median ± {statistics.median(halves):.3f} ms")


if __name__ == "__main__":
    main()
