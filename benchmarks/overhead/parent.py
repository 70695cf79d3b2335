"""What does the parent cost an engine that uses every core? Stopped and continued while the worker works."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean

import psutil
import pyarrow.parquet as pq

from benchmarks.overhead.turns import Row, ratio, turns

TURN_S = 1.5
# Pairs of turns: 150 turns of each kind, and a quick look.
PAIRS = (150, 40)
RATIO, LOW = 0.995, 0.99
_STARTED_WITHIN_S = 180.0
_MODEL = "smollm2-135m"


def row(*, quick: bool, threads: int | None) -> Row:
    pairs = PAIRS[quick]
    with tempfile.TemporaryDirectory(prefix="llem-overhead-") as directory:
        place = Path(directory)
        stood, own = _run(place, pairs=pairs, threads=threads)
        seconds = _seconds(place, stood)
    name = f"throughput while the parent runs, against while it is stopped ({_MODEL}, pytorch)"
    target = f"≥ {RATIO}, lower end ≥ {LOW}"
    if len(seconds) < pairs / 2:
        return Row(
            name, f"batches are longer than turns of {TURN_S} s: leave the machine alone", target, False
        )
    found = ratio(seconds)
    figure = f"{found}; the parent itself took {own:.2%} of a core"
    return Row(name, figure, target, found.value >= RATIO and found.low >= LOW)


def _command(place: Path, *, seconds: float, threads: int | None) -> list[str]:
    """A real run: one pass that lasts as long as all turns, of batches that are all alike."""
    settings = {
        "dataset.prompt_tokens": 8,
        "max_input_tokens": 8,
        "max_output_tokens": 2,
        "output_length": "exact",
        "pytorch.device": "cpu",
        "passes.seconds": seconds,
        "passes.count": 1,
        "passes.prefill": 0,
        "passes.budget.seconds": 2 * seconds,
        "repeats.count": 1,
        "baseline.seconds": 1,
        "warmup.max_seconds": 5,
        **({} if threads is None else {"pytorch.threads": threads}),
    }
    command = [sys.executable, "-m", "llenergymeasure", "run", "-m", _MODEL, "-b", "pytorch", "-n", "1"]
    command += ["--dataset", "synthetic", "--output", str(place / "out"), "--quiet"]
    return [*command, *(word for key, value in settings.items() for word in ("--set", f"{key}={value}"))]


def _run(place: Path, *, pairs: int, threads: int | None) -> tuple[list[tuple[int, int, bool]], float]:
    """Begin and end of each turn, and whether the parent stood still in it; and its share of a core while it
    ran.
    """
    temporary = place / "tmp"
    temporary.mkdir()
    found = []
    parent = subprocess.Popen(
        _command(place, seconds=2 * pairs * TURN_S + 5, threads=threads),
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.DEVNULL,
    )
    try:
        _wait_for_go(place, parent)
        time.sleep(1)
        before_s = sum(psutil.Process(parent.pid).cpu_times()[:2])
        for runs in turns(pairs):
            parent.send_signal(signal.SIGCONT if runs else signal.SIGSTOP)
            start_ns = time.monotonic_ns()
            time.sleep(TURN_S)
            found.append((start_ns, time.monotonic_ns(), not runs))
        spent_s = sum(psutil.Process(parent.pid).cpu_times()[:2]) - before_s
        parent.send_signal(signal.SIGCONT)
        if parent.wait(timeout=120):
            raise RuntimeError(f"the run ended with exit code {parent.returncode}")
    finally:
        if parent.poll() is None:
            parent.send_signal(signal.SIGCONT)
            parent.terminate()
            parent.wait()
    return found, spent_s / (pairs * TURN_S)


def _wait_for_go(place: Path, parent: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + _STARTED_WITHIN_S
    while time.monotonic() < until and parent.poll() is None:
        if any(b'"do":"go"' in one.read_bytes() for one in place.rglob("events.jsonl")):
            return
        time.sleep(0.1)
    raise RuntimeError("the run's pass did not begin")


def _seconds(place: Path, stood: list[tuple[int, int, bool]]) -> list[tuple[float, float]]:
    """What a batch took on the mean while the parent ran and while it stood, for each pair of turns.

    A batch across two turns belongs to neither.
    """
    (table,) = (place / "out").rglob("requests.parquet")
    columns = pq.read_table(table, columns=["t_sent_ns", "t_end_ns"])
    batches = sorted(zip(*(column.to_pylist() for column in columns.columns), strict=True))
    means = []
    for start_ns, end_ns, _ in stood:
        inside = [(end - sent) / 1e9 for sent, end in batches if start_ns <= sent and end <= end_ns]
        means.append(fmean(inside) if inside else None)
    found = []
    for at in range(0, len(stood), 2):
        first, second = means[at], means[at + 1]
        if first is not None and second is not None:
            found.append((second, first) if stood[at][2] else (first, second))
    return found
