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
from llenergymeasure.analysis.quality import accuracy_difference
from llenergymeasure.analysis.statistics import anytime_quantile, t_quantile, two_sided
from llenergymeasure.analysis.uncertainty import CALIBRATION
from llenergymeasure.exceptions import ConfigError
from llenergymeasure.records import Estimate, MeasurementWarning, WarningCode
from llenergymeasure.results.models import ExperimentResult, Quality, RunPart, Term
from llenergymeasure.results.summary import is_modelled

Verdict: TypeAlias = Literal["higher", "lower", "no difference shown", "within systematic uncertainty"]
MethodName: TypeAlias = Literal[
    "welch_satterthwaite",
    "paired_blocks",
    "sequential_blocks",
    "intervals",
    "within_process",
    "too_few_runs",
]

ENERGY: FigureName = "energy_per_output_token"
# Runs on each side from which a ratio gets an interval, and the key that makes do with fewer.
REPLICATES = 3
SINGLE_PROCESS = "single_process"
ALPHA = 0.05
ROUNDING = 1e-9
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


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What is not compared, and why. `absent`: there was never anything to compare it with."""

    name: str
    reason: str
    absent: bool = False


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
    `family` is among how many comparisons this is one: the intervals of all hold together with 95 %.
    `one_server`: a single start of a server answered all runs of both. `left_out` are figures that one side
    alone has.
    """

    a: Side
    b: Side
    allowed: tuple[Difference, ...]
    settings: tuple[Setting, ...]
    cancels: bool | None
    ratios: tuple[Ratio, ...]
    family: int = 1
    one_server: bool = False
    left_out: tuple[LeftOut, ...] = ()


def compare(
    a: ExperimentResult,
    b: ExperimentResult,
    *,
    allow: Collection[str] = (),
    family: int = 1,
    sequential: bool = False,
) -> Comparison:
    """B against A, figure by figure.

    `allow` holds keys of `KEYS`, and `single_process` to judge by intervals within single processes. Each
    interval leaves out the truth with a chance of 5 % / `family` at most. `sequential`: the runs of equal
    numbers are blocks, and somebody looked after each of them.

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
        ratios=tuple(
            _ratios(
                a,
                b,
                cancels=bool(cancels),
                single=SINGLE_PROCESS in allow,
                alpha=ALPHA / family,
                sequential=sequential,
            )
        ),
        family=family,
        one_server=_is_one_server(a, b),
    )


def refuse_differences(
    a: tuple[str, object], b: tuple[str, object], found: Sequence[Difference], allow: Collection[str]
) -> None:
    """ConfigError where A and B (their ids, and starts or tools) are one, and for differences that are not
    allowed.
    """
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


def _side(result: ExperimentResult) -> Side:
    return Side(result.experiment_id, len(result.measured), is_modelled(result.energy), result.warnings)


def _ratios(
    a: ExperimentResult,
    b: ExperimentResult,
    *,
    cancels: bool,
    single: bool,
    alpha: float,
    sequential: bool,
) -> Iterator[Ratio]:
    for name, (label, _) in _ROWS.items():
        yield judge(
            name,
            label,
            _figure(a, name, in_blocks=sequential),
            _figure(b, name, in_blocks=sequential),
            cancels=cancels,
            single=single,
            withheld=(*_withheld("A", a, name), *_withheld("B", b, name)),
            alpha=alpha,
            sequential=sequential,
        )
    yield _peaks(a, b)
    if a.quality is not None and b.quality is not None:
        yield _accuracies(a.quality, b.quality, alpha=alpha)
        costs = [one.energy.per_correct_answer for one in (a, b)]
        figures = [
            Figure(one or Estimate.missing("J/correct answer", "unknown"), processes=len(of.measured))
            for one, of in zip(costs, (a, b), strict=True)
        ]
        yield judge(
            "energy_per_correct_answer",
            "Energy per correct answer",
            *figures,
            cancels=cancels,
            single=single,
            withheld=(
                *_withheld("A", a, ENERGY),
                *_withheld("B", b, ENERGY),
                *_unlike_answers(a.quality, b.quality),
            ),
            alpha=alpha,
        )


def _accuracies(a: Quality, b: Quality, *, alpha: float) -> Ratio:
    apart, chance = accuracy_difference(a, b, alpha=alpha)
    withheld, verdict = tuple(_unlike_answers(a, b)), None
    if apart.value is None or withheld:
        chance = None
        if apart.value is not None:
            apart = Estimate(apart.value, "1", reason="; ".join(withheld))
    elif apart.low is not None and apart.high is not None:
        verdict = difference_verdict(apart.low, apart.high)
    found = ratio(a.accuracy, b.accuracy)
    if found.value is not None:
        found = Estimate(found.value, "1", reason="the interval is that of the difference")
    return Ratio(
        "accuracy", "Accuracy", a.accuracy, b.accuracy, found, None, verdict, withheld, chance, apart
    )


def difference_verdict(low: float, high: float) -> Verdict:
    return "higher" if low > 0 else "lower" if high < 0 else "no difference shown"


def _unlike_answers(a: Quality, b: Quality) -> Iterator[str]:
    """Why a difference of accuracies would be one of something else too."""
    yield from (
        f"answers of {name} are cut or padded" for name, one in (("A", a), ("B", b)) if one.cut_or_padded
    )
    matchers = [", ".join(one.matcher for one in side.matchers) for side in (a, b)]
    if matchers[0] != matchers[1]:
        yield f"judged by other matchers: {matchers[0]} against {matchers[1]}"


def _figure(result: ExperimentResult, name: FigureName, *, in_blocks: bool) -> Figure:
    alone = [(getattr(run.figures, _ROWS[name][1], None), run) for run in result.measured]
    known = [(value, run) for value, run in alone if value is not None]
    blocks = tuple(_block(run, in_turns=in_blocks) for _, run in known)
    runs = tuple(value for value, _ in known)
    figure = Figure(compared_estimates(result)[name], runs, len(result.measured), blocks=blocks)
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


def _block(run: RunPart, *, in_turns: bool) -> str | None:
    """In which block a run belongs with one of another result: its number, where the two ran in turns or one
    server answered both.
    """
    if in_turns:
        return str(run.index)
    return None if run.server is None else f"{run.index} {run.server}"


def _is_one_server(*results: ExperimentResult) -> bool:
    """Whether a single start of a server answered all runs, so that they say nothing of the next start."""
    servers = {run.server for one in results for run in one.measured}
    return len(servers) == 1 and None not in servers


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
