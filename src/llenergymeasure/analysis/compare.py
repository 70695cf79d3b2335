"""Does B cost more than A, and may the two be compared at all?"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from llenergymeasure.analysis.differences import (
    KEYS,
    Difference,
    FigureName,
    Setting,
    compared_estimates,
    differences,
    settings,
)
from llenergymeasure.analysis.judge import ALPHA, Figure, Ratio, difference_verdict, judge, ratio
from llenergymeasure.analysis.quality import accuracy_difference
from llenergymeasure.analysis.uncertainty import CALIBRATION
from llenergymeasure.exceptions import ConfigError
from llenergymeasure.records import Estimate, MeasurementWarning, WarningCode
from llenergymeasure.results.models import ExperimentResult, Quality, RunPart, Term
from llenergymeasure.results.summary import is_modelled

ENERGY: FigureName = "energy_per_output_token"
# The key that makes do with fewer runs than a ratio needs for its interval.
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
            withheld=tuple(_withheld(a, b, name)),
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
            withheld=(*_withheld(a, b, ENERGY), *_unlike_answers(a.quality, b.quality)),
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


def _withheld(a: ExperimentResult, b: ExperimentResult, name: FigureName) -> Iterator[str]:
    """Why there is no verdict on a figure."""
    touching = [[code for code in _codes(result) if name in WITHHELD.get(code, ())] for result in (a, b)]
    yield from sides_with(*touching)
    for side, result, codes in zip("AB", (a, b), touching, strict=True):
        if name == ENERGY and not result.energy.valid:
            yield from (
                f"energy of {side} is not valid: {reason}"
                for reason in result.energy.reasons
                if reason.partition(":")[0] not in codes
            )
        if result.tokens.disputed and name in _TOKENS:
            yield f"token counts of {side} are disputed"


def _codes(result: ExperimentResult) -> list[WarningCode]:
    return [*(one.code for one in result.warnings), *(() if result.steady else ("not_steady",))]


def sides_with(a: Collection[WarningCode], b: Collection[WarningCode]) -> Iterator[str]:
    """Each code once, with the sides that have it."""
    for code in dict.fromkeys((*a, *b)):
        yield f"{code} in {' and '.join(side for side, codes in (('A', a), ('B', b)) if code in codes)}"


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
