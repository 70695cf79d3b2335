"""How far is llem off, and how often do its intervals hold the truth, over thousands of simulated runs?

python -m benchmarks.accuracy.virtual [RUNS]
"""

from __future__ import annotations

import math
import multiprocessing
import random
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations, product

import numpy as np

from benchmarks.accuracy.blocks import (
    SHAPES,
    TAILS,
    Field,
    Habits,
    Scene,
    scene,
    seen,
    simplest,
    waited,
    windows,
)
from benchmarks.accuracy.scenes import SENSORS_BY_KIND, stepped
from benchmarks.accuracy.table import Row, render
from benchmarks.boards.polled import DOMAIN, ENERGY, POWER_AVERAGE, POWER_INSTANT
from llenergymeasure.energy.joules.amid import window_energy
from llenergymeasure.energy.joules.curve import most_lag_s
from llenergymeasure.energy.joules.pool import added
from llenergymeasure.energy.joules.silence import block_energy
from llenergymeasure.energy.joules.spent import Spent
from llenergymeasure.energy.meters.calibration import SYSTEMATIC_GAIN, SYSTEMATIC_OFFSET_W
from llenergymeasure.energy.sensor import characterise
from llenergymeasure.records import Quantity, Series, Trace

BLOCKS = "Blocks between two silences, by counter (virtual clock)"
FAULTY = "The same by counters with faults (virtual clock)"
POOLED = "Twenty blocks of 5 s pooled (virtual clock)"
SHARES = "One pass of 5 s out of a block of four (virtual clock)"
OTHERS = "Other sources, and windows without silences (virtual clock)"
FAULTS = "Sensors recognised, faults named (virtual clock)"

# Windows of a row by which it is judged.
WHOLE_ROW = 200
SECONDS = (1.0, 5.0, 20.0)
STEPS_S = (0.02, 0.05, 0.1)
# Reads from afar: as the recorder makes them, and twice as many.
FAR_S = (0.1, 0.05)
SOUND_LIMITS = dict(zip(SECONDS, (1.2, 0.35, 0.1), strict=True))
FAULTY_LIMITS = dict(zip(SECONDS, (1.5, 0.4, 0.12), strict=True))
# Tails of which nothing is asked but that the interval holds.
HARD_TAILS = tuple(TAILS)[1:]
AMID = ("steady", "bursts", "square wave of 30 to 200 ms")
MILD = (*SHAPES, next(iter(TAILS)))

Draw = Callable[[random.Random, float], Habits]
LAGS_S = (0.0, 0.12)
HABITS: dict[str, Callable[[random.Random, Habits], Habits]] = {
    "lag of 0 to 120 ms": lambda draw, h: replace(h, lag_s=draw.uniform(*LAGS_S)),
    "periods that walk by ± 8 %": lambda _, h: replace(h, walking=0.08),
    "one step in ten missing": lambda _, h: replace(h, missing=0.1),
    "periods that switch between 20 and 100 ms": lambda _, h: replace(h, switching=True),
    "one read in five up to 60 ms late": lambda _, h: replace(h, late=0.2),
}
COMBINED = (*((name,) for name in HABITS), *combinations(HABITS, 2))


@dataclass(frozen=True, slots=True)
class Judged:
    """What was read of something whose truth is known: error and half-width in per cent of the truth."""

    error: float
    half: float

    @property
    def held(self) -> bool:
        return abs(self.error) <= self.half

    @classmethod
    def of(cls, joules: float, half_j: float, true_j: float) -> Judged:
        return cls(100 * (joules / true_j - 1), 100 * half_j / true_j)


