"""Which levels did a sensor show, from when to when?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from llenergymeasure.energy.steptimes import timed
from llenergymeasure.records import Series, Window

Floats: TypeAlias = NDArray[np.float64]

# Samples kept around a window, in seconds.
_SURROUNDINGS_S = 30.0


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """What was read: seconds from the start of the window before and after each read, and the levels."""

    before: Floats
    after: Floats
    level: Floats

    def blind_s(self, end_s: float) -> float:
        """The longest stretch without a sample that touches 0 to `end_s`."""
        touching = (self.before[1:] >= 0) & (self.before[:-1] <= end_s)
        return float(np.max(np.diff(self.before)[touching], initial=0.0))


@dataclass(frozen=True, slots=True, eq=False)
class Readings:
    """Levels from `time` on (seconds after the window's start) ± `sd`, each until the next one."""

    time: Floats
    sd: Floats
    level: Floats
    area: Floats

    def between(self, start_s: float, end_s: float) -> float:
        return float(np.diff(self._until(np.array([start_s, end_s])))[0])

    def mean(self, start_s: float, end_s: float) -> float:
        return self.between(start_s, end_s) / (end_s - start_s)

    def at(self, at_s: Floats) -> Floats:
        return np.asarray(self.level[self._index(at_s)])

    def _until(self, at_s: Floats) -> Floats:
        index = self._index(at_s)
        return np.asarray(self.area[index] + self.level[index] * (at_s - self.time[index]))

    def _index(self, at_s: Floats) -> NDArray[np.intp]:
        return np.clip(np.searchsorted(self.time, at_s, side="right") - 1, 0, self.time.size - 1)


def samples_around(series: Series, window: Window) -> Samples | None:
    """The samples around `window`; None where they do not reach from before it to after it."""
    reach_ns = round(_SURROUNDINGS_S * 1e9)
    first = int(np.searchsorted(series.t_before_ns, window.start_ns - reach_ns))
    kept = slice(first, int(np.searchsorted(series.t_before_ns, window.end_ns + reach_ns)))
    before, after = (
        np.asarray((t_ns[kept] - window.start_ns) * 1e-9, dtype=np.float64)
        for t_ns in (series.t_before_ns, series.t_after_ns)
    )
    if before.size < 2 or before[0] > 0 or after[-1] < window.duration_s:
        return None
    return Samples(before, after, np.asarray(series.raw[kept] * series.quantity.scale, dtype=np.float64))


def held(samples: Samples) -> Readings:
    """Each sample until the next one. Equal neighbouring samples are data like any other."""
    time = (samples.before + samples.after) / 2
    return _summed(time, np.zeros(time.size), samples.level)


def updates(samples: Samples, moments: Floats, *, step_s: float) -> tuple[Readings, Floats]:
    """Each update of a sensor with the period `step_s`, those that changed nothing as well.

    And the variance of the error that their times share, at `moments`.
    """
    moved = np.flatnonzero(np.diff(samples.level)) + 1
    times = timed(samples.before[moved - 1], samples.after[moved], moments)
    time = np.concatenate((samples.before[:1], times.time, samples.after[-1:]))
    sd = np.concatenate(([step_s / 2], times.sd, [step_s / 2]))
    value = np.concatenate((samples.level[:1], samples.level[moved], samples.level[-1:]))
    # Updates that showed the same value again lie evenly between those that changed it.
    repeats = np.maximum(1, np.round(np.diff(time) / step_s)).astype(np.int64)
    index = np.repeat(np.arange(repeats.size), repeats)
    nth = np.arange(index.size) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    even = time[index] + np.diff(time)[index] * nth / repeats[index]
    readings = _summed(
        np.append(even, time[-1]), np.append(sd[index], sd[-1]), np.append(value[index], value[-1])
    )
    return readings, times.common


def _summed(time: Floats, sd: Floats, level: Floats) -> Readings:
    return Readings(time, sd, level, np.concatenate(([0.0], np.cumsum(level[:-1] * np.diff(time)))))
