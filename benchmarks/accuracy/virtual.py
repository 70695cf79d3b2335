"""How far is llem off, and how often do its intervals hold the truth, over thousands of simulated runs?

python -m benchmarks.accuracy.virtual [RUNS]
"""

from __future__ import annotations

import multiprocessing
import random
import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np

from benchmarks.accuracy.scenes import (
    APART,
    COUNTER_FAULTS,
    KINDS,
    LOADS,
    NAMED,
    SENSORS_BY_KIND,
    STEPS_S,
    Kind,
    faulty_reading,
    joint_run,
    judged,
    polls,
    scene,
    sensor_of,
    stepped,
)
from benchmarks.accuracy.table import Row, render, row_of_errors
from llenergymeasure.energy.counter import count_between
from llenergymeasure.energy.sensor import characterise
from llenergymeasure.simulation.polled import DOMAIN, polled
from llenergymeasure.simulation.sensor import COUNTER

COUNTERS = "Counter, worst of many windows (virtual clock)"
INTERVALS = "Stated 95 % intervals (virtual clock)"
SENSORS = "What a sensor is like (virtual clock)"
FAULTS = "Faults (virtual clock)"

# The largest error allowed by load and seconds of a window.
LIMITS = {
    "constant": {1.0: 0.006, 5.0: 0.0015},
    "edges": {1.0: 0.01, 5.0: 0.0025, 10.0: 0.0015},
    "bursts": {1.0: 0.03, 5.0: 0.007, 10.0: 0.0035},
}


def counter_errors(load: str, step_s: float, seconds: float, *, runs: int) -> tuple[list[float], list[float]]:
    """Relative errors of llem and of two bare reads of the counter, at the start and at the end."""
    draw = random.Random(f"{load} {step_s} {seconds}")
    ours, two_reads = [], []
    for _ in range(runs):
        at = scene(draw, load, seconds)
        times = polls(at.seen)
        trace = polled(at.power, sensor_of(draw, step_s, COUNTER), times)
        series = trace.series[DOMAIN, "energy"]
        counted = count_between(series, at.window, outside=(None, None))
        ours.append((counted.amount or 0.0) / at.true_j - 1)
        ends = (at.window.start_ns, at.window.end_ns)
        first, last = (int(np.searchsorted(times, end, side="right")) - 1 for end in ends)
        two_reads.append(float(series.raw[last] - series.raw[first]) / 1000 / at.true_j - 1)
    return ours, two_reads


def counter_cell(load: str, step_s: float, seconds: float, *, runs: int) -> list[Row]:
    limit = LIMITS[load][seconds]
    case = f"{LOADS[load]}, T = {1000 * step_s:.0f} ms, {seconds:.0f} s"
    ours, two_reads = counter_errors(load, step_s, seconds, runs=runs)
    return [
        row_of_errors((COUNTERS, case, "llem"), ours, limit=limit),
        row_of_errors((COUNTERS, case, "two reads"), two_reads, limit=limit),
    ]


def interval_row(kind: Kind, drift: bool, *, runs: int, load: str | None = None) -> Row:
    draw = random.Random(f"{kind.name} {drift}")
    found = [judged(kind, draw, drift=drift, load=load) for _ in range(runs)]
    errors = [100 * one.error for one in found]
    covered = statistics.fmean(one.held for one in found)
    p99 = float(np.percentile(np.abs(errors), 99))
    half = 100 * statistics.fmean(one.half for one in found)
    about = APART[load] if load else "with drift" if drift else "no drift"
    return Row(
        INTERVALS,
        f"{kind.name}, {about}",
        "llem",
        runs,
        mean=statistics.fmean(errors),
        sd=statistics.stdev(errors),
        worst=max(map(abs, errors)),
        covered=covered,
        target="held ≥ 93 %" if load else "held ≥ 93 %, half-width ≤ 2 × p99",
        met=covered >= 0.93 and (load is not None or half <= 2 * p99),
        note=f"half-width {half:.2f} %, p99 of the error {p99:.2f} %",
    )


