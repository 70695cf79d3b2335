"""How much power does a domain draw while nothing happens, and what had been counted at the edge of that?"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from llenergymeasure.energy.joules.amid import between, modelled_energy
from llenergymeasure.energy.joules.curve import UNIFORM95, Curve
from llenergymeasure.energy.joules.sources import SHORTEST_S, measured, method_of
from llenergymeasure.energy.joules.spent import Spent, Term
from llenergymeasure.records import Estimate, Trace, Window

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
    """Quiet power `power_w` over `seconds`, from the events of a curve in a silence.

    `anchor_s` is the event next to the block, at which `anchor_total` had been counted. `early_w` and
    `late_w` are the powers of the halves, around the moments `early_s` and `late_s`; `noise_w` is what they
    differ by when power is constant (95 %), None where there are no halves. `anchor_j` and `other_j` are what
    the moments of the first and the last event leave open (95 %).
    """

    anchor_s: float
    anchor_total: float
    seconds: float
    power_w: float
    early_w: float
    late_w: float
    early_s: float
    late_s: float
    noise_w: float | None
    anchor_j: float
    other_j: float

    @property
    def half_w(self) -> float:
        """95 % half-width of the mean power, from the moments of the events."""
        return math.hypot(self.anchor_j, self.other_j) / self.seconds

    @property
    def bend_w(self) -> float:
        return self.late_w - self.early_w

    @property
    def bends(self) -> bool:
        return self.noise_w is not None and abs(self.bend_w) > _SURE * self.noise_w

    @property
    def rises(self) -> bool:
        return self.bends and self.bend_w > max(2 * (self.noise_w or 0.0), _RISE * self.power_w)

    @property
    def floor_w(self) -> float:
        """What power comes to: where it falls, by as much again as from the one half to the other."""
        return self.late_w + min(0.0, self.bend_w) if self.bends else self.power_w

    def total(self, t: float) -> float:
        """What would have been counted at `t` at constant quiet power, from the anchor on or back."""
        return self.anchor_total + self.power_w * (t - self.anchor_s)

    def trend_j(self, t: float, floor_w: float | None = None) -> float:
        """What the trend of the halves adds to that: a straight line, or an exponential fall to `floor_w`."""
        if not self.bends:
            return 0.0
        if floor_w is None or self.late_w <= floor_w or self.bend_w >= 0:
            return self._straight_j(t, self.bend_w)
        apart = self.late_s - self.early_s
        rate = min(math.log((self.early_w - floor_w) / (self.late_w - floor_w)) / apart, _FASTEST_PER_S)
        # The mean of an exponential law over the early half is above its value in the middle of it.
        excess = (self.early_w - floor_w) * (rate * apart / 2) / math.sinh(rate * apart / 2)
        since, until = (math.exp(-rate * (s - self.early_s)) for s in (self.anchor_s, t))
        return (floor_w - self.power_w) * (t - self.anchor_s) + excess * (since - until) / rate

    def timing_j(self, t: float) -> float:
        """What the moment of the anchor leaves open of the total at `t` (95 %)."""
        return self.anchor_j * (1 + abs(t - self.anchor_s) / self.seconds)

    def unseen_j(self, t: float) -> float:
        """What the mean power, and a trend that noise hides, leave open (95 %)."""
        noise_w = _WANDERS * self.power_w if self.noise_w is None else self.noise_w
        moment_j = self.other_j * (t - self.anchor_s) / self.seconds
        return math.hypot(moment_j, self._straight_j(t, noise_w))

    def fall_j(self, t: float) -> float:
        """What a fall adds that is seen, but may be noise.

        Power that falls was falling before, and faster than in a straight line: what is seen counts twice.
        """
        return 0.0 if self.bends else abs(self._straight_j(t, 2 * min(0.0, self.bend_w)))

    def _straight_j(self, t: float, bend_w: float) -> float:
        apart = (self.late_s - self.early_s) or self.seconds / 2
        centre = (self.late_s + self.early_s) / 2
        return bend_w / apart * ((t + self.anchor_s) / 2 - centre) * (t - self.anchor_s)


def quiet(curve: Curve, start: float, end: float, *, before: bool) -> Quiet | None:
    """The quiet power of a curve from `start` to `end`, `before` a block or after it.

    None where fewer than two events are well known.
    """
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
    anchor, other = (-1, 0) if before else (0, -1)
    return Quiet(
        anchor_s=float(time[anchor]),
        anchor_total=float(total[anchor]),
        seconds=float(time[-1] - time[0]),
        power_w=power,
        early_w=early,
        late_w=late,
        early_s=float(time[0] + time[middle]) / 2,
        late_s=float(time[middle] + time[-1]) / 2,
        noise_w=noise,
        anchor_j=UNIFORM95 * power * float(half[anchor]),
        other_j=UNIFORM95 * power * float(half[other]),
    )


def borrowed(other: Quiet | None, curve: Curve, start: float, end: float, *, before: bool) -> Quiet | None:
    """For a silence of a counter that shows one event: that event, and the quiet power of the `other` one."""
    events = curve.usable(start, end)
    if other is None or not events.size or curve.quantity.unit != "J":
        return None
    event = int(events[-1 if before else 0])
    moment, power = float(curve.time[event]), other.power_w
    unsure_j = UNIFORM95 * power * float(curve.half[event])
    return replace(
        other,
        anchor_s=moment,
        anchor_total=float(curve.total[event]),
        early_w=power,
        late_w=power,
        early_s=moment,
        late_s=moment,
        noise_w=None,
        anchor_j=unsure_j,
        other_j=unsure_j,
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


def idle_power(trace: Trace, window: Window, domain: str) -> Estimate:
    """Mean watts of `domain` in `window`, from the first to the last event in it.

    The interval is the sensor's resolution, or half of what the second half of the window differs from the
    first where that drift is more. None with the reason where the energy of the window is unknown.
    """
    facts, seconds = trace.domain(domain), window.duration_s
    if facts.model is None:
        spent = measured(trace, facts, [window], window, lambda source: _idle(source, window))
        drift_j = 0.0
    else:
        spent = modelled_energy(trace, facts, [window])
        middle_ns = (window.start_ns + window.end_ns) // 2
        halves = [Window(window.start_ns, middle_ns), Window(middle_ns, window.end_ns)]
        parts = [modelled_energy(trace, facts, [half]).joules or 0.0 for half in halves]
        drift_j = abs(parts[1] - parts[0]) if halves[0].duration_s >= SHORTEST_S else 0.0
    if spent.joules is None or seconds == 0:
        return Estimate.missing("W", spent.reason or "an idle window of no length has no power")
    half_w, value = max(spent.half_width_j, drift_j) / seconds, spent.joules / seconds
    bounds = spent.systematic
    systematic = None if bounds is None else (bounds[0] / seconds, bounds[1] / seconds)
    return Estimate(value, "W", value - half_w, value + half_w, systematic)


def _idle(source: Curve, window: Window) -> Spent:
    start, end = source.seconds(window)
    # What the source shows at first may belong to what was before.
    later = start + source.lag_s
    found = quiet(source, later if end - later > SHORTEST_S else start, end, before=True)
    if found is None or source.why_not(start, end) is not None:
        return between(source, [window])
    seconds = end - start
    half_w = max(found.half_w, abs(found.bend_w) / 2)
    return Spent(
        source.quantity.source,
        method_of(source.quantity),
        found.power_w * seconds,
        (Term("quiet power", half_w * seconds),),
        quiet_w=(found.power_w, found.power_w),
        flags=("recorder_gap",) if source.blind(start, end) else (),
    )
