"""How large is the uncertainty of a figure when all of its sources are put together?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llenergymeasure.results.models import Term


@dataclass(frozen=True, slots=True)
class Combined:
    """95 % half-widths below and above the value; effective degrees of freedom of their random part."""

    below: float
    above: float
    degrees: float | None


def combine_terms(value: float, terms: Iterable[Term]) -> Combined:
    """Common errors add linearly, since each may be at its bound; the others in quadrature, with the degrees
    of freedom of Welch and Satterthwaite (JCGM 100, G.4.1).
    """
    counted = [term for term in terms if not term.within_chance]
    common = [halves(value, term) for term in counted if term.common]
    independent = [term for term in counted if not term.common]
    below, above = (
        sum(half[side] for half in common) + math.hypot(*(halves(value, term)[side] for term in independent))
        for side in (0, 1)
    )
    return Combined(below, above, _effective_degrees(value, independent))


def halves(value: float, term: Term) -> tuple[float, float]:
    """How far the true value may lie below and above by this source alone."""
    if term.low is not None and term.high is not None:
        return max(0.0, value - term.low), max(0.0, term.high - value)
    return term.half_width or 0.0, term.half_width or 0.0


def _effective_degrees(value: float, terms: Sequence[Term]) -> float | None:
    widths = [max(halves(value, term)) for term in terms]
    whole = sum(width**2 for width in widths)
    limited = sum(width**4 / term.degrees for width, term in zip(widths, terms, strict=True) if term.degrees)
    return whole**2 / limited if limited else None