def row(
    where: tuple[str, str],
    found: Sequence[Judged],
    *,
    limit: float | None = None,
    held: float = 0.95,
    note: str = "",
) -> Row:
    errors = [one.error for one in found]
    worst, covered = max(map(abs, errors)), statistics.fmean(one.held for one in found)
    p95 = float(np.percentile(np.abs(errors), 95))
    half = statistics.median(one.half for one in found)
    width = f"half-width {half:.2g} %, {half / p95:.1f} × p95" if p95 else f"half-width {half:.2g} %"
    return Row(
        *where,
        "llem",
        len(found),
        mean=statistics.fmean(errors),
        sd=statistics.stdev(errors) if len(errors) > 1 else None,
        worst=worst,
        covered=covered,
        target=", ".join([*([f"worst ≤ {limit:g} %"] if limit else []), f"held ≥ {100 * held:.0f} %"]),
        met=_holds(found, held) and (limit is None or worst <= limit),
        note="; ".join(part for part in (width, note) if part),
        ratio=half / p95 if p95 else None,
    )


def _holds(found: Sequence[Judged], least: float) -> bool:
    """Of fewer windows than a whole row has: whether a rule that holds so often shows so many misses in more
    than one row of a hundred.
    """
    count, misses = len(found), sum(not one.held for one in found)
    if count >= WHOLE_ROW:
        return misses <= (1 - least) * count
    fewer = (math.comb(count, k) * (1 - least) ** k * least ** (count - k) for k in range(misses))
    return 1 - math.fsum(fewer) > 0.01


def spent_of(at: Scene, trace: Trace) -> Spent:
    before, passes, after = windows(at)
    return block_energy(trace, DOMAIN, before=before, passes=passes, after=after)


def judged(at: Scene, spent: Spent) -> Judged:
    if spent.joules is None:
        raise ValueError(spent.reason)
    return Judged.of(spent.joules, spent.half_width_j, at.true_j(at.start, at.end))


def habits_of(draw: random.Random, names: Iterable[str], step_s: float) -> Habits:
    habits = Habits(step_s)
    for name in names:
        habits = HABITS[name](draw, habits)
    return habits


def block_row(
    shapes: Sequence[str], seconds: float, step_s: float, *, names: tuple[str, ...], runs: int, label: str
) -> Row:
    """Blocks of one length, each of a shape and with faults that are drawn."""
    draw = random.Random(f"{shapes} {seconds} {step_s} {names}")
    found, plain = [], []
    for _ in range(runs):
        at, trace = waited(draw, draw.choice(shapes), seconds, habits_of(draw, names, step_s))
        found.append(judged(at, spent_of(at, trace)))
        plain.append(100 * (simplest(at, trace) / at.true_j(at.start, at.end) - 1))
    limits = FAULTY_LIMITS if names else SOUND_LIMITS
    return row(
        (FAULTY if names else BLOCKS, f"{label}, {seconds:.0f} s, T = {1000 * step_s:.0f} ms"),
        found,
        limit=None if set(shapes) <= set(HARD_TAILS) else limits[seconds],
        note=f"rule without lag and tail: worst {max(map(abs, plain)):.2g} %",
    )


def pooled_row(shape: str, names: tuple[str, ...], *, pools: int) -> Row:
    """Twenty blocks of one board each: its error beyond what is stated as common."""
    draw = random.Random(f"pooled {shape} {names}")
    found, beyond = [], 0.0
    for _ in range(pools):
        step_s, board = draw.choice(STEPS_S), draw.randrange(2**31)
        habits = habits_of(draw, names, step_s)
        parts, true_j = [], 0.0
        for _ in range(20):
            at, trace = waited(draw, shape, 5.0, habits, board=board)
            parts.append(spent_of(at, trace))
            true_j += at.true_j(at.start, at.end)
        whole = added(parts)
        one = Judged.of(whole.joules or 0.0, whole.half_width_j, true_j)
        found.append(one)
        beyond = max(beyond, abs(one.error) - 100 * whole.common_j / true_j)
    case = ", ".join((shape, *names))
    made = row(
        (POOLED, case), found, held=0.93, note=f"worst beyond the common terms {max(0.0, beyond):.2g} %"
    )
    return replace(
        made, target="≤ 0.1 % beyond common terms, held ≥ 93 %", met=made.met is True and beyond <= 0.1
    )


