"""What has to be made of a board's readings, by a reference that sees the same power?

Long because load steps, fit and what is stored follow each other once.
"""

from __future__ import annotations

import csv
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from llenergymeasure.analysis.statistics import t_quantile
from llenergymeasure.doctor.load import Load, MatrixLoad, SimulatedLoad
from llenergymeasure.energy import Meter
from llenergymeasure.energy.joules.amid import window_energy
from llenergymeasure.energy.meters.calibration import (
    SYSTEMATIC_OFFSET_W,
    Calibration,
    SensorFiles,
    keep_calibration,
)
from llenergymeasure.energy.meters.nvml import NvmlMeter
from llenergymeasure.energy.meters.selection import choose_meters, meter_names
from llenergymeasure.energy.recording.pacing import quiet_s
from llenergymeasure.energy.recording.recorder import Recorder
from llenergymeasure.exceptions import ConfigError, EnergyError
from llenergymeasure.measure.gpus import gpu_facts
from llenergymeasure.records import Clock, Domain, GpuFacts, MeterChoice, Progress, Window
from llenergymeasure.simulation.clock import VirtualClock
from llenergymeasure.simulation.device import SimulatedNvml
from llenergymeasure.simulation.sensor import SimulatedSensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.float64]

# Watts of the reference in each window, or None where it does not reach.
Reference: TypeAlias = Callable[[Sequence[Window]], Sequence[float] | None]

# Shares of the time at work; up and down, so that warming up looks like no slope.
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0, 0.875, 0.625, 0.375, 0.125, 0.0, 0.5, 1.0, 0.25, 0.75)
STEP_S = 12.0
# What a step leaves out at its beginning: the memory of both sensors, and what their clocks differ by.
_LEAD_S, _TRAIL_S = 3.0, 1.0
_PERIOD_S = 0.1
_GOLDEN = 0.6180339887498949
_TICK_S = 0.004
# Less than this is no reference for this board, or none of the same time.
_LEAST_CORRELATION = 0.99
_LARGEST_SHIFT_S, _SHIFT_STEP_S = 5.0, 0.1
_WAIT_FOR_FILE_S = 20.0
SIMULATED_ACCURACY = 0.002


@dataclass(frozen=True, slots=True)
class Step:
    """A stretch of constant work: what the board showed, uncalibrated, and what the reference did."""

    window: Window
    board_w: float
    reference_w: float


