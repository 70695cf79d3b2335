"""Ratios by closed forms, refusals by name, and the exit codes of `llem compare`."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from example_result import GPU, example_result
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from llenergymeasure.analysis.compare import (
    ENERGY,
    SINGLE_PROCESS,
    WITHHELD,
    Comparison,
    compare,
    errors_cancel,
)
from llenergymeasure.analysis.differences import KEYS, Key, Setting, differences, settings
from llenergymeasure.analysis.judge import (
    Figure,
    Ratio,
    judge,
    ratio,
)
from llenergymeasure.analysis.limits import limit_of, regressions
from llenergymeasure.cli import app
from llenergymeasure.cli._comparison import comparison_lines
from llenergymeasure.config.load import LoadConfig
from llenergymeasure.exceptions import ConfigError, ResultError
from llenergymeasure.records import Estimate, MeasurementWarning, Start, WarningCode
from llenergymeasure.results.models import DeviceState, ExperimentResult, Term

positive = st.floats(1e-6, 1e6)
share = st.floats(1e-4, 0.5)


def estimate(value: float, half: float, systematic: tuple[float, float] | None = None) -> Estimate:
    return Estimate(value, "J/token", value - half, value + half, systematic)


def result(
    *, kind: Any = "measured", energy: dict[str, Any] | None = None, **changes: Any
) -> ExperimentResult:
    """The example with a hash of its prompts, a device's state, and what a test wants otherwise."""
    whole = example_result(energy=kind)
    changes = {"workload_hash": "a" * 64, "devices": (STATE,) if kind == "measured" else (), **changes}
    if energy is not None:
        changes["energy"] = whole.energy.model_copy(update=energy)
    return whole.model_copy(update=changes)


def later(whole: ExperimentResult) -> ExperimentResult:
    """The same, measured at another time."""
    return whole.model_copy(update={"started_at": Start("2025-11-25T10:00:00Z", 1, "another-boot")})


def with_runs(whole: ExperimentResult, costs: Sequence[float | None]) -> ExperimentResult:
    """Runs with these joules per output token, whose mean becomes the result's."""
    one = whole.runs[0]
    assert one.figures is not None
    runs = tuple(
        one.model_copy(
            update={
                "index": number,
                "figures": one.figures.model_copy(update={"energy_per_output_token_j": cost}),
            }
        )
        for number, cost in enumerate(costs, start=1)
    )
    return whole.model_copy(update={"runs": runs})


def warned(whole: ExperimentResult, *codes: WarningCode, said: str = "seen") -> ExperimentResult:
    found = tuple(MeasurementWarning.of(code, f"{said}: {code}") for code in codes)
    return whole.model_copy(update={"warnings": (*whole.warnings, *found)})


STATE = DeviceState(
    domain=f"gpu:{GPU}",
    sm_clock_hz=1.41e9,
    temperature_c=61.0,
    power_limit_w=400.0,
    throttled_thermal_s=0.0,
    throttled_power_s=0.0,
    foreign_processes=0,
)


def on_gpu(**changes: Any) -> ExperimentResult:
    """The example with other facts of its GPU."""
    whole = result()
    facts = replace(whole.environment.gpus[0], **changes)
    return whole.model_copy(update={"environment": replace(whole.environment, gpus=(facts,))})


# The ratio


def test_the_ratio_of_two_estimates_by_hand() -> None:
    found = ratio(estimate(10.0, 1.0), estimate(12.0, 2.0))
    up = math.hypot(math.log(14 / 12), math.log(10 / 9))
    down = math.hypot(math.log(12 / 10), math.log(11 / 10))
    assert found.value == pytest.approx(1.2)
    assert found.high == pytest.approx(1.2 * math.exp(up))
    assert found.low == pytest.approx(1.2 * math.exp(-down))
    assert found.unit == "1"


@given(positive, positive, share, share)
def test_the_ratio_of_b_to_a_is_the_reciprocal_of_that_of_a_to_b(
    a: float, b: float, wide: float, wider: float
) -> None:
    one, other = estimate(a, wide * a), estimate(b, wider * b)
    there, back = ratio(one, other), ratio(other, one)
    assert there.value is not None
    assert there.low is not None
    assert there.high is not None
    assert back.low is not None
    assert there.low < there.value < there.high
    assert there.high == pytest.approx(1 / back.low)


@given(positive, share)
def test_against_a_known_figure_only_the_own_interval_is_left(value: float, wide: float) -> None:
    found = ratio(estimate(value, 0.0), estimate(value, wide * value))
    assert found.low == pytest.approx(1 - wide)
    assert found.high == pytest.approx(1 + wide)