def share_row(shape: str, step_s: float, far_s: float, *, runs: int) -> Row:
    draw = random.Random(f"share {shape} {step_s}")
    found, unseen = [], 0
    for _ in range(runs):
        habits = habits_of(draw, ["lag of 0 to 120 ms"], step_s)
        at, trace = waited(draw, shape, 20.0, habits, passes=4, far_s=far_s)
        spent = spent_of(at, trace)
        unseen += spent.lag_s is None
        number = draw.randrange(4)
        true_j = at.true_j(at.edges[number], at.edges[number + 1])
        found.append(Judged.of(spent.shares[number], spent.share_half_widths[number], true_j))
    note = f"lag not seen in {unseen}" if unseen else ""
    reads = f"reads every {1000 * far_s:.0f} ms"
    case = f"{shape}, lag of 0 to 120 ms, T = {1000 * step_s:.0f} ms, {reads}"
    return row((SHARES, case), found, limit=1.5, held=0.93, note=note)


FIELDS = {
    "instantaneous power, 100 of 100 ms": (POWER_INSTANT, 0.1, 2.0),
    "mean over 1 s": (POWER_AVERAGE, 1.0, 2.0),
    "part-time power, 25 of 100 ms": (POWER_INSTANT, 0.025, None),
}


def field_row(name: str, *, seconds: float, known: bool, runs: int) -> Row:
    quantity, window_s, limit = FIELDS[name]
    draw = random.Random(f"{name} {seconds} {known}")
    found = []
    for _ in range(runs):
        lag_s = draw.uniform(0.0, 0.12)
        if known:
            quantity = replace(
                quantity,
                step_ns=100_000_000,
                window_ns=round(1e9 * window_s),
                lag_ns=round(1e9 * lag_s),
            )
        silence_s = most_lag_s(quantity) + 0.4
        at = scene(draw, draw.choice(MILD), seconds, silences=(silence_s, silence_s))
        trace = seen(draw, at, None, field=Field(quantity, window_s, lag_s), far_s=0.02)
        found.append(judged(at, spent_of(at, trace)))
    about = "characterised" if known else "not characterised"
    return row((OTHERS, f"no counter: {name}, {about}, {seconds:.0f} s"), found, limit=limit, held=0.93)


def rapl_row(seconds: float, *, runs: int) -> Row:
    draw = random.Random(f"rapl {seconds}")
    found = []
    for _ in range(runs):
        at = scene(draw, draw.choice(MILD), seconds, silences=(0.05, 0.055))
        trace = seen(draw, at, Habits(0.001), kind="rapl")
        found.append(judged(at, spent_of(at, trace)))
    limit = SOUND_LIMITS[seconds]
    return row((OTHERS, f"RAPL, silences of 50 ms, all shapes, {seconds:.0f} s"), found, limit=limit)


def amid_row(shape: str, seconds: float, *, runs: int) -> Row:
    """A window amid a load without silences, or from its first edge to its last."""
    draw = random.Random(f"amid {shape} {seconds}")
    found = []
    for _ in range(runs):
        habits = habits_of(draw, ["lag of 0 to 120 ms"], draw.choice(STEPS_S))
        at = scene(draw, shape, seconds + 4, silences=(0.4, 0.6), passes=3)
        trace = seen(draw, at, habits)
        start = at.start + draw.uniform(1, 2)
        window = replace(
            windows(at)[1][0], start_ns=round(start * 1e9), end_ns=round((start + seconds) * 1e9)
        )
        spent = window_energy(trace, DOMAIN, window)
        found.append(Judged.of(spent.joules or 0.0, spent.half_width_j, at.true_j(start, start + seconds)))
    return row((OTHERS, f"no silences: {shape}, {seconds:.0f} s"), found, held=0.93)


