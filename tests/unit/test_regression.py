"""What tokens cost by regression: on sums of joules known in closed form, and on a simulated board."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

import numpy as np
import pytest
from benchmarks.phases.runs import Device, run

from llenergymeasure.analysis.regression import TokenCosts, token_costs
from llenergymeasure.records import (
    Completion,
    Domain,
    Estimate,
    Generation,
    Pass,
    Quantity,
    Series,
    Trace,
    Window,
)

S = 1_000_000_000
GPU = Domain("gpu:a", "gpu", (Quantity("energy", "nvml.total_energy", "J", 1e-3),))
# Prompt and output tokens of the batches of a walk; one token each is made by the prefill.
WORKS = ((100, 41), (400, 21), (250, 61), (700, 31))
A_J, B_J, IDLE_W = 0.05, 0.5, 80.0
IDLE = Window(1 * S, 4 * S)


def passes_of(
    works: Sequence[tuple[int, int]] = WORKS, *, count: int = 5, seconds: float = 0.7, overlap_s: float = 0.0
) -> tuple[Pass, ...]:
    """One request a batch, `seconds` long each; a second of rest before each pass."""
    passes, at_s = [], 5.0
    for _ in range(count):
        done = []
        for batch, (prompt, output) in enumerate(works):
            start_ns, end_ns = round(at_s * S), round((at_s + seconds) * S)
            done.append(
                Completion(batch, 0, batch, prompt, output, start_ns, start_ns, None, end_ns, "length")
            )
            at_s += seconds - overlap_s
        passes.append(Pass(Window(done[0].t_sent_ns, done[-1].t_end_ns), 1, Generation(tuple(done))))
        at_s += 1.0
    return tuple(passes)


def trace_of(passes: Sequence[Pass], *, extra_j: Sequence[float] = (0.0,), domain: Domain = GPU) -> Trace:
    """A counter with 50 ms steps of a board on which each batch draws A_J a prompt token and B_J an output
    token above idle, evenly over its time; `extra_j` is added to batch after batch, over and over.
    """
    t_ns = np.arange(0, passes[-1].window.end_ns + 3 * S, S // 20)
    joules = t_ns / S * IDLE_W
    batches = [one for passed in passes for one in passed.generation.completions]
    for number, one in enumerate(batches):
        net_j = A_J * one.prompt_tokens + B_J * (one.output_tokens - 1) + extra_j[number % len(extra_j)]
        joules += net_j * np.clip((t_ns - one.t_sent_ns) / (one.t_end_ns - one.t_sent_ns), 0, 1)
    # Read 1 ms before and after each step, so that its time is known to 2 ms.
    before = np.repeat(t_ns, 2) + np.tile([S // 1000, S // 20 - S // 1000], t_ns.size)
    counts = np.repeat((joules * 1000).astype(np.int64), 2)
    series = Series(domain.quantities[0], before, before + 1000, counts)
    return Trace((domain,), {(domain.name, "energy"): series})


def costs_of(passes: Sequence[Pass], trace: Trace) -> TokenCosts:
    return token_costs(trace, trace.domains, passes, idle=IDLE, why_none="no meter")


def half(estimate: Estimate) -> float:
    assert estimate.low is not None
    assert estimate.high is not None
    return (estimate.high - estimate.low) / 2


def test_both_costs_are_those_of_the_board() -> None:
    passes = passes_of()
    costs = costs_of(passes, trace_of(passes))
    assert costs.prefill.value == pytest.approx(A_J, rel=2e-3)
    assert costs.decode.value == pytest.approx(B_J, rel=2e-3)
    assert costs.prefill.unit == costs.decode.unit == "J/token"
    assert costs.batches == 20


def test_what_does_not_lie_on_the_line_widens_the_interval_however_often_it_is_repeated() -> None:
    """Extra joules that no line explains, worked by hand: least squares over the four batches, weighed alike
    since they are equally long, and t of 2 degrees of freedom.
    """
    extra = (2.0, -1.0, 0.5, -1.5)
    passes = passes_of(count=25)
    costs = costs_of(passes, trace_of(passes, extra_j=extra))
    tokens = np.array([(prompt, output - 1) for prompt, output in WORKS], dtype=np.float64)
    joules = tokens @ [A_J, B_J] + extra
    a, b = np.linalg.lstsq(tokens, joules, rcond=None)[0]
    assert costs.prefill.value == pytest.approx(a, rel=2e-3)
    assert costs.decode.value == pytest.approx(b, rel=2e-3)
    square = float(np.sum((joules - tokens @ [a, b]) ** 2)) / 2
    halves = 4.303 * np.sqrt(square * np.diag(np.linalg.inv(tokens.T @ tokens)))
    # Chance is nothing here, and what is left of the interval is the idle's.
    assert half(costs.prefill) == pytest.approx(halves[0], rel=0.03)
    assert half(costs.decode) == pytest.approx(halves[1], rel=0.03)


def test_a_gain_scales_the_costs_and_an_offset_cancels() -> None:
    passes = passes_of()
    calibrated = replace(GPU, gain=1.1, offset_w=-7.0)
    costs = costs_of(passes, trace_of(passes, domain=calibrated))
    assert costs.prefill.value == pytest.approx(1.1 * A_J, rel=2e-3)
    assert costs.decode.value == pytest.approx(1.1 * B_J, rel=2e-3)


def test_the_doubt_of_an_uncalibrated_board_stands_apart() -> None:
    passes = passes_of()
    doubtful = replace(GPU, systematic_gain=(0.9, 1.2), systematic_offset_w=(-20.0, 10.0))
    costs = costs_of(passes, trace_of(passes, domain=doubtful))
    assert costs.decode.value is not None
    assert costs.decode.systematic == pytest.approx((0.9 * costs.decode.value, 1.2 * costs.decode.value))
    assert half(costs.decode) < 0.01 * costs.decode.value


def test_a_negative_cost_is_shown_as_it_is() -> None:
    works = ((100, 41), (400, 41), (250, 41), (700, 41))
    passes = passes_of(works)
    costs = costs_of(passes, trace_of(passes, extra_j=[-0.06 * prompt for prompt, _ in works]))
    assert costs.prefill.value == pytest.approx(-0.01, rel=0.02)
    assert costs.prefill.low is not None


def test_two_passes_have_costs_without_an_interval() -> None:
    passes = passes_of(count=2)
    costs = costs_of(passes, trace_of(passes))
    assert costs.prefill.value == pytest.approx(A_J, rel=5e-3)
    assert costs.prefill.low is None
    assert costs.prefill.reason == "2 repetitions: an interval from chance needs at least 3"


def test_cycles_are_the_unit_where_there_are_several() -> None:
    passes = [replace(one, cycle=number // 2) for number, one in enumerate(passes_of(count=4))]
    costs = costs_of(passes, trace_of(passes))
    assert costs.decode.reason == "2 repetitions: an interval from chance needs at least 3"


@pytest.mark.parametrize(
    ("works", "why"),
    [
        (((100, 41), (400, 21)), "two costs take 3 kinds, and there are 2"),
        (((100, 41),) * 4, "there are 1"),
        (((100, 11), (200, 21), (400, 41), (800, 81)), "the same proportion"),
        (((100, 1), (200, 1), (300, 1)), "no token was made after the first"),
    ],
)
def test_batches_that_are_too_alike_give_no_costs_and_say_why(
    works: tuple[tuple[int, int], ...], why: str
) -> None:
    passes = passes_of(works)
    costs = costs_of(passes, trace_of(passes))
    for estimate in (costs.prefill, costs.decode):
        assert estimate.value is None
        assert why in (estimate.reason or "")


def test_batches_that_overlap_are_taken_together() -> None:
    """A walk in which each batch begins before the one before it has ended is one batch."""
    passes = passes_of(overlap_s=0.1)
    costs = costs_of(passes, trace_of(passes))
    assert costs.batches == 5
    assert "differ too little" in (costs.prefill.reason or "")


def test_continuous_batching_leaves_the_regression() -> None:
    """First tokens of a batch come apart: no phases, but batches as wholes cost what they do."""
    passes = []
    for one in passes_of():
        pairs = [
            replace(
                done, index=2 * done.index + second, t_first_ns=done.t_sent_ns + S // (4 - second),
                prompt_tokens=done.prompt_tokens // 2, output_tokens=(done.output_tokens - 1) // 2 + 1,
            )
            for done in one.generation.completions
            for second in (0, 1)
        ]  # fmt: skip
        passes.append(replace(one, generation=Generation(tuple(pairs))))
    costs = costs_of(passes, trace_of(passes_of()))
    assert costs.prefill.value == pytest.approx(A_J, rel=0.02)
    assert costs.decode.value == pytest.approx(B_J, rel=0.02)


def test_without_a_meter_the_reason_is_given() -> None:
    passes = passes_of()
    costs = token_costs(Trace((), {}), (), passes, idle=IDLE, why_none="no meter")
    assert costs.prefill.reason == "no meter"


@pytest.mark.parametrize(
    ("until_s", "why"), [(5.1, "too few to tell prompt from output tokens"), (12.0, "not read in every pass")]
)
def test_a_sensor_that_fell_silent_gives_no_costs(until_s: float, why: str) -> None:
    passes = passes_of()
    trace = trace_of(passes)
    series = trace.series["gpu:a", "energy"]
    seen = series.t_after_ns < until_s * S
    cut = Series(series.quantity, series.t_before_ns[seen], series.t_after_ns[seen], series.raw[seen])
    costs = costs_of(passes, replace(trace, series={("gpu:a", "energy"): cut}))
    assert costs.prefill.value is None
    assert why in (costs.prefill.reason or "")


def test_intervals_hold_the_truth_when_batches_and_passes_scatter() -> None:
    passes, draw = passes_of(count=8), random.Random(1)
    held = []
    for _ in range(50):
        extra = []
        for _ in passes:
            whole = draw.gauss(0, 0.01)
            extra += [
                (A_J * prompt + B_J * (output - 1)) * (whole + draw.gauss(0, 0.01))
                for prompt, output in WORKS
            ]
        costs = costs_of(passes, trace_of(passes, extra_j=extra))
        for estimate, truth in ((costs.prefill, A_J), (costs.decode, B_J)):
            held.append(abs((estimate.value or 0) - truth) <= half(estimate))
    assert fmean(held) >= 0.93


def test_both_ways_tell_what_a_simulated_board_draws() -> None:
    found = run(1, device=Device())
    assert {(cost.way, cost.cost) for cost in found} == {
        ("phases", "prefill"), ("phases", "decode"), ("regression", "prefill"), ("regression", "decode"),
    }  # fmt: skip
    for cost in found:
        assert cost.held
        assert cost.half_width < 0.05
        assert abs(cost.error) < 0.02
