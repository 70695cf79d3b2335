"""What draws power in a block between two silences, and what may a counter do wrong meanwhile?"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchmarks.boards.polled import DOMAIN, ENERGY
from llenergymeasure.records import Domain, Quantity, Series, Trace, Window

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]
RAPL = Quantity("energy", "rapl.package-0", "J", 1e-6, wrap=262_143_328_850, step_ns=1_000_000)
COUNTERS = {"gpu": ENERGY, "rapl": RAPL}

S = 1_000_000_000
# What went before a block: warm-up, which ends where the silence begins.
_WARM_UP_S = 2.5
# The recorder reads every 5 ms in a silence and for a moment after each edge of a pass that it hears of, give
# or take a fifth, and every 50 to 150 ms elsewhere.
_CLOSE_S, _FAR_S = 0.005, 0.1
_EDGE_S, _HEARD_S = 0.25, 0.002
_UNEVEN = ((0.8, 1.2), (0.5, 1.5))
# How long the silences are, as the harness has them for a counter.
LAG_S = 0.15
BEFORE_S, AFTER_S = 0.4, 0.4 + LAG_S


@dataclass(slots=True)
class Power:
    """Power in pieces: from each of `times` on (seconds) it is the one of `watts` beside it."""

    times: list[float]
    watts: list[float]

    def set(self, t: float, watts: float) -> None:
        self.times.append(t)
        self.watts.append(watts)

    def curve(self) -> tuple[Floats, Floats]:
        """Moments, and the joules up to each; straight between them."""
        order = np.argsort(self.times, kind="stable")
        time, watts = np.array(self.times)[order], np.array(self.watts)[order]
        time, watts = np.append(time, time[-1] + 1e3), np.append(watts, watts[-1])
        return time, np.concatenate(([0.0], np.cumsum(watts[:-1] * np.diff(time))))


@dataclass(frozen=True, slots=True)
class Habits:
    """What a counter does: steps every `step_s`, behind by `lag_s`, and what else goes wrong with it."""

    step_s: float = 0.1
    lag_s: float = 0.0
    walking: float = 0.0
    missing: float = 0.0
    switching: bool = False
    late: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A block of passes from `start` to `end` (seconds), and joules by time."""

    power: tuple[Floats, Floats]
    edges: tuple[float, ...]
    before_s: float
    after_s: float

    @property
    def start(self) -> float:
        return self.edges[0]

    @property
    def end(self) -> float:
        return self.edges[-1]

    def joules(self, t: Floats) -> Floats:
        return np.asarray(np.interp(t, *self.power), dtype=np.float64)

    def true_j(self, start: float, end: float) -> float:
        return float(np.diff(self.joules(np.array([start, end])))[0])


def _ns(t: float) -> int:
    return round(t * S)


Shape: TypeAlias = Callable[[Power, random.Random, float, float], float]


def _steady(power: Power, draw: random.Random, start: float, end: float) -> float:
    del end
    power.set(start, watts := draw.uniform(150, 420))
    return watts


def _bursts(power: Power, draw: random.Random, start: float, end: float) -> float:
    t, high = start, True
    while t < end:
        power.set(t, draw.uniform(350, 450) if high else draw.uniform(200, 300))
        t, high = t + draw.uniform(0.01, 0.06), not high
    return 325.0


def _ramp(power: Power, draw: random.Random, start: float, end: float) -> float:
    low, high = draw.uniform(150, 250), draw.uniform(300, 420)
    for part in np.linspace(0, 1, 60, endpoint=False):
        power.set(start + part * (end - start), low + part * (high - low))
    return (low + high) / 2


def _prefill(power: Power, draw: random.Random, start: float, end: float) -> float:
    decode, seconds, times = draw.uniform(90, 250), draw.uniform(0.02, 0.15), draw.uniform(1.5, 8.0)
    power.set(start, times * decode)
    power.set(min(start + seconds, end), decode)
    return decode


def _square(power: Power, draw: random.Random, start: float, end: float) -> float:
    period, part, t = draw.uniform(0.03, 0.2), draw.uniform(0.2, 0.8), start
    high, low = draw.uniform(300, 540), draw.uniform(90, 200)
    while t < end:
        power.set(t, high)
        power.set(min(t + part * period, end), low)
        t += period
    return (high + low) / 2


def _bimodal(power: Power, draw: random.Random, start: float, end: float) -> float:
    t = start
    while t < end:
        power.set(t, 450.0)
        power.set(min(t + 0.004, end), draw.uniform(180, 260))
        t += draw.choice((0.011, 0.047)) * draw.uniform(0.95, 1.05)
    return 280.0


def _near_the_sensor(power: Power, draw: random.Random, start: float, end: float) -> float:
    del draw
    for t in np.arange(start, end, 0.098):
        power.set(float(t), 540.0)
        power.set(min(float(t) + 0.037, end), 90.0)
    return 90.0