def test_the_interval_of_a_ratio_holds_the_true_one_as_often_as_it_says() -> None:
    draw = random.Random(7)
    hits, runs, sd = 0, 4000, 0.02
    for _ in range(runs):
        a, b = (draw.gauss(true, sd * true) for true in (5.0, 7.0))
        found = ratio(estimate(a, 1.96 * sd * 5.0), estimate(b, 1.96 * sd * 7.0))
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= 7.0 / 5.0 <= found.high
    assert 0.935 < hits / runs < 0.965


def test_the_systematic_ranges_of_both_span_that_of_the_ratio_unless_it_cancels() -> None:
    a, b = estimate(10.0, 0.1, (9.0, 11.0)), estimate(10.0, 0.1, (9.5, 10.5))
    assert ratio(a, b).systematic == pytest.approx((9.5 / 11.0, 10.5 / 9.0))
    assert ratio(a, b, cancels=True).systematic is None
    assert ratio(estimate(10.0, 0.1), b).systematic == pytest.approx((0.95, 1.05))


@pytest.mark.parametrize(
    ("a", "b", "reason"),
    [
        (Estimate.missing("J", "no meter"), estimate(1.0, 0.1), "A: no meter"),
        (estimate(1.0, 0.1), Estimate.missing("J", "no meter"), "B: no meter"),
        (estimate(0.0, 0.1), estimate(1.0, 0.1), "A is not above 0"),
        (estimate(1.0, 0.1), estimate(-1.0, 0.1), "B is not above 0"),
        (estimate(1.0, 0.1, (0.0, 2.0)), estimate(1.0, 0.1), "range of A includes 0"),
        (estimate(1.0, 0.1), estimate(1.0, 0.1, (-0.1, 2.0)), "range of B includes 0"),
    ],
)
def test_without_two_figures_above_zero_there_is_no_ratio(a: Estimate, b: Estimate, reason: str) -> None:
    found = ratio(a, b)
    assert found.value is None
    assert reason in (found.reason or "")


@pytest.mark.parametrize(
    ("a", "b", "reason"),
    [
        (Estimate(1.0, "J/token", reason="1 pass"), estimate(2.0, 0.1), "A: 1 pass"),
        (estimate(1.0, 0.1), Estimate(2.0, "J/token", reason="1 pass"), "B: 1 pass"),
        (estimate(1.0, 1.0), estimate(2.0, 0.1), "includes 0"),
    ],
)
def test_without_two_intervals_there_is_a_ratio_and_a_reason(a: Estimate, b: Estimate, reason: str) -> None:
    found = ratio(a, b)
    assert found.value == pytest.approx(2.0)
    assert found.low is None
    assert reason in (found.reason or "")


def test_unlike_units_have_no_ratio() -> None:
    found = ratio(estimate(1.0, 0.1), replace(estimate(1000.0, 100.0), unit="mJ/token"))
    assert found.value is None
    assert "J/token and mJ/token" in (found.reason or "")


# The interval over runs


def figure(*runs: float, **more: Any) -> Figure:
    mean = sum(runs) / len(runs)
    return Figure(estimate(mean, 0.001 * mean), runs, len(runs), **more)


def judged(a: Figure, b: Figure, **more: Any) -> Ratio:
    return judge(ENERGY, "Energy", a, b, cancels=True, **more)


@pytest.mark.parametrize(
    ("of_b", "degrees", "low", "high"),
    [
        # s = 0.1 of 10 and 0.3 of 12: u² = 0.01 / 300 + 0.09 / 432 = 2.41667e-4, t = 3.45662
        ((11.7, 12.0, 12.3), 2.624025, 1.137219, 1.266246),
        # s² = 0.8 / 3 of 12 in four runs: u² = 0.01 / 300 + 0.8 / 1728 = 4.96296e-4, t = 2.97198
        ((11.4, 11.8, 12.2, 12.6), 3.420951, 1.123122, 1.282140),
    ],
)
def test_welch_and_satterthwaite_by_hand(
    of_b: tuple[float, ...], degrees: float, low: float, high: float
) -> None:
    found = judged(figure(9.9, 10.0, 10.1), figure(*of_b))
    assert found.method is not None
    assert (found.method.name, found.method.replicates) == ("welch_satterthwaite", (3, len(of_b)))
    assert found.method.degrees == pytest.approx(degrees, abs=1e-5)
    assert found.ratio.value == pytest.approx(1.2)
    assert found.ratio.low == pytest.approx(low, abs=2e-6)
    assert found.ratio.high == pytest.approx(high, abs=2e-6)
    assert found.verdict == "higher"


@given(st.lists(st.floats(1.0, 2.0), min_size=3, max_size=6), st.lists(st.floats(1.0, 2.0), min_size=3))
def test_degrees_lie_between_those_of_the_smaller_side_and_of_both(a: list[float], b: list[float]) -> None:
    found = judged(figure(*a), figure(*b))
    assert found.method is not None
    if found.method.degrees is not None:
        least, most = min(len(a), len(b)) - 1, len(a) + len(b) - 2
        assert least - 1e-6 <= found.method.degrees <= most + 1e-6


