"""How much power does a domain draw while nothing happens, and how does that change at an edge?"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from llenergymeasure.energy.joules.curve import UNIFORM95, Curve

# A tail that falls faster than this (time constant 0.2 s) is over before it can be seen.
_FASTEST_PER_S = 5.0
# A trend is believed when the halves differ by this much more than noise explains.
_SURE = 1.4
# Where a silence shows no halves, the power of one may differ from that of the other by this part of it.
_WANDERS = 0.1
# Quiet power that rises by more than this part of it is work, not a board that settles.
_RISE = 0.1


@dataclass(frozen=True, slots=True)
class Quiet:
    """Quiet power `power_w` between the events `first` and `last` of a curve.

    `early_w` and `late_w` are the powers of its halves, around the moments `early_s` and `late_s`;
    `noise_w` is what they may differ by when power does not change (95 %), None where there are no halves.
    `first_j` and `last_j` are what the moments of those events leave open (95 %).
    """

    first: int
    last: int
    seconds: float
    power_w: float
    early_w: float
    late_w: float
    early_s: float
    late_s: float
    noise_w: float | None
    first_j: float
    last_j: float

    @property
    def half_w(self) -> float:
        """95 % half-width of the mean power, from the moments of the events."""
        return math.hypot(self.first_j, self.last_j) / self.seconds

    @property
    def bend_w(self) -> float:
        return self.late_w - self.early_w

    @property
    def bends(self) -> bool:
        """Whether the halves differ by more than the moments of their events explain."""
        return self.noise_w is not None and abs(self.bend_w) > _SURE * self.noise_w

    @property
    def floor_w(self) -> float:
        """What power comes to: where it falls, by as much again as from the one half to the other."""
        return self.late_w + min(0.0, self.bend_w) if self.bends else self.power_w

    @property
    def rises(self) -> bool:
        return self.bends and self.bend_w > max(2 * (self.noise_w or 0.0), _RISE * self.power_w)

    def joules(self, start: float, end: float) -> float:
        """At constant quiet power."""
        return self.power_w * (end - start)

    def trend_j(self, start: float, end: float, *, floor_w: float | None = None) -> float:
        """What a trend that the halves show adds to that.

        The trend is a straight line, or for power that falls to `floor_w` an exponential law.
        """
        if not self.bends:
            return 0.0
        if floor_w is None or self.late_w <= floor_w or self.bend_w >= 0:
            return self._straight_j(start, end, self.bend_w)
        apart = self.late_s - self.early_s
        rate = min(math.log((self.early_w - floor_w) / (self.late_w - floor_w)) / apart, _FASTEST_PER_S)
        # The mean of an exponential law over the early half is above its value in the middle of it.
        excess = (self.early_w - floor_w) * (rate * apart / 2) / math.sinh(rate * apart / 2)
        since, until = (math.exp(-rate * (t - self.early_s)) for t in (start, end))
        return (floor_w - self.power_w) * (end - start) + excess * (since - until) / rate

    def untold_j(self, start: float, end: float) -> float:
        """What a trend may add that is too small to be seen beside the noise of the halves.

        Power that falls was falling before, and faster than in a straight line: what is seen counts twice.
        """
        noise_w = _WANDERS * self.power_w if self.noise_w is None else self.noise_w
        seen_w = 0.0 if self.bends else max(0.0, -self.bend_w)
        return abs(self._straight_j(start, end, noise_w + 2 * seen_w))

    def _straight_j(self, start: float, end: float, bend_w: float) -> float:
        apart = (self.late_s - self.early_s) or self.seconds / 2
        middle = (self.late_s + self.early_s) / 2
        return bend_w / apart * ((start + end) / 2 - middle) * (end - start)


def quiet(curve: Curve, start: float, end: float) -> Quiet | None:
    """The quiet power of a curve from `start` to `end`; None where fewer than two events are well known."""
    events = curve.usable(start, end)
    if events.size < 2:
        return None
    time, total, half = curve.time[events], curve.total[events], curve.half[events]
    middle = 1 + int(np.argmin(np.abs(time[1:-1] - (time[0] + time[-1]) / 2))) if events.size > 2 else 0
    power = float((total[-1] - total[0]) / (time[-1] - time[0]))
    early, late, noise = power, power, None
    if middle:
        spans = time[middle] - time[0], time[-1] - time[middle]
        early = float((total[middle] - total[0]) / spans[0])
        late = float((total[-1] - total[middle]) / spans[1])
        moments = half[0] / spans[0], half[middle] * (1 / spans[0] + 1 / spans[1]), half[-1] / spans[1]
        noise = math.hypot(UNIFORM95 * power * math.hypot(*map(float, moments)), _scatter_w(curve, events))
    return Quiet(
        first=int(events[0]),
        last=int(events[-1]),
        seconds=float(time[-1] - time[0]),
        power_w=power,
        early_w=early,
        late_w=late,
        early_s=float(time[0] + time[middle]) / 2,
        late_s=float(time[middle] + time[-1]) / 2,
        noise_w=noise,
        first_j=UNIFORM95 * power * float(half[0]),
        last_j=UNIFORM95 * power * float(half[-1]),
    )


def borrowed(other: Quiet, curve: Curve, start: float, end: float) -> Quiet | None:
    """For a silence with too few events: the quiet power of the other one; None where there is no event.

    The event taken is the one next to the block.
    """
    events = curve.usable(start, end)
    if not events.size:
        return None
    event = int(events[-1] if start < curve.time[other.first] else events[0])
    moment = float(curve.time[event])
    unsure_j = UNIFORM95 * other.power_w * float(curve.half[event])
    return replace(
        other,
        first=event,
        last=event,
        early_w=other.power_w,
        late_w=other.power_w,
        early_s=moment,
        late_s=moment,
        noise_w=None,
        first_j=unsure_j,
        last_j=unsure_j,
    )


def _scatter_w(curve: Curve, events: NDArray[np.intp]) -> float:
    """What the halves of a power field's readings differ by because the readings scatter (95 %)."""
    if curve.levels is None:
        return 0.0
    steps = np.diff(curve.levels[events])
    steps = steps[steps != 0]
    if not steps.size:
        return 0.0
    # White readings of the sd s differ by √2 s from each other, and means of half of n by 2 s / √n.
    return 1.96 * 2 * float(np.sqrt(np.mean(steps**2) / 2)) / math.sqrt(steps.size + 1)
