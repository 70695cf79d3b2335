"""What does a sampled power (or size) come to over a window?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from llenergymeasure.energy.boxcar import Mean, inverted
from llenergymeasure.energy.edges import Steps, spent
from llenergymeasure.energy.readings import Readings, held, samples_around, updates
from llenergymeasure.energy.sensor import PART_TIME, UNTOLD_PART, Sensor
from llenergymeasure.records import Series, Window

Floats: TypeAlias = NDArray[np.float64]

# Where nothing is known of a sensor, it is taken to be behind by anything up to this: lags of 40 to 120 ms
# (arXiv 2312.02741), and to look at as small a part of its period as any (25 of 100 ms).
_UNKNOWN_LAG_S = 0.12
_UNKNOWN_PART = 0.25
# A field of unknown habits may be a mean over the last second, and then shows what was half a second ago.
_UNKNOWN_LATE_S = 0.5
_USUAL_STEP_S = 0.1
# Bursts of about a period's length beat with it, so that more hides between readings than their differences
# show. Found by simulating bursts and decode steps of 10 to 60 ms.
_ALIASED = 1.4
# Work may begin so much later than its window, and end so much earlier, without a reading that shows it; the
# part of that which is one sd makes two such edges at their worst two sds.
_LATE_S = 0.04
_LATE_SD = 0.64
# Updates kept around the edges of a window.
_NEIGHBOURS = 60
_SHORT = "the trace does not reach from before the window to after it"


@dataclass(frozen=True, slots=True)
class Held:
    """The integral over time in unit-seconds, and the standard deviation of what is unknown of it.

    `shared_sd` is the part of `sd` that errs the same way in every window of a trace. `integral` is None
    where `reason` says why; `blind_s` is the longest stretch without a sample.
    """

    integral: float | None
    sd: float = 0.0
    shared_sd: float = 0.0
    blind_s: float = 0.0
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class _Habits:
    """Of a sensor, in seconds: its period, what it looks at, how far it is behind and how well that is known.

    `seen` is the part of a period that it is sure to look at.
    """

    step_s: float
    look_s: float
    lag_s: float
    lag_sd_s: float
    seen: float

    @property
    def late_s(self) -> float:
        """From the moment of which a reading is the middle to the middle of the time that shows it."""
        return self.lag_s + (self.look_s + self.step_s) / 2


def hold(series: Series, window: Window) -> Held:
    """Sample-and-hold: each sample holds until the next one, and both edges of the window count.

    Equal neighbouring samples are data like any other.
    """
    samples = samples_around(series, window)
    if samples is None:
        return Held(None, reason=_SHORT)
    end_s = window.duration_s
    return Held(held(samples).between(0.0, end_s), blind_s=samples.blind_s(end_s))


def power_between(series: Series, window: Window, sensor: Sensor | None) -> Held:
    """Joules in `window` by readings of power.

    A reading is about the stretch that its sensor looked at, and that was earlier than it was shown. A sensor
    that sees all of its period gives, reading by reading, a sum that is known at each update: the edges of
    the window are placed among those as among the steps of a counter. One that sees a part of it stands for
    what is nearest to it in the window; the rest of each period is unknown, by how neighbouring readings
    differ. A mean over the last second is inverted, only when `sensor` says that it is one. Unknown is also,
    at an edge, the jump of power times what is not known of the lag. Where `sensor` is None any lag up to
    120 ms is allowed for, and for a field other than `power_instant` that it may be a mean over a second.
    """
    samples = samples_around(series, window)
    if samples is None:
        return Held(None, reason=_SHORT)
    end_s = window.duration_s
    blind_s = samples.blind_s(end_s)
    if end_s == 0:
        return Held(0.0, blind_s=blind_s)
    habits = _habits(sensor, series.quantity.name)
    readings, common = updates(samples, np.array([0.0, end_s]), step_s=habits.step_s)
    shift_j = _jump(readings, end_s, habits) * habits.lag_sd_s
    if sensor is not None and sensor.kind == "average":
        mean = Mean(habits.step_s, habits.look_s, habits.lag_s, habits.lag_sd_s)
        joules, sd, shift_j = inverted(readings, end_s, mean, shift_j=shift_j)
    elif habits.seen < PART_TIME:
        joules, sd, shift_j = _sampled(readings, end_s, habits)
        if sensor is None and series.quantity.name != "power_instant":
            sd = math.hypot(sd, _blurred(readings, end_s))
    else:
        joules, sd = _summed(readings, end_s, habits.late_s, common)
    return Held(joules, math.hypot(sd, shift_j), shift_j, blind_s)


def _habits(sensor: Sensor | None, field: str) -> _Habits:
    lag_s, lag_sd_s = _UNKNOWN_LAG_S / 2, _UNKNOWN_LAG_S / math.sqrt(12)
    if sensor is None:
        late_s = 0.0 if field == "power_instant" else _UNKNOWN_LATE_S / 2
        look_s = _USUAL_STEP_S * UNTOLD_PART
        return _Habits(_USUAL_STEP_S, look_s, lag_s + late_s, lag_sd_s + late_s, _UNKNOWN_PART)
    step_s = sensor.step_ns * 1e-9
    if sensor.lag_ns is not None:
        lag_s, lag_sd_s = sensor.lag_ns * 1e-9, sensor.lag_sd_ns * 1e-9
    if sensor.window_ns is None:
        return _Habits(step_s, step_s * UNTOLD_PART, lag_s, lag_sd_s, _UNKNOWN_PART)
    look_s = sensor.window_ns * 1e-9
    return _Habits(step_s, look_s, lag_s, lag_sd_s, min(1.0, look_s / step_s))


def _summed(readings: Readings, end_s: float, late_s: float, common: Floats) -> tuple[float, float]:
    """Joules from 0 to `end_s`, and the sd that the edges leave, of readings `late_s` after their moment."""
    time = readings.time - late_s
    start, end = (int(np.searchsorted(time, at)) for at in (0.0, end_s))
    number = np.arange(time.size)
    near = (np.abs(number - start) < _NEIGHBOURS) | (np.abs(number - end) < _NEIGHBOURS)
    steps = Steps(time[near], time[near], time[near], readings.sd[near], readings.area[near])
    return spent(steps, end_s, common, outside=(None, None), lockable=True)


def _sampled(readings: Readings, end_s: float, habits: _Habits) -> tuple[float, float, float]:
    """Joules from 0 to `end_s`, by those readings that looked at nothing but the window; the sd; and what
    work that begins late and ends early costs, which is likely to be the same in every window.
    """
    middle = readings.time - habits.lag_s - habits.look_s / 2
    # √3 sds are half of what a lag is spread over where any up to a limit is as likely.
    half_s = habits.look_s / 2 + math.sqrt(3) * habits.lag_sd_s
    within = (middle - half_s > 0) & (middle + half_s < end_s)
    if not np.any(within):
        level = float(readings.at(np.array([end_s / 2 + habits.late_s]))[0])
        return level * end_s, float(np.ptp(readings.level)) * end_s / math.sqrt(12), 0.0
    at, levels = middle[within], readings.level[within]
    borders = np.concatenate((np.zeros(1), (at[1:] + at[:-1]) / 2, np.array([end_s])))
    length = np.diff(borders)
    joules = float(levels @ length)
    # What a reading stands for beyond what it saw: more at the edges, where none beyond them counts.
    beyond = np.maximum(length - habits.seen * habits.step_s, 0.0) * length
    unseen_s = at[0] - habits.look_s / 2, end_s - at[-1] - habits.look_s / 2
    late_s = math.hypot(*(min(_LATE_S, unseen) for unseen in unseen_s))
    late_j = _LATE_SD * late_s * _jump(readings, end_s, habits)
    return joules, math.sqrt(_swing(levels) * float(beyond.sum())), late_j


def _blurred(readings: Readings, end_s: float) -> float:
    """Joules (sd) that readings leave open which may be means over the last second, or may not be."""
    blur_s = 2 * _UNKNOWN_LATE_S
    near = (readings.time > 0) & (readings.time < end_s + blur_s)
    return float(np.std(readings.level[near])) * min(end_s, blur_s) if np.any(near) else 0.0


def _swing(levels: Floats) -> float:
    """The variance of readings: about their mean, or by how neighbours differ where that says more."""
    differences = np.diff(levels)
    neighbours = float(differences @ differences) / 2 / max(1, differences.size)
    return _ALIASED * max(neighbours, float(np.var(levels)))


def _jump(readings: Readings, end_s: float, habits: _Habits) -> float:
    """The larger jump of power at the edges.

    A window that is taken too late by δ misses δ × the jump at its start; too early, that at its end.
    """
    near, late_s = max(0.1, min(0.5, end_s / 4)), habits.lag_s + habits.look_s + habits.step_s
    start = readings.mean(late_s, late_s + near) - readings.mean(-near, -0.02)
    end = readings.mean(end_s - near, end_s - 0.02) - readings.mean(end_s + late_s, end_s + late_s + near)
    return max(abs(start), abs(end))