def test_runs_that_scatter_less_than_they_resolve_are_as_uncertain_as_they_resolve() -> None:
    found = judged(figure(10.0, 10.0, 10.0, resolution=0.01), figure(11.0, 11.0, 11.0, resolution=0.01))
    assert found.ratio.low == pytest.approx(1.1 * math.exp(-2.776445 * 0.01 * math.sqrt(2)))


def test_what_is_common_to_all_runs_does_not_shrink_with_their_number() -> None:
    many = [10.0 + 0.001 * (-1) ** k for k in range(100)]
    found = judged(figure(*many, common=0.02), figure(*many))
    assert found.ratio.high == pytest.approx(math.exp(1.959964 * 0.02), rel=1e-4)


def test_equal_runs_without_scatter_show_no_difference() -> None:
    found = judged(figure(0.1, 0.1, 0.1), figure(0.1, 0.1, 0.1))
    assert found.verdict == "no difference shown"
    assert found.method is not None
    assert found.method.degrees is None


def test_identical_configurations_are_called_different_as_seldom_as_said_and_changes_are_found() -> None:
    draw = random.Random(5)

    def called(change: float, count: int) -> float:
        sides = (
            [figure(*(draw.gauss(true, 0.015 * true) for _ in range(count))) for true in (1.0, 1 + change)]
            for _ in range(1000)
        )
        return sum(judged(a, b).verdict != "no difference shown" for a, b in sides) / 1000

    assert called(0.0, 3) <= 0.06
    assert called(0.05, 3) >= 0.7
    assert called(0.05, 4) >= 0.9


def test_single_processes_get_a_ratio_and_no_verdict() -> None:
    found = judged(figure(10.0), figure(12.0))
    assert found.ratio.value == pytest.approx(1.2)
    assert (found.ratio.low, found.verdict) == (None, None)
    assert found.withheld == ("from one process each: another run may differ by more",)
    assert found.method is not None
    assert (found.method.name, found.method.replicates) == ("too_few_runs", (1, 1))


def test_two_runs_say_that_an_interval_needs_three() -> None:
    found = judged(figure(10.0, 10.1), figure(12.0, 12.1, 12.2))
    assert found.verdict is None
    assert found.withheld == ("runs of A: 2, of B: 3; an interval needs 3 of each",)


def test_single_processes_that_are_allowed_take_their_own_intervals() -> None:
    a, b = figure(10.0), figure(12.0)
    found = judged(a, b, single=True)
    assert found.ratio == ratio(a.estimate, b.estimate)
    assert found.verdict == "higher"
    assert found.method is not None
    assert (found.method.name, found.method.degrees) == ("within_process", None)


def test_runs_without_figures_of_their_own_take_the_intervals_of_the_whole() -> None:
    bare = Figure(estimate(10.0, 0.1), processes=3)
    found = judged(bare, figure(12.0, 12.1, 12.2))
    assert found.ratio == ratio(bare.estimate, figure(12.0, 12.1, 12.2).estimate)
    assert found.method is not None
    assert (found.method.name, found.method.replicates) == ("intervals", (3, 3))
    assert judged(replace(bare, processes=1), bare).verdict is None


# What may be compared


def other_tokens() -> ExperimentResult:
    whole = result()
    return whole.model_copy(
        update={"tokens": whole.tokens.model_copy(update={"output": whole.tokens.output + 40})}
    )


def other_model() -> ExperimentResult:
    whole = result()
    return whole.model_copy(update={"config": whole.config.model_copy(update={"model": "gpt2"})})


def clocked(hz: float | None) -> ExperimentResult:
    return result(devices=(STATE.model_copy(update={"sm_clock_hz": hz}),))


DIFFERENT: dict[Key, tuple[Callable[[], ExperimentResult], str, str]] = {
    "unit": (
        lambda: result(energy={"per_output_token": Estimate(5859.0, "mJ/token", 5800.0, 5900.0)}),
        "J/token",
        "mJ/token",
    ),
    "simulated": (lambda: result(simulated=True), "a real run", "simulated"),
    "method": (lambda: result(energy={"method": "modelled"}), "measured", "modelled"),
    "boundary": (lambda: result(energy={"boundary": "gpu+cpu"}), "gpu", "gpu+cpu"),
    "model": (other_model, "smollm2-135m", "gpt2"),
    "workload": (lambda: result(workload_hash="b" * 64), "aaaaaaaaaaaa", "bbbbbbbbbbbb"),
    "tokens": (other_tokens, "32 out", "33 out"),
    "driver": (lambda: on_gpu(driver="575.51"), "550.54", "575.51"),
    "power_limit": (
        lambda: result(devices=(STATE.model_copy(update={"power_limit_w": 250.0}),)),
        "400 W",
        "250 W",
    ),
    "clocks": (lambda: clocked(1.2e9), "1410 MHz", "1200 MHz"),
}


