"""By how much does B differ from A in one figure, with which interval, and is that a verdict?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Literal, TypeAlias

from llenergymeasure.analysis.statistics import anytime_quantile, t_quantile, two_sided
from llenergymeasure.records import Estimate

Verdict: TypeAlias = Literal["higher", "lower", "no difference shown", "within systematic uncertainty"]
MethodName: TypeAlias = Literal[
    "welch_satterthwaite",
    "paired_blocks",
    "sequential_blocks",
    "intervals",
    "within_process",
    "too_few_runs",
]

# Runs on each side from which a ratio gets an interval.
REPLICATES = 3
ALPHA = 0.05
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of one side: what is shown of it, and what each of its runs gave alone.

    `processes` counts the measured runs, which a result of version 0.8 has without figures. `resolution` and
    `common` are relative standard uncertainties: the scatter of the runs contains the first, and the second
    is the same in every run and does not cancel in a ratio. `offset` is how far the value may be off,
    relative to it, by an error that both sides share in watts and not in proportion. `blocks` names for each
    run the block in which it took turns with one of the other side, None where it is in none; runs of one
    block are compared with each other.
    """

    estimate: Estimate
    runs: tuple[float, ...] = ()
    processes: int = 0
    resolution: float = 0.0
    common: float = 0.0
    offset: tuple[float, float] = (0.0, 0.0)
    blocks: tuple[str | None, ...] = ()

    @property
    def replicates(self) -> int:
        return len(self.runs) or self.processes


@dataclass(frozen=True, slots=True)
class Method:
    """How the interval of a ratio came about: `degrees` of freedom, None where they are unlimited or unknown,
    and how many runs of A and of B it is from.

    `paired_blocks` compares the runs of each block; `sequential_blocks` too, and its interval holds although
    somebody looked after each block and stopped. `intervals` propagates the intervals of both figures, where
    the runs of one side have no figures of their own; `within_process` does so where single processes were
    allowed. `too_few_runs` gives none.
    """

    name: MethodName
    degrees: float | None
    replicates: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Ratio:
    """One figure of both, and B / A. `name` is a `FigureName`, or a column of `llem export` where another
    tool measured it. `verdict` is what the interval of the ratio shows about B, None where there is none;
    `withheld` says why it was withheld. `chance` is that of so large a ratio where there is no difference
    (two-sided), None where it is not known. `difference` is B − A of a share, which the verdict is then about
    in place of the ratio.
    """

    name: str
    label: str
    a: Estimate
    b: Estimate
    ratio: Estimate
    method: Method | None
    verdict: Verdict | None
    withheld: tuple[str, ...]
    chance: float | None = None
    difference: Estimate | None = None


def judge(  # noqa: PLR0913  each is a fact of its own
    name: str,
    label: str,
    a: Figure,
    b: Figure,
    *,
    cancels: bool,
    single: bool = False,
    withheld: tuple[str, ...] = (),
    alpha: float = ALPHA,
    sequential: bool = False,
) -> Ratio:
    """B / A of one figure: with an interval and a verdict where both have three runs and nothing is withheld.

    `single` accepts fewer runs, and then takes the intervals of the estimates. The interval leaves out the
    truth with a chance of `alpha`.
    """
    found, method, chance = ratio(a.estimate, b.estimate, cancels=cancels), None, None
    if cancels and found.value is not None:
        found = _with_offset(found, found.value, a.offset, b.offset)
    counts = (a.replicates, b.replicates)
    few = min(counts) < REPLICATES
    if found.value is None:
        withheld = ()
    elif few and not single:
        withheld += (_too_few(counts),)
        method = Method("too_few_runs", None, counts)
    if withheld:
        found = Estimate(found.value, "1", systematic=found.systematic, reason="; ".join(withheld))
    elif found.value is not None and (len(pairs := _in_blocks(a, b)) >= REPLICATES or sequential):
        found, degrees, chance = _paired(found, pairs, a, b, alpha=alpha, sequential=sequential)
        method = Method("sequential_blocks" if sequential else "paired_blocks", degrees, counts)
    elif found.value is not None and not few and a.runs and b.runs:
        found, degrees, chance = _welch(found, found.value, a, b, alpha=alpha)
        method = Method("welch_satterthwaite", degrees, counts)
    elif found.value is not None and found.low is not None and found.high is not None:
        found, chance = _of_intervals(found, alpha, degrees=max(2, min(counts) - 1))
        method = Method("within_process" if few else "intervals", None, counts)
    verdict = _verdict(found)
    return Ratio(name, label, a.estimate, b.estimate, found, method, verdict, withheld, chance)


