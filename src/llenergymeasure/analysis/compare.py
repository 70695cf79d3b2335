"""Does B cost more than A, and may the two be compared at all?"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from llenergymeasure.analysis.differences import KEYS, Difference, Setting, differences, settings
from llenergymeasure.exceptions import ConfigError, ResultError
from llenergymeasure.records import Estimate
from llenergymeasure.results.models import Energy, ExperimentResult

Verdict: TypeAlias = Literal["higher", "lower", "no difference shown", "within the sensors' doubt", "unknown"]

ENERGY = "energy_per_output_token"


@dataclass(frozen=True, slots=True)
class Ratio:
    """One figure of both, and B / A. `verdict` says what the interval of the ratio shows of B."""

    name: str
    label: str
    a: Estimate
    b: Estimate
    ratio: Estimate
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Comparison:
    """`allowed` are the differences that were let pass, `settings` what the ratios are about.

    `same_board` says whether the sensors' own error cancels, `not_valid` why an energy must not be relied on.
    """

    a: str
    b: str
    allowed: tuple[Difference, ...]
    settings: tuple[Setting, ...]
    same_board: bool
    ratios: tuple[Ratio, ...]
    not_valid: tuple[str, ...]


def compare(a: ExperimentResult, b: ExperimentResult, *, allow: Collection[str] = ()) -> Comparison:
    """B against A, figure by figure.

    ConfigError where they differ in something that is not in `allow`, which holds keys of `KEYS`; it names
    each difference.
    """
    if unknown := sorted(set(allow) - set(KEYS)):
        raise ConfigError(
            f"there is no difference named {', '.join(unknown)}", hint=f"one of: {', '.join(KEYS)}"
        )
    found = differences(a, b)
    refused = [difference for difference in found if difference.key not in allow]
    if refused:
        lines = [f"  {one.key}: {KEYS[one.key]}: {one.a} against {one.b}" for one in refused]
        raise ConfigError(
            "\n".join(["these results can't be compared, since they differ in", *lines]),
            hint="to compare them all the same: " + " ".join(f"--allow {one.key}" for one in refused),
        )
    board = same_board(a, b)
    return Comparison(
        a=a.experiment_id,
        b=b.experiment_id,
        allowed=found,
        settings=settings(a, b),
        same_board=board,
        ratios=tuple(_ratios(a, b, board=board)),
        not_valid=tuple(
            f"{name}: {reason}"
            for name, result in (("A", a), ("B", b))
            if not result.energy.valid
            for reason in result.energy.reasons
        ),
    )


def same_board(a: ExperimentResult, b: ExperimentResult) -> bool:
    """Whether the same sensors on the same boards gave both energies: their gain then cancels in a ratio.

    A GPU is known by its UUID; a package or a host by its name and its CPU as well. It does not cancel where
    a calibration came in between.
    """
    sensors = [{(reading.domain, reading.source) for reading in result.energy.readings} for result in (a, b)]
    hosts = [(result.environment.hostname, result.environment.cpu) for result in (a, b)]
    named = all(domain.startswith(("gpu:", "module:")) for domain, _ in sensors[0])
    calibrated = [result.energy.per_output_token.systematic is None for result in (a, b)]
    same = sensors[0] == sensors[1] and calibrated[0] == calibrated[1] and (named or hosts[0] == hosts[1])
    return bool(sensors[0]) and same


def ratio(a: Estimate, b: Estimate, *, cancels: bool = False) -> Estimate:
    """B / A with the interval of two independent estimates, propagated on the logarithmic scale.

    ln(B / A) may lie above its value by the root of the summed squares of ln(B_high / B) and ln(A / A_low),
    and below it likewise (the method of variance estimates recovery; Donner and Zou, 2012). `systematic` is
    the range that both systematic ranges allow, None where there is none or it `cancels`.
    """
    if not a.value or not b.value or min(a.value, b.value) < 0:
        return Estimate.missing("1", _no_value(a, b))
    value, hidden = b.value / a.value, None
    if not cancels and (a.systematic or b.systematic):
        (a_low, a_high), (b_low, b_high) = _hidden(a, a.value), _hidden(b, b.value)
        if a_low <= 0:
            return Estimate.missing("1", "what the sensor of A may hide reaches down to 0")
        hidden = b_low / a_high, b_high / a_low
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return Estimate(value, "1", systematic=hidden, reason=_first_reason(a, b))
    if min(a.low, b.low) <= 0:
        return Estimate(value, "1", systematic=hidden, reason="an interval reaches down to 0")
    up = math.hypot(math.log(b.high / b.value), math.log(a.value / a.low))
    down = math.hypot(math.log(b.value / b.low), math.log(a.high / a.value))
    return Estimate(value, "1", value * math.exp(-down), value * math.exp(up), hidden)


def regression(comparison: Comparison, percent: float) -> str | None:
    """In one sentence that B costs over `percent` more joules per output token, beyond the interval, or None.

    ResultError where that can't be judged: an energy is not valid, or there is no interval.
    """
    energy = next(one for one in comparison.ratios if one.name == ENERGY)
    if comparison.not_valid:
        raise ResultError(
            f"a regression can't be judged: energy is not valid; {'; '.join(comparison.not_valid)}"
        )
    if energy.ratio.low is None or energy.ratio.value is None:
        raise ResultError(f"a regression can't be judged: {energy.ratio.reason}")
    if energy.ratio.low <= 1 + percent / 100:
        return None
    return (
        f"B costs {energy.ratio.value - 1:.1%} more joules per output token than A, at least "
        f"{energy.ratio.low - 1:.1%}; {percent:g} % were allowed"
    )


def _no_value(a: Estimate, b: Estimate) -> str:
    if a.value is None or b.value is None:
        return _first_reason(a, b)
    return f"{'A' if a.value <= 0 else 'B'} is not above 0, and a ratio of it says nothing"


def _first_reason(a: Estimate, b: Estimate) -> str:
    """Why a part of the first one that lacks it is missing."""
    missing = [(name, one) for name, one in (("A", a), ("B", b)) if one.value is None or one.low is None]
    name, one = missing[0]
    return f"{name}: {one.reason}"


def _hidden(one: Estimate, value: float) -> tuple[float, float]:
    return one.systematic or (value, value)


def _sound(energy: Energy) -> Estimate:
    """The cost in joules; where energy is not valid, without an interval that would not hold."""
    cost = energy.per_output_token
    if energy.valid or cost.value is None:
        return cost
    return Estimate(cost.value, cost.unit, reason="energy is not valid")


def _verdict(found: Estimate) -> Verdict:
    if found.low is None or found.high is None:
        return "unknown"
    if found.low <= 1 <= found.high:
        return "no difference shown"
    if found.systematic is not None and found.systematic[0] <= 1 <= found.systematic[1]:
        return "within the sensors' doubt"
    return "higher" if found.low > 1 else "lower"


def _ratios(a: ExperimentResult, b: ExperimentResult, *, board: bool) -> Iterator[Ratio]:
    rows = (
        (ENERGY, "Energy per output token", _sound(a.energy), _sound(b.energy)),
        (
            "output_tokens_per_second",
            "Output throughput",
            a.performance.output_tokens_per_second,
            b.performance.output_tokens_per_second,
        ),
        ("ttft_s", "Time to first token, median", a.performance.ttft_s.p50, b.performance.ttft_s.p50),
        ("tpot_s", "Time per output token, median", a.performance.tpot_s.p50, b.performance.tpot_s.p50),
        ("peak_bytes", "Peak memory", *_peaks(a, b)),
    )
    for name, label, of_a, of_b in rows:
        found = ratio(of_a, of_b, cancels=board)
        yield Ratio(name, label, of_a, of_b, found, _verdict(found))


def _peaks(a: ExperimentResult, b: ExperimentResult) -> tuple[Estimate, Estimate]:
    sources = a.memory.source, b.memory.source
    alone = "one figure per run: it has no interval"
    if sources[0] != sources[1] and None not in sources:
        alone = f"read in two ways: {sources[0]} and {sources[1]}"
    return _peak(a, alone), _peak(b, alone)


def _peak(result: ExperimentResult, alone: str) -> Estimate:
    peak = result.memory.peak_bytes
    if peak is None:
        return Estimate.missing("bytes", result.memory.reason or "peak memory is not known")
    return Estimate(float(peak), "bytes", reason=alone)
