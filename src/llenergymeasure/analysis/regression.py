"""Do the tokens of batches that differ confirm what the phases say a token costs?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from llenergymeasure.analysis.batches import Batch, batches
from llenergymeasure.analysis.estimates import half_width, too_few, total
from llenergymeasure.analysis.net import systematic_of_net
from llenergymeasure.analysis.replicates import replicates
from llenergymeasure.analysis.statistics import relative_half_width, t_quantile
from llenergymeasure.energy.idle import idle_power
from llenergymeasure.energy.sums import Sums, sums_within, trust
from llenergymeasure.records import Domain, Estimate, Pass, Trace, Window

Floats: TypeAlias = NDArray[np.float64]

UNIT = "J/token"
# The squared sine of the angle between the batches' prompt and output tokens below which their costs can't
# be told apart: an error of 1 % in the energies would be one of 30 % in the costs.
_COLLINEAR = 1e-3
# Two coefficients and one degree of freedom to see whether they fit.
_FEWEST_WORKS = 3
_FEWEST_STEPS = 12
_Z95 = 1.96


@dataclass(frozen=True, slots=True)
class TokenCosts:
    """Net joules per prompt token, and per output token after a request's first, over so many batches."""

    prefill: Estimate
    decode: Estimate
    batches: int


def token_costs(
    trace: Trace, domains: Sequence[Domain], passes: Sequence[Pass], *, idle: Window, why_none: str
) -> TokenCosts:
    """The coefficients of J = a·prompt + b·output, where J is the energy of a batch above that of `idle`.

    No intercept and no seconds, which are collinear with tokens; output is counted after each request's first
    token, which its prefill makes. Least squares over the intervals between two steps of the sensor, each
    with the parts of the batches that fall into it, since single batches are too short to be measured. Where
    first-token times are known, a power by which prefill may differ from decode moves energy within a batch
    and leaves its sum alone.

    The interval is the larger of two. Chance: Student's t over passes (cycles), each pass with the
    coefficients that it alone would give. Fit: what batches with different tokens are off the line by, on the
    mean over their repetitions, with as many degrees of freedom as there are different batches less two. The
    doubt of the idle power adds in quadrature.
    Missing, with the reason, where batches are too alike to tell a from b. Batches that overlap are taken
    together.
    """
    found = _apart(batches(passes))
    if why := _why_alike(found):
        return no_token_costs(why, len(found))
    units = [number for number, unit in enumerate(replicates(passes)) for _ in unit]
    costs = [
        _domain_costs(trace, domain, _Work.of(found, units), idle_power(trace, idle, domain.name))
        for domain in domains
    ]
    why_not = next((cost for cost in costs if isinstance(cost, str)), why_none)
    parts = [cost for cost in costs if not isinstance(cost, str)]
    if len(parts) < len(costs) or not parts:
        return no_token_costs(why_not, len(found))
    prefill, decode = (total(kind, unit=UNIT, why_none=why_none) for kind in zip(*parts, strict=True))
    return TokenCosts(prefill, decode, len(found))


def no_token_costs(reason: str, count: int = 0) -> TokenCosts:
    none = Estimate.missing(UNIT, reason)
    return TokenCosts(none, none, count)


def _apart(found: Sequence[Batch]) -> list[Batch]:
    """Batches whose windows do not overlap; those that did are one, whose phases are unknown."""
    groups: list[Batch] = []
    for one in found:
        last = groups[-1] if groups else None
        if last is None or one.window.start_ns >= last.window.end_ns:
            groups.append(one)
            continue
        groups[-1] = replace(
            last,
            window=Window(last.window.start_ns, max(last.window.end_ns, one.window.end_ns)),
            first_ns=None,
            prompt_tokens=last.prompt_tokens + one.prompt_tokens,
            decoded_tokens=last.decoded_tokens + one.decoded_tokens,
        )
    return [one for one in groups if one.window.duration_s > 0]


