"""How long a request waited: percentiles over requests, with sample-size rules and intervals over passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from llenergymeasure.analysis.estimates import too_few
from llenergymeasure.analysis.replicates import Groups
from llenergymeasure.analysis.statistics import t_half_width
from llenergymeasure.records import Completion, Estimate, MeasurementWarning, Pass
from llenergymeasure.results.models import Percentiles

NEEDED = {99.0: 100}
# Latencies count from when a request was due, so that they include the client's own delay. A twentieth of
# the shortest latency that is reported is where it begins to show in p95.
LAG_SHARE = 0.05
# An event loop on a machine that works wakes up a few milliseconds late, and no plan is finer than that.
TIMER_S = 0.005


def ttft_s(done: Completion) -> float | None:
    """From the start of its batch to its first token."""
    return None if done.t_first_ns is None else (done.t_first_ns - done.t_sent_ns) / 1e9


def e2e_s(done: Completion) -> float | None:
    """From the start of its batch to its last token."""
    return (done.t_end_ns - done.t_sent_ns) / 1e9


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
        none = Estimate.missing("s", why_none)
        return Percentiles(mean=none, p50=none, p90=none, p95=none, p99=none, count=0)
    return Percentiles(
        mean=_over_passes(float(np.mean(everything)), [float(np.mean(values)) for values in by_pass]),
        p50=_percentile(everything, by_pass, 50.0),
        p90=_percentile(everything, by_pass, 90.0),
        p95=_percentile(everything, by_pass, 95.0),
        p99=_percentile(everything, by_pass, 99.0),
        count=len(everything),
    )


def lag_warnings(passes: Sequence[Pass]) -> list[MeasurementWarning]:
    """Whether the client kept up with the load plan: p95 of `t_sent - t_scheduled` is at most a twentieth of
    the median time from there to the first token (to the last, where no first is known), or 5 ms. Static
    batches are due when they are sent, and never lag.
    """
    done = [one for each in passes for one in each.generation.answered]
    if not done:
        return []
    lag_s = float(np.percentile([one.t_sent_ns - one.t_scheduled_ns for one in done], 95.0)) / 1e9
    ends = [one.t_end_ns if one.t_first_ns is None else one.t_first_ns for one in done]
    due = [one.t_scheduled_ns for one in done]
    typical_s = float(np.median(np.subtract(ends, due))) / 1e9
    if lag_s <= max(TIMER_S, LAG_SHARE * typical_s):
        return []
    return [
        MeasurementWarning.of(
            "schedule_lag",
            f"one request in twenty was sent {lag_s * 1e3:.3g} ms or more after it was due; "
            f"a first token takes {typical_s * 1e3:.3g} ms",
        )
    ]


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
