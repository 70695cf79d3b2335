"""What the windows of a running load say: their joules, tokens, latencies, and whether it was steady."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_metrics import gpu_trace, measurement

from llenergymeasure.analysis.latency import chunk_gaps
from llenergymeasure.analysis.metrics import metrics
from llenergymeasure.analysis.run_energy import run_energy
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.records import Block, Completion, Generation, Measurement, Pass, Served, Window
from llenergymeasure.records.running import GAP_BINS
from llenergymeasure.results.models import ExperimentResult

S = 1_000_000_000
SERVED = Served(
    prompt_tokens=900,
    output_tokens=700,
    sent=10,
    in_flight_mean=4.0,
    in_flight_most=4,
    chunks=700,
    gaps=(),
    client_cpu_s=0.5,
)


def gaps_of(seconds: Sequence[float]) -> tuple[tuple[int, int], ...]:
    numbers = [math.floor(GAP_BINS * math.log(round(one * 1e9))) for one in seconds]
    return tuple((number, numbers.count(number)) for number in sorted(set(numbers)))


def ended(end_s: float, *, late_s: float = 0.0, took_s: float = 2.0, tokens: int = 71) -> Completion:
    end_ns, sent_ns = round(end_s * S), round((end_s - took_s) * S)
    due_ns, first_ns = sent_ns - round(late_s * S), sent_ns + S // 10
    return Completion(0, 0, 0, 90, tokens, due_ns, sent_ns, first_ns, end_ns, "length")


def window(start: int, *, late_s: float = 0.0, count: int = 10, **served: Any) -> Pass:
    done = tuple(ended(start + 0.5 + at * 9 / count, late_s=late_s) for at in range(count))
    return Pass(Window(start * S, (start + 10) * S), 0, Generation(done), replace(SERVED, **served))


def under_load(passes: Sequence[Pass], *, watts: float = 100.0, **load: Any) -> Measurement:
    config = ExperimentConfig.model_validate(
        {
            "model": "any",
            "backend": "openai",
            "openai": {"base_url": "http://h:1"},
            "output_length": "natural",
            "load": load or {"concurrency": 4},
            "repeats": {"count": 1},
        }
    )
    blocks = (Block("full", None, tuple(passes), None),)
    return replace(measurement(gpu_trace(watts)), config=config, blocks=blocks)


def three(**served: Any) -> list[Pass]:
    return [window(start, **served) for start in (20, 30, 40)]


def of_load(passes: Sequence[Pass], **load: Any) -> ExperimentResult:
    return metrics([under_load(passes, **load)])


def codes(result: ExperimentResult) -> dict[str, str]:
    return {warning.code: warning.message for warning in result.warnings}


def test_each_window_has_its_joules_and_they_sum_to_the_whole() -> None:
    one = run_energy(under_load(three()))
    assert one.shares == pytest.approx([1000, 1000, 1000], rel=1e-3)
    assert math.fsum(one.shares or ()) == pytest.approx(one.joules or 0.0)
    result = metrics([one.measurement])
    assert result.energy.total.value == pytest.approx(3000, rel=1e-3)
    # what may hide at both ends and in a lag is in the interval; the whole of it is of edges and lag
    assert result.energy.total.low is not None
    assert result.energy.uncertainty is not None
    assert {term.name for term in result.energy.uncertainty.total} <= {"edges", "lag", "aliasing"}
    assert result.energy.per_output_token.value == pytest.approx(3000 / 2100, rel=1e-3)
    assert result.energy.per_output_token.low is not None
    assert result.energy.prefill.value is result.energy.decode.value is None
    assert any("no silence" in note for note in result.notes)


def test_tokens_are_those_that_came_in_the_windows_and_requests_those_that_ended() -> None:
    result = of_load(three())
    assert (result.tokens.input, result.tokens.output, result.tokens.requests) == (2700, 2100, 30)
    assert (result.tokens.local_input, result.tokens.local_output) == (None, None)
    assert result.performance.output_tokens_per_second.value == pytest.approx(70)
    assert result.performance.requests_per_second.value == pytest.approx(1)
    assert result.performance.flops.total is None
    assert result.overhead.client_cpu_share == pytest.approx(0.05)
    assert (result.performance.in_flight_mean, result.performance.in_flight_most) == (4.0, 4)
    assert result.runs[0].tokens == result.tokens


def test_latencies_count_from_when_a_request_was_due_where_it_had_a_time() -> None:
    closed = of_load(three(late_s=0.003)).performance
    opened = of_load(three(late_s=0.003), arrivals="poisson", rate=1)
    assert (closed.latencies_from, opened.performance.latencies_from) == ("sent", "due")
    assert closed.ttft_s.p50.value == pytest.approx(0.1)
    assert opened.performance.ttft_s.p50.value == pytest.approx(0.103)
    assert opened.performance.e2e_s.p50.value == pytest.approx(2.003)
    assert opened.performance.tpot_s.p50.value == pytest.approx(1.9 / 70)
    assert opened.runs[0].figures is not None
    assert opened.runs[0].figures.ttft_p50_s == pytest.approx(0.103)
    assert opened.overhead.schedule_lag_p50_s == opened.overhead.schedule_lag_p99_s == pytest.approx(0.003)
    assert of_load(three()).overhead.schedule_lag_p99_s is None


@pytest.mark.parametrize(("late_s", "told"), [(0.0049, False), (0.0051, True)])
def test_a_client_that_lags_by_more_than_5_ms_is_told(late_s: float, *, told: bool) -> None:
    assert ("schedule_lag" in codes(of_load(three(late_s=late_s), arrivals="constant", rate=1))) == told
    assert "schedule_lag" not in codes(of_load(three(late_s=late_s)))


@pytest.mark.parametrize(
    ("waiting", "sent", "load", "told"),
    [
        ((10, 30, 50), 30, {"arrivals": "poisson", "rate": 3}, True),
        ((10, 30, 25), 30, {"arrivals": "poisson", "rate": 3}, False),
        ((10, 11, 12), 11, {"arrivals": "poisson", "rate": 1}, False),
        ((10, 30, 50), 30, {"concurrency": 50}, False),
    ],
)
def test_a_load_that_outruns_the_server_is_not_steady(
    waiting: tuple[int, ...], sent: int, load: dict[str, Any], *, told: bool
) -> None:
    passes = [
        window(start, in_flight_mean=float(mean), sent=sent)
        for start, mean in zip((20, 30, 40), waiting, strict=True)
    ]
    message = codes(of_load(passes, **load)).get("not_steady", "")
    assert message.startswith("requests arrive faster than they are answered") == told


def test_the_time_between_tokens_needs_a_chunk_for_each() -> None:
    gaps = gaps_of([0.01] * 90 + [0.05] * 10)
    single = of_load(three(chunks=690, gaps=gaps)).performance
    bundled = of_load(three(chunks=300, gaps=gaps)).performance
    assert single.itl_s is not None
    assert single.itl_s.p50.value == pytest.approx(0.01, rel=0.003)
    assert single.itl_s.p95.value == pytest.approx(0.05, rel=0.003)
    assert single.chunk_s is None
    assert bundled.itl_s is not None
    assert bundled.itl_s.p50.value is None
    assert (bundled.itl_s.p50.reason or "").startswith("bundled")
    assert bundled.chunk_s == single.itl_s


@given(st.lists(st.floats(1e-5, 10.0), min_size=1, max_size=300))
def test_percentiles_of_a_histogram_are_those_of_its_values_within_half_a_bin(seconds: list[float]) -> None:
    found = chunk_gaps([[window(20, gaps=gaps_of(seconds))]])
    assert found.count == len(seconds)
    for q, one in ((50, found.p50), (90, found.p90), (95, found.p95)):
        assert one.value == pytest.approx(float(np.percentile(seconds, q)), rel=0.0021)
    assert found.mean.value == pytest.approx(fmean(seconds), rel=0.0021)
    assert (found.p99.value is None) == (len(seconds) < 100)
