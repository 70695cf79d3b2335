from __future__ import annotations

import pytest

from llenergymeasure.analysis.latency import e2e_s, percentiles, tpot_s, ttft_s
from llenergymeasure.records import Completion, Generation, Pass, Window


def completion(*, first_s: float | None, end_s: float, tokens: int) -> Completion:
    return Completion(
        index=0,
        walk=0,
        batch=0,
        prompt_tokens=8,
        output_tokens=tokens,
        t_scheduled_ns=0,
        t_sent_ns=1_000_000_000,
        t_first_ns=None if first_s is None else int((1 + first_s) * 1e9),
        t_end_ns=int((1 + end_s) * 1e9),
        finish="length",
    )


def one_pass(seconds: list[float]) -> Pass:
    done = tuple(completion(first_s=value, end_s=value, tokens=1) for value in seconds)
    return Pass(Window(0, 10**12), 1, Generation(done))


def test_tpot_leaves_the_first_token_out() -> None:
    assert tpot_s(completion(first_s=0.5, end_s=1.4, tokens=10)) == pytest.approx(0.1)


def test_one_token_has_no_tpot() -> None:
    assert tpot_s(completion(first_s=0.5, end_s=0.5, tokens=1)) is None


def test_latencies_count_from_when_the_batch_was_sent() -> None:
    done = completion(first_s=0.25, end_s=2.0, tokens=3)
    assert (ttft_s(done), e2e_s(done)) == (0.25, 2.0)


def test_percentiles_interpolate_linearly() -> None:
    found = percentiles([[one_pass([1.0, 2.0, 3.0, 4.0])]], ttft_s, "none")
    assert found.p50.value == pytest.approx(2.5)
    assert found.p90.value == pytest.approx(3.7)
    assert found.count == 4


def test_p99_of_99_requests_is_missing_and_of_100_is_not() -> None:
    few = percentiles([[one_pass([1.0] * 99)]], ttft_s, "none")
    enough = percentiles([[one_pass([1.0] * 100)]], ttft_s, "none")
    assert few.p99.value is None
    assert few.p99.reason == "p99 needs 100 requests, there are 99"
    assert enough.p99.value == 1.0


def test_the_interval_is_over_passes_and_needs_three() -> None:
    two = percentiles([[one_pass([1.0])], [one_pass([2.0])]], ttft_s, "none")
    three = percentiles([[one_pass([9.0])], [one_pass([10.0])], [one_pass([11.0])]], ttft_s, "none")
    assert two.p50.low is None
    assert three.p50.low == pytest.approx(10 - 4.302653 / 3**0.5, rel=1e-6)


def test_of_several_runs_the_interval_is_over_runs_and_the_value_over_all_requests() -> None:
    runs = [[one_pass([9.0]), one_pass([9.0])], [one_pass([10.0])], [one_pass([11.0]), one_pass([11.0])]]
    found = percentiles(runs, ttft_s, "none")
    assert (found.p50.value, found.count) == (10.0, 5)
    assert found.p50.low == pytest.approx(10 - 4.302653 / 3**0.5, rel=1e-6)


def test_without_any_time_all_are_missing_with_the_reason() -> None:
    silent = Pass(Window(0, 1), 1, Generation((completion(first_s=None, end_s=1.0, tokens=1),)))
    found = percentiles([[silent]], ttft_s, "no first-token times")
    assert found.p50.value is None
    assert found.mean.reason == "no first-token times"
    assert e2e_s(silent.generation.completions[0]) == 1.0
