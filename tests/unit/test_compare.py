"""Ratios by closed forms, refusals by name, and the exit codes of `llem compare`."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from example_result import GPU, example_result
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from llenergymeasure.analysis.compare import compare, ratio, regression, same_board
from llenergymeasure.analysis.differences import KEYS, Key, Setting, differences, settings
from llenergymeasure.cli import app
from llenergymeasure.cli._comparison import comparison_lines
from llenergymeasure.exceptions import ConfigError, ResultError
from llenergymeasure.records import Estimate
from llenergymeasure.results.models import DeviceState, ExperimentResult

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


def test_what_sensors_may_hide_spans_both_ranges_unless_it_cancels() -> None:
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
        (estimate(1.0, 0.1, (0.0, 2.0)), estimate(1.0, 0.1), "reaches down to 0"),
    ],
)
def test_without_two_figures_above_zero_there_is_no_ratio(a: Estimate, b: Estimate, reason: str) -> None:
    found = ratio(a, b)
    assert found.value is None
    assert reason in (found.reason or "")


@pytest.mark.parametrize(
    ("a", "b", "reason"),
    [
        (Estimate(1.0, "J", reason="1 pass"), estimate(2.0, 0.1), "A: 1 pass"),
        (estimate(1.0, 0.1), Estimate(2.0, "J", reason="1 pass"), "B: 1 pass"),
        (estimate(1.0, 1.0), estimate(2.0, 0.1), "reaches down to 0"),
    ],
)
def test_without_two_intervals_there_is_a_ratio_and_a_reason(a: Estimate, b: Estimate, reason: str) -> None:
    found = ratio(a, b)
    assert found.value == pytest.approx(2.0)
    assert found.low is None
    assert reason in (found.reason or "")


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
    a, b = result(), make()
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
    a, b = result(), on_gpu(driver="575.51").model_copy(update={"workload_hash": "b" * 64})
    with pytest.raises(ConfigError) as caught:
        compare(a, b, allow=["model"])
    assert [one.key for one in differences(a, b)] == ["workload", "driver"]
    assert "--allow workload --allow driver" in (caught.value.hint or "")


def test_the_boundary_of_a_model_is_implied_by_its_method() -> None:
    assert [one.key for one in differences(result(), result(kind="modelled"))] == ["method"]


def test_the_same_twice_differs_in_nothing() -> None:
    for kind in ("measured", "modelled", "missing"):
        assert differences(result(kind=kind), result(kind=kind)) == ()


def test_more_passes_over_the_same_work_are_the_same_work() -> None:
    whole = result()
    tokens = whole.tokens
    longer = tokens.model_copy(
        update={"input": tokens.input * 3, "output": tokens.output * 3, "requests": tokens.requests * 3}
    )
    assert differences(whole, whole.model_copy(update={"tokens": longer})) == ()


def test_a_boost_step_and_a_rounded_limit_are_no_difference() -> None:
    near = STATE.model_copy(update={"sm_clock_hz": 1.38e9, "power_limit_w": 400.9})
    assert differences(result(), result(devices=(near,))) == ()


def test_unknown_differs_from_known_and_not_from_unknown() -> None:
    assert [one.key for one in differences(result(), clocked(None))] == ["clocks"]
    assert differences(clocked(None), clocked(None)) == ()


def test_the_limit_before_the_run_stands_in_where_none_was_read_in_it() -> None:
    a, b = on_gpu(power_limit_w=400.0), on_gpu(power_limit_w=300.0)
    silent = (STATE.model_copy(update={"power_limit_w": None}),)
    found = differences(a.model_copy(update={"devices": silent}), b.model_copy(update={"devices": silent}))
    assert [(one.key, one.a, one.b) for one in found] == [("power_limit", "400 W", "300 W")]


def test_a_key_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="no difference named clock"):
        compare(result(), result(), allow=["clock"])


# What cancels


def test_the_same_gpu_cancels_the_error_of_its_sensor_wherever_it_is_plugged_in() -> None:
    a = result()
    moved = a.model_copy(update={"environment": replace(a.environment, hostname="bench-2")})
    assert same_board(a, moved)
    other = a.energy.readings[0]
    there = result(energy={"readings": (replace(other, domain="gpu:GPU-other"),)})
    assert not same_board(a, there)
    assert not same_board(a, result(energy={"readings": (replace(other, source="nvml.power.instant"),)}))


def test_a_package_is_the_same_only_on_the_same_host() -> None:
    a = result(kind="modelled")
    moved = a.model_copy(update={"environment": replace(a.environment, hostname="bench-2")})
    assert same_board(a, a)
    assert not same_board(a, moved)


def test_a_calibration_in_between_does_not_cancel() -> None:
    a = result()
    calibrated = replace(a.energy.per_output_token, systematic=None)
    assert not same_board(a, result(energy={"per_output_token": calibrated}))


def test_no_energy_is_of_no_board() -> None:
    assert not same_board(result(kind="missing"), result(kind="missing"))


# What the ratio shows


def costing(
    factor: float, half: float, *, systematic: float | None = 0.05, uuid: str = GPU
) -> ExperimentResult:
    value = 2.0 * factor
    around = None if systematic is None else (value * (1 - systematic), value * (1 + systematic))
    whole = result()
    return result(
        energy={
            "per_output_token": estimate(value, half * value, around),
            "readings": (replace(whole.energy.readings[0], domain=f"gpu:{uuid}"),),
        }
    )


@pytest.mark.parametrize(
    ("factor", "verdict"), [(1.01, "no difference shown"), (1.2, "higher"), (0.8, "lower")]
)
def test_a_difference_is_shown_only_beyond_the_interval(factor: float, verdict: str) -> None:
    comparison = compare(costing(1.0, 0.02), costing(factor, 0.02))
    energy = comparison.ratios[0]
    assert energy.verdict == verdict
    assert energy.ratio.value == pytest.approx(factor)
    assert comparison.same_board


def test_on_another_board_a_small_difference_may_lie_in_the_sensors() -> None:
    apart = costing(1.06, 0.01, uuid="GPU-other")
    near = compare(costing(1.0, 0.01), apart)
    far = compare(costing(1.0, 0.01), costing(1.5, 0.01, uuid="GPU-other"))
    assert near.ratios[0].verdict == "within the sensors' doubt"
    assert far.ratios[0].verdict == "higher"
    assert not near.same_board


def test_all_five_figures_are_compared() -> None:
    comparison = compare(result(), result())
    assert [one.name for one in comparison.ratios] == [
        "energy_per_output_token",
        "output_tokens_per_second",
        "ttft_s",
        "tpot_s",
        "peak_bytes",
    ]
    assert all(one.ratio.value == pytest.approx(1.0) for one in comparison.ratios)
    assert comparison.ratios[-1].verdict == "unknown"


def test_peaks_of_memory_read_in_two_ways_say_so() -> None:
    whole = result()
    other = whole.model_copy(
        update={"memory": whole.memory.model_copy(update={"source": "torch.cuda.max_memory_allocated"})}
    )
    assert "read in two ways" in (compare(whole, other).ratios[-1].ratio.reason or "")


@pytest.mark.parametrize(
    ("factor", "percent", "worse"),
    [(1.2, 5.0, True), (1.2, 17.0, False), (1.06, 5.0, False), (0.5, 0.0, False)],
)
def test_a_regression_is_one_beyond_the_interval(factor: float, percent: float, *, worse: bool) -> None:
    comparison = compare(costing(1.0, 0.02), costing(factor, 0.02))
    found = regression(comparison, percent)
    assert (found is not None) == worse
    if found is not None:
        assert "20.0%" in found


def test_what_can_not_be_judged_is_no_pass() -> None:
    single = result(energy={"per_output_token": Estimate(2.0, "J/token", reason="1 pass")})
    broken = result(energy={"valid": False, "reasons": ("foreign_gpu_process: 1 process",)})
    with pytest.raises(ResultError, match="1 pass"):
        regression(compare(result(), single), 5.0)
    with pytest.raises(ResultError, match="B: foreign_gpu_process"):
        regression(compare(result(), broken), 5.0)


def test_energy_that_is_not_valid_has_a_ratio_without_an_interval() -> None:
    broken = result(energy={"valid": False, "reasons": ("sensor_stuck: it stood still",)})
    comparison = compare(result(), broken)
    energy = comparison.ratios[0]
    assert (energy.b.low, energy.ratio.low, energy.verdict) == (None, None, "unknown")
    assert energy.ratio.reason == "B: energy is not valid"
    assert "not valid" in "\n".join(comparison_lines(comparison)).partition("Output")[0]


# The command


def stored(whole: ExperimentResult, folder: Path) -> str:
    folder.mkdir()
    (folder / "result.json").write_text(json.dumps(whole.as_json()))
    return str(folder)


def test_the_command_prints_both_and_their_ratio(tmp_path: Path) -> None:
    a, b = stored(costing(1.0, 0.02), tmp_path / "a"), stored(costing(1.2, 0.02), tmp_path / "b")
    done = CliRunner().invoke(app, ["compare", a, b])
    assert done.exit_code == 0
    (row,) = [line for line in done.stdout.splitlines() if line.startswith("Energy per output token")]
    assert "2.00 ± 0.04 J/token" in row
    assert "1.200 (1.1" in row
    assert "B is 20.0% higher" in row
    assert "cancels in the ratio" in done.stdout


def test_the_command_gives_one_json_object(tmp_path: Path) -> None:
    a, b = stored(costing(1.0, 0.02), tmp_path / "a"), stored(costing(1.2, 0.02), tmp_path / "b")
    done = CliRunner().invoke(app, ["compare", a, f"{b}/result.json", "--json"])
    value = json.loads(done.stdout)
    assert value["ratios"][0]["verdict"] == "higher"
    assert value["ratios"][0]["ratio"]["value"] == pytest.approx(1.2)
    assert value["same_board"] is True


def test_a_regression_ends_with_four_and_prints_all_the_same(tmp_path: Path) -> None:
    a, b = stored(costing(1.0, 0.02), tmp_path / "a"), stored(costing(1.2, 0.02), tmp_path / "b")
    worse = CliRunner().invoke(app, ["compare", a, b, "--fail-above", "5"])
    better = CliRunner().invoke(app, ["compare", b, a, "--fail-above", "5"])
    assert (worse.exit_code, better.exit_code) == (4, 0)
    assert "Energy per output token" in worse.stdout
    assert "Regression: B costs 20.0%" in worse.stderr


def test_modelled_against_measured_is_refused_unless_mixed_is_allowed(tmp_path: Path) -> None:
    modelled = result(kind="modelled")
    measured = result()
    same = modelled.model_copy(update={"energy": measured.energy, "environment": modelled.environment})
    a, b = stored(modelled, tmp_path / "a"), stored(same, tmp_path / "b")
    refused = CliRunner().invoke(app, ["compare", a, b])
    assert refused.exit_code == 2
    assert refused.stdout == ""
    assert "modelled against measured" in refused.stderr
    assert "--allow method" in refused.stderr
    allowed = CliRunner().invoke(app, ["compare", a, b, "--allow-mixed"])
    assert allowed.exit_code == 0
    assert "estimated, not measured" in allowed.stdout


def test_a_file_that_is_no_result_ends_with_one(tmp_path: Path) -> None:
    a = stored(result(), tmp_path / "a")
    done = CliRunner().invoke(app, ["compare", a, str(tmp_path / "absent")])
    assert done.exit_code == 1
    assert "there is no result at" in done.stderr


def configured(result: ExperimentResult, **changes: Any) -> ExperimentResult:
    asked = result.config.model_dump() | changes
    return result.model_copy(update={"config": type(result.config).model_validate(asked)})


def test_what_was_told_differently_stands_beside_the_ratio() -> None:
    a, b = result(), configured(result(), precision="fp16", pytorch={"batch_size": 2}, timeout_s=7.0)
    b = b.model_copy(update={"memory": b.memory.model_copy(update={"weights_bytes": 91_700_000})})
    assert settings(a, a) == ()
    assert {one.name for one in settings(a, b)} == {"precision", "pytorch.batch_size", "weights_bytes"}
    lines = list(comparison_lines(compare(a, b)))
    assert "They differ in precision: bf16 against fp16" in lines
    assert any("weights_bytes" in line and line.endswith("against 91.7 MB") for line in lines)


def test_of_two_engines_the_options_that_were_given_are_told() -> None:
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