@dataclass(frozen=True, slots=True)
class Line:
    """Watts of the reference = `slope` × those of the board + `intercept_w`, and what their scatter leaves
    open of both as for a normal law of the same 95 %.
    """

    slope: float
    intercept_w: float
    slope_variance: float
    intercept_variance: float
    covariance: float


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What was found of one board, `line` as the steps show it, why its offset is that of any board where it
    is, and the file in which it is kept; None where nothing was kept.
    """

    gpu: GpuFacts
    calibration: Calibration
    line: Line
    steps: tuple[Step, ...]
    why_no_offset: str | None
    kept_in: str | None


@dataclass(frozen=True, slots=True)
class Asked:
    """`against` is a CSV file, a kind of meter (`host`, `wall`) or a meter's name; `accuracy` its own. Where
    it sees more than the board, `efficiency` is what of its power reaches the board, and `rest_w` what it
    shows of the machine without the board if that is known: lowest and highest.
    """

    against: str
    accuracy: float
    gpu: str | None = None
    efficiency: tuple[float, float] | None = None
    rest_w: tuple[float, float] | None = None


def calibrate_gpu(asked: Asked, progress: Progress, *, files: SensorFiles | None = None) -> Calibrated:
    """Load the board in steps, compare, and keep what was found under its UUID.

    EnergyError where there is no board, no load or no reference; ConfigError for a file that is not a series
    of watts.
    """
    gpu = _board(asked.gpu)
    reference = _reference_meter(asked)
    if reference is not None and asked.efficiency is None:
        raise ConfigError(
            f"{asked.against} sees more than the board: its power supply takes a part",
            hint="state what reaches the board, such as --efficiency 90:95 (100:100 where nothing is lost)",
        )
    meters: list[Meter] = [NvmlMeter(gpus=(gpu.uuid,))]
    meters += [] if reference is None else [reference[0]]
    memory_s = 0.0 if reference is None else quiet_s(reference[1])[1]
    progress(f"{gpu.name or gpu.uuid}: load in steps", total=len(SHARES) * step_s(memory_s))
    with (
        tempfile.TemporaryDirectory(prefix="llem-calibrate-") as folder,
        Recorder(meters, clock=time, directory=Path(folder)) as recorder,
    ):
        windows = load_steps(MatrixLoad(gpu.uuid), time, memory_s=memory_s)
        watts: Reference = (
            _from_file(Path(asked.against), windows)
            if reference is None
            else partial(mean_watts, recorder, reference[1].name)
        )
        steps = steps_of(recorder, f"gpu:{gpu.uuid}", windows, watts, of_file=reference is None)
    line = line_of(steps)
    found = calibration_of(line, asked)
    kept_in = str(keep_calibration(gpu.uuid, found, files=files))
    return Calibrated(gpu, found, line, steps, why_no_offset(line, asked), kept_in)


def calibrate_simulated(sensor: SimulatedSensor | None = None, *, seed: int = 0) -> Calibrated:
    """The simulated board in virtual time, against its true power. Keeps nothing."""
    clock = VirtualClock()
    rng = np.random.default_rng(seed)
    sensor = sensor or SimulatedSensor(gain=0.95, offset_w=6.0)
    nvml = SimulatedNvml(clock, idle_w=60.0, sensor=sensor)
    load = SimulatedLoad(nvml, idle_w=60.0, active_w=400.0)
    # A reference errs by its own gain, somewhere within what is stated of it, and by noise.
    own_gain = 1 + SIMULATED_ACCURACY * float(rng.uniform(-1, 1))

    def watts(windows: Sequence[Window]) -> Sequence[float]:
        true = [nvml.true_energy_j(one) / one.duration_s for one in windows]
        return [own_gain * one + float(rng.normal(0.0, 0.5)) for one in true]

    with tempfile.TemporaryDirectory(prefix="llem-calibrate-") as folder, ExitStack() as stack:
        recorder = Recorder([NvmlMeter(nvml, clock=clock)], clock=clock, directory=Path(folder))
        recorder.start(threaded=False)
        stack.callback(recorder.stop)
        stack.enter_context(clock.every(_TICK_S, recorder.poll))
        windows = load_steps(load, clock)
        (gpu,) = gpu_facts(nvml)
        steps = steps_of(recorder, f"gpu:{gpu.uuid}", windows, watts, of_file=False)
    line = line_of(steps)
    found = calibration_of(line, Asked("true power", SIMULATED_ACCURACY))
    return Calibrated(gpu, found, line, steps, None, None)


def step_s(memory_s: float) -> float:
    """How long a step lasts: a reference that averages says nothing of less than its memory, and of half of
    it at both ends what it says is of two steps.
    """
    return max(STEP_S, _LEAD_S + 2 * memory_s + _TRAIL_S)


def load_steps(load: Load, clock: Clock, *, memory_s: float = 0.0) -> tuple[Window, ...]:
    """Work for each of `SHARES` of the time, in a rhythm that keeps no step with a sensor."""
    windows = []
    lead_s, trail_s = _LEAD_S + memory_s / 2, _TRAIL_S + memory_s / 2
    with load:
        for share in SHARES:
            start_ns = clock.monotonic_ns()
            end_ns = start_ns + round(step_s(memory_s) * 1e9)
            number = 0
            while (left_s := (end_ns - clock.monotonic_ns()) / 1e9) > 0:
                number += 1
                whole = share in {0.0, 1.0}
                period_s = left_s if whole else _PERIOD_S * (0.75 + number * _GOLDEN % 1 / 2)
                if share:
                    load.start()
                    clock.sleep(share * period_s)
                    load.stop()
                if share < 1:
                    clock.sleep((1 - share) * period_s)
            windows.append(
                Window(start_ns + round(lead_s * 1e9), clock.monotonic_ns() - round(trail_s * 1e9))
            )
    return tuple(windows)


def steps_of(
    recorder: Recorder, domain: str, windows: Sequence[Window], watts: Reference, *, of_file: bool
) -> tuple[Step, ...]:
    """What both say of each window. The clock of what wrote a file may be off by a few seconds: the shift by
    which both agree best is taken.
    """
    board = mean_watts(recorder, domain, windows)
    shifts = np.arange(-_LARGEST_SHIFT_S, _LARGEST_SHIFT_S + _SHIFT_STEP_S, _SHIFT_STEP_S)
    best: tuple[float, Sequence[float]] | None = None
    for shift_s in sorted(shifts, key=abs) if of_file else [0.0]:
        by_ns = round(float(shift_s) * 1e9)
        seen = watts([Window(one.start_ns + by_ns, one.end_ns + by_ns) for one in windows])
        if seen is None:
            continue
        agreement = float(np.corrcoef(board, seen)[0, 1]) if np.ptp(seen) > 0 else 0.0
        if best is None or agreement > best[0] + 1e-9:
            best = agreement, seen
    if best is None:
        raise ConfigError(
            "the file does not reach over the steps of the load",
            hint="let the analyser write from before llem calibrate begins until after it ends, with the "
            "time of the day in seconds since 1970 or as 2026-05-01T12:00:00Z",
        )
    if best[0] < _LEAST_CORRELATION:
        raise EnergyError(
            f"the reference does not follow the board: their correlation is {best[0]:.3f}",
            hint="let it see the power of this board, at the same time, and stop other load",
        )
    return tuple(Step(*one) for one in zip(windows, board, best[1], strict=True))


def mean_watts(recorder: Recorder, domain: str, windows: Sequence[Window]) -> list[float]:
    """As the sensor shows them, without any calibration. EnergyError where one can't be determined."""
    trace = recorder.trace()
    raw = replace(
        trace,
        domains=tuple(
            replace(one, gain=1.0, offset_w=0.0, calibrated=None) if one.name == domain else one
            for one in trace.domains
        ),
    )
    found = []
    for window in windows:
        spent = window_energy(raw, domain, window)
        if spent.joules is None:
            raise EnergyError(f"{domain} can't be read: {spent.reason}")
        found.append(spent.joules / window.duration_s)
    return found