SHAPES: Mapping[str, Shape] = {
    "steady": _steady,
    "bursts": _bursts,
    "ramps": _ramp,
    "prefill of 20 to 150 ms at 1.5 to 8 × decode": _prefill,
    "square wave of 30 to 200 ms": _square,
    "bimodal steps": _bimodal,
}
# A rhythm that a sensor of 100 ms sees walk past within 5 s.
_ALIASING = "square wave of 37 and 61 ms"
# Tails after the load by time constant, and height as a part of the load.
TAILS: Mapping[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "tail of 1 to 2 s, up to 10 % of the load": ((1.0, 2.0), (0.02, 0.1)),
    "tail of 0.2 to 1 s, up to 10 % of the load": ((0.2, 1.0), (0.02, 0.1)),
    "tail of 0.2 to 2 s, 10 to 30 % of the load": ((0.2, 2.0), (0.1, 0.3)),
}


def scene(
    draw: random.Random,
    shape: str,
    seconds: float,
    *,
    passes: int = 1,
    silences: tuple[float, float] | None = None,
    board: int | None = None,
) -> Scene:
    """A block of about `seconds`, its passes alike, after a warm-up and a silence. Quiet power may differ.

    Tails are those of `board` where it is given.
    """
    before_s, after_s = silences or (BEFORE_S, AFTER_S)
    start = 30 + draw.random()
    quiet = draw.uniform(50, 120)
    power = Power([0.0], [quiet])
    tail = TAILS.get(shape)
    edges = [start]
    for _ in range(passes):
        edges.append(edges[-1] + draw.uniform(1.0, 1.05) * seconds / passes)
    drawn = _steady if tail else _near_the_sensor if shape == _ALIASING else SHAPES[shape]
    warm = start - before_s
    power.set(warm - _WARM_UP_S, level := draw.uniform(150, 400))
    _fall(power, draw, warm, start, quiet, level, tail, board)
    for begin, end in pairwise(edges):
        level = drawn(power, draw, begin, end)
    after = quiet + draw.uniform(-1, 1) * draw.choice((0.0, 0.0, 3.0))
    _fall(power, draw, edges[-1], edges[-1] + 6, after, level, tail, board)
    return Scene(power.curve(), tuple(edges), before_s, after_s)


def _fall(
    power: Power,
    draw: random.Random,
    at: float,
    until: float,
    quiet: float,
    level: float,
    tail: tuple[tuple[float, float], tuple[float, float]] | None,
    board: int | None,
) -> None:
    if tail is None:
        power.set(at, quiet)
        return
    habits = draw if board is None else random.Random(board)
    tau, height = habits.uniform(*tail[0]), habits.uniform(*tail[1]) * level
    for t in np.arange(at, until, 0.005):
        power.set(float(t), quiet + height * float(np.exp(-(t + 0.0025 - at) / tau)))


def polls(draw: np.random.Generator, at: Scene, habits: Habits, *, far_s: float = _FAR_S) -> Floats:
    """When the recorder reads: closely in the silences, and until the last one is over."""
    first, last = at.start - at.before_s - 1.5, at.end + at.after_s
    times, parts = first, []
    spans = [(at.start - at.before_s, far_s), (at.start + _EDGE_S, _CLOSE_S)]
    for edge in at.edges[1:-1]:
        spans += [(edge + _HEARD_S, far_s), (edge + _HEARD_S + _EDGE_S, _CLOSE_S)]
    spans += [(at.end, far_s), (last, _CLOSE_S)]
    for until, gap in spans:
        some = times + np.cumsum(
            gap * draw.uniform(*_UNEVEN[gap > _CLOSE_S], int(max(0.0, until - times) / (0.5 * gap)) + 2)
        )
        parts.append(some[some < until])
        times = until
    found = np.concatenate(parts)
    if habits.late:
        slow = draw.random(found.size) < habits.late
        found = np.sort(np.where(slow, found + draw.uniform(0, 0.06, found.size), found))
    return found


def steps(draw: np.random.Generator, at: Scene, habits: Habits) -> Floats:
    """When the counter moves."""
    first, last = at.start - at.before_s - 3.0, at.end + at.after_s + 2.0
    count = int((last - first) / (0.02 if habits.switching else 0.9 * habits.step_s)) + 20
    gaps = habits.step_s * (1 + 0.01 * draw.standard_normal(count))
    if habits.walking:
        phase = draw.uniform(0, 6.28) + np.cumsum(draw.normal(0, 0.5, count))
        gaps = gaps * (1 + habits.walking * np.sin(phase))
    if habits.switching:
        times, where = [first + draw.uniform(0, 0.1)], float(first)
        while times[-1] < last:
            busy = at.start < times[-1] < at.end
            times.append(times[-1] + (0.02 if busy == (habits.step_s > 0.05) else 0.1))
        del where
        return np.array(times)
    found = first + draw.uniform(0, habits.step_s) + np.cumsum(gaps)
    return found[draw.random(found.size) >= habits.missing] if habits.missing else found


