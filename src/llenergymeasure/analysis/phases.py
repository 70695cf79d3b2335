"""What does a prompt token cost in prefill, and each output token after the first in decode?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

from llenergymeasure.analysis.estimates import too_few
from llenergymeasure.analysis.latency import ttft_s
from llenergymeasure.analysis.run_energy import RunEnergy
from llenergymeasure.analysis.statistics import t_half_width, t_quantile
from llenergymeasure.energy.joules.spent import combined
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

    @classmethod
    def of(cls, passes: Sequence[Pass], joules: float) -> _Walks:
        return cls(
            joules,
            sum(one.walks for one in passes),
            sum(one.generation.prompt_tokens for one in passes),
            sum(one.generation.output_tokens - len(one.generation.completions) for one in passes),
        )


def prefill_and_decode(energies: Sequence[RunEnergy]) -> Phases:
    """By experiment: prefill is the energy of the prefill passes per prompt token; decode is what a full walk
    takes beyond a walk of prefill, per output token after a request's first.

    The interval is over runs (Student's t) where there are three or more, over the passes of a single run
    (Welch) where it has three of each kind; at least the sensor's resolution. A negative difference is
    reported as it is.
    """
    why = _why_none(energies)
    if why is not None:
        none = Estimate.missing("J/token", why)
        return Phases(none, none)
    full, prefill = (_walks(energies, kind) for kind in KINDS)
    (alone_f, common_f), (alone_p, common_p) = (_left_open(energies, kind) for kind in KINDS)
    scale_p, scale_d = 1 / prefill.prompt, full.walks / full.decoded
    independent = math.hypot(alone_f / full.walks, alone_p / prefill.walks) * scale_d
    # The same error of a sensor is in both kinds of walk.
    common = abs(common_f / full.walks - common_p / prefill.walks) * scale_d
    range_f, range_p = (_systematic(energies, kind) for kind in KINDS)
    systematic_p = systematic_d = None
    if range_f is not None and range_p is not None:
        ends = [of_f / full.walks - of_p / prefill.walks for of_f, of_p in zip(range_f, range_p, strict=True)]
        systematic_p = range_p[0] * scale_p, range_p[1] * scale_p
        systematic_d = min(ends) * scale_d, max(ends) * scale_d
    chance_p, chance_d, why_not = _chance(energies)
    open_p = alone_p * scale_p, common_p * scale_p
    per_prompt, per_decoded = _costs(full, prefill)
    return Phases(
        _estimate(per_prompt, chance_p, open_p, systematic_p, why_not),
        _estimate(per_decoded, chance_d, (independent, common), systematic_d, why_not),
    )


def run_phases(one: RunEnergy) -> tuple[float, float] | None:
    """Prefill and decode of one run alone."""
    return None if _why_none([one]) is not None else _costs(*(_walks([one], kind) for kind in KINDS))


def regimes(energies: Sequence[RunEnergy]) -> str | None:
    """By how much the time to a first token differs between prefill passes and full ones, in one sentence;
    None where that is not over 5 %, or unknown.
    """
    amid, alone = (
        [
            first
            for one in energies
            for each in _passes(one, kind)
            for done in each.generation.completions
            if (first := ttft_s(done)) is not None
        ]
        for kind in KINDS
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


def _why_none(energies: Sequence[RunEnergy]) -> str | None:
    config = energies[0].measurement.config
    # Those of earlier versions were run where they say nothing.
    if config.why_no_prefill is not None or not all(one.of("prefill") for one in energies):
        return config.why_no_prefill or "no prefill passes were run"
    if not energies[0].domains:
        return energies[0].why_none
    if reasons := [reason for one in energies for reason in one.reasons]:
        return reasons[0]
    full, prefill = (_walks(energies, kind) for kind in KINDS)
    return None if full.decoded > 0 and prefill.prompt > 0 else "no token was generated in decode"


def _passes(one: RunEnergy, kind: BlockKind) -> list[Pass]:
    return [each for block in one.of(kind) for each in block.block.passes]


def _walks(energies: Sequence[RunEnergy], kind: BlockKind) -> _Walks:
    joules = [math.fsum(block.joules or 0.0 for block in one.of(kind)) for one in energies]
    return _Walks.of([each for one in energies for each in _passes(one, kind)], math.fsum(joules))


def _costs(full: _Walks, prefill: _Walks) -> tuple[float, float]:
    """Joules per prompt token, and (J of a full walk − J of a prefill walk) per token that it decodes."""
    beyond = full.joules / full.walks - prefill.joules / prefill.walks
    return prefill.joules / prefill.prompt, beyond / (full.decoded / full.walks)


def _chance(energies: Sequence[RunEnergy]) -> tuple[float | None, float | None, str | None]:
    """Half-widths that scatter gives both, or why there are none."""
    if len(energies) > 1:
        each = [found for one in energies if (found := run_phases(one)) is not None]
        if len(each) < 3:
            return None, None, too_few(len(each))
        half_p, half_d = (t_half_width(values) for values in zip(*each, strict=True))
        return half_p, half_d, None
    full, prefill = (_by_pass(energies[0], kind) for kind in KINDS)
    if min(len(full), len(prefill)) < 3:
        few = len(prefill)
        passes = f"{few} prefill pass{'es' if few != 1 else ''} in one run: an interval needs 3"
        return None, None, passes if len(full) >= 3 else too_few(len(full))
    parts = [[one.joules / one.walks for one in some] for some in (full, prefill)]
    squares = [stdev(part) ** 2 / len(part) for part in parts]
    spread = sum(squares)
    shares = [square**2 / (len(part) - 1) for square, part in zip(squares, parts, strict=True)]
    degrees = max(1, math.floor(spread**2 / sum(shares))) if sum(shares) > 0 else 1
    decoded = fmean(one.decoded / one.walks for one in full)
    half_p = t_half_width([one.joules / one.prompt for one in prefill])
    return half_p, t_quantile(0.975, degrees) * math.sqrt(spread) / decoded, None


def _by_pass(one: RunEnergy, kind: BlockKind) -> list[_Walks]:
    shares = [share for block in one.of(kind) for share in block.shares or ()]
    return [_Walks.of([each], share) for each, share in zip(_passes(one, kind), shares, strict=True)]


def _left_open(energies: Sequence[RunEnergy], kind: BlockKind) -> tuple[float, float]:
    """Independent and common half-widths of the joules of all blocks of that kind."""
    terms = combined([spent.terms for one in energies for spent in one.spent(kind)])
    independent = math.hypot(*(term.half_width_j for term in terms if not term.common))
    return independent, math.fsum(term.half_width_j for term in terms if term.common)


def _systematic(energies: Sequence[RunEnergy], kind: BlockKind) -> tuple[float, float] | None:
    """The joules of all blocks of that kind at both ends of the systematic range; None without one."""
    spent = [part for one in energies for part in one.spent(kind)]
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
    return Estimate.around(value, "J/token", half, systematic, below)