def ratio(a: Estimate, b: Estimate, *, cancels: bool = False) -> Estimate:
    """B / A with the interval of two independent estimates, propagated on the logarithmic scale.

    ln(B / A) may lie above its value by the root of the summed squares of ln(B_high / B) and ln(A / A_low),
    and below it likewise (the method of variance estimates recovery; Donner and Zou, 2012). `systematic` is
    the range that both systematic ranges allow, None where there is none or it `cancels`.
    """
    if a.value is None or b.value is None or min(a.value, b.value) <= 0:
        not_above = f"{'A' if (a.value or 0) <= 0 else 'B'} is not above 0"
        return Estimate.missing("1", _first_reason(a, b) if None in {a.value, b.value} else not_above)
    if a.unit != b.unit:
        return Estimate.missing("1", f"unlike units: {a.unit} and {b.unit}")
    value, systematic = b.value / a.value, None
    if not cancels and (a.systematic or b.systematic):
        (a_low, a_high), (b_low, b_high) = a.systematic or (a.value,) * 2, b.systematic or (b.value,) * 2
        if min(a_low, b_low) <= 0:
            side = "A" if a_low <= 0 else "B"
            return Estimate.missing("1", f"the systematic range of {side} includes 0")
        systematic = b_low / a_high, b_high / a_low
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return Estimate(value, "1", systematic=systematic, reason=_first_reason(a, b))
    if min(a.low, b.low) <= 0:
        return Estimate(value, "1", systematic=systematic, reason="an interval includes 0")
    up = math.hypot(math.log(b.high / b.value), math.log(a.value / a.low))
    down = math.hypot(math.log(b.value / b.low), math.log(a.high / a.value))
    return Estimate(value, "1", value * math.exp(-down), value * math.exp(up), systematic)


def _with_offset(found: Estimate, value: float, a: tuple[float, float], b: tuple[float, float]) -> Estimate:
    """The ratio with the systematic range that an error common to both sides leaves in it: that of two
    different powers, since one offset in watts is a larger part of the smaller power.
    """
    if min(*a, *b) <= -1:
        return Estimate.missing("1", "the systematic range of A or B includes 0")
    ends = [value * (1 + of_b) / (1 + of_a) for of_a, of_b in zip(a, b, strict=True)]
    if all(math.isclose(end, value, rel_tol=1e-4) for end in ends):
        return found
    return replace(found, systematic=(min(*ends, value), max(*ends, value)))


def _welch(
    found: Estimate, value: float, a: Figure, b: Figure, *, alpha: float
) -> tuple[Estimate, float | None, float]:
    """The ratio with its interval over runs, the degrees of freedom, and the chance of it.

    The relative variances of both means add in a ratio: u² = Σ s² / (n · mean²). What is common to all runs
    adds its own, with unlimited degrees. The degrees of u are those of Welch and Satterthwaite,
    ν = u⁴ / Σ (u_i⁴ / ν_i) (JCGM 100:2008, 5.1.6 and G.4; Welch 1947); the interval is value · exp(± t · u).
    Simulated up to a scatter of 30 %, means of logarithms and Fieller's theorem have the same coverage and
    width to a point.
    """
    variances = [
        (max(stdev(side.runs) ** 2 / len(side.runs) / fmean(side.runs) ** 2, side.resolution**2), side)
        for side in (a, b)
    ]
    whole = sum(variance + side.common**2 for variance, side in variances)
    spent = sum(variance**2 / (len(side.runs) - 1) for variance, side in variances)
    degrees = whole**2 / spent if spent else math.inf
    return _bounded(found, value, math.sqrt(whole), degrees, t_quantile(1 - alpha / 2, degrees))


def _bounded(
    found: Estimate, value: float, width: float, degrees: float, quantile: float
) -> tuple[Estimate, float | None, float]:
    reach, apart = math.exp(min(quantile * width, 700.0)) if width else 1.0, abs(math.log(value))
    bounded = Estimate(value, "1", value / reach, value * reach, found.systematic)
    # Equal figures differ by rounding.
    chance = two_sided(apart / width, degrees) if width else float(apart <= ROUNDING)
    return bounded, degrees if math.isfinite(degrees) else None, chance


