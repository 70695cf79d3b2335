"""Another host, as far as one machine can be one: a recorder in a time namespace of its own.

The joules of its board are a function of the time of the day, which all namespaces share.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

AHEAD_S = 1000
RECORD = (sys.executable, "-m", "llenergymeasure", "record")

METER = """
import os, time
from math import cos, pi
from llenergymeasure.records import Domain, Quantity, Sample

def joules(t):
    # 200 W, and a sine of 100 W and 7 s over it
    return 200.0 * t - 100.0 * 7 / (2 * pi) * cos(2 * pi * t / 7)

class Wave:
    name = os.environ.get("WAVE", "gpu:GPU-wave")
    def why_unavailable(self): return None
    def __enter__(self): return self
    def __exit__(self, *error): pass
    def domains(self): return [Domain(self.name, "gpu", (Quantity("energy", "wave", "J", 1e-3),))]
    def sample(self):
        before = time.monotonic_ns()
        now = (time.time() - EPOCH) // 0.02 * 0.02
        return [Sample(self.name, "energy", before, time.monotonic_ns(), int(joules(now) * 1e3))]
"""

# Holds each line back by up to so many seconds, both ways, and never lets one overtake another.
DELAY = """
import random, subprocess, sys, threading, time
most_s, command = float(sys.argv[1]), sys.argv[2:]
child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
def carry(source, sink):
    for line in iter(source.readline, b""):
        time.sleep(random.random() * most_s)
        try:
            sink.write(line); sink.flush()
        except OSError:
            break
    try:
        sink.close()
    except OSError:
        pass
threading.Thread(target=carry, args=(sys.stdin.buffer, child.stdin), daemon=True).start()
carry(child.stdout, sys.stdout.buffer)
sys.exit(child.wait())
"""


def why_no_namespace() -> str | None:
    """Why no host with a clock of its own can be had here."""
    tried = subprocess.run([*in_namespace("true")], capture_output=True, text=True, check=False)
    return None if tried.returncode == 0 else f"no time namespace: {tried.stderr.strip()}"


def in_namespace(*command: str) -> tuple[str, ...]:
    return ("unshare", "-T", "--monotonic", str(AHEAD_S), "--fork", "--", *command)


def plug_in(folder: Path) -> Path:
    """A package with the meter `wave`, to be put on PYTHONPATH."""
    site = folder / "site"
    info = site / "llem_wave-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: llem-wave\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[llenergymeasure.meters]\nwave = llem_wave:Wave\n")
    (site / "llem_wave.py").write_text(METER.replace("EPOCH", str(int(time.time()) - 100)))
    (folder / "delay.py").write_text(DELAY)
    return site


def wave(site: Path) -> Any:
    """The same board, read here under another name."""
    names: dict[str, Any] = {}
    exec((site / "llem_wave.py").read_text(), names)
    meter = names["Wave"]()
    meter.name = "gpu:GPU-here"
    return meter