def test_every_key_has_a_case_here() -> None:
    assert set(DIFFERENT) == set(KEYS) == set(get_args(Key))


@pytest.mark.parametrize("key", KEYS)
def test_each_difference_is_refused_by_name_and_can_be_allowed(key: Key) -> None:
    make, of_a, of_b = DIFFERENT[key]
    a, b = result(), later(make())
    with pytest.raises(ConfigError) as caught:
        compare(a, b)
    assert f"  {key}: " in caught.value.message
    assert caught.value.message.count("\n") == 1
    assert caught.value.hint is not None
    assert caught.value.hint.endswith(f": --allow {key}")
    (found,) = compare(a, b, allow=[key]).allowed
    assert found.key == key
    assert of_a in found.a
    assert of_b in found.b


def test_all_differences_come_at_once() -> None:
    a, b = result(), later(on_gpu(driver="575.51").model_copy(update={"workload_hash": "b" * 64}))
    with pytest.raises(ConfigError) as caught:
        compare(a, b, allow=["model"])
    assert [one.key for one in differences(a, b)] == ["workload", "driver"]
    assert "--allow workload --allow driver" in (caught.value.hint or "")


def test_the_boundary_of_a_model_is_implied_by_its_method() -> None:
    assert [one.key for one in differences(result(), result(kind="modelled"))] == ["method"]


def test_the_same_twice_differs_in_nothing() -> None:
    for kind in ("measured", "modelled", "missing"):
        assert list(differences(result(kind=kind), result(kind=kind))) == []


def test_more_passes_over_the_same_work_are_the_same_work() -> None:
    whole = result()
    tokens = whole.tokens
    longer = tokens.model_copy(
        update={"input": tokens.input * 3, "output": tokens.output * 3, "requests": tokens.requests * 3}
    )
    assert list(differences(whole, whole.model_copy(update={"tokens": longer}))) == []


@pytest.mark.parametrize(
    ("finite", "pinned", "keys"), [(False, True, []), (True, True, ["tokens"]), (False, False, ["tokens"])]
)
def test_windows_of_the_same_stream_are_the_same_work_although_their_edges_cut_requests(
    finite: bool, pinned: bool, keys: list[str]
) -> None:
    def windowed(one: ExperimentResult) -> ExperimentResult:
        config = one.config.model_copy(update={"load": LoadConfig(concurrency=4, finite=finite)})
        tokens = one.tokens.model_copy(update={"pinned_ok": pinned})
        return one.model_copy(update={"config": config, "tokens": tokens, "workload_hash": "0" * 64})

    found = differences(windowed(result()), windowed(other_tokens()))
    assert [one.key for one in found] == keys


def test_a_boost_step_and_a_rounded_limit_are_no_difference() -> None:
    near = STATE.model_copy(update={"sm_clock_hz": 1.38e9, "power_limit_w": 400.9})
    assert list(differences(result(), result(devices=(near,)))) == []


def test_unknown_differs_from_known_and_not_from_unknown() -> None:
    assert [one.key for one in differences(result(), clocked(None))] == ["clocks"]
    assert list(differences(clocked(None), clocked(None))) == []


def test_the_limit_before_the_run_stands_in_where_none_was_read_in_it() -> None:
    a, b = on_gpu(power_limit_w=400.0), on_gpu(power_limit_w=300.0)
    silent = (STATE.model_copy(update={"power_limit_w": None}),)
    found = list(differences(*(one.model_copy(update={"devices": silent}) for one in (a, b))))
    assert [(one.key, one.a, one.b) for one in found] == [("power_limit", "400 W", "300 W")]


def test_a_key_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="no difference named clock"):
        compare(result(), later(result()), allow=["clock"])


def test_a_result_is_not_compared_with_itself() -> None:
    with pytest.raises(ConfigError, match="A and B are the same result: smollm2-135m_3f9a1c"):
        compare(result(), result())


# What cancels


def test_the_same_gpu_cancels_the_error_of_its_sensor_wherever_it_is_plugged_in() -> None:
    a = result()
    moved = a.model_copy(update={"environment": replace(a.environment, hostname="bench-2")})
    assert errors_cancel(a, moved)
    other = a.energy.readings[0]
    there = result(energy={"readings": (replace(other, domain="gpu:GPU-other"),)})
    assert not errors_cancel(a, there)
    assert not errors_cancel(a, result(energy={"readings": (replace(other, source="nvml.power.instant"),)}))