def _in_blocks(a: Figure, b: Figure) -> list[tuple[float, float]]:
    """What A and B gave in each block that both have."""
    of_b = dict(zip(b.blocks, b.runs, strict=False))
    return [
        (one, of_b[block])
        for block, one in zip(a.blocks, a.runs, strict=False)
        if block is not None and block in of_b and min(one, of_b[block]) > 0
    ]


def _paired(
    found: Estimate,
    pairs: Sequence[tuple[float, float]],
    a: Figure,
    b: Figure,
    *,
    alpha: float,
    sequential: bool,
) -> tuple[Estimate, float | None, float | None]:
    """The ratio over blocks: the mean of ln(B / A) of each, with its scatter over them. What lasts longer
    than a block, such as a room that warms up, is the same on both sides of it and cancels.

    `sequential`: the interval holds at every look (`anytime_quantile`), and its chance is that at this one.
    """
    few = Estimate(found.value, "1", systematic=found.systematic, reason="too few blocks for an interval")
    if len(pairs) < REPLICATES:
        return few, None, None
    logs = [math.log(of_b / of_a) for of_a, of_b in pairs]
    count, value = len(logs), math.exp(fmean(logs))
    # The resolution is that of the mean over all runs.
    scatter = max(stdev(logs) ** 2 / count, a.resolution**2 + b.resolution**2)
    whole = scatter + a.common**2 + b.common**2
    degrees = (count - 1) * (whole / scatter) ** 2 if scatter else math.inf
    quantile = anytime_quantile(alpha, count) if sequential else t_quantile(1 - alpha / 2, degrees)
    if math.isinf(quantile):
        return replace(few, value=value), degrees, None
    return _bounded(found, value, math.sqrt(whole), degrees, quantile)


def _of_intervals(found: Estimate, alpha: float, *, degrees: float) -> tuple[Estimate, float]:
    """The same ratio with an interval of another chance than 5 %, and the chance of it. How many degrees of
    freedom made both intervals is not stored: `degrees` are few, so that it is rather too wide.
    """
    assert found.value is not None
    assert found.low is not None
    assert found.high is not None
    wider = t_quantile(1 - alpha / 2, degrees) / t_quantile(1 - ALPHA / 2, degrees)
    down, up = math.log(found.value / found.low), math.log(found.high / found.value)
    width = (down if found.value > 1 else up) / t_quantile(1 - ALPHA / 2, degrees)
    apart = abs(math.log(found.value))
    chance = two_sided(apart / width, degrees) if width else float(apart <= ROUNDING)
    if alpha == ALPHA:
        return found, chance
    ends = found.value * math.exp(-wider * down), found.value * math.exp(wider * up)
    return Estimate(found.value, "1", *ends, found.systematic), chance


def _verdict(found: Estimate) -> Verdict | None:
    if found.low is None or found.high is None:
        return None
    if found.low <= 1 + ROUNDING and found.high >= 1 - ROUNDING:
        return "no difference shown"
    low, high = ends(found)
    if low is not None and high is not None and low <= 1 <= high:
        return "within systematic uncertainty"
    return "higher" if found.low > 1 else "lower"


def ends(found: Estimate) -> tuple[float | None, float | None]:
    """The interval and the systematic range together: the root of both squares of logarithms on each side."""
    if found.systematic is None or not found.value or found.low is None or found.high is None:
        return found.low, found.high
    below, above = found.systematic
    down = math.hypot(math.log(found.value / found.low), math.log(found.value / below))
    up = math.hypot(math.log(found.high / found.value), math.log(above / found.value))
    return found.value * math.exp(-down), found.value * math.exp(up)


def _first_reason(a: Estimate, b: Estimate) -> str:
    """Why a part of the first one that lacks it is missing."""
    return next(f"{name}: {one.reason}" for name, one in (("A", a), ("B", b)) if one.low is None)


def _too_few(counts: tuple[int, int]) -> str:
    if max(counts) <= 1:
        return "from one process each: another run may differ by more"
    return f"runs of A: {counts[0]}, of B: {counts[1]}; an interval needs {REPLICATES} of each"


def difference_verdict(low: float, high: float) -> Verdict:
    return "higher" if low > 0 else "lower" if high < 0 else "no difference shown"
