"""Is a figure of B worse than that of A by more than somebody allows?"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from llenergymeasure.analysis.compare import (
    ENERGY,
    SINGLE_PROCESS,
    Comparison,
)
from llenergymeasure.analysis.differences import FigureName
from llenergymeasure.analysis.judge import (
    Ratio,
    ends,
)
from llenergymeasure.exceptions import ConfigError, ResultError
from llenergymeasure.records import Estimate


@dataclass(frozen=True, slots=True)
class Limit:
    """By how much a figure of B may be worse than that of A."""

    name: FigureName
    share: float
    text: str


# What `--fail-on-regression` calls the figures, beside their own names.
_CALLED: Mapping[str, FigureName] = {"per_output_token": ENERGY}
_MORE_IS_BETTER: frozenset[FigureName] = frozenset({"output_tokens_per_second", "accuracy"})


def limit_of(text: str) -> Limit:
    """`per_output_token>3%`: the last word of a field, and percent. ConfigError for what is none."""
    found = re.fullmatch(r"\s*([\w.]+)\s*>\s*(\d+(?:\.\d+)?)\s*%\s*", text)
    if found is None:
        raise ConfigError(
            f"{text!r} is not a limit", hint="a figure and percent, such as 'per_output_token>3%'"
        )
    names: dict[str, FigureName] = {**{name: name for name in get_args(FigureName)}, **_CALLED}
    word = found[1].removesuffix(".p50").rpartition(".")[2]
    if word not in names:
        raise ConfigError(f"there is no figure {found[1]} to limit", hint=f"one of: {', '.join(names)}")
    return Limit(names[word], float(found[2]) / 100, text)


def regressions(comparison: Comparison, limit: Limit, *, who: str = "B") -> list[str]:
    """A sentence for each figure of that name which is worse than allowed, interval and systematic range
    included. Of several windows each has its own.

    ConfigError where there are too few runs to judge or there is no such figure, ResultError where it can't
    be judged for another reason.
    """
    judged = [one for one in comparison.ratios if one.name == limit.name]
    if not judged:
        known = dict.fromkeys(one.name for one in comparison.ratios)
        raise ConfigError(
            f"{limit.text}: these results have no such figure", hint=f"one of: {', '.join(known)}"
        )
    return [found for one in judged if (found := _regression(one, limit, who)) is not None]


def _regression(one: Ratio, limit: Limit, who: str) -> str | None:
    found = one.ratio
    if one.difference is not None:
        return _lost(one, one.difference, limit, who)
    low, high = ends(found)
    if found.value is None or low is None or high is None or one.verdict is None:
        message = f"{limit.text} cannot be judged of {who}:\n  {found.reason or '; '.join(one.withheld)}"
        if one.method is not None and one.method.name == "too_few_runs":
            hint = f"repeat both (--set repeats.count=3), or --allow {SINGLE_PROCESS}"
            raise ConfigError(message, hint=hint)
        raise ResultError(message)
    less = limit.name in _MORE_IS_BETTER
    if high >= 1 - limit.share if less else low <= 1 + limit.share:
        return None
    worse, least = (1 - found.value, 1 - high) if less else (found.value - 1, low - 1)
    return (
        f"{one.label}: {who} is {100 * worse:.1f} % {'lower' if less else 'higher'}, at least "
        f"{100 * least:.1f} %; {100 * limit.share:g} % is allowed"
    )


def _lost(one: Ratio, apart: Estimate, limit: Limit, who: str) -> str | None:
    """Of a share, of which percent are points."""
    if apart.value is None or apart.high is None:
        raise ResultError(f"{limit.text} cannot be judged of {who}:\n  {apart.reason}")
    if apart.high >= -limit.share:
        return None
    return (
        f"{one.label}: {who} is {-100 * apart.value:.1f} points lower, at least {-100 * apart.high:.1f}; "
        f"{100 * limit.share:g} are allowed"
    )
