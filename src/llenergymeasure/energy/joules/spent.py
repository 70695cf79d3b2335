"""What is known of the energy of some work, and which errors make up its interval?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from llenergymeasure.records import Method

TermName: TypeAlias = Literal[
    "resolution", "timing", "quiet power", "lag", "tail", "aliasing", "edges", "clock"
]


@dataclass(frozen=True, slots=True)
class Term:
    """One source of error: its 95 % half-width in joules, and its degrees of freedom where they are few.

    A `common` error has the same sign in every window that the sensor reads, so that it adds up linearly
    and no repetition narrows it; the others are independent and add in quadrature.
    """

    name: TermName
    half_width_j: float
    common: bool = False
    degrees: float | None = None


@dataclass(frozen=True, slots=True)
class Spent:
    """Joules of one piece of work in one domain. `joules` is None where `reason` says why.

    `shares` are the joules of each pass where the work is a block of several, and sum to `joules`;
    `share_half_widths` are their own 95 % half-widths. `lag_s` is how far the sensor was behind, as the block
    itself shows; where it is None, the shares of the first and the last pass may err by the whole lag and
    stay out of scatter and drift. `quiet_w` is the power before and after. `systematic` bounds what an
    uncalibrated sensor or a model of power may hide. `flags` are warning codes.
    """

    source: str
    method: Method
    joules: float | None
    terms: tuple[Term, ...] = ()
    shares: tuple[float, ...] = ()
    share_half_widths: tuple[float, ...] = ()
    lag_s: float | None = None
    quiet_w: tuple[float, float] | None = None
    systematic: tuple[float, float] | None = None
    flags: tuple[str, ...] = ()
    reason: str | None = None

    @property
    def common_j(self) -> float:
        """Half-width of what errs the same way in every window: linear over the terms."""
        return math.fsum(term.half_width_j for term in self.terms if term.common)

    @property
    def independent_j(self) -> float:
        """Half-width of all the rest: in quadrature over the terms."""
        return math.hypot(*(term.half_width_j for term in self.terms if not term.common))

    @property
    def half_width_j(self) -> float:
        """Common and independent errors together. They add linearly: a common one may be at its bound."""
        return self.common_j + self.independent_j


def combined(terms: Sequence[Sequence[Term]]) -> tuple[Term, ...]:
    """The terms of a sum, by name: common ones add linearly, independent ones in quadrature."""
    found: dict[tuple[TermName, bool], list[Term]] = {}
    for part in terms:
        for term in part:
            found.setdefault((term.name, term.common), []).append(term)
    summed = []
    for (name, common), same in found.items():
        widths = [term.half_width_j for term in same]
        degrees = [term.degrees for term in same if term.degrees is not None]
        width = math.fsum(widths) if common else math.hypot(*widths)
        summed.append(Term(name, width, common, math.fsum(degrees) if degrees else None))
    return tuple(summed)