def line_of(steps: Sequence[Step]) -> Line:
    """By least squares."""
    x, y = (np.array([getattr(one, name) for one in steps]) for name in ("board_w", "reference_w"))
    design = np.column_stack((x, np.ones(x.size)))
    (slope, intercept), *_ = np.linalg.lstsq(design, y, rcond=None)
    degrees = x.size - 2
    variance = float(np.sum((y - design @ (slope, intercept)) ** 2)) / degrees
    both = np.linalg.inv(design.T @ design) * variance * (t_quantile(0.975, degrees) / 1.96) ** 2
    return Line(float(slope), float(intercept), float(both[0, 0]), float(both[1, 1]), float(both[0, 1]))


def calibration_of(line: Line, asked: Asked) -> Calibration:
    """True = gain × read + offset.

    Of a reference that sees more than the board the intercept holds the rest of the machine. Without that the
    offset is what it may be of any board.
    """
    when, accuracy = datetime.now(UTC).date().isoformat(), asked.accuracy
    low, high = asked.efficiency or (1.0, 1.0)
    reaches, (least_w, most_w) = (low + high) / 2, asked.rest_w or (0.0, 0.0)
    offset_w = reaches * (line.intercept_w - (least_w + most_w) / 2)
    offset_variance = reaches**2 * (line.intercept_variance + _variance(least_w, most_w))
    covariance = reaches**2 * line.covariance
    if why_no_offset(line, asked) is not None:
        least_w, most_w = SYSTEMATIC_OFFSET_W
        offset_w, offset_variance, covariance = (least_w + most_w) / 2, _variance(least_w, most_w), 0.0
    return Calibration(
        gain=line.slope * reaches,
        offset_w=offset_w,
        when=when,
        against=asked.against,
        accuracy=accuracy + (high - low) / (low + high),
        gain_variance=line.slope_variance * reaches**2,
        offset_variance=offset_variance,
        covariance=covariance,
    )


def why_no_offset(line: Line, asked: Asked) -> str | None:
    """None where the offset can be found."""
    if asked.efficiency is None or asked.rest_w is not None:
        return None
    half_w = 1.96 * math.sqrt(line.intercept_variance)
    return (
        f"{asked.against} shows {line.intercept_w:.1f} ± {half_w:.1f} W where the board shows 0, in which "
        "the rest of the machine is; --rest states that"
    )


