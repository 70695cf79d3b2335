"""What does a prompt token cost in prefill, and each output token after the first in decode?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

from llenergymeasure.analysis.estimates import too_few
from llenergymeasure.analysis.run_energy import RunEnergy
from llenergymeasure.analysis.statistics import t_quantile
from llenergymeasure.energy.joules.spent import Spent, combined
from llenergymeasure.records import BlockKind, Estimate, Pass

# Time to a first token of both kinds of pass; apart by more, the two regimes differ.
REGIMES_APART = 0.05
KINDS: tuple[BlockKind, ...] = ("full", "prefill")


@dataclass(frozen=True, slots=True)
class Phases:
    """Joules per prompt token in prefill, and per output token after a request's first in decode."""

    prefill: Estimate
    decode: Estimate


@dataclass(frozen=True, slots=True)
class _Walks:
    """Joules, walks and tokens of some passes: `decoded` are output tokens after each request's first."""

    joules: float
    walks: int
    prompt: int
    decoded: int


def prefill_and_decode(energies: Sequence[RunEnergy]) -> Phases:
    """By experiment: prefill is the energy of the prefill passes per prompt token; decode is what a full walk
    takes beyond a walk of prefill, per output token after a request's first.

    The interval is over runs (Student's t) where there are three or more, over the passes of a single run
    (Welch) where it has three of each kind; at least what the sensor leaves open. A negative difference is
    reported as it is.
    """
    why = _why_none(energies)
    if why is not None:
        none = Estimate.missing("J/token", why)
        return Phases(none, none)
    full, prefill = _sum(energies, "full"), _sum(energies, "prefill")
    value_p, value_d = prefill.joules / prefill.prompt, _decode(full, prefill)
    scale_p, scale_d = 1 / prefill.prompt, full.walks / full.decoded
    open_f, open_p = (_left_open(energies, kind) for kind in ("full", "prefill"))
    chance_p, chance_d, why_not = _chance(energies)
    width_p = (open_p[0] * scale_p, open_p[1] * scale_p)
    independent = math.hypot(open_f[0] / full.walks, open_p[0] / prefill.walks) * scale_d
    common = abs(open_f[1] / full.walks - open_p[1] / prefill.walks) * scale_d
    range_f, range_p = (_systematic(energies, kind) for kind in KINDS)
    systematic_p = systematic_d = None
    if range_f is not None and range_p is not None:
        # The same error of a sensor is in both kinds of walk.
        ends = [
            full_j / full.walks - prefill_j / prefill.walks
            for full_j, prefill_j in zip(range_f, range_p, strict=True)
        ]
        systematic_p = range_p[0] * scale_p, range_p[1] * scale_p
        systematic_d = min(ends) * scale_d, max(ends) * scale_d
    return Phases(
        _estimate(value_p, chance_p, width_p, systematic_p, why_not),
        _estimate(value_d, chance_d, (independent, common), systematic_d, why_not),
    )


def regimes(energies: Sequence[RunEnergy]) -> str | None:
    """By how much the time to a first token differs between prefill passes and full ones, in one sentence;
    None where that is not over 5 %, or unknown.
    """
    alone, amid = (
        [first for one in energies for first in _first_tokens_s(kind, one)] for kind in ("prefill", "full")
    )
    if not alone or not amid:
        return None
    ratio = median(alone) / median(amid) - 1
    if abs(ratio) <= REGIMES_APART:
        return None
    return (
        f"the time to a first token is {abs(ratio):.0%} {'longer' if ratio > 0 else 'shorter'} in prefill "
        "passes than in full passes: prefill in a block of its own is another regime, and the difference "
        "is counted as decode"
    )


def _first_tokens_s(kind: BlockKind, one: RunEnergy) -> list[float]:
    return [
        (done.t_first_ns - done.t_sent_ns) / 1e9
        for each in _passes(one, kind)
        for done in each.generation.completions
        if done.t_first_ns is not None
    ]


def _why_none(energies: Sequence[RunEnergy]) -> str | None:
    config = energies[0].measurement.config
    if config.max_output_tokens == 1:
        return "every request has one output token: prefill is all there is (see energy per request)"
    if not all(one.of("prefill") for one in energies):
        if config.passes.prefill:
            return "no prefill passes were run"
        return "no prefill passes were asked for: passes.prefill is 0"
    if not energies[0].domains:
        return energies[0].why_none
    if reasons := [reason for one in energies for reason in one.reasons]:
        return reasons[0]
    full, prefill = _sum(energies, "full"), _sum(energies, "prefill")
    return None if full.decoded and prefill.prompt else "no token was made in decode"


def _passes(one: RunEnergy, kind: BlockKind) -> tuple[Pass, ...]:
    return tuple(each for block in one.of(kind) for each in block.block.passes)


