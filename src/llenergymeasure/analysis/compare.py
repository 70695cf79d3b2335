"""Does B cost more than A, and may the two be compared at all?"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Literal, TypeAlias

from llenergymeasure.analysis.differences import (
    KEYS,
    Difference,
    FigureName,
    Setting,
    compared_estimates,
    differences,
    settings,
)
from llenergymeasure.analysis.statistics import t_quantile
from llenergymeasure.analysis.uncertainty import CALIBRATION
from llenergymeasure.exceptions import ConfigError, ResultError
from llenergymeasure.records import Estimate, MeasurementWarning, Start, WarningCode
from llenergymeasure.results.models import ExperimentResult, Term
from llenergymeasure.results.summary import is_modelled

Verdict: TypeAlias = Literal["higher", "lower", "no difference shown", "within systematic uncertainty"]
MethodName: TypeAlias = Literal["welch_satterthwaite", "intervals", "within_process", "too_few_runs"]

ENERGY: FigureName = "energy_per_output_token"
# Runs on each side from which a ratio gets an interval, and the key that makes do with fewer.
REPLICATES = 3
SINGLE_PROCESS = "single_process"
NORMAL = 1.959963984540054

# What each figure is called, and the field of a run's own figures that holds it.
_ROWS: Mapping[FigureName, tuple[str, str]] = {
    ENERGY: ("Energy per output token", "energy_per_output_token_j"),
    "output_tokens_per_second": ("Output throughput", "output_tokens_per_second"),
    "ttft_s": ("TTFT, median", "ttft_p50_s"),
    "tpot_s": ("TPOT, median", "tpot_p50_s"),
}
_JOULES: tuple[FigureName, ...] = (ENERGY,)
_TOKENS: tuple[FigureName, ...] = (ENERGY, "output_tokens_per_second", "tpot_s")
_ALL: tuple[FigureName, ...] = (*_TOKENS, "ttft_s")
# Which figures a warning leaves without a verdict. What is not here widens an interval, holds for energy that
# is not compared (idle, net), or names a state that both sides may share, such as a power limit.
WITHHELD: Mapping[WarningCode, tuple[FigureName, ...]] = {
    "counter_power_mismatch": _JOULES,
    "counter_reset": _JOULES,
    "sensor_stuck": _JOULES,
    "recorder_gap": _JOULES,
    "mig_shared": _JOULES,
    "foreign_gpu_process": _ALL,
    "host_busy": _ALL,
    "swap_active": _ALL,
    "suspended": _ALL,
    "not_steady": _ALL,
    "thermal_throttle": _ALL,
    "clock_changed": _ALL,
    "cpu_throttled": _ALL,
    "schedule_lag": ("ttft_s",),
}


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of one side: what is shown of it, and what each of its runs gave alone.

    `processes` counts the measured runs, which a result of version 0.8 has without figures. `resolution` and
    `common` are relative standard uncertainties: the scatter of the runs contains the first, and the second
    is the same in every run and does not cancel in a ratio. `offset` is how far the value may be off,
    relative to it, by an error that both sides share in watts and not in proportion.
    """

    estimate: Estimate
    runs: tuple[float, ...] = ()
    processes: int = 0
    resolution: float = 0.0
    common: float = 0.0
    offset: tuple[float, float] = (0.0, 0.0)

    @property
    def replicates(self) -> int:
        return len(self.runs) or self.processes


