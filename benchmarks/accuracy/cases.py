"""Which windows does every tool measure, on which boards, and what must be reached there?"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmarks.boards.scenario import PASCAL, Board, Change
from llenergymeasure.simulation.device import SimulatedSensor
from llenergymeasure.simulation.sensor import AVERAGE, INSTANT

REAL = "Real clock, energy counter: error of one window"
FAULTS = "Real clock, what has misled other tools: error of one window"
TOOLS = ("llem", "llem Monitor", "zeus", "codecarbon", "two reads", "100 ms trapezoid")
IDLE_W = 60.0
# How long before the load a window begins and after it ends: tools need a moment to begin.
LEAD_S = 0.01
_LIBRARY_NOT_FOUND = 12


@dataclass(frozen=True, slots=True)
class Timed:
    """A window, in seconds from the scenario's start, and the row that it counts for.

    `between_silences` is whether power is constant before it and after it, as llem has it for a block.
    """

    case: str
    begin_s: float
    end_s: float
    between_silences: bool = True


@dataclass(frozen=True, slots=True)
class Job:
    """A scenario and its windows, which each of `tools` measures in a process of its own.

    `measured` is the board whose energy is the truth, None where there is no energy to be told. Where `alone`
    names a tool it keeps the processors busy there, and runs by itself.
    """

    name: str
    section: str
    boards: tuple[Board, ...]
    windows: tuple[Timed, ...]
    tools: tuple[str, ...] = TOOLS
    measured: int | None = 0
    environ: Mapping[str, str] = field(default_factory=dict)
    init_fails_with: int | None = None
    alone: frozenset[str] = frozenset()


def accuracy_jobs(*, steps_s: tuple[float, ...], counts: Mapping[float, int], seed: int) -> list[Job]:
    """Constant load, bursts between idle stretches, and bursts all the time, for each counter step."""
    draw = random.Random(seed)
    return [
        _job(shape, step_s, counts, draw=draw)
        for step_s in steps_s
        for shape in ("constant", "edges", "amid")
    ]


# Steps of 10 to 60 ms, half of each at 450 W and half at 200 W, without the prefills between batches.
_DECODING = {"prefill_w": 450.0, "prefill_s": 0.01, "duty": 0.5, "steps": 20}
_LABELS = {
    "constant": "constant load",
    "edges": "idle-to-load edges, bursts inside",
    "amid": "edges in the midst of bursts",
}
# The largest error that is allowed, by shape and seconds of the window.
LIMITS = {
    f"{_LABELS[shape]}, {seconds:g} s": limit
    for shape, limits in {
        "constant": {1: 0.006, 5: 0.0015},
        "edges": {1: 0.01, 5: 0.0025, 10: 0.0015},
        "amid": {1: 0.03, 5: 0.007, 10: 0.0035},
    }.items()
    for seconds, limit in limits.items()
}


def _job(shape: str, step_s: float, counts: Mapping[float, int], *, draw: random.Random) -> Job:
    windows = []
    at_s = 2.0
    for seconds, count in counts.items():
        for _ in range(count):
            # Work does not last a whole number of the counter's steps.
            end_s = at_s + seconds + draw.uniform(0, 0.1)
            windows.append(Timed(f"{_LABELS[shape]}, {seconds:g} s", at_s, end_s, shape != "amid"))
            # A block of a script of one's own waits for two silences in between.
            at_s = end_s + draw.uniform(1.8, 2.3)
    board = Board(
        "GPU-5af7c1e0-0001",
        350.0 if shape == "constant" else IDLE_W,
        _load(shape, windows, until_s=at_s, draw=draw),
        SimulatedSensor(
            step_s=step_s,
            phase_s=draw.uniform(0, step_s),
            step_jitter_s=step_s / 100,
            seed=draw.randrange(2**16),
        ),
    )
    return Job(f"{shape}-{1000 * step_s:.0f}ms", REAL, (board,), tuple(windows))


def _load(shape: str, windows: list[Timed], *, until_s: float, draw: random.Random) -> tuple[Change, ...]:
    if shape == "constant":
        return ()
    if shape == "amid":
        return (Change("serve", 0.0, until_s + 5, _DECODING | {"seed": draw.randrange(2**16)}),)
    return tuple(
        Change("serve", one.begin_s + LEAD_S, one.end_s - LEAD_S, {"seed": draw.randrange(2**16)})
        for one in windows
    )


def fault_jobs(*, quick: bool = False) -> list[Job]:
    """What has misled tools; with `quick` the first case alone of a board without a counter."""
    return [_no_counter(NO_COUNTER[:1] if quick else NO_COUNTER), _uuids(), _no_device()]


NO_COUNTER = (
    "no counter: 300 W, constant",
    "no counter: 60 W, 6 s of 650 W, 60 W",
    "no counter: 100 W with 1 s of 400 W",
)
UUID_CASE = "GPU UUID in CUDA_VISIBLE_DEVICES"
NO_DEVICE_CASE = "no device at all"
LIMITS |= dict.fromkeys(NO_COUNTER, 0.02) | {UUID_CASE: 0.006}


def _no_counter(cases: tuple[str, ...]) -> Job:
    """A board older than Volta: instantaneous power, 10 ms in every 20, some 60 ms late."""
    sensor = SimulatedSensor(
        step_s=0.02,
        phase_s=0.007,
        window_s=0.01,
        average_window_s=0.01,
        lag_s=0.06,
        fields=frozenset({AVERAGE, INSTANT}),
    )
    power = (
        Change("set", 12.0, None, {"watts": 60.0}),
        Change("burst", 16.0, 22.0, {"watts": 650.0}),
        Change("set", 25.0, None, {"watts": 100.0}),
        Change("burst", 32.0, 33.0, {"watts": 400.0}),
    )
    board = Board("GPU-5af7c1e0-0004", 300.0, power, sensor, architecture=PASCAL)
    begins_s = (1.0, 14.0, 27.0)
    windows = tuple(Timed(case, at_s, at_s + 10.0) for case, at_s in zip(cases, begins_s, strict=False))
    # zeus polls such a board as fast as it can, in two processes.
    tools = tuple(tool for tool in TOOLS if tool != "two reads")
    return Job("no-counter", FAULTS, (board,), windows, tools, alone=frozenset({"zeus"}))


def _uuids() -> Job:
    boards = (
        Board("GPU-5af7c1e0-0005", 100.0),
        Board("GPU-6b08d2f1-0006", 300.0, sensor=SimulatedSensor(phase_s=0.03)),
    )
    return Job(
        "uuids",
        FAULTS,
        boards,
        (Timed(UUID_CASE, 1.0, 11.0),),
        ("llem", "llem Monitor", "zeus", "codecarbon"),
        measured=1,
        environ={"CUDA_VISIBLE_DEVICES": boards[1].uuid},
    )


def _no_device() -> Job:
    return Job(
        "no-device",
        FAULTS,
        (),
        (Timed(NO_DEVICE_CASE, 1.0, 3.0),),
        ("llem", "llem Monitor", "zeus", "codecarbon"),
        measured=None,
        init_fails_with=_LIBRARY_NOT_FOUND,
    )