def _walked(passes: Sequence[Pass], joules: float) -> _Walks:
    return _Walks(
        joules,
        sum(one.walks for one in passes),
        sum(one.generation.prompt_tokens for one in passes),
        sum(one.generation.output_tokens - len(one.generation.completions) for one in passes),
    )


def _of_run(one: RunEnergy, kind: BlockKind) -> _Walks:
    return _walked(_passes(one, kind), math.fsum(block.joules or 0.0 for block in one.of(kind)))


def _sum(energies: Sequence[RunEnergy], kind: BlockKind) -> _Walks:
    parts = [_of_run(one, kind) for one in energies]
    return _Walks(
        math.fsum(part.joules for part in parts),
        sum(part.walks for part in parts),
        sum(part.prompt for part in parts),
        sum(part.decoded for part in parts),
    )


def _decode(full: _Walks, prefill: _Walks) -> float:
    """(J of a full walk − J of a prefill walk) / output tokens of a walk after each request's first."""
    return (full.joules / full.walks - prefill.joules / prefill.walks) / (full.decoded / full.walks)


def run_phases(one: RunEnergy) -> tuple[float, float] | None:
    """Prefill and decode of one run alone."""
    if _why_none([one]) is not None:
        return None
    full, prefill = _of_run(one, "full"), _of_run(one, "prefill")
    return prefill.joules / prefill.prompt, _decode(full, prefill)


def _chance(energies: Sequence[RunEnergy]) -> tuple[float | None, float | None, str | None]:
    """Half-widths that scatter gives both, or why there are none."""
    if len(energies) > 1:
        each = [found for one in energies if (found := run_phases(one)) is not None]
        if len(each) < 3:
            return None, None, too_few(len(each))
        t = t_quantile(0.975, len(each) - 1) / math.sqrt(len(each))
        prefill, decode = zip(*each, strict=True)
        return t * stdev(prefill), t * stdev(decode), None
    full, prefill_ = ([_walked([p], j) for p, j in _with_joules(energies[0], kind)] for kind in KINDS)
    if min(len(full), len(prefill_)) < 3:
        return (
            None,
            None,
            f"{len(prefill_)} prefill passes in one run: an interval needs three runs or passes",
        )
    per_prompt = [one.joules / one.prompt for one in prefill_]
    half_p = t_quantile(0.975, len(per_prompt) - 1) * stdev(per_prompt) / math.sqrt(len(per_prompt))
    parts = [[one.joules / one.walks for one in some] for some in (full, prefill_)]
    squares = [stdev(part) ** 2 / len(part) for part in parts]
    spread = sum(squares)
    shares = [square**2 / (len(part) - 1) for square, part in zip(squares, parts, strict=True)]
    degrees = max(1, math.floor(spread**2 / sum(shares))) if sum(shares) > 0 else 1
    decoded = fmean(one.decoded / one.walks for one in full)
    return half_p, t_quantile(0.975, degrees) * math.sqrt(spread) / decoded, None


def _with_joules(one: RunEnergy, kind: BlockKind) -> list[tuple[Pass, float]]:
    shares = [share for block in one.of(kind) for share in block.shares or ()]
    return list(zip(_passes(one, kind), shares, strict=True))


def _spent(energies: Sequence[RunEnergy], kind: BlockKind) -> list[Spent]:
    return [spent for one in energies for block in one.of(kind) for spent in block.spent.values()]


def _left_open(energies: Sequence[RunEnergy], kind: BlockKind) -> tuple[float, float]:
    """Independent and common half-widths of the joules of all blocks of that kind."""
    terms = combined([spent.terms for spent in _spent(energies, kind)])
    independent = math.hypot(*(term.half_width_j for term in terms if not term.common))
    return independent, math.fsum(term.half_width_j for term in terms if term.common)


def _systematic(energies: Sequence[RunEnergy], kind: BlockKind) -> tuple[float, float] | None:
    """The joules of all blocks of that kind at both ends of what is systematic; None where nothing is."""
    spent = _spent(energies, kind)
    if all(one.systematic is None for one in spent):
        return None
    ranges = [one.systematic or (one.joules or 0.0, one.joules or 0.0) for one in spent]
    return math.fsum(low for low, _ in ranges), math.fsum(high for _, high in ranges)


def _estimate(
    value: float,
    chance: float | None,
    left_open: tuple[float, float],
    systematic: tuple[float, float] | None,
    why_not: str | None,
) -> Estimate:
    independent, common = left_open
    below = "below zero: a walk of prefill took more than a full walk" if value < 0 else None
    if chance is None:
        return Estimate(value, "J/token", systematic=systematic, reason=why_not)
    half = max(chance, independent) + common
    return Estimate(value, "J/token", value - half, value + half, systematic, below)
