"""What does a sampled power (or size) come to over a window?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llenergymeasure.records import Series, Window

# An instant field is updated about every 100 ms (arXiv 2312.02741); any other may be a running mean of 1 s.
_INSTANT_S = 0.1
_AVERAGING_S = 1.0


@dataclass(frozen=True, slots=True)
class Held:
    """The integral over time in unit-seconds, and the standard deviation of what is unknown of it.

    `integral` is None where `reason` says why; `blind_s` is the longest stretch without a sample.
    """

    integral: float | None
    sd: float = 0.0
    blind_s: float = 0.0
    reason: str | None = None


def hold(series: Series, window: Window) -> Held:
    """Sample-and-hold: each sample holds until the next one, and both edges of the window count.

    Equal neighbours are data like any other. What is unknown: at an edge, the change of the level times the
    time that the sensor may lag behind; inside, samples of a level that scatters stand for the time between
    updates.
    """
    time = (series.t_before_ns - window.start_ns) * 0.5e-9 + (series.t_after_ns - window.start_ns) * 0.5e-9
    level = series.raw * series.quantity.scale
    end_s = window.duration_s
    if time.size < 2 or time[0] > 0 or time[-1] < end_s:
        return Held(None, reason="the trace does not reach from before the window to after it")
    first = int(np.searchsorted(time, 0.0, side="right")) - 1
    last = int(np.searchsorted(time, end_s, side="left"))
    edges = np.clip(time[first : last + 1], 0.0, end_s)
    durations = np.diff(edges)
    inside = level[first:last]
    integral = float(np.dot(inside, durations))
    blind_s = float(np.max(np.diff(time[first : last + 1]), initial=0.0))
    reach = _INSTANT_S if series.quantity.name == "power_instant" else _AVERAGING_S
    if end_s == 0 or series.quantity.unit != "W":
        return Held(integral, blind_s=blind_s)
    updates = max(1.0, end_s / _INSTANT_S)
    scatter = float(np.std(inside)) * end_s / float(np.sqrt(updates))
    start_jump = _mean(level, time, -2 * reach, -reach / 4) - _mean(level, time, reach, 2 * reach)
    end_jump = _mean(level, time, end_s - 2 * reach, end_s - reach / 4) - _mean(
        level, time, end_s + reach, end_s + 2 * reach
    )
    # A lag of anything from 0 to `reach` is taken as uniform.
    lag = reach / np.sqrt(3) * np.hypot(start_jump, end_jump)
    return Held(integral, float(np.hypot(scatter, lag)), blind_s)


def _mean(level: np.ndarray, time: np.ndarray, start_s: float, end_s: float) -> float:
    """The mean level over a stretch; where no sample lies in it, the level nearest to it."""
    chosen = level[(time >= start_s) & (time <= end_s)]
    if chosen.size:
        return float(chosen.mean())
    return float(level[min(int(np.searchsorted(time, start_s)), level.size - 1)])