def test_a_package_is_the_same_only_on_the_same_host() -> None:
    a = result(kind="modelled")
    moved = a.model_copy(update={"environment": replace(a.environment, hostname="bench-2")})
    assert errors_cancel(a, a)
    assert not errors_cancel(a, moved)


def test_the_error_of_a_model_cancels_only_for_the_same_engine_and_precision() -> None:
    a = result(kind="modelled")
    assert not errors_cancel(a, configured(a, precision="fp16"))
    assert not errors_cancel(a, configured(a, backend="llamacpp", pytorch={}))
    assert errors_cancel(result(), configured(result(), precision="fp16"))


def test_a_calibration_in_between_does_not_cancel() -> None:
    a = result()
    calibrated = replace(a.energy.per_output_token, systematic=None)
    assert not errors_cancel(a, result(energy={"per_output_token": calibrated}))


def test_no_energy_has_no_error_to_cancel() -> None:
    assert not errors_cancel(result(kind="missing"), result(kind="missing"))


# What the ratio shows


def costing(
    factor: float, scatter: float = 0.005, *, systematic: float | None = 0.05, uuid: str = GPU
) -> ExperimentResult:
    value = 2.0 * factor
    around = None if systematic is None else (value * (1 - systematic), value * (1 + systematic))
    whole = result(
        energy={
            "per_output_token": estimate(value, 0.02 * value, around),
            "readings": (replace(result().energy.readings[0], domain=f"gpu:{uuid}"),),
            "uncertainty": None,
        },
        experiment_id=f"costs-{factor}",
    )
    return with_runs(whole, [value * (1 - scatter), value, value * (1 + scatter)])


@pytest.mark.parametrize(
    ("factor", "verdict"), [(1.01, "no difference shown"), (1.2, "higher"), (0.8, "lower")]
)
def test_a_difference_is_shown_only_beyond_the_interval(factor: float, verdict: str) -> None:
    comparison = compare(costing(1.0), costing(factor))
    energy = comparison.ratios[0]
    assert energy.verdict == verdict
    assert energy.ratio.value == pytest.approx(factor)
    assert comparison.cancels


def test_on_another_board_a_small_difference_may_be_systematic() -> None:
    near = compare(costing(1.0), costing(1.06, uuid="GPU-other"))
    far = compare(costing(1.0), costing(1.5, uuid="GPU-other"))
    assert near.ratios[0].verdict == "within systematic uncertainty"
    assert far.ratios[0].verdict == "higher"
    assert near.cancels is False


def test_the_interval_comes_on_top_of_the_systematic_range() -> None:
    # 1.1055 · 0.95 / 1.05 is above 1; with the interval of 1.1 % in quadrature it is not
    assert compare(costing(1.0), costing(1.1055, uuid="GPU-other")).ratios[0].verdict == (
        "within systematic uncertainty"
    )


def test_terms_of_the_budget_that_stay_in_a_ratio_widen_it() -> None:
    def budgeted(half_width: float, *, cancels: bool) -> float:
        term = Term(name="lag", kind="B", half_width=half_width, common=True, cancels_in_ratio=cancels)
        plain = result().energy.uncertainty
        assert plain is not None
        budget = plain.model_copy(update={"per_output_token": (term,)})
        whole = costing(1.2)
        energy = whole.energy.model_copy(update={"uncertainty": budget})
        high = compare(costing(1.0), whole.model_copy(update={"energy": energy})).ratios[0].ratio.high
        assert high is not None
        return high

    assert budgeted(0.1, cancels=True) == pytest.approx(budgeted(0.0, cancels=False))
    assert budgeted(0.1, cancels=False) > 1.02 * budgeted(0.0, cancels=False)


def test_an_offset_stays_in_the_ratio_of_two_powers() -> None:
    # ± 10 W of 200 W and of 100 W: 1.1 · 0.9 / 0.95 to 1.1 · 1.1 / 1.05
    a = figure(10.0, 10.01, 9.99, offset=(-0.05, 0.05))
    apart = judged(a, figure(11.0, 11.01, 10.99, offset=(-0.1, 0.1)))
    assert apart.ratio.systematic == pytest.approx((1.1 * 0.9 / 0.95, 1.1 * 1.1 / 1.05))
    assert judged(a, figure(11.0, 11.01, 10.99, offset=(-0.05, 0.05))).ratio.systematic is None
    assert judged(a, figure(11.0, 11.01, 10.99, offset=(-1.0, 0.1))).ratio.value is None


def test_the_budget_of_a_result_gives_its_offset() -> None:
    def powered(offset_j: float) -> ExperimentResult:
        term = Term(
            name="offset", kind="B", low=2 - offset_j, high=2 + offset_j, common=True, cancels_in_ratio=False
        )
        plain = result().energy.uncertainty
        assert plain is not None
        whole = costing(1.0)  # 2 J/token
        budget = plain.model_copy(update={"per_output_token": (term,)})
        return whole.model_copy(update={"energy": whole.energy.model_copy(update={"uncertainty": budget})})

    found = compare(powered(0.1), later(powered(0.2))).ratios[0]
    assert found.ratio.systematic == pytest.approx((0.9 / 0.95, 1.1 / 1.05))