def _why_alike(found: Sequence[Batch]) -> str | None:
    works = {(one.prompt_tokens, one.decoded_tokens) for one in found}
    if len(works) < _FEWEST_WORKS:
        return f"batches differ too little: two costs take {_FEWEST_WORKS} kinds, and there are {len(works)}"
    prompt, decoded = (np.array(tokens, dtype=np.float64) for tokens in zip(*works, strict=True))
    if not prompt.any() or not decoded.any():
        return "no token was made after the first" if prompt.any() else "no prompt token was read"
    cosine = float(prompt @ decoded) / float(np.linalg.norm(prompt) * np.linalg.norm(decoded))
    if 1 - cosine**2 < _COLLINEAR:
        return (
            "prompt and output tokens come in the same proportion in all batches: their costs can't be told"
        )
    return None


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    """The batches as arrays, times in seconds from the start of `span`.

    `first` is the start of decode, a batch's end where it is unknown; `unit` the replicate that a batch
    belongs to.
    """

    span: Window
    start: Floats
    first: Floats
    end: Floats
    tokens: Floats
    unit: NDArray[np.intp]

    @classmethod
    def of(cls, found: Sequence[Batch], units: Sequence[int]) -> _Work:
        span = Window(found[0].window.start_ns, found[-1].window.end_ns)

        def seconds(times_ns: Sequence[int]) -> Floats:
            return np.array([t_ns - span.start_ns for t_ns in times_ns]) * 1e-9

        return cls(
            span,
            start=seconds([one.window.start_ns for one in found]),
            first=seconds([one.window.end_ns if one.first_ns is None else one.first_ns[1] for one in found]),
            end=seconds([one.window.end_ns for one in found]),
            tokens=np.array([(one.prompt_tokens, one.decoded_tokens) for one in found], dtype=np.float64),
            unit=np.array([units[one.passed] for one in found]),
        )

    def before(self, time: Floats, amounts: Floats) -> Floats:
        """How much of the batches' `amounts`, spread evenly over each, came before each moment."""
        done = np.cumsum(amounts)
        levels = np.column_stack((done - amounts, done)).ravel()
        edges = np.column_stack((self.start, self.end)).ravel()
        return np.asarray(np.interp(time, edges, levels, left=0.0))

    def shape(self, time: Floats) -> Floats:
        """Joules before each moment, if every prefill drew 1 W more than its batch's decode and the energy of
        the whole batch were what it is.
        """
        prefill, whole = self.first - self.start, self.end - self.start
        extra = prefill * (1 - prefill / whole)
        nothing = np.zeros(extra.size)
        levels = np.column_stack((nothing, extra, nothing)).ravel()
        edges = np.column_stack((self.start, self.first, self.end)).ravel()
        return np.asarray(np.interp(time, edges, levels, left=0.0))


@dataclass(frozen=True, slots=True, eq=False)
class _Steps:
    """The intervals between two sums that a batch touches, and one more on either side of those.

    `joules` are net of idle; `design` has a column for prompt tokens, output tokens, the shape of batches and
    the seconds outside them; `unit` is the replicate that each falls into; `used` are their places among all
    intervals, whose ends are `sums.time`.
    """

    sums: Sums
    used: NDArray[np.bool_]
    seconds: Floats
    joules: Floats
    design: Floats
    unit: NDArray[np.intp]

    @classmethod
    def of(cls, sums: Sums, work: _Work, domain: Domain, idle_w: float) -> _Steps:
        seconds = np.diff(sums.time)
        busy = np.diff(work.before(sums.time, work.end - work.start))
        used = np.convolve(busy > 0, np.ones(3))[1:-1] > 0
        tokens = [np.diff(work.before(sums.time, amounts)) for amounts in work.tokens.T]
        design = np.column_stack([*tokens, np.diff(work.shape(sums.time)), seconds - busy])
        joules = domain.gain * np.diff(sums.total) + (domain.offset_w - idle_w) * seconds
        middle = (sums.time[1:] + sums.time[:-1])[used] / 2
        unit = work.unit[np.clip(np.searchsorted(work.start, middle, side="right") - 1, 0, None)]
        return cls(sums, used, seconds[used], joules[used], design[used], unit)


@dataclass(frozen=True, slots=True, eq=False)
class _Fit:
    """a and b; what each replicate alone gives; half of the interval that the batches' distances from the
    line leave; what 1 W more of idle changes; and how badly all of it fits.
    """

    costs: Floats
    replicates: Floats
    unfit: Floats
    per_idle_w: Floats
    misfit: float


