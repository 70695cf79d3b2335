"""Which of several configurations is the cheapest, and over which of the others is that shown?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from llenergymeasure.analysis.statistics import t_tail
from llenergymeasure.results.study import StudyResult, StudyRow

ALPHA = 0.05


@dataclass(frozen=True, slots=True)
class Candidate:
    """What each run of one configuration cost; `comparable` are those whose systematic errors cancel."""

    label: str
    costs: tuple[float, ...]
    comparable: str


@dataclass(frozen=True, slots=True)
class Cheapest:
    """`ahead` are the labels that it is shown to be cheaper than, `open` those where no difference is shown,
    `incomparable` those whose systematic errors do not cancel.
    """

    label: str
    ahead: tuple[str, ...]
    open: tuple[str, ...]
    incomparable: tuple[str, ...]


def cheapest(candidates: Sequence[Candidate]) -> Cheapest | None:
    """The one of the lowest mean cost against each other, by Welch's t of the logarithms' difference.

    The chance of one false lead among all is at most 5 % (Holm 1979, over all pairs: which one is the lowest
    is known from the same data). Fewer than three runs on a side show nothing. None where fewer than two have
    a cost.
    """
    known = [one for one in candidates if one.costs and fmean(one.costs) > 0]
    if len(known) < 2:
        return None
    best, *others = sorted(known, key=lambda one: fmean(one.costs))
    alike = [one for one in others if one.comparable == best.comparable]
    chances = sorted(((_chance(best.costs, one.costs), one.label) for one in alike), key=lambda part: part[0])
    pairs = len(known) * (len(known) - 1) // 2
    ahead: list[str] = []
    for number, (chance, label) in enumerate(chances):
        if chance > ALPHA / (pairs - number):
            break
        ahead.append(label)
    return Cheapest(
        best.label,
        tuple(ahead),
        tuple(one.label for one in alike if one.label not in ahead),
        tuple(one.label for one in others if one.comparable != best.comparable),
    )


def _chance(low: Sequence[float], high: Sequence[float]) -> float:
    """The two-sided chance of so large a ratio where there is no difference."""
    if min(len(low), len(high)) < 3:
        return 1.0
    parts = [(stdev(side) ** 2 / len(side) / fmean(side) ** 2, len(side) - 1) for side in (low, high)]
    whole = sum(part for part, _ in parts)
    apart = math.log(fmean(high) / fmean(low))
    if whole == 0:
        return 0.0 if apart > 1e-9 else 1.0
    degrees = whole**2 / sum(part**2 / count for part, count in parts)
    return 2 * t_tail(apart / math.sqrt(whole), degrees)


def cheapest_lines(study: StudyResult) -> Iterator[str]:
    """Which experiment takes the fewest joules per output token, and over which others that is shown."""
    candidates = [
        Candidate(row.label, tuple(costs), _kin(row))
        for row in study.rows
        if row.valid and len(costs := _costs(row)) == row.runs > 0
    ]
    found = cheapest(candidates)
    if found is None:
        return
    yield f"Fewest joules per output token: {found.label}"
    if found.ahead:
        yield f"  shown to be fewer than those of {_some(found.ahead)} (95 % for all together, Holm)"
    if found.open:
        yield f"  no difference shown to {_some(found.open)}"
    if found.incomparable:
        yield f"  not comparable, as systematic errors differ there: {_some(found.incomparable)}"


def _costs(row: StudyRow) -> list[float]:
    alone = [one.energy_per_output_token_j for one in row.figures]
    return [cost for cost in alone if cost is not None]


def _kin(row: StudyRow) -> str:
    """Where systematic errors cancel: on one sensor always, in a model of power for the same kind of work."""
    kind = f"modelled: {row.varied.get('backend')}, {row.varied.get('precision')}" if row.modelled else ""
    return f"{kind} {row.place}"


def _some(labels: Sequence[str]) -> str:
    shown = ", ".join(labels[:5])
    return f"{shown} and {len(labels) - 5} more" if len(labels) > 5 else shown