def systematic_row(*, runs: int) -> Row:
    """Boards with their gain and offset left in."""
    draw = random.Random("boards")
    found = []
    for _ in range(runs):
        gain, offset_w = draw.uniform(0.873, 1.065), draw.uniform(-24.0, 16.0)
        at = scene(draw, draw.choice(MILD), 5.0, silences=(0.6, 0.6))
        trace = seen(draw, at, Habits(draw.choice(STEPS_S)), gain=gain, offset_w=offset_w)
        facts = replace(
            trace.domains[0], systematic_gain=SYSTEMATIC_GAIN, systematic_offset_w=SYSTEMATIC_OFFSET_W
        )
        spent = spent_of(at, replace(trace, domains=(facts,)))
        low, high = spent.systematic or (0.0, 0.0)
        true_j = at.true_j(at.start, at.end)
        half_j = spent.half_width_j + max(high - (spent.joules or 0), (spent.joules or 0) - low)
        held_in = low - spent.half_width_j <= true_j <= high + spent.half_width_j
        one = Judged.of(spent.joules or 0.0, half_j, true_j)
        found.append(one if held_in else replace(one, half=0.0))
    return row((OTHERS, "uncalibrated boards: value and systematic together"), found)


def share_of(case: str, share: float, runs: int, target: str, met: bool) -> Row:
    return Row(FAULTS, case, "llem", runs, mean=100 * share, target=target, met=met)


def sensor_row(kind: str, *, runs: int) -> Row:
    draw = random.Random(f"sensor {kind}")
    right = 0
    for _ in range(runs):
        series, edges = stepped(draw, kind)
        sensor = characterise(series, edges)
        right += sensor is not None and sensor.kind == kind
    return share_of(f"{kind} recognised", right / runs, runs, "≥ 99 %", right >= 0.99 * runs)


PART_TIME = ((POWER_INSTANT, 0.025),)
ANY = (*PART_TIME, (POWER_INSTANT, 0.1), (POWER_AVERAGE, 1.0))


def alarm_row(
    shape: str, seconds: float, fields: Sequence[tuple[Quantity, float]], *, runs: int, beside: str
) -> Row:
    """How often a healthy counter beside a power field is taken for a faulty one."""
    draw = random.Random(f"alarm {shape} {seconds} {beside}")
    flagged = 0
    for _ in range(runs):
        spent = both(draw, shape, seconds, None, fields=fields)
        flagged += "counter_power_mismatch" in spent.flags
    share = flagged / runs
    case = f"healthy counter and {beside} flagged, {shape}, {seconds:.0f} s"
    return share_of(case, share, runs, "≤ 2 %", share <= 0.02)


Fault = Callable[[Series, Scene], Series]


def both(
    draw: random.Random,
    shape: str,
    seconds: float,
    fault: Fault | None,
    *,
    fields: Sequence[tuple[Quantity, float]] = ANY,
) -> Spent:
    """A block on a board that shows counter and power, its counter broken by `fault`."""
    quantity, window_s = draw.choice(fields)
    at = scene(draw, shape, seconds, silences=(0.8, 2.0))
    field = Field(quantity, window_s, draw.uniform(0, 0.12))
    trace = seen(draw, at, Habits(draw.choice(STEPS_S), lag_s=draw.uniform(0, 0.12)), field=field)
    if fault is not None:
        key = (DOMAIN, ENERGY.name)
        trace = replace(trace, series={**trace.series, key: fault(trace.series[key], at)})
    return spent_of(at, trace)


def _half_way(series: Series, at: Scene) -> int:
    return int(np.searchsorted(series.t_before_ns, (at.start + at.end) * 0.5e9))


def _reset(series: Series, at: Scene) -> Series:
    raw, middle = series.raw - series.raw[0], _half_way(series, at)
    return replace(series, raw=np.where(np.arange(raw.size) < middle, raw + 10**6, raw - raw[middle]))