def test_all_five_figures_are_compared() -> None:
    comparison = compare(result(), later(result()))
    assert [one.name for one in comparison.ratios] == [
        "energy_per_output_token",
        "output_tokens_per_second",
        "ttft_s",
        "tpot_s",
        "peak_bytes",
    ]
    assert all(one.ratio.value == pytest.approx(1.0) for one in comparison.ratios)
    assert [one.verdict for one in comparison.ratios] == [*["no difference shown"] * 4, None]


def test_failed_runs_are_not_counted() -> None:
    whole = costing(1.2)
    failed = whole.runs[0].model_copy(update={"outcome": "failed", "reason": "out of memory"})
    comparison = compare(costing(1.0), whole.model_copy(update={"runs": (failed, *whole.runs[1:])}))
    assert comparison.b.runs == 2
    assert comparison.ratios[0].verdict is None


def test_results_whose_runs_have_no_figures_take_their_intervals() -> None:
    old = costing(1.2)
    old = old.model_copy(update={"runs": tuple(run.model_copy(update={"figures": None}) for run in old.runs)})
    comparison = compare(costing(1.0), old)
    assert {one.method.name for one in comparison.ratios if one.method} == {"intervals"}
    assert comparison.ratios[0].verdict == "higher"
    one = old.model_copy(update={"runs": old.runs[:1]})
    assert compare(costing(1.0), one).ratios[0].verdict is None


def test_peaks_of_memory_read_in_two_ways_say_so() -> None:
    whole = result()
    other = whole.model_copy(
        update={"memory": whole.memory.model_copy(update={"source": "torch.cuda.max_memory_allocated"})}
    )
    assert "read in different ways" in (compare(whole, later(other)).ratios[-1].ratio.reason or "")


# What withholds a verdict


@pytest.mark.parametrize("code", get_args(WarningCode))
@pytest.mark.parametrize("side", ["A", "B"])
def test_a_warning_withholds_verdicts_on_what_it_touches_and_no_others(code: WarningCode, side: str) -> None:
    a, b = costing(1.0), costing(1.2)
    comparison = compare(*((warned(a, code), b) if side == "A" else (a, warned(b, code))))
    withheld = {one.name for one in comparison.ratios if one.withheld}
    assert withheld == set(WITHHELD.get(code, ()))
    for one in comparison.ratios[:-1]:
        assert (one.verdict is None) == (one.name in withheld)
        assert one.withheld in ((), (f"{code} in {side}",))


def test_a_busy_host_leaves_ratios_without_interval() -> None:
    comparison = compare(costing(1.0), warned(costing(1.2), "host_busy"))
    energy = comparison.ratios[0]
    assert energy.ratio.value == pytest.approx(1.2)
    assert (energy.ratio.low, energy.verdict, energy.method) == (None, None, None)
    with pytest.raises(ResultError, match="host_busy in B"):
        regression(comparison, 5.0)


def test_a_side_that_is_not_steady_has_no_verdict_on_energy_and_time() -> None:
    comparison = compare(costing(1.0).model_copy(update={"steady": False}), costing(1.2))
    assert [one.withheld for one in comparison.ratios[:4]] == [("not_steady in A",)] * 4


def test_disputed_tokens_withhold_what_is_per_token() -> None:
    whole = costing(1.2)
    disputed = whole.model_copy(update={"tokens": whole.tokens.model_copy(update={"disputed": True})})
    withheld = {one.name for one in compare(costing(1.0), disputed).ratios if one.withheld}
    assert withheld == {ENERGY, "output_tokens_per_second", "tpot_s"}


def test_energy_that_is_not_valid_has_a_ratio_without_an_interval() -> None:
    whole = costing(1.2)
    broken = whole.energy.model_copy(update={"valid": False, "reasons": ("sensor_stuck: it stood still",)})
    comparison = compare(costing(1.0), whole.model_copy(update={"energy": broken}))
    energy, throughput = comparison.ratios[:2]
    assert (energy.ratio.low, energy.verdict) == (None, None)
    assert energy.withheld == ("energy of B is not valid: sensor_stuck: it stood still",)
    assert throughput.verdict is not None


# The regression gate


def regression(comparison: Comparison, percent: float) -> str | None:
    found = regressions(comparison, limit_of(f"per_output_token>{percent}%"))
    return found[0] if found else None