@dataclass(frozen=True, slots=True)
class Method:
    """How the interval of a ratio came about: `degrees` of freedom, None where they are unlimited or unknown,
    and how many runs of A and of B it is from.

    `intervals` propagates the intervals of both figures, where the runs of one side have no figures of their
    own; `within_process` does so where single processes were allowed. `too_few_runs` gives none.
    """

    name: MethodName
    degrees: float | None
    replicates: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Ratio:
    """One figure of both, and B / A. `verdict` is what the interval of the ratio shows about B, None where
    there is no interval; `withheld` says why it was withheld.
    """

    name: FigureName
    label: str
    a: Estimate
    b: Estimate
    ratio: Estimate
    method: Method | None
    verdict: Verdict | None
    withheld: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Side:
    """A or B. `modelled`: its energy, or a part of it, is estimated and not measured."""

    experiment_id: str
    runs: int
    modelled: bool
    warnings: tuple[MeasurementWarning, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """`allowed` are the differences that were accepted, `settings` what the ratios are about.

    `cancels` says whether the systematic errors of the energies cancel, None where one has no energy.
    """

    a: Side
    b: Side
    allowed: tuple[Difference, ...]
    settings: tuple[Setting, ...]
    cancels: bool | None
    ratios: tuple[Ratio, ...]


def compare(a: ExperimentResult, b: ExperimentResult, *, allow: Collection[str] = ()) -> Comparison:
    """B against A, figure by figure.

    `allow` holds keys of `KEYS`, and `single_process` to judge by intervals within single processes.
    ConfigError where A and B are the same result, and where they differ in something that is not in `allow`;
    it names each difference.
    """
    found = tuple(differences(a, b))
    refuse_differences((a.experiment_id, a.started_at), (b.experiment_id, b.started_at), found, allow)
    energies = a.energy.per_output_token.value, b.energy.per_output_token.value
    cancels = None if None in energies else errors_cancel(a, b)
    return Comparison(
        a=_side(a),
        b=_side(b),
        allowed=found,
        settings=settings(a, b),
        cancels=cancels,
        ratios=tuple(_ratios(a, b, cancels=bool(cancels), single=SINGLE_PROCESS in allow)),
    )


def refuse_differences(
    a: tuple[str, Start], b: tuple[str, Start], found: Sequence[Difference], allow: Collection[str]
) -> None:
    """ConfigError where A and B (their ids and starts) are one, and for differences that are not allowed."""
    keys = (*KEYS, SINGLE_PROCESS)
    if unknown := sorted(set(allow) - set(keys)):
        raise ConfigError(
            f"there is no difference named {', '.join(unknown)}", hint=f"one of: {', '.join(keys)}"
        )
    if a == b:
        raise ConfigError(
            f"A and B are the same result: {a[0]}",
            hint="give two results; a copy is not a second measurement",
        )
    refused = [difference for difference in found if difference.key not in allow]
    if refused:
        lines = [f"  {one.key}: {KEYS[one.key]}: {one.a} against {one.b}" for one in refused]
        raise ConfigError(
            "\n".join(["these results cannot be compared, because they differ in", *lines]),
            hint="to compare them anyway: " + " ".join(f"--allow {one.key}" for one in refused),
        )


def _calibrated(result: ExperimentResult) -> bool:
    energy = result.energy
    by_reference = energy.uncertainty is not None and any(
        term.name == CALIBRATION for term in energy.uncertainty.total
    )
    return energy.per_output_token.systematic is None or by_reference


def errors_cancel(a: ExperimentResult, b: ExperimentResult) -> bool:
    """Whether the systematic errors of both energies are the same and cancel in a ratio.

    The gain of a sensor does on the same board, a GPU known by its UUID, a package or a host by its name and
    its CPU, unless one of them was calibrated in between. The error of a model of power depends on the work:
    it cancels only where engine, precision and machine are the same.
    """
    sensors = [{(reading.domain, reading.source) for reading in result.energy.readings} for result in (a, b)]
    hosts = [(result.environment.hostname, result.environment.cpu) for result in (a, b)]
    work = [(result.config.backend, result.config.precision) for result in (a, b)]
    calibrated = [_calibrated(result) for result in (a, b)]
    named = all(domain.startswith(("gpu:", "module:")) for domain, _ in sensors[0])
    same = bool(sensors[0]) and sensors[0] == sensors[1] and calibrated[0] == calibrated[1]
    return same and (named or hosts[0] == hosts[1]) and (not is_modelled(a.energy) or work[0] == work[1])


def judge(
    name: FigureName,
    label: str,
    a: Figure,
    b: Figure,
    *,
    cancels: bool,
    single: bool = False,
    withheld: tuple[str, ...] = (),
) -> Ratio:
    """B / A of one figure: with an interval and a verdict where both have three runs and nothing is withheld.

    `single` accepts fewer runs, and then takes the intervals of the estimates.
    """
    found, method = ratio(a.estimate, b.estimate, cancels=cancels), None
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
    elif found.value is not None and not few and a.runs and b.runs:
        found, degrees = _welch(found, found.value, a, b)
        method = Method("welch_satterthwaite", degrees, counts)
    elif found.low is not None:
        method = Method("within_process" if few else "intervals", None, counts)
    return Ratio(name, label, a.estimate, b.estimate, found, method, _verdict(found), withheld)


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


def _welch(found: Estimate, value: float, a: Figure, b: Figure) -> tuple[Estimate, float | None]:
    """The ratio with its interval over runs, and the degrees of freedom.

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
    reach = math.exp(t_quantile(0.975, degrees) * math.sqrt(whole))
    bounded = Estimate(value, "1", value / reach, value * reach, found.systematic)
    return bounded, degrees if math.isfinite(degrees) else None


def regression(comparison: Comparison, percent: float) -> str | None:
    """In one sentence that B uses over `percent` more joules per output token, beyond the interval and the
    systematic range, or None.

    ConfigError where there are too few runs to judge, ResultError where it can't be judged for another
    reason.
    """
    # Joules stand first; of several windows each has its own.
    judged = [one for one in comparison.ratios if one.name == comparison.ratios[0].name]
    return next((found for one in judged if (found := _regression(one, percent)) is not None), None)


def _regression(energy: Ratio, percent: float) -> str | None:
    found = energy.ratio
    low, _ = _ends(found)
    if found.value is None or low is None:
        message = f"a regression cannot be judged:\n  {found.reason}"
        if energy.method is not None and energy.method.name == "too_few_runs":
            hint = f"repeat both (--set repeats.count=3), or --allow {SINGLE_PROCESS}"
            raise ConfigError(message, hint=hint)
        raise ResultError(message)
    if low <= 1 + percent / 100:
        return None
    what = energy.a.unit if energy.name == ENERGY else energy.label
    return (
        f"B uses {100 * (found.value - 1):.1f} % more {what} than A, "
        f"at least {100 * (low - 1):.1f} %; {percent:g} % is allowed"
    )


def _verdict(found: Estimate) -> Verdict | None:
    if found.low is None or found.high is None:
        return None
    # Equal figures differ by rounding.
    if found.low <= 1 + 1e-9 and found.high >= 1 - 1e-9:
        return "no difference shown"
    low, high = _ends(found)
    if low is not None and high is not None and low <= 1 <= high:
        return "within systematic uncertainty"
    return "higher" if found.low > 1 else "lower"


def _ends(found: Estimate) -> tuple[float | None, float | None]:
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


def _side(result: ExperimentResult) -> Side:
    return Side(result.experiment_id, len(result.measured), is_modelled(result.energy), result.warnings)


def _ratios(a: ExperimentResult, b: ExperimentResult, *, cancels: bool, single: bool) -> Iterator[Ratio]:
    for name, (label, _) in _ROWS.items():
        withheld = (*_withheld("A", a, name), *_withheld("B", b, name))
        of_a, of_b = _figure(a, name), _figure(b, name)
        yield judge(name, label, of_a, of_b, cancels=cancels, single=single, withheld=withheld)
    yield _peaks(a, b)


def _figure(result: ExperimentResult, name: FigureName) -> Figure:
    alone = [getattr(run.figures, _ROWS[name][1], None) for run in result.measured]
    runs = tuple(value for value in alone if value is not None)
    figure = Figure(compared_estimates(result)[name], runs, len(result.measured))
    budget, value = result.energy.uncertainty, figure.estimate.value
    if name != ENERGY or budget is None or not value:
        return figure
    # What the uncertainty budget leaves in a ratio.
    terms = [term for term in budget.per_output_token if not term.cancels_in_ratio]
    ends = [(term.low, term.high) for term in terms if term.low is not None and term.high is not None]

    def combined(chosen: list[Term]) -> float:
        return math.hypot(*(term.half_width or 0.0 for term in chosen)) / NORMAL / abs(value)

    return replace(
        figure,
        resolution=combined([term for term in terms if term.within_chance]),
        common=combined([term for term in terms if term.common]),
        offset=(sum(low - value for low, _ in ends) / value, sum(high - value for _, high in ends) / value),
    )


def _withheld(side: str, result: ExperimentResult, name: FigureName) -> Iterator[str]:
    """Why this side gets no verdict on a figure."""
    codes = [warning.code for warning in result.warnings]
    if not result.steady:
        codes.append("not_steady")
    touching = [code for code in dict.fromkeys(codes) if name in WITHHELD.get(code, ())]
    yield from (f"{code} in {side}" for code in touching)
    if name == ENERGY and not result.energy.valid:
        yield from (
            f"energy of {side} is not valid: {reason}"
            for reason in result.energy.reasons
            if reason.partition(":")[0] not in touching
        )
    if result.tokens.disputed and name in _TOKENS:
        yield f"token counts of {side} are disputed"


def _peaks(a: ExperimentResult, b: ExperimentResult) -> Ratio:
    sources = {result.memory.source for result in (a, b) if result.memory.source is not None}
    alone = "one figure, without interval"
    if len(sources) > 1:
        alone = f"read in different ways: {' and '.join(sorted(sources))}"
    of_a, of_b = (
        Estimate.missing("bytes", result.memory.reason or "peak memory is not known")
        if result.memory.peak_bytes is None
        else Estimate(float(result.memory.peak_bytes), "bytes", reason=alone)
        for result in (a, b)
    )
    found = ratio(of_a, of_b)
    if found.value is not None:
        found = Estimate(found.value, "1", reason=alone)
    return Ratio("peak_bytes", "Peak memory", of_a, of_b, found, None, None, ())
