"""Arithmetic on estimates: sums and ratios that keep the three kinds of uncertainty apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from llenergymeasure.analysis.statistics import ENOUGH_FOR_BATCHES, correlated, relative_half_width
from llenergymeasure.records import Estimate


def total(parts: Sequence[Estimate], *, unit: str, why_none: str) -> Estimate:
    """The sum, which exists only when every part does. Its parts are independent: of several sensors."""
    if not parts:
        return Estimate.missing(unit, why_none)
    values = [part.value for part in parts if part.value is not None]
    if len(values) < len(parts):
        return Estimate.missing(unit, "; ".join(part.reason or "" for part in parts if part.value is None))
    widths = [part.half_width for part in parts if part.half_width is not None]
    value, systematic = sum(values), _summed_ranges(parts)
    if len(widths) < len(parts):
        why_no_interval = next(part.reason for part in parts if part.low is None)
        return Estimate(value, unit, systematic=systematic, reason=why_no_interval)
    return Estimate.around(value, unit, math.hypot(*widths), systematic)


def _summed_ranges(parts: Sequence[Estimate]) -> tuple[float, float] | None:
    """Each part's range where it has one, its value where it has none; None when no part has one."""
    if all(part.systematic is None for part in parts):
        return None
    ranges = [part.systematic or (part.value or 0.0, part.value or 0.0) for part in parts]
    return sum(low for low, _ in ranges), sum(high for _, high in ranges)


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
    if not denominators or sum(denominators) <= 0:
        return Estimate.missing(unit, "there is nothing to divide by")
    value = sum(numerators) / sum(denominators)
    if min(denominators) <= 0:
        return Estimate(value, unit, reason="a run or pass has nothing to divide by, and no ratio of its own")
    ratios = [top / bottom for top, bottom in zip(numerators, denominators, strict=True)]
    chance = relative_half_width(ratios, first_stage=first_stage) if fmean(ratios) else None
    if chance is None:
        at_zero = "all of them are at 0, where scatter has no relative size"
        return Estimate(value, unit, reason=too_few(len(ratios)) if len(ratios) < 3 else at_zero)
    half = abs(value) * (max(chance, resolution) + common)
    lower_bound = len(ratios) < ENOUGH_FOR_BATCHES and correlated(ratios)
    alike = "passes resemble their neighbours: the interval is a lower bound" if lower_bound else None
    return Estimate.around(value, unit, half, reason=alike)


def too_few(count: int) -> str:
    return f"{count} repetition{'s' if count != 1 else ''}: an interval needs 3"
