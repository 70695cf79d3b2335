"""How much was spent between two moments, when a sum is known only at steps around them?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]

# Steps on each side of a moment that are listened to.
_OUTSIDE_STEPS = 12
_INSIDE_STEPS = 24
# Hypotheses on how power behaves, relative to its mean and per period: a level with white noise of the first
# kind around it, and a level that itself wanders by the second.
_NOISES = (0.0005, 0.002, 0.006, 0.02, 0.06, 0.18, 0.5)
_WANDERINGS = (0.0, 0.003, 0.02, 0.1, 0.4)
_NOISE, _WANDERING = (grid.ravel() for grid in np.meshgrid(_NOISES, _WANDERINGS))
# Chance that power between a moment and the step next to it is anything between the least and the greatest
# seen nearby: outside, a stretch too short for the counter to show; inside, work that begins a little late.
_SURPRISE_OUTSIDE = 0.005
_SURPRISE_INSIDE = 0.02
# A power known from outside is known to this, relative.
_KNOWN = 0.02
_NEGLIGIBLE = 1e-3
# Bursts alternate: within a step power swings by more than white noise of the size that means over steps
# show. Found by simulating bursts and decode steps of 10 to 60 ms.
_ROUGHNESS = 3.0
# Work whose rhythm is locked to the counter's looks steady from step to step, whatever it does within one: at
# an edge to a side this much quieter, which has no such rhythm, the work's own steps are believed less. Found
# by simulating square waves of 50 to 200 ms under a counter of 100 ms: 0.05 leaves errors of 2 % at 1 s, and
# 0.1 of 0.1 %.
_QUIET = 0.6
_LOCKED = 0.1
# At an edge in the midst of work that may hide as well: decode steps of 10 to 60 ms move a moment's sum by so
# much of a step (sd), and nothing in the trace shows it.
_SWING = 0.06


@dataclass(frozen=True, slots=True, eq=False)
class Steps:
    """A sum of `total` at `time` ± `sd` (seconds), which lies surely within `low` to `high`."""

    low: Floats
    high: Floats
    time: Floats
    sd: Floats
    total: Floats

    def part(self, chosen: NDArray[np.bool_] | slice) -> Steps:
        return Steps(*(x[chosen] for x in (self.low, self.high, self.time, self.sd, self.total)))


@dataclass(frozen=True, slots=True, eq=False)
class _Belief:
    """What one side believes of the sums at its moments: a mixture of normal laws.

    `weight` (h), `mean` (h, m) and `covariance` (h, m, m) for m moments; `rate` is the mean power there.
    """

    weight: Floats
    mean: Floats
    covariance: Floats
    rate: float


def spent(
    steps: Steps,
    end_s: float,
    common: Floats,
    *,
    outside: tuple[float | None, float | None],
    lockable: bool,
) -> tuple[float, float]:
    """The sum from 0 to `end_s` and its standard deviation.

    The model: on each side of a moment (before the window, in it, after it) power is a level with white noise
    around it, and the level wanders; how much is unknown and is averaged over, each hypothesis by how well it
    predicts the steps of that side (a Kalman filter per hypothesis). Times of steps carry their own errors,
    and an error that they share of variance `common` at the two moments. What the sides say of the two sums
    is multiplied. Where an idle stretch borders on load that is extrapolation from the idle side, since an
    error in time costs little there; inside steady load it is interpolation. With a small probability the
    power next to an edge is another one of those seen nearby. `outside` are rates known to hold just before
    and just after. `lockable` sums step seldom enough for the rhythm of work to hide between two steps.
    """
    inside = steps.part((steps.time > 0) & (steps.time < end_s))
    left = steps.part(steps.time <= 0)
    right = steps.part(steps.time >= end_s)
    rates = _rates(steps, end_s)
    within = _inside(inside, end_s, rates)
    before = _outside(left.part(slice(-_OUTSIDE_STEPS, None)), 0.0, known=outside[0], rates=rates)
    # Seen in a mirror, what comes after is what came before.
    after = right.part(slice(None, _OUTSIDE_STEPS))
    mirrored = Steps(
        -after.high[::-1], -after.low[::-1], -after.time[::-1], after.sd[::-1], -after.total[::-1]
    )
    beyond = _outside(mirrored, -end_s, known=outside[1], rates=rates)
    period_s = float(np.median(np.diff(steps.time))) if steps.time.size > 1 else 0.0
    hidden = 0.0
    for edge, side in enumerate((before, beyond)):
        if side is None or not lockable or outside[edge] is not None:
            continue
        if side.rate < _QUIET * within.rate:
            within.covariance[:, edge, edge] += (_LOCKED * within.rate * period_s) ** 2
        else:
            hidden += (_SWING * within.rate * period_s) ** 2
            hidden += _contradiction(within, edge, side, sign=-1.0 if edge else 1.0) ** 2
    amount, sd = _combined(within, before, beyond, common)
    return amount, math.hypot(sd, math.sqrt(hidden))


def _rates(steps: Steps, end_s: float) -> tuple[float, float]:
    """The least and the greatest power between neighbouring steps around the two moments."""
    time, total = steps.time, steps.total
    if time.size < 2:
        return 0.0, float(total[-1]) if total.size else 0.0
    between = np.maximum(np.diff(time), 0.5 * np.median(np.diff(time)) + 1e-9)
    rate = np.diff(total) / between
    near = np.zeros(rate.size, dtype=np.bool_)
    for moment in (0.0, end_s):
        at = int(np.searchsorted(time, moment))
        near[max(0, at - _OUTSIDE_STEPS) : at + _OUTSIDE_STEPS] = True
    return float(rate[near].min()), float(rate[near].max())


@dataclass(slots=True)
class _Filter:
    """A Kalman filter per hypothesis over (sum, power), which also keeps the sum at its beginning.

    `v_…` are the variances and covariances of sum (e), power (p) and the sum at the beginning (b).
    """

    e: Floats
    p: Floats
    b: Floats
    v_ee: Floats
    v_ep: Floats
    v_eb: Floats
    v_pp: Floats
    v_pb: Floats
    v_bb: Floats
    noise: Floats
    wandering: Floats
    likelihood: Floats

    def move(self, seconds: float, *, roughness: float = 1.0) -> None:
        self.e = self.e + self.p * seconds
        self.v_ee = (
            self.v_ee
            + 2 * seconds * self.v_ep
            + seconds**2 * self.v_pp
            + roughness * self.noise * seconds
            + self.wandering * seconds**3 / 3
        )
        self.v_ep = self.v_ep + seconds * self.v_pp + self.wandering * seconds**2 / 2
        self.v_eb = self.v_eb + seconds * self.v_pb
        self.v_pp = self.v_pp + self.wandering * seconds

    def see(self, total: float, variance: float) -> None:
        surprise, spread = total - self.e, self.v_ee + variance
        gain_e, gain_p, gain_b = self.v_ee / spread, self.v_ep / spread, self.v_eb / spread
        self.e, self.p, self.b = (
            self.e + gain_e * surprise,
            self.p + gain_p * surprise,
            self.b + gain_b * surprise,
        )
        self.v_pp, self.v_pb = self.v_pp - gain_p * self.v_ep, self.v_pb - gain_p * self.v_eb
        self.v_bb = self.v_bb - gain_b * self.v_eb
        self.v_ee, self.v_ep, self.v_eb = (
            self.v_ee * (1 - gain_e),
            self.v_ep * (1 - gain_e),
            self.v_eb * (1 - gain_e),
        )
        self.likelihood = self.likelihood - 0.5 * (np.log(spread) + surprise**2 / spread)

    @property
    def weight(self) -> Floats:
        weight = np.exp(self.likelihood - self.likelihood.max())
        return np.asarray(weight / weight.sum(), dtype=np.float64)


def _begun(total: float, rate: float, rate_sd: float, period_s: float) -> _Filter:
    """At a moment when the sum is about `total`, known to within many periods, and the power about `rate`."""
    zero = np.zeros(_NOISE.size)
    wide = np.full(_NOISE.size, (20 * (rate + rate_sd) * period_s) ** 2)
    scale = max(rate, rate_sd)
    return _Filter(
        e=zero + total,
        p=zero + rate,
        b=zero + total,
        v_ee=wide,
        v_ep=zero,
        v_eb=wide,
        v_pp=zero + rate_sd**2,
        v_pb=zero,
        v_bb=wide,
        noise=(_NOISE * scale) ** 2 * period_s,
        wandering=(_WANDERING * scale) ** 2 / period_s,
        likelihood=zero,
    )


def _rate(steps: Steps, rates: tuple[float, float]) -> tuple[float, float, float]:
    """Mean power of these steps, how far it may be off, and the usual time between them."""
    low, high = rates
    if steps.time.size < 2 or steps.time[-1] - steps.time[0] <= 0:
        return (low + high) / 2, max((high - low) / 2, 1e-6), 0.1
    rate = float((steps.total[-1] - steps.total[0]) / (steps.time[-1] - steps.time[0]))
    return rate, max(rate, 1e-6), float(np.median(np.diff(steps.time)))


def _outside(steps: Steps, at_s: float, *, known: float | None, rates: tuple[float, float]) -> _Belief | None:
    """What the steps before `at_s` say of the sum then; None where there are none."""
    if not steps.time.size:
        return None
    rate, rate_sd, period_s = _rate(steps, rates)
    if known is not None:
        rate, rate_sd, steps = known, _KNOWN * known + 1e-6, steps.part(slice(-1, None))
    begun = _begun(float(steps.total[0]), rate, rate_sd, period_s)
    _follow(begun, steps, rate, float(steps.time[0]))
    distance = at_s - float(steps.time[-1])
    begun.move(distance, roughness=_ROUGHNESS)
    mean, variance = _mixed(begun.weight, begun.e, begun.v_ee)
    low, high = rates
    other = float(steps.total[-1]) + distance * (low + high) / 2
    other_variance = (distance * (high - low)) ** 2 / 12 + (rate * float(steps.sd[-1])) ** 2
    return _Belief(
        np.array([1 - _SURPRISE_OUTSIDE, _SURPRISE_OUTSIDE]),
        np.array([[mean], [other]]),
        np.array([[[variance]], [[max(other_variance, variance)]]]),
        rate,
    )


def _follow(state: _Filter, steps: Steps, rate: float, at_s: float, *, roughness: float = 1.0) -> None:
    grain = 1e-9 * max(1.0, abs(rate))
    for time, sd, total in zip(steps.time.tolist(), steps.sd.tolist(), steps.total.tolist(), strict=True):
        state.move(time - at_s, roughness=roughness)
        roughness = 1.0
        state.see(total, (rate * sd) ** 2 + grain)
        at_s = time


def _inside(steps: Steps, end_s: float, rates: tuple[float, float]) -> _Belief:
    """What the steps in the window say of the sums at its start and end."""
    listened = steps
    if steps.time.size > 2 * _INSIDE_STEPS:
        ends = np.zeros(steps.time.size, dtype=np.bool_)
        ends[:_INSIDE_STEPS] = ends[-_INSIDE_STEPS:] = True
        listened = steps.part(ends)
    rate, rate_sd, period_s = _rate(listened, rates)
    state = _begun(float(listened.total[0]) - rate * float(listened.time[0]), rate, rate_sd, period_s)
    _follow(state, listened, rate, 0.0, roughness=_ROUGHNESS)
    state.move(end_s - float(listened.time[-1]), roughness=_ROUGHNESS)
    usual = state.weight > _NEGLIGIBLE
    mean = np.column_stack((state.b, state.e))[usual]
    covariance = np.stack(
        (np.column_stack((state.v_bb, state.v_eb)), np.column_stack((state.v_eb, state.v_ee))), axis=1
    )[usual]
    low, high = rates
    weights, means, covariances = [], [], []
    for first, last in ((False, False), (True, False), (False, True), (True, True)):
        weight, centre, spread = state.weight[usual].copy(), mean.copy(), covariance.copy()
        for odd, edge, step, sign in ((first, 0, 0, -1.0), (last, 1, -1, 1.0)):
            weight = weight * (_SURPRISE_INSIDE if odd else 1 - _SURPRISE_INSIDE)
            if odd:
                distance = abs((0.0, end_s)[edge] - float(listened.time[step]))
                centre[:, edge] = float(listened.total[step]) + sign * distance * (low + high) / 2
                variance = (distance * (high - low)) ** 2 / 12 + (rate * float(listened.sd[step])) ** 2
                spread[:, 0, 1] = spread[:, 1, 0] = 0.0
                spread[:, edge, edge] = np.maximum(variance, spread[:, edge, edge])
        weights.append(weight)
        means.append(centre)
        covariances.append(spread)
    return _Belief(np.concatenate(weights), np.concatenate(means), np.concatenate(covariances), rate)


def _contradiction(within: _Belief, edge: int, side: _Belief, *, sign: float) -> float:
    """How far the two sides of a moment are apart beyond what they allow for; which is wrong is not known."""
    inner, inner_variance = _mixed(within.weight, within.mean[:, edge], within.covariance[:, edge, edge])
    outer, outer_variance = _mixed(side.weight, side.mean[:, 0], side.covariance[:, 0, 0])
    apart = abs(inner - sign * outer) - 2 * math.sqrt(inner_variance + outer_variance)
    return max(0.0, apart)


def _mixed(weight: Floats, mean: Floats, variance: Floats) -> tuple[float, float]:
    """Mean and variance of a mixture of normal laws."""
    centre = float(weight @ mean)
    return centre, float(weight @ (variance + (mean - centre) ** 2))


def _combined(
    within: _Belief, before: _Belief | None, beyond: _Belief | None, common: Floats
) -> tuple[float, float]:
    """Multiply what the sides believe of (sums at start and end, shared errors of time at both)."""
    count = within.weight.size
    mean = np.concatenate((within.mean, np.zeros((count, 2))), axis=1)
    spread = np.zeros((count, 4, 4))
    spread[:, :2, :2] = within.covariance + within.rate**2 * common
    spread[:, :2, 2:] = spread[:, 2:, :2] = -within.rate * common
    spread[:, 2:, 2:] = common
    score = np.log(within.weight)
    if before is not None:
        mean, spread, score = _told(mean, spread, score, before, edge=0, sign=1.0)
    if beyond is not None:
        mean, spread, score = _told(mean, spread, score, beyond, edge=1, sign=-1.0)
    weight = np.exp(score - score.max())
    weight /= weight.sum()
    variance = spread[:, 0, 0] + spread[:, 1, 1] - 2 * spread[:, 0, 1]
    value, total = _mixed(weight, mean[:, 1] - mean[:, 0], variance)
    return value, math.sqrt(max(total, 0.0))


def _told(
    mean: Floats, spread: Floats, score: Floats, side: _Belief, *, edge: int, sign: float
) -> tuple[Floats, Floats, Floats]:
    """Each belief updated by each of `side`'s about the sum at `edge`."""
    row = np.zeros(4)
    row[edge], row[2 + edge] = 1.0, side.rate
    means, spreads, scores = [], [], []
    for weight, seen, variance in zip(
        side.weight.tolist(), side.mean[:, 0].tolist(), side.covariance[:, 0, 0].tolist(), strict=True
    ):
        projected = spread @ row
        total = projected @ row + variance
        surprise = sign * seen - mean @ row
        gain = projected / total[:, None]
        means.append(mean + gain * surprise[:, None])
        spreads.append(spread - gain[:, :, None] * projected[:, None, :])
        scores.append(score + math.log(weight) - 0.5 * (np.log(total) + surprise**2 / total))
    return np.concatenate(means), np.concatenate(spreads), np.concatenate(scores)