@pytest.mark.parametrize(
    ("factor", "percent", "worse"),
    [(1.2, 5.0, True), (1.2, 19.0, False), (1.06, 5.0, False), (0.5, 0.0, False)],
)
def test_a_regression_is_one_beyond_the_interval(factor: float, percent: float, *, worse: bool) -> None:
    found = regression(compare(costing(1.0), costing(factor)), percent)
    assert (found is not None) == worse
    if found is not None:
        assert "20.0 %" in found


def test_a_regression_on_another_board_is_one_beyond_the_systematic_range() -> None:
    # 1.2 · 0.95 / 1.05 is 1.086, and 1.085 with the interval
    other = costing(1.2, uuid="GPU-other")
    assert regression(compare(costing(1.0), other), 8.6) is None
    assert regression(compare(costing(1.0), other), 8.4) is not None


def test_single_processes_do_not_pass_the_gate_unless_allowed() -> None:
    a, b = with_runs(costing(1.0), [2.0]), with_runs(costing(1.2), [2.4])
    with pytest.raises(ConfigError, match="judged") as caught:
        regression(compare(a, b), 5.0)
    assert f"--allow {SINGLE_PROCESS}" in (caught.value.hint or "")
    assert regression(compare(a, b, allow=[SINGLE_PROCESS]), 5.0) is not None
    with pytest.raises(ResultError, match="host_busy in B"):
        regression(compare(a, warned(b, "host_busy"), allow=[SINGLE_PROCESS]), 5.0)


def test_what_has_no_interval_cannot_pass_the_gate() -> None:
    whole = costing(1.2)
    missing = whole.energy.model_copy(update={"per_output_token": Estimate.missing("J/token", "no meter")})
    with pytest.raises(ResultError, match="B: no meter"):
        regression(compare(costing(1.0), whole.model_copy(update={"energy": missing})), 5.0)


# The command


def stored(whole: ExperimentResult, folder: Path) -> str:
    folder.mkdir()
    (folder / "result.json").write_text(json.dumps(whole.as_json()))
    return str(folder)


def run(tmp_path: Path, a: ExperimentResult, b: ExperimentResult, *options: str) -> Any:
    paths = stored(a, tmp_path / "a"), stored(b, tmp_path / "b")
    return CliRunner().invoke(app, ["compare", *paths, *options])


def test_the_command_takes_several_names_with_commas(tmp_path: Path) -> None:
    other = later(on_gpu(driver="575.51").model_copy(update={"workload_hash": "b" * 64}))
    assert run(tmp_path, result(), other, "--allow", "workload,driver").exit_code == 0


def test_the_command_prints_both_and_what_b_does(tmp_path: Path) -> None:
    done = run(tmp_path, costing(1.0), costing(0.88))
    assert done.exit_code == 0
    assert "A  costs-1.0   3 runs" in done.stdout
    assert "2.00 (1.90 to 2.10) J/token" in done.stdout
    assert "B uses 12 % less, 11 to 13 %" in done.stdout
    assert "no difference shown: B / A 1.000" in done.stdout
    assert "their gain cancels in the ratio" in done.stdout


def test_lines_fit_eighty_columns_and_break_between_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    a = warned(costing(1.0), "host_busy", "swap_active")
    b = warned(with_runs(costing(2.4, uuid="GPU-other"), [4.8]), "host_busy", "single_process")
    done = run(tmp_path, a, b)
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    whole = " ".join(done.stdout.split())
    assert "Warning, A and B: seen: host_busy (host_busy)" in whole
    assert "Warning, B: seen: single_process (single_process)" in whole
    assert whole.index("Warning") < whole.index("Energy per output token")


def test_a_change_past_twice_is_given_as_a_multiple(tmp_path: Path) -> None:
    assert "B uses 2.4 times as much" in run(tmp_path, costing(1.0), costing(2.4)).stdout


def test_modelled_energies_are_marked(tmp_path: Path) -> None:
    modelled = result(kind="modelled")
    done = run(tmp_path, modelled, later(configured(modelled, precision="fp16")))
    (row,) = [line for line in done.stdout.splitlines() if line.startswith("Energy per output token")]
    assert row.count("≈") == 2
    assert "The energy of A and B is estimated, not measured" in done.stdout
    assert "do not cancel" in done.stdout


def test_the_command_gives_one_json_object(tmp_path: Path) -> None:
    a, b = costing(1.0), warned(costing(1.2), "schedule_lag")
    value = json.loads(run(tmp_path, a, b, "--json").stdout)
    energy, _, ttft = value["ratios"][:3]
    assert energy["verdict"] == "higher"
    assert energy["ratio"]["value"] == pytest.approx(1.2)
    assert energy["method"] == {
        "name": "welch_satterthwaite",
        "degrees": pytest.approx(4.0),
        "replicates": [3, 3],
    }
    assert (ttft["verdict"], ttft["withheld"]) == (None, ["schedule_lag in B"])
    assert [one["code"] for one in value["b"]["warnings"]] == ["schedule_lag"]
    assert value["cancels"] is True