# What is done to the counter, and the flag that must name it.
COUNTER_FAULTS: dict[str, tuple[Fault, str]] = {
    "shows 0.57 of the power": (
        lambda series, _: replace(series, raw=series.raw * 57 // 100),
        "counter_power_mismatch",
    ),
    "shows 1,000 times the power": (
        lambda series, _: replace(series, raw=series.raw * 1000),
        "counter_power_mismatch",
    ),
    "stuck": (lambda series, _: replace(series, raw=np.full_like(series.raw, 5)), "sensor_stuck"),
    "stops half-way": (
        lambda series, at: replace(series, raw=np.minimum(series.raw, series.raw[_half_way(series, at)])),
        "sensor_stuck",
    ),
    "reset": (_reset, "counter_reset"),
}


def fault_row(name: str, *, runs: int) -> Row:
    fault, flag = COUNTER_FAULTS[name]
    draw = random.Random(f"fault {name}")
    named = statistics.fmean(
        flag in both(draw, draw.choice(MILD), draw.uniform(5, 8), fault).flags for _ in range(runs)
    )
    return share_of(f"counter {name}: named {flag}", named, runs, "always", named == 1)


def _cells(runs: int) -> Iterator[partial[Row]]:
    for seconds, step_s in product(SECONDS, STEPS_S):
        block = partial(block_row, seconds=seconds, step_s=step_s, runs=runs)
        yield from (partial(block, (shape,), names=(), label=shape) for shape in (*SHAPES, *TAILS))
        for names in COMBINED:
            label = " and ".join(names)
            yield partial(block, MILD, names=names, label=label)
            if seconds == SECONDS[1]:
                yield partial(block, HARD_TAILS, names=names, label=f"{label}, tails")
    pools = max(20, runs * 3 // 10)
    yield from (partial(pooled_row, shape, (), pools=pools) for shape in (*SHAPES, *TAILS))
    yield from (partial(pooled_row, "bursts", names, pools=pools) for names in COMBINED)
    for shape, step_s, far_s in product(SHAPES, STEPS_S, FAR_S):
        yield partial(share_row, shape, step_s, far_s, runs=runs)
    for known, name in product((False, True), FIELDS):
        yield partial(field_row, name, seconds=5.0, known=known, runs=runs)
    yield from (partial(rapl_row, seconds, runs=runs) for seconds in SECONDS)
    yield from (partial(amid_row, *case, runs=runs) for case in product(AMID, (5.0, 30.0)))
    yield partial(systematic_row, runs=runs)
    yield from (partial(sensor_row, kind, runs=runs) for kind in SENSORS_BY_KIND)
    for seconds, shape in product((1.0, 5.0), ("square wave of 37 and 61 ms", *AMID)):
        beside = "25 of 100 ms power"
        yield partial(alarm_row, shape, seconds, PART_TIME, runs=max(100, runs), beside=beside)
        yield partial(alarm_row, shape, seconds, ANY, runs=max(100, runs), beside="any power field")
    yield from (partial(fault_row, name, runs=max(20, runs // 4)) for name in COUNTER_FAULTS)


def rows(runs: int) -> list[Row]:
    """Every row, on all cores: `runs` windows for each."""
    # A fresh process each, since the caller may have threads.
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        found = list(pool.map(_run, _cells(runs), chunksize=4))
    return [*found, *(_widths(found, step_s) for step_s in STEPS_S)]


def _widths(found: Sequence[Row], step_s: float) -> Row:
    """The half-width against the 95th percentile of errors, median over the rows of one T."""
    period = f"T = {1000 * step_s:.0f} ms"
    ratios = [
        one.ratio for one in found if one.ratio and one.section in {BLOCKS, FAULTY} and period in one.case
    ]
    ratio = statistics.median(ratios)
    return Row(
        BLOCKS,
        f"half-width in 95th percentiles of errors, median of {len(ratios)} rows, {period}",
        "llem",
        len(ratios),
        mean=ratio,
        unit="×",
        target="≤ 3 ×",
        met=ratio <= 3,
    )


def _run(cell: partial[Row]) -> Row:
    return cell()


def main(arguments: Sequence[str]) -> None:
    found = rows(int(arguments[0]) if arguments else WHOLE_ROW)
    print(render(found))
    missed = [one for one in found if one.met is False]
    print(
        f"{len(found) - len(missed)} of {len(found)} rows meet their targets",
        *(one.case for one in missed),
        sep="\n- ",
    )


if __name__ == "__main__":
    main(sys.argv[1:])