def _variance(low: float, high: float) -> float:
    """Of a normal law whose 95 % reach from `low` to `high`."""
    return ((high - low) / 2 / 1.96) ** 2


def _board(wanted: str | None) -> GpuFacts:
    if why := NvmlMeter(gpus="all").why_unavailable():
        raise EnergyError(
            f"there is no board to calibrate: {why}",
            hint="--simulated shows an example",
        )
    gpus = gpu_facts()
    mine = [one for one in gpus if wanted in {None, one.uuid, str(one.index)}]
    if len(mine) == 1:
        return mine[0]
    names = ", ".join(f"{one.index}: {one.uuid}" for one in gpus)
    raise ConfigError(
        "name one board" if wanted is None else f"there is no board {wanted}", hint=f"--gpu, one of {names}"
    )


def _reference_meter(asked: Asked) -> tuple[Meter, Domain] | None:
    """A meter and the domain in it; None where the reference is a file."""
    name = asked.against
    if Path(name).is_file() or Path(name).suffix:
        return None
    reasons = []
    for each in [one for one in meter_names() if one not in {"nvml", "amd", "estimate"}]:
        try:
            found = choose_meters(MeterChoice(each, "all", require_measured=True), processes=tuple)
        except (EnergyError, ConfigError) as error:
            reasons.append(f"{each}: {error.message}")
            continue
        mine: list[Domain] = [one for one in found.domains if name in {one.kind, each}]
        if mine:
            return found.meters[0], mine[0]
    raise EnergyError(
        f"no meter here reads {name!r}: {'; '.join(reasons) or 'there is none'}",
        hint="name a CSV file of an analyser (time, watts), host, wall, or a meter of llem doctor",
    )


def _from_file(path: Path, windows: Sequence[Window]) -> Reference:
    """Its series, once it reaches over the windows or has been waited for."""
    behind_ns = time.time_ns() - time.monotonic_ns()
    deadline = time.monotonic() + _WAIT_FOR_FILE_S
    while True:
        seconds, watts = read_watts(path)
        last_s = (windows[-1].end_ns + behind_ns) / 1e9
        if seconds[-1] >= last_s or time.monotonic() > deadline:
            break
        time.sleep(0.5)

    def means(windows: Sequence[Window]) -> Sequence[float] | None:
        ends = [((one.start_ns + behind_ns) / 1e9, (one.end_ns + behind_ns) / 1e9) for one in windows]
        if any(start < seconds[0] or end > seconds[-1] for start, end in ends):
            return None
        return [mean_between(seconds, watts, start, end) for start, end in ends]

    return means


def mean_between(seconds: Floats, watts: Floats, start_s: float, end_s: float) -> float:
    """By trapezoids between the readings."""
    inside = (seconds > start_s) & (seconds < end_s)
    t = np.concatenate(([start_s], seconds[inside], [end_s]))
    return float(np.trapezoid(np.interp(t, seconds, watts), t)) / (end_s - start_s)


def read_watts(path: Path) -> tuple[Floats, Floats]:
    """Seconds since 1970 and watts, from the first two columns; a heading is passed over.

    ConfigError naming the line that is not a pair of them, or where time runs backwards.
    """
    rows: list[tuple[float, float]] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            for number, row in enumerate(csv.reader(file), start=1):
                if not row or not "".join(row).strip():
                    continue
                try:
                    pair = _seconds(row[0].strip()), float(row[1])
                except (ValueError, IndexError) as error:
                    if not rows and number == 1:
                        continue
                    raise ConfigError(
                        f"{path}, line {number}: {','.join(row)[:60]!r} is not a time and watts",
                        hint="2026-05-01T12:00:00.5Z,231.4 or 1777636800.5,231.4",
                    ) from error
                if rows and pair[0] <= rows[-1][0]:
                    raise ConfigError(f"{path}, line {number}: time runs backwards")
                if not all(map(math.isfinite, pair)):
                    raise ConfigError(f"{path}, line {number}: {pair[1]} is not a number of watts")
                rows.append(pair)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} can't be read: {error}") from error
    if len(rows) < 2:
        raise ConfigError(f"{path} holds no series of watts", hint="two columns: time and watts")
    seconds, watts = np.array(rows).T
    return seconds, watts


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        when = datetime.fromisoformat(text)
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