def test_a_regression_ends_with_four_and_prints_all_the_same(tmp_path: Path) -> None:
    a, b = stored(costing(1.0), tmp_path / "a"), stored(costing(1.2), tmp_path / "b")
    worse = CliRunner().invoke(app, ["compare", a, b, "--fail-on-regression", "per_output_token>5%"])
    better = CliRunner().invoke(app, ["compare", b, a, "--fail-on-regression", "per_output_token>5%"])
    assert (worse.exit_code, better.exit_code) == (4, 0)
    assert "Energy per output token" in worse.stdout
    assert "B is 20.0 % higher" in worse.stderr


def test_single_processes_end_the_gate_with_two_and_a_way_out(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        with_runs(costing(1.0), [2.0]),
        with_runs(costing(1.2), [2.4]),
        "--fail-on-regression",
        "per_output_token>5%",
    )
    assert done.exit_code == 2
    assert "another run may differ by more" in done.stdout
    assert "--allow single_process" in done.stderr


def test_modelled_against_measured_is_refused_unless_mixed_is_allowed(tmp_path: Path) -> None:
    modelled = result(kind="modelled")
    same = later(modelled.model_copy(update={"energy": result().energy}))
    a, b = stored(modelled, tmp_path / "a"), stored(same, tmp_path / "b")
    refused = CliRunner().invoke(app, ["compare", a, b])
    assert refused.exit_code == 2
    assert refused.stdout == ""
    assert "modelled against measured" in refused.stderr
    assert "--allow method" in refused.stderr
    allowed = CliRunner().invoke(app, ["compare", a, b, "--allow-mixed"])
    assert allowed.exit_code == 0
    assert "The energy of A is estimated, not measured" in allowed.stdout


def test_a_result_against_itself_ends_with_two(tmp_path: Path) -> None:
    a = stored(result(), tmp_path / "a")
    done = CliRunner().invoke(app, ["compare", a, a])
    assert done.exit_code == 2
    assert "the same result" in done.stderr


def test_a_file_that_is_no_result_ends_with_one(tmp_path: Path) -> None:
    a = stored(result(), tmp_path / "a")
    done = CliRunner().invoke(app, ["compare", a, str(tmp_path / "absent")])
    assert done.exit_code == 1
    assert "there is no result at" in done.stderr


def configured(result: ExperimentResult, **changes: Any) -> ExperimentResult:
    asked = result.config.model_dump() | changes
    return result.model_copy(update={"config": type(result.config).model_validate(asked)})


def test_what_was_configured_differently_is_listed() -> None:
    measuring: dict[str, Any] = {"timeout_s": 7.0, "repeats": {"count": 5}, "passes": {"count": 9}}
    a = result()
    b = later(configured(a, precision="fp16", pytorch={"batch_size": 2}, **measuring))
    b = b.model_copy(update={"memory": b.memory.model_copy(update={"weights_bytes": 91_700_000})})
    assert settings(a, a) == ()
    assert {one.name for one in settings(a, b)} == {"precision", "pytorch.batch_size", "weights_bytes"}
    lines = list(comparison_lines(compare(a, b)))
    assert "They differ in precision: bf16 against fp16" in lines
    assert any("weights_bytes" in line and line.endswith("against 91.7 MB") for line in lines)


def test_a_systematic_range_of_a_ratio_stands_only_where_it_shows() -> None:
    found = compare(result(), later(result()))
    energy = found.ratios[0]
    for ends, shows in (((0.2631, 0.2634), False), ((0.25, 0.27), True)):
        changed = replace(energy, ratio=replace(energy.ratio, systematic=ends))
        ratios = tuple(changed if one is energy else one for one in found.ratios)
        lines = list(comparison_lines(replace(found, ratios=ratios)))
        assert any("systematic range" in line for line in lines) is shows


def test_of_two_engines_the_given_options_are_listed() -> None:
    a = configured(result(), pytorch={"batch_size": 2, "compile": True})
    b = configured(result(), backend="simulated", simulated={"batch_size": 1}, pytorch={})
    assert settings(a, b) == (
        Setting("backend", "pytorch", "simulated"),
        Setting("pytorch.compile", True, None),
        Setting("batch_size", 2, 1),
    )


def test_weights_that_differ_by_a_small_buffer_are_the_same() -> None:
    a, b = (
        one.model_copy(update={"memory": one.memory.model_copy(update={"weights_bytes": size})})
        for one, size in ((result(), 269_030_272), (result(), 269_030_016))
    )
    assert settings(a, b) == ()


def test_the_guide_names_every_key_and_every_warning_that_withholds() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "comparing.md").read_text()
    assert [word for word in (*KEYS, SINGLE_PROCESS, *WITHHELD) if word not in guide] == []
