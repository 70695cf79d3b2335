"""Prefill and decode by experiment: numbers worked by hand, and a board whose energy per token is known."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import stdev

import pytest
from benchmarks.phases.runs import Device, config, run, runs_on
from benchmarks.virtual_run import virtual_experiment
from spent_runs import GPU, block, counted, run_of

from llenergymeasure.analysis.phases import prefill_and_decode, regimes
from llenergymeasure.analysis.run_energy import RunEnergy
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.energy.joules.spent import Term
from llenergymeasure.records import Domain, Estimate

T_2 = 4.302653


def half(estimate: Estimate) -> float:
    assert estimate.low is not None
    assert estimate.high is not None
    return (estimate.high - estimate.low) / 2


def one_run(full_j: float = 1000.0, prefill_j: float = 60.0, **more: object) -> RunEnergy:
    """Two full walks (2 × 100 prompt tokens and 2 × 50 output tokens each) and three of prefill."""
    return run_of(
        block("full", [2], counted(full_j, [full_j], **more)),
        block("prefill", [3], counted(prefill_j, [prefill_j], **more)),
    )


# Worked by hand


def test_a_prompt_token_is_what_a_prefill_walk_shows_and_decode_what_is_left_of_a_full_one() -> None:
    phases = prefill_and_decode([one_run()])
    assert phases.prefill.value == pytest.approx(60 / (3 * 200))
    assert phases.decode.value == pytest.approx((1000 / 2 - 60 / 3) / (2 * 49))
    assert phases.prefill.unit == phases.decode.unit == "J/token"


def test_both_are_over_the_walks_of_all_runs() -> None:
    phases = prefill_and_decode([one_run(1000, 60), one_run(1100, 66), one_run(1200, 72)])
    assert phases.prefill.value == pytest.approx(198 / 1800)
    assert phases.decode.value == pytest.approx((3300 / 6 - 198 / 9) / 98)


def test_the_interval_is_over_runs_where_there_are_three() -> None:
    phases = prefill_and_decode([one_run(1000, 60), one_run(1100, 66), one_run(1230, 72)])
    prefill = [60 / 600, 66 / 600, 72 / 600]
    decode = [(500 - 20) / 98, (550 - 22) / 98, (615 - 24) / 98]
    assert half(phases.prefill) == pytest.approx(T_2 * stdev(prefill) / math.sqrt(3), rel=1e-6)
    assert half(phases.decode) == pytest.approx(T_2 * stdev(decode) / math.sqrt(3), rel=1e-6)


def test_the_interval_of_a_single_run_is_over_its_passes_by_welch() -> None:
    """Three passes of each kind, a walk each: variances 4 and 1, 5/3 of their means, 2 degrees of freedom."""
    single = run_of(
        block("full", [1] * 3, counted(306, [100, 102, 104])),
        block("prefill", [1] * 3, counted(33, [10, 11, 12])),
    )
    phases = prefill_and_decode([single])
    assert phases.decode.value == pytest.approx((102 - 11) / 98)
    assert half(phases.prefill) == pytest.approx(T_2 / math.sqrt(3) / 200, rel=1e-6)
    assert half(phases.decode) == pytest.approx(T_2 * math.sqrt(5 / 3) / 98, rel=1e-6)


def test_the_degrees_of_freedom_grow_with_the_passes_of_both_kinds() -> None:
    """Variances 1 and 1 over six passes each: (1/6 + 1/6)² / (2 · (1/6)² / 5) = 10."""
    costs = [99, 101, 99, 101, 100, 100]
    variance = 4 / 5
    single = run_of(
        block("full", [1] * 6, counted(600, costs)),
        block("prefill", [1] * 6, counted(60, [cost - 90 for cost in costs])),
    )
    expected = 2.228139 * math.sqrt(2 * variance / 6) / 98
    assert half(prefill_and_decode([single]).decode) == pytest.approx(expected, rel=1e-6)


def test_at_least_what_the_sensor_leaves_open_and_what_is_common_is_the_interval() -> None:
    """Three equal runs: 3 J of timing and 2 J of lag on the full block, 1 J and 0.6 J on the other."""
    runs = [
        run_of(
            block("full", [2], counted(1000, [1000], terms=(Term("timing", 3), Term("lag", 2, common=True)))),
            block(
                "prefill", [3], counted(60, [60], terms=(Term("timing", 1), Term("lag", 0.6, common=True)))
            ),
        )
        for _ in range(3)
    ]
    phases = prefill_and_decode(runs)
    root = math.sqrt(3)
    assert half(phases.prefill) == pytest.approx((root * 1 + 3 * 0.6) / 1800)
    # A walk of each kind: 6 full walks and 9 of prefill in all. The lag errs alike in both, and cancels.
    independent = math.hypot(root * 3 / 6, root * 1 / 9)
    common = abs(3 * 2 / 6 - 3 * 0.6 / 9)
    assert half(phases.decode) == pytest.approx((independent + common) / 98)


def test_what_is_systematic_is_the_same_error_in_both_kinds_of_walk() -> None:
    """A gain of 0.9 to 1.2 and an offset of − 20 to + 10 W over 5 s a pass: prefill at 12 W, a full pass at
    200 W, of which decode has other watts than either.
    """
    ranges = {
        "full": (0.9 * 1000 - 20 * 5, 1.2 * 1000 + 10 * 5),
        "prefill": (max(0.0, 0.9 * 600 - 20 * 5), 1.2 * 600 + 10 * 5),
    }
    whole = run_of(
        block("full", [2], counted(1000, [1000], systematic=ranges["full"])),
        block("prefill", [3], counted(600, [600], systematic=ranges["prefill"])),
    )
    phases = prefill_and_decode([whole])
    assert phases.prefill.systematic == pytest.approx([end / 600 for end in ranges["prefill"]])
    ends = [full / 2 - prefill / 3 for full, prefill in zip(ranges["full"], ranges["prefill"], strict=True)]
    assert phases.decode.systematic == pytest.approx([end / 98 for end in ends])
    # A gain alone scales both.
    gain = run_of(
        block("full", [2], counted(1000, [1000], systematic=(900.0, 1200.0))),
        block("prefill", [3], counted(600, [600], systematic=(540.0, 720.0))),
    )
    decode = prefill_and_decode([gain]).decode
    assert decode.systematic == pytest.approx([(decode.value or 0) * end for end in (0.9, 1.2)])


def test_a_calibrated_sensor_beside_one_that_is_not_adds_its_value_to_the_range() -> None:
    cpu = Domain("cpu:0", "cpu", GPU.quantities)
    both = run_of(
        block(
            "full",
            [1],
            {GPU.name: counted(900, [900], systematic=(800.0, 1000.0)), "cpu:0": counted(100, [100])},
        ),
        block(
            "prefill",
            [1],
            {GPU.name: counted(90, [90], systematic=(80.0, 100.0)), "cpu:0": counted(10, [10])},
        ),
        domains=(GPU, cpu),
    )
    phases = prefill_and_decode([both])
    assert phases.prefill.value == pytest.approx(100 / 200)
    assert phases.prefill.systematic == pytest.approx((90 / 200, 110 / 200))
    assert phases.decode.systematic == pytest.approx(((900 - 90) / 98, (1100 - 110) / 98))


def test_a_negative_difference_is_reported_as_it_is() -> None:
    decode = prefill_and_decode([one_run(30, 60), one_run(31, 60), one_run(32, 60)]).decode
    assert decode.value == pytest.approx((31 / 2 - 20) / 98)
    assert decode.low is not None
    assert (decode.reason or "").startswith("below zero")


# Why there is none, and why there is no interval


def test_two_runs_or_two_passes_give_values_without_an_interval() -> None:
    two = prefill_and_decode([one_run(), one_run(1010, 61)])
    assert two.decode.value is not None
    assert (two.decode.low, two.decode.reason) == (None, "2 repetitions: an interval needs 3")
    few = run_of(block("full", [1] * 3, counted(30, [10] * 3)), block("prefill", [1], counted(1, [1])))
    assert prefill_and_decode([few]).prefill.reason == ("1 prefill pass in one run: an interval needs 3")


def asked(**changes: object) -> ExperimentConfig:
    return ExperimentConfig.model_validate(
        {"model": "any", "backend": "simulated", "n": 2, "max_output_tokens": 50, **changes}
    )


@pytest.mark.parametrize(
    ("energy", "reason"),
    [
        (run_of(block("full", [1], counted(1, [1])), config=asked(max_output_tokens=1)), "one output token"),
        (
            run_of(block("full", [1], counted(1, [1])), config=asked(passes={"prefill": 0})),
            "passes.prefill is 0",
        ),
        (run_of(block("full", [1], counted(1, [1])), config=asked()), "no prefill passes were run"),
        (run_of(block("full", [1], {}), block("prefill", [1], {}), domains=()), "no meter"),
        (
            run_of(
                block("full", [1], counted(1, [1])),
                block("prefill", [1], counted(None, reason="the counter stopped")),
            ),
            "the counter stopped",
        ),
        (
            run_of(block("full", [0], counted(1, [1])), block("prefill", [1], counted(1, [1]))),
            "no token was generated",
        ),
    ],
)
def test_where_there_is_none_both_say_why(energy: RunEnergy, reason: str) -> None:
    phases = prefill_and_decode([energy])
    for found in (phases.prefill, phases.decode):
        assert found.value is None
        assert reason in (found.reason or "")


# Two regimes


@pytest.mark.parametrize(
    ("alone_s", "said"),
    [(0.1, None), (0.104, None), (0.096, None), (0.12, "20% longer"), (0.08, "20% shorter")],
)
def test_a_first_token_that_takes_another_time_in_prefill_passes_is_told(
    alone_s: float, said: str | None
) -> None:
    both = run_of(
        block("full", [2], counted(1, [1]), first_s=0.1),
        block("prefill", [2], counted(1, [1]), first_s=alone_s),
    )
    found = regimes([both])
    assert (found is None) == (said is None)
    assert said is None or said in (found or "")


def test_without_first_token_times_or_prefill_passes_nothing_is_said_of_regimes() -> None:
    silent = block("full", [2], counted(1, [1]))
    (passed,) = silent.block.passes
    done = tuple(replace(one, t_first_ns=None) for one in passed.generation.completions)
    untold = replace(
        silent,
        block=replace(
            silent.block, passes=(replace(passed, generation=replace(passed.generation, completions=done)),)
        ),
    )
    prefill = block("prefill", [2], counted(1, [1]))
    assert regimes([run_of(untold, prefill)]) is None
    assert regimes([run_of(silent)]) is None


# On a board


EXACT = Device(scatter=0.0, run_scatter=0.0)


@pytest.mark.parametrize(
    "device",
    [
        EXACT,
        replace(EXACT, host_s=0.05),  # work of the host alone opens each prefill
        replace(EXACT, prefill_w=600.0, decode_w=200.0),
        replace(EXACT, within=0.25),  # power that wanders within a batch
    ],
    ids=["plain", "host work", "three times", "wandering"],
)
def test_both_costs_are_those_of_the_board(device: Device) -> None:
    for found in run(1, device=device, repeats=3):
        assert found.held
        assert abs(found.error) < 0.005, found


@pytest.mark.slow
def test_intervals_hold_the_truth_over_seeds() -> None:
    found = [one for seed in range(12) for one in run(seed, device=Device(run_scatter=0.01), repeats=4)]
    assert sum(one.held for one in found) >= 21  # of 24
    assert max(abs(one.error) for one in found) < 0.03
    assert max(one.half_width for one in found) < 0.06


def test_prefill_and_decode_close_to_the_full_passes() -> None:
    found = virtual_experiment(config(3, 3), runs_on(Device(host_s=0.02), 3))
    energy, tokens = found.energy, found.tokens
    parts_j = (energy.prefill.value or 0.0) * tokens.input
    parts_j += (energy.decode.value or 0.0) * (tokens.output - tokens.requests)
    assert parts_j == pytest.approx(energy.total.value, rel=1e-3)


def test_an_engine_that_made_no_token_has_no_cost_of_decode() -> None:
    run = one_run()
    none = [
        replace(
            each,
            generation=replace(
                each.generation,
                completions=tuple(replace(one, output_tokens=0) for one in each.generation.completions),
            ),
        )
        for each in run.blocks[0].block.passes
    ]
    first = replace(run.blocks[0], block=replace(run.blocks[0].block, passes=tuple(none)))
    phases = prefill_and_decode([replace(run, blocks=(first, *run.blocks[1:]))])
    assert phases.decode.value is None
    assert phases.decode.reason == "no token was generated in decode"