def _domain_costs(
    trace: Trace, domain: Domain, work: _Work, idle: Estimate
) -> tuple[Estimate, Estimate] | str:
    sums = sums_within(trace, domain, work.span)
    if isinstance(sums, str):
        return sums
    if idle.value is None:
        return idle.reason or "idle power is unknown"
    fits = []
    for lag_s in sums.lags_s:
        seen = sums.late_by(float(lag_s), within_s=work.span.duration_s)
        if seen.time.size <= _FEWEST_STEPS:
            return f"{seen.time.size} steps of the sensor are too few to tell prompt from output tokens"
        steps = _Steps.of(seen, work, domain, idle.value)
        if np.unique(steps.unit).size < np.unique(work.unit).size:
            return "the sensor was not read in every pass"
        fits.append(_fitted(steps, work))
    return _estimate(fits, domain, idle, at=0), _estimate(fits, domain, idle, at=1)


def _fitted(steps: _Steps, work: _Work) -> _Fit:
    size = np.linalg.norm(steps.design, axis=0)
    columns = steps.design / np.where(size > 0, size, 1)
    off = steps.joules - columns @ (np.linalg.pinv(columns) @ steps.joules)
    root = trust(steps.sums, off, used=steps.used)
    # The smallest coefficients that fit: what shapes batches can't always be told from the time outside them.
    solve = np.linalg.pinv(columns * root[:, None]) * root
    off = steps.joules - columns @ (solve @ steps.joules)
    per_joule = solve[:2] / size[:2, None]
    costs = per_joule @ steps.joules
    count = int(work.unit.max()) + 1
    shares = np.array([np.bincount(steps.unit, weights=row * off, minlength=count) for row in per_joule])
    return _Fit(
        costs=costs,
        replicates=costs[:, None] + count * shares,
        unfit=_unfit(work, steps, off),
        per_idle_w=per_joule @ -steps.seconds,
        misfit=off.size * math.log(max(float(off @ off), 1e-12) / off.size) / 2,
    )


def _unfit(work: _Work, steps: _Steps, off: Floats) -> Floats:
    """Half of the 95 % intervals of a and b, from what different batches are off the line by, on the mean
    over their repetitions. A batch's variance is taken to grow with its length, as in the fit.
    """
    left = np.zeros(steps.used.size)
    left[steps.used] = off
    sums = np.concatenate((np.zeros(1), np.cumsum(left)))
    missed = np.diff(np.interp(np.column_stack((work.start, work.end)), steps.sums.time, sums))[:, 0]
    works, which = np.unique(work.tokens, axis=0, return_inverse=True)
    which = which.ravel()
    number = np.bincount(which)
    mean_j = np.bincount(which, weights=missed) / number
    mean_s = np.bincount(which, weights=work.end - work.start) / number
    spare = len(works) - 2
    square = float(np.sum(number * mean_j**2 / mean_s)) / spare
    scaled = works * np.sqrt(number / mean_s)[:, None]
    variance = square * np.diag(np.linalg.inv(scaled.T @ scaled))
    return np.asarray(t_quantile(0.975, spare) * np.sqrt(variance))


def _estimate(fits: Sequence[_Fit], domain: Domain, idle: Estimate, *, at: int) -> Estimate:
    """One of both costs. The lags that a power field may have weigh by how well they explain it."""
    misfit = np.array([fit.misfit for fit in fits])
    weight = np.exp(misfit.min() - misfit)
    weight /= weight.sum()
    each = np.array([fit.costs[at] for fit in fits])
    value = float(weight @ each)
    alone = weight @ np.array([fit.replicates[at] for fit in fits])
    chance = relative_half_width([float(one) * math.copysign(1, value) for one in alone])
    systematic = systematic_of_net(domain, value)
    if chance is None:
        return Estimate(value, UNIT, systematic=systematic, reason=too_few(alone.size))
    idle_half = half_width(idle)
    if idle_half is None:
        return Estimate(value, UNIT, systematic=systematic, reason=idle.reason)
    half = math.hypot(
        max(chance * abs(value), float(weight @ [fit.unfit[at] for fit in fits])),
        float(weight @ [fit.per_idle_w[at] for fit in fits]) * idle_half,
        _Z95 * math.sqrt(float(weight @ (each - value) ** 2)),
    )
    return Estimate(value, UNIT, value - half, value + half, systematic)
