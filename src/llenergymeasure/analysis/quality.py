"""How many answers were right, how well is that known, and what does a right one cost?"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import NormalDist, fmean

from llenergymeasure.analysis.statistics import two_sided
from llenergymeasure.records import Estimate, Measurement
from llenergymeasure.results.models import MatcherCount, Quality

_Z = NormalDist().inv_cdf(0.975)
NO_TEXT = "the engine gives neither the text of its answers nor their token ids"


def quality(measurements: Sequence[Measurement]) -> Quality | None:
    """Over all runs; None where no prompt has a reference answer.

    The unit is the prompt: greedy decoding says the same in each run, and where tokens are drawn the answers
    to one prompt resemble each other. A prompt that was answered several times counts with the share that was
    right, so that the interval is that of as many questions, however often each was asked.
    """
    first = measurements[0]
    if first.dataset is None or not first.dataset.references:
        return None
    verdicts = [
        (done.index, done.verdict)
        for one in measurements
        for each in one.passes
        for done in each.generation.completions
        if done.verdict is not None
    ]
    by_prompt: dict[int, list[bool]] = defaultdict(list)
    matchers: dict[str, list[bool]] = defaultdict(list)
    for index, verdict in verdicts:
        by_prompt[index].append(verdict.correct)
        matchers[verdict.matcher].append(verdict.correct)
    exact = first.config.output_length == "exact"
    return Quality(
        accuracy=accuracy([fmean(each) for each in by_prompt.values()]),
        prompts=len(by_prompt),
        judged=len(verdicts),
        correct=sum(verdict.correct for _, verdict in verdicts),
        matchers=tuple(
            MatcherCount(matcher=name, judged=len(each), correct=sum(each))
            for name, each in sorted(matchers.items())
        ),
        cut_or_padded=exact,
    )


def accuracy(shares: Sequence[float]) -> Estimate:
    """The mean share of right answers with Wilson's interval for that many prompts (Wilson 1927)."""
    if not shares:
        return Estimate.missing("1", NO_TEXT)
    value = fmean(shares)
    return Estimate(value, "1", *_wilson(value, len(shares), _Z))


def _wilson(value: float, count: int, quantile: float) -> tuple[float, float]:
    middle = (value + quantile**2 / (2 * count)) / (1 + quantile**2 / count)
    root = math.sqrt(value * (1 - value) / count + quantile**2 / (4 * count**2))
    half = quantile / (1 + quantile**2 / count) * root
    return max(0.0, min(value, middle - half)), min(1.0, max(value, middle + half))


def accuracy_difference(a: Quality, b: Quality, *, alpha: float) -> tuple[Estimate, float | None]:
    """B − A with an interval that leaves out the truth with a chance of `alpha`, and the two-sided chance of
    so large a difference where there is none.

    The interval is Newcombe's hybrid score (1998, method 10), from Wilson's of both; the chance is that of
    the pooled two-proportion test. Both take the answers for independent: those to the same questions
    resemble each other, so that the interval is rather too wide.
    """
    of_a, of_b = a.accuracy.value, b.accuracy.value
    if of_a is None or of_b is None:
        return Estimate.missing("1", f"{'A' if of_a is None else 'B'}: {NO_TEXT}"), None
    quantile = NormalDist().inv_cdf(1 - alpha / 2)
    (a_low, a_high), (b_low, b_high) = (
        _wilson(value, one.prompts, quantile) for value, one in ((of_a, a), (of_b, b))
    )
    apart = of_b - of_a
    low = apart - math.hypot(of_b - b_low, a_high - of_a)
    high = apart + math.hypot(b_high - of_b, of_a - a_low)
    pooled = (of_a * a.prompts + of_b * b.prompts) / (a.prompts + b.prompts)
    error = math.sqrt(pooled * (1 - pooled) * (1 / a.prompts + 1 / b.prompts))
    chance = two_sided(apart / error, math.inf) if error else 1.0
    return Estimate(apart, "1", low, high), chance


def per_correct_answer(per_request: Estimate, share: Estimate) -> Estimate:
    """Joules per request over the share of right answers.

    The interval joins those of both in logarithms, each end from the ends that move it there (MOVER: Zou and
    Donner 2008, Statistics in Medicine 27), since their errors are independent. Wrong answers cost as much.
    """
    unit = "J/correct answer"
    if per_request.value is None or share.value is None:
        return Estimate.missing(unit, per_request.reason or share.reason or "")
    if share.value == 0:
        return Estimate.missing(unit, "no answer was right")
    value = per_request.value / share.value
    systematic = per_request.systematic and (
        per_request.systematic[0] / share.value,
        per_request.systematic[1] / share.value,
    )
    if per_request.low is None or per_request.high is None or share.low is None or share.high is None:
        return Estimate(value, unit, systematic=systematic, reason=per_request.reason or share.reason)
    if per_request.low <= 0 or share.low <= 0:
        why = "an interval that reaches 0 has no logarithm"
        return Estimate(value, unit, systematic=systematic, reason=why)
    below = math.hypot(math.log(per_request.value / per_request.low), math.log(share.high / share.value))
    above = math.hypot(math.log(per_request.high / per_request.value), math.log(share.value / share.low))
    low, high = value * math.exp(-below), value * math.exp(above)
    return Estimate(value, unit, low, high, systematic, per_request.reason)
