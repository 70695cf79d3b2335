"""How long a request waited: percentiles over requests, with sample-size rules and intervals over passes."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import accumulate

import numpy as np

from llenergymeasure.analysis.estimates import ratio_over_passes, too_few
from llenergymeasure.analysis.replicates import Groups, requests, seconds
from llenergymeasure.analysis.statistics import t_half_width
from llenergymeasure.config.load import SloConfig
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.records import Completion, Estimate, Measurement, MeasurementWarning
from llenergymeasure.records.running import GAP_BINS
from llenergymeasure.results.models import Percentiles

NEEDED = {99.0: 100}
# An event loop on a machine that works wakes up a few milliseconds late, and no load is finer than that.
TIMER_S = 0.005
# No engine makes a token in less: they were read together.
_AT_ONCE_S = 1e-6
_BY_WHAT = "held back by what is between, such as a proxy, or by a busy machine"
AT_ONCE = f"the tokens of most answers came all at once, {_BY_WHAT}"
TOGETHER = f"most tokens came together with the one before, {_BY_WHAT}"


def has_due_times(config: ExperimentConfig) -> bool:
    """Whether requests were due at times of their own, from which latencies count: they include what a
    request waited for the client. Else they count from when it was sent (its batch, where that is static).
    """
    return config.load is not None and config.load.arrivals != "closed"


def ttft_s(done: Completion, *, from_due: bool = False) -> float | None:
    """To its first token."""
    return None if done.t_first_ns is None else (done.t_first_ns - _origin_ns(done, from_due)) / 1e9


def e2e_s(done: Completion, *, from_due: bool = False) -> float | None:
    """To its last token."""
    return (done.t_end_ns - _origin_ns(done, from_due)) / 1e9


def _origin_ns(done: Completion, from_due: bool) -> int:
    return done.t_scheduled_ns if from_due else done.t_sent_ns


def tpot_s(done: Completion) -> float | None:
    """(t_last − t_first) / (n − 1); a request with one token has none."""
    if done.t_first_ns is None or done.output_tokens < 2:
        return None
    return (done.t_end_ns - done.t_first_ns) / 1e9 / (done.output_tokens - 1)


def percentiles(groups: Groups, latency: Callable[[Completion], float | None], why_none: str) -> Percentiles:
    """Of all requests of all passes; the interval is Student's t over those of each run (or pass)."""
    by_pass = [
        [value for one in group for done in one.generation.answered if (value := latency(done)) is not None]
        for group in groups
    ]
    by_pass = [values for values in by_pass if values]
    everything = [value for values in by_pass for value in values]
    if not everything:
        return none(why_none)
    return Percentiles(
        mean=_over_passes(float(np.mean(everything)), [float(np.mean(values)) for values in by_pass]),
        p50=_percentile(everything, by_pass, 50.0),
        p90=_percentile(everything, by_pass, 90.0),
        p95=_percentile(everything, by_pass, 95.0),
        p99=_percentile(everything, by_pass, 99.0),
        count=len(everything),
    )


def tpot(groups: Groups, why_none: str) -> Percentiles:
    found = percentiles(groups, tpot_s, why_none)
    return none(AT_ONCE) if at_once(found) else found


def at_once(found: Percentiles) -> bool:
    return found.p50.value is not None and found.p50.value < _AT_ONCE_S


def none(why: str) -> Percentiles:
    missing = Estimate.missing("s", why)
    return Percentiles(mean=missing, p50=missing, p90=missing, p95=missing, p99=missing, count=0)


