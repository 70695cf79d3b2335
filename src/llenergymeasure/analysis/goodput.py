"""How many requests kept every objective that was stated?"""

from __future__ import annotations

from llenergymeasure.analysis.estimates import ratio_over_passes
from llenergymeasure.analysis.latency import e2e_s, has_due_times, tpot_s, ttft_s
from llenergymeasure.analysis.replicates import Groups, requests, seconds
from llenergymeasure.config.load import SloConfig
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.records import Completion, Estimate


def is_good(done: Completion, slo: SloConfig, *, from_due: bool) -> bool:
    """Whether a request was answered within every objective; one with a single token has no time per token
    to keep. Where a time that an objective is about is not known, it was not.
    """
    waited = [(slo.ttft, ttft_s(done, from_due=from_due)), (slo.e2e, e2e_s(done, from_due=from_due))]
    if done.output_tokens != 1:
        waited.append((slo.tpot, tpot_s(done)))
    return done.finish != "error" and all(
        limit is None or (time_s is not None and time_s <= limit) for limit, time_s in waited
    )


def good_requests(groups: Groups, config: ExperimentConfig) -> list[int]:
    from_due = has_due_times(config)
    return [
        sum(
            is_good(done, config.slo, from_due=from_due)
            for one in group
            for done in one.generation.completions
        )
        for group in groups
    ]


def why_no_goodput(groups: Groups, config: ExperimentConfig) -> str | None:
    """Why nobody can say which requests are good: an objective is about first tokens, and none has a time."""
    needs_first = config.slo.ttft is not None or config.slo.tpot is not None
    firsts = (each.t_first_ns for group in groups for one in group for each in one.generation.answered)
    if needs_first and any(requests(groups)) and all(first is None for first in firsts):
        return "no first-token times, which an objective is about"
    return None


def goodput(groups: Groups, config: ExperimentConfig) -> Estimate | None:
    """Good requests per second of the passes; None where no objective is stated."""
    if config.slo == SloConfig():
        return None
    if why := why_no_goodput(groups, config):
        return Estimate.missing("request/s", why)
    return ratio_over_passes(good_requests(groups, config), seconds(groups), unit="request/s")