POWER_STEP_S = 0.1


@dataclass(frozen=True, slots=True)
class Field:
    """A power field: the mean of `window_s` before each step, `lag_s` ago."""

    quantity: Quantity
    window_s: float
    lag_s: float = 0.0


def seen(
    draw: random.Random,
    at: Scene,
    habits: Habits | None,
    *,
    field: Field | None = None,
    kind: str = "gpu",
    far_s: float = _FAR_S,
    gain: float = 1.0,
    offset_w: float = 0.0,
) -> Trace:
    """The trace of a board with a counter of these habits, a power field, or both.

    The counter shows `gain` × the true joules + `offset_w` × seconds.
    """
    numbers = np.random.default_rng(draw.randrange(2**31))
    reads = polls(numbers, at, habits or Habits(), far_s=far_s)
    at_ns = np.round(reads * S).astype(np.int64)
    found: dict[Quantity, Integers] = {}
    if habits is not None:
        moves = steps(numbers, at, habits)
        joules = gain * at.joules(moves - habits.lag_s) + offset_w * (moves - habits.lag_s)
        shown = np.round(joules / COUNTERS[kind].scale).astype(np.int64)
        found[COUNTERS[kind]] = shown[np.searchsorted(moves, reads, side="right") - 1]
    if field is not None:
        moves = steps(numbers, at, Habits(POWER_STEP_S)) - field.lag_s
        watts = (at.joules(moves) - at.joules(moves - field.window_s)) / field.window_s
        shown = np.round(1000 * watts).astype(np.int64)
        found[field.quantity] = shown[np.searchsorted(moves + field.lag_s, reads, side="right") - 1]
    series = {(DOMAIN, quantity.name): Series(quantity, at_ns, at_ns, raw) for quantity, raw in found.items()}
    return Trace((Domain(DOMAIN, "cpu" if kind == "rapl" else "gpu", tuple(found)),), series)


def waited(
    draw: random.Random,
    shape: str,
    seconds: float,
    habits: Habits,
    *,
    passes: int = 1,
    board: int | None = None,
    far_s: float = _FAR_S,
) -> tuple[Scene, Trace]:
    """A scene and its trace, with silences that last until three events were seen in each."""
    for more in range(27):
        longer = 0.1 * more
        at = scene(
            draw, shape, seconds, passes=passes, silences=(BEFORE_S + longer, AFTER_S + longer), board=board
        )
        trace = seen(draw, at, habits, far_s=far_s)
        if enough(at, trace):
            break
    return at, trace


def enough(at: Scene, trace: Trace) -> bool:
    """Whether each silence shows three events closely, which a recorder waits for before it goes on."""
    series = trace.series[DOMAIN, ENERGY.name]
    moved = np.flatnonzero(np.diff(series.raw)) + 1
    low, high = series.t_before_ns[moved - 1] / S, series.t_after_ns[moved] / S
    close = high - low < 0.006
    silences = ((at.start - at.before_s + LAG_S, at.start), (at.end + LAG_S, at.end + at.after_s))
    return all(np.sum(close & (low >= since) & (high <= until)) >= 3 for since, until in silences)


def simplest(at: Scene, trace: Trace) -> float:
    """Joules by two events and quiet power alone, without a word on lag, tail or late reads."""
    series = trace.series[DOMAIN, ENERGY.name]
    moved = np.flatnonzero(np.diff(series.raw)) + 1
    close = (series.t_after_ns[moved] - series.t_before_ns[moved - 1]) < 6_000_000
    moved = moved[close]
    time = (series.t_before_ns[moved - 1] + series.t_after_ns[moved]) / 2 / S
    total = series.raw[moved] * ENERGY.scale
    before = np.flatnonzero((time > at.start - at.before_s + LAG_S) & (time <= at.start))
    after = np.flatnonzero(time >= at.end + LAG_S)
    powers = [
        float((total[some[-1]] - total[some[0]]) / (time[some[-1]] - time[some[0]])) if some.size > 1 else 0.0
        for some in (before, after)
    ]
    first, last = before[-1], after[0]
    return float(
        total[last] - total[first] - powers[0] * (at.start - time[first]) - powers[1] * (time[last] - at.end)
    )


def windows(at: Scene) -> tuple[Window, list[Window], Window]:
    """The silence before, the passes, and the silence after."""
    passes = [Window(_ns(a), _ns(b)) for a, b in pairwise(at.edges)]
    before = Window(_ns(at.start - at.before_s), passes[0].start_ns)
    return before, passes, Window(passes[-1].end_ns, _ns(at.end + at.after_s))
