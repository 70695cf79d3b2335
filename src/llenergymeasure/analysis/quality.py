"""How many answers were right, how well is that known, and what does a right one cost?"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from statistics import NormalDist, fmean

from llenergymeasure.exceptions import ConfigError
from llenergymeasure.records import Estimate, Measurement
from llenergymeasure.results.models import MatcherCount, Quality
from llenergymeasure.results.study import StudyResult, StudyRow

_Z = NormalDist().inv_cdf(0.975)
NO_TEXT = "the engine gives neither the text of its answers nor their token ids"
_RULE = re.compile(r"accuracy\s*>=\s*(\d+(?:\.\d+)?)\s*%")


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
    count, value = len(shares), fmean(shares)
    middle = (value + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    half = _Z / (1 + _Z**2 / count) * math.sqrt(value * (1 - value) / count + _Z**2 / (4 * count**2))
    return Estimate(value, "1", max(0.0, min(value, middle - half)), min(1.0, max(value, middle + half)))


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


def holding(study: StudyResult, rule: str) -> tuple[StudyRow, ...]:
    """The rows whose accuracy is at least that share of the baseline's, `accuracy>=95%`. The baseline is the
    first row that has an accuracy; both by their values. ConfigError where the rule has another form, or no
    row has an accuracy.
    """
    found = _RULE.fullmatch(rule.strip())
    if found is None:
        raise ConfigError(f"{rule!r} is no rule of the form accuracy>=95%", hint="quote it in a shell")
    known = [row for row in study.rows if row.accuracy is not None and row.accuracy.value is not None]
    if not known:
        raise ConfigError(
            "no experiment of this study has an accuracy",
            hint="give records a reference answer (dataset.answer) and set output_length to natural",
        )
    least = float(found[1]) / 100 * _value(known[0])
    return tuple(row for row in known if _value(row) >= least)


def _value(row: StudyRow) -> float:
    assert row.accuracy is not None
    assert row.accuracy.value is not None
    return row.accuracy.value
