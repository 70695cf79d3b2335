"""Arithmetic on estimates: sums and ratios that keep the three kinds of doubt apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from llenergymeasure.analysis.statistics import ENOUGH_FOR_BATCHES, correlated, relative_half_width
from llenergymeasure.records import Estimate


def half_width(estimate: Estimate) -> float | None:
    """Half of the 95 % interval, or None without one."""
    if estimate.low is None or estimate.high is None:
        return None
    return (estimate.high - estimate.low) / 2


def total(parts: Sequence[Estimate], *, unit: str, why_none: str) -> Estimate:
    """The sum, which exists only when every part does. Its parts are independent: of several sensors."""
    if not parts:
        return Estimate.missing(unit, why_none)
    values = [part.value for part in parts if part.value is not None]
    if len(values) < len(parts):
        return Estimate.missing(unit, "; ".join(part.reason or "" for part in parts if part.value is None))
    widths = [half_width(part) for part in parts]
    known = [width for width in widths if width is not None]
    whole = len(known) == len(widths)
    value, half = sum(values), math.hypot(*known)
    return Estimate(
        value,
        unit,
        low=value - half if whole else None,
        high=value + half if whole else None,
        systematic=_summed_ranges(parts),
        reason=None if whole else next(part.reason for part in parts if part.low is None),
    )


def _summed_ranges(parts: Sequence[Estimate]) -> tuple[float, float] | None:
    """Each part's range where it has one, its value where it has none; None when no part has one."""
    if all(part.systematic is None for part in parts):
        return None
    ranges = [part.systematic or (part.value or 0.0, part.value or 0.0) for part in parts]
    return sum(low for low, _ in ranges), sum(high for _, high in ranges)


def scaled(estimate: Estimate, factor: float, unit: str) -> Estimate:
    """`estimate` times a known, positive factor."""
    if estimate.value is None:
        return Estimate.missing(unit, estimate.reason or "")
    ends = None if estimate.systematic is None else estimate.systematic
    return Estimate(
        estimate.value * factor,
        unit,
        low=None if estimate.low is None else estimate.low * factor,
        high=None if estimate.high is None else estimate.high * factor,
        systematic=None if ends is None else (ends[0] * factor, ends[1] * factor),
        reason=estimate.reason,
    )


def ratio_over_passes(
    numerators: Sequence[float],
    denominators: Sequence[float],
    *,
    unit: str,
    first_stage: int | None = None,
    resolution: float = 0.0,
    common: float = 0.0,
) -> Estimate:
    """Σ numerators / Σ denominators over runs (or passes), with a Student t interval from their own ratios.

    `resolution` is the relative half-width that the sensor leaves on the whole sum. The scatter already
    holds it, so the larger of the two is stated and not their sum. `common` is what errs the same way in
    all of them, which no scatter shows: it is added.
    """
    if not denominators or min(denominators) <= 0:
        return Estimate.missing(unit, "there is a run or pass with nothing to divide by")
    value = sum(numerators) / sum(denominators)
    ratios = [top / bottom for top, bottom in zip(numerators, denominators, strict=True)]
    chance = relative_half_width(ratios, first_stage=first_stage) if fmean(ratios) else None
    if chance is None:
        at_zero = "all of them are at 0, where scatter has no relative size"
        return Estimate(value, unit, reason=too_few(len(ratios)) if len(ratios) < 3 else at_zero)
    half = abs(value) * (max(chance, resolution) + common)
    lower_bound = len(ratios) < ENOUGH_FOR_BATCHES and correlated(ratios)
    return Estimate(
        value,
        unit,
        low=value - half,
        high=value + half,
        reason="passes resemble their neighbours: the interval is a lower bound" if lower_bound else None,
    )


def too_few(count: int) -> str:
    return f"{count} repetition{'s' if count != 1 else ''}: an interval needs 3"