def systematic_row(*, runs: int) -> Row:
    """Boards with their gain and offset left in."""
    draw = random.Random("boards")
    held, errors = [], []
    for number in range(runs):
        one = judged(KINDS[number % 3], draw, drift=False, calibrated=False)
        low, high = one.reading.energy.systematic or (0.0, 0.0)
        slack = one.half * one.true_j
        held.append(low - slack <= one.true_j <= high + slack)
        errors.append(100 * one.error)
    covered = statistics.fmean(held)
    return Row(
        INTERVALS,
        "uncalibrated boards: value and systematic together",
        "llem",
        runs,
        mean=statistics.fmean(errors),
        sd=statistics.stdev(errors),
        worst=max(map(abs, errors)),
        covered=covered,
        target="held ≥ 95 %",
        met=covered >= 0.95,
    )


def joint_cell(step_s: float, *, runs: int) -> list[Row]:
    draw = random.Random(f"joint {step_s}")
    each = [joint_run(draw, step_s) for _ in range(runs)]
    found = []
    for kind in ("prefill", "decode"):
        errors = [100 * one[kind].error for one in each]
        covered = statistics.fmean(one[kind].held for one in each)
        half = 100 * statistics.fmean(one[kind].half for one in each)
        found.append(
            Row(
                INTERVALS,
                f"every {kind} together, counter, T = {1000 * step_s:.0f} ms, 10 s of serving",
                "llem",
                runs,
                mean=statistics.fmean(errors),
                sd=statistics.stdev(errors),
                worst=max(map(abs, errors)),
                covered=covered,
                target="held ≥ 93 %",
                met=covered >= 0.93,
                note=f"half-width {half:.2f} %",
            )
        )
    return found


def sensor_row(kind: str, *, runs: int) -> Row:
    draw = random.Random(f"sensor {kind}")
    right = 0
    for _ in range(runs):
        series, edges = stepped(draw, kind)
        sensor = characterise(series, edges)
        right += sensor is not None and sensor.kind == kind
    return Row(
        SENSORS,
        f"{kind} recognised",
        "llem",
        runs,
        mean=100 * right / runs,
        target="≥ 99 %",
        met=right >= 0.99 * runs,
    )


def fault_row(name: str, *, runs: int) -> Row:
    fault, flag = COUNTER_FAULTS[name]
    draw = random.Random(f"fault {name}")
    flagged = [NAMED & set(faulty_reading(draw, fault).flags) for _ in range(runs)]
    share = statistics.fmean(bool(flags) if fault is None else flag in flags for flags in flagged)
    return Row(
        FAULTS,
        "clean runs flagged" if fault is None else f"counter {name}: named {flag}",
        "llem",
        runs,
        mean=100 * share,
        target="< 1 %" if fault is None else "always",
        met=share < 0.01 if fault is None else share == 1,
    )


def rows(runs: int) -> list[Row]:
    """Every row, on all cores: `runs` for each interval, fewer where less is asked for or chance is small."""
    cells: list[partial[Row] | partial[list[Row]]] = [
        *(
            partial(counter_cell, load, step_s, seconds, runs=max(1, runs // 2))
            for load, limits in LIMITS.items()
            for seconds in limits
            for step_s in STEPS_S
        ),
        *(partial(interval_row, kind, drift, runs=runs) for kind in KINDS for drift in (False, True)),
        *(partial(interval_row, kind, False, runs=runs, load=load) for load in APART for kind in KINDS),
        partial(systematic_row, runs=runs),
        *(partial(joint_cell, step_s, runs=max(100, runs // 5)) for step_s in STEPS_S),
        *(partial(sensor_row, kind, runs=max(1, runs // 4)) for kind in SENSORS_BY_KIND),
        *(
            partial(fault_row, name, runs=max(1, runs // 2) if name == "none" else max(20, runs // 10))
            for name in COUNTER_FAULTS
        ),
    ]
    # A fresh process each, since the caller may have threads.
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        found = list(pool.map(_run, cells))
    return [row for some in found for row in (some if isinstance(some, list) else [some])]


def _run(cell: partial[Row] | partial[list[Row]]) -> Row | list[Row]:
    return cell()


def main(arguments: Sequence[str]) -> None:
    print(render(rows(int(arguments[0]) if arguments else 2000)))


if __name__ == "__main__":
    main(sys.argv[1:])