def chunk_gaps(groups: Groups) -> Percentiles:
    """Of the time from one chunk of an answer to the next, in the windows of a running load. Each is known to
    half a bin of its histogram, 0.2 %.
    """
    by_pass = [Counter[int]() for _ in groups]
    for gaps, group in zip(by_pass, groups, strict=True):
        for one in group:
            gaps.update(dict(one.served.gaps) if one.served is not None else {})
    by_pass = [gaps for gaps in by_pass if gaps]
    everything = sum(by_pass, Counter[int]())
    count = everything.total()
    if not count:
        return none("no answer came in several chunks")

    def at(q: float) -> Estimate:
        if count < NEEDED.get(q, 1):
            return Estimate.missing("s", f"p{q:g} needs {NEEDED[q]} gaps, there are {count}")
        return _over_passes(_of_histogram(everything, q), [_of_histogram(gaps, q) for gaps in by_pass])

    mean = _over_passes(_mean_of(everything), [_mean_of(gaps) for gaps in by_pass])
    return Percentiles(mean=mean, p50=at(50.0), p90=at(90.0), p95=at(95.0), p99=at(99.0), count=count)


def _gap_s(number: int) -> float:
    """The middle of that bin."""
    return math.exp((number + 0.5) / GAP_BINS) / 1e9


def _of_histogram(gaps: Counter[int], q: float) -> float:
    """By linear interpolation between order statistics, each in the middle of its bin."""
    numbers = sorted(gaps)
    last = list(accumulate(gaps[number] for number in numbers))
    rank = q / 100 * (last[-1] - 1)
    below, above = (_gap_s(numbers[bisect_right(last, at)]) for at in (math.floor(rank), math.ceil(rank)))
    return below + (rank - math.floor(rank)) * (above - below)


def _mean_of(gaps: Counter[int]) -> float:
    return math.fsum(count * _gap_s(number) for number, count in gaps.items()) / gaps.total()


def schedule_lags_s(measurements: Sequence[Measurement]) -> tuple[float, float] | None:
    """By how much requests were sent after they were due, p50 and p99; None of a closed loop, in which they
    are due when they are sent.
    """
    load = measurements[0].config.load
    if load is not None and load.arrivals == "closed":
        return None
    done = (one for run in measurements for each in run.passes for one in each.generation.completions)
    lags_ns = np.fromiter((one.t_sent_ns - one.t_scheduled_ns for one in done), np.int64)
    if not len(lags_ns):
        return None
    p50, p99 = np.percentile(lags_ns, [50.0, 99.0]) / 1e9
    return float(p50), float(p99)


def lag_warnings(measurements: Sequence[Measurement]) -> list[MeasurementWarning]:
    """Whether the client kept up with the load."""
    lags = schedule_lags_s(measurements)
    if lags is None or lags[1] <= TIMER_S:
        return []
    lag = f"{lags[1] * 1e3:.3g} ms" if lags[1] < 0.9995 else f"{lags[1]:.3g} s"
    said = f"one request in a hundred was sent {lag} or more after it was due"
    return [MeasurementWarning.of("schedule_lag", said)]


def _percentile(everything: Sequence[float], by_pass: Sequence[Sequence[float]], q: float) -> Estimate:
    needed = NEEDED.get(q, 1)
    if len(everything) < needed:
        return Estimate.missing("s", f"p{q:g} needs {needed} requests, there are {len(everything)}")
    return _over_passes(
        float(np.percentile(everything, q)), [float(np.percentile(values, q)) for values in by_pass]
    )


def _over_passes(value: float, by_pass: Sequence[float]) -> Estimate:
    count = len(by_pass)
    if count < 3:
        return Estimate(value, "s", reason=too_few(count))
    return Estimate.around(value, "s", t_half_width(by_pass))


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


def cut_off(counts: Sequence[int], runs: int) -> float:
    """The relative half-width of a count in windows of running loads: in each run one more or less may have
    come before its first edge or its last one, however alike its windows are.
    """
    return math.sqrt(runs) / sum(counts) if sum(counts) else 0.0


def goodput(groups: Groups, config: ExperimentConfig, *, runs: int = 1) -> Estimate | None:
    """Good requests per second of the passes; None where no objective is stated."""
    if config.slo == SloConfig():
        return None
    if why := why_no_goodput(groups, config):
        return Estimate.missing("request/s", why)
    counts = good_requests(groups, config)
    cut = cut_off(counts, runs) if config.is_stream else 0.0
    return ratio_over_passes(counts, seconds(groups), unit="request/s", resolution=cut)
