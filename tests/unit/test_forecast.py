"""How long an experiment is said to take, and how much of it is said to be left."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from example_result import PASS_S, PASSES, RUNS, example_result

from llenergymeasure.cli._display import plan_as_json, plan_rows
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.measure.budget import Repeats, RunCost
from llenergymeasure.measure.forecast import (
    GPU_SILENCES_S,
    RAPL_SILENCES_S,
    Forecast,
    Pace,
    Tracker,
    find_pace,
    forecast_at,
)
from llenergymeasure.results.history import earlier_results

PACE = Pace(
    setup_s=1.0, load_s=2.0, warm_up_s=4.0, walk_s=2.0, prefill_walk_s=0.5, silences_s=0.0, source="a test"
)


def planned(**changes: object) -> ExperimentConfig:
    return ExperimentConfig.model_validate({"model": "any", "backend": "simulated", "n": 4} | changes)


def seconds(plan: Forecast) -> dict[str, float]:
    return {step.name: step.seconds for step in plan.steps}


def test_a_run_is_the_sum_of_its_steps_and_an_experiment_of_its_runs() -> None:
    plan = forecast_at(planned(baseline={"seconds": 3.0}), PACE)
    assert seconds(plan) == {
        "bare": 3.0,
        "load": 3.0,
        "loaded": 4.0,
        "warm_up": 4.0,
        "full": 18.0,  # three passes of three walks of 2 s: a pass of 5 s ends with a walk
        "prefill": 5.0,  # one of ten walks of 0.5 s
        "after": 5.0,
    }
    assert plan.runs == 3
    assert plan.seconds == pytest.approx(3 * 42.0)


def test_what_is_not_asked_for_is_no_step() -> None:
    config = planned(baseline={"seconds": 0.0}, passes={"prefill": 0}, repeats={"count": 1})
    assert list(seconds(forecast_at(config, PACE))) == ["load", "warm_up", "full", "after"]
    cooled = planned(baseline={"seconds": 1.0, "cooling_seconds": 60.0})
    assert next(iter(seconds(forecast_at(cooled, PACE)))) == "cooling"


def test_windows_of_a_load_last_as_long_as_they_are_asked_for_and_have_no_prefill() -> None:
    load = {"concurrency": 4}
    stream = {"backend": "openai", "openai": {"base_url": "http://h:1"}, "passes": {"seconds": 7.0}}
    plan = seconds(forecast_at(planned(load=load, **stream), PACE))
    assert plan["full"] == 21.0
    assert "prefill" not in plan
    walked = seconds(forecast_at(planned(load=load | {"finite": True}, **stream), PACE))
    assert walked["full"] == 24.0  # four walks of 2 s
    assert walked["prefill"] == 7.0


@pytest.mark.parametrize(
    ("meter", "gpu", "silences_s"),
    [
        ("estimate", False, 0.0),
        ("auto", False, 0.0),
        ("rapl", False, RAPL_SILENCES_S),
        ("auto", True, GPU_SILENCES_S),
        ("nvml", True, GPU_SILENCES_S),
    ],
)
def test_silences_last_as_long_as_the_meter_needs(meter: str, gpu: bool, silences_s: float) -> None:
    config = ExperimentConfig.model_validate({"model": "any", "energy": {"meter": meter}})
    assert find_pace(config, gpu=gpu).silences_s == silences_s


def test_a_target_may_ask_for_more_runs_and_the_budget_for_fewer() -> None:
    asked = {"count": 5, "target": 0.02}
    wide = forecast_at(planned(repeats=asked, passes={"budget": {"seconds": 1200.0, "passes": 60}}), PACE)
    assert (wide.runs, wide.most_runs) == (5, 20)
    assert wide.most_s > wide.seconds
    narrow = forecast_at(planned(repeats=asked, passes={"budget": {"seconds": 20.0}}), PACE)
    assert (narrow.runs, narrow.most_runs) == (4, 4)
    one = forecast_at(planned(passes={"budget": {"seconds": 5.0}}), PACE)
    assert (one.runs, seconds(one)["full"]) == (1, 6.0)


def test_earlier_results_of_the_same_work_tell_how_long_it_takes() -> None:
    result = example_result()
    config = result.config
    pace = find_pace(config, [result])
    # Every run walks five times over its 8 prompts in five passes of 5 s.
    assert pace.walk_s == pytest.approx(PASSES * PASS_S * config.n * RUNS / result.tokens.requests)
    assert (pace.load_s, pace.warm_up_s, pace.setup_s) == (0.5, 1.2, 1.4)
    assert pace.prefill_walk_s == pytest.approx(0.08 * config.n)
    assert result.experiment_id in pace.source
    longer = config.model_copy(update={"max_output_tokens": 2 * config.max_output_tokens})
    assert find_pace(longer, [result]).walk_s == pytest.approx(2 * pace.walk_s)
    measured = example_result(energy="measured")
    assert find_pace(config, [measured]).silences_s == GPU_SILENCES_S


def test_the_same_experiment_goes_before_a_newer_one_that_differs() -> None:
    result = example_result()
    other = result.model_copy(
        update={
            "experiment_id": "other",
            "config": result.config.model_copy(update={"max_output_tokens": 8}),
        }
    )
    assert result.experiment_id in find_pace(result.config, [other, result]).source


def test_only_readable_results_of_this_machine_and_model_count(tmp_path: Path) -> None:
    result = example_result()
    config = result.config.model_copy(update={"output_dir": tmp_path})
    assert earlier_results(config, "bench-1") == ()
    result.save(tmp_path)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "result.json").write_text("{")
    assert [one.experiment_id for one in earlier_results(config, "bench-1")] == [result.experiment_id]
    assert earlier_results(config, "another") == ()
    assert earlier_results(config.model_copy(update={"model": "gpt2"}), "bench-1") == ()
    assert earlier_results(result.config, "bench-1") == ()


def test_the_time_left_counts_this_step_the_steps_not_begun_and_the_runs_to_come() -> None:
    plan = forecast_at(planned(), PACE)
    assert plan.left_s(run=1) == pytest.approx(plan.seconds)
    assert plan.left_s(run=3, begun=["bare"], done_s=1.0) == pytest.approx(plan.run_s - 1.0)
    # The prefill block may come first; what is over its time takes none of that of the others.
    begun = ["bare", "load", "loaded", "warm_up", "prefill"]
    assert plan.left_s(run=3, begun=begun, done_s=60.0) == pytest.approx(18.0 + 5.0)  # type: ignore[arg-type]


def test_a_tracker_says_where_in_the_plan_a_run_is() -> None:
    heard: list[dict[str, Any]] = []
    now = [100.0]
    config = planned()
    tell = Tracker(config, PACE, lambda description, **more: heard.append(more), now=lambda: now[0])
    tell("checking")
    assert (heard[-1]["step"], heard[-1]["run"], heard[-1]["left_s"]) == (None, 1, pytest.approx(126.0))
    tell.begin_run(2, 4)
    for phase in ("bare", "load", "load", "between"):
        tell.enter(phase)
    now[0] += 1.0
    tell("loading", total=3.0, note="a note")
    last = heard[-1]
    assert (last["step"], last["steps"], last["run"], last["runs"]) == (2, 7, 2, 4)
    assert (last["total"], last["note"]) == (3.0, "a note")
    assert last["left_s"] == pytest.approx(42.0 - 3.0 - 1.0 + 2 * 42.0)
    tell.measured(walk_s=4.0)
    tell("loading")
    # A pass is now two walks of 4 s, and a prefill pass five of 1 s.
    assert heard[-1]["left_s"] == pytest.approx(last["left_s"] + 3 * (3 * 8.0 - 18.0))


def test_a_target_within_a_run_may_ask_for_passes_until_the_budget_ends() -> None:
    asked = {"target": 0.02, "budget": {"seconds": 60.0}}
    plan = forecast_at(planned(repeats={"count": 1}, passes=asked), PACE)
    full = next(step for step in plan.steps if step.name == "full")
    assert (full.seconds, full.most_s) == (18.0, 60.0)
    assert plan.most_s == pytest.approx(plan.seconds + 42.0 + 26.0)  # 26 s of warm-up until its cap
    assert "more until the target" in full.note


def test_the_time_left_counts_passes_that_a_target_adds() -> None:
    heard: list[dict[str, Any]] = []
    now = [100.0]
    config = planned(repeats={"count": 1}, passes={"target": 0.02})
    tell = Tracker(config, PACE, lambda description, **more: heard.append(more), now=lambda: now[0])
    tell.enter("full")
    tell("3 passes", total=18.0, passes=3)
    rest_s = sum(step.seconds for step in forecast_at(config, PACE).steps if step.name != "full")
    assert heard[-1]["left_s"] == pytest.approx(rest_s + 18.0)
    now[0] += 20.0
    tell("20 passes", total=120.0, passes=20)
    assert heard[-1]["left_s"] == pytest.approx(rest_s + 120.0)


def test_runs_to_come_are_expected_to_warm_up_as_long_as_this_one_did() -> None:
    heard: list[dict[str, Any]] = []
    now = [100.0]
    config = planned()
    tell = Tracker(config, PACE, lambda description, **more: heard.append(more), now=lambda: now[0])
    tell.enter("warm_up")
    now[0] += 30.0
    tell("warming up")
    before = heard[-1]["left_s"]
    tell.measured(warm_up_s=30.0)
    tell("warming up")
    assert heard[-1]["left_s"] == pytest.approx(before + 2 * (30.0 - 4.0))


def test_the_plan_as_json_holds_the_steps_and_both_ends_of_the_time() -> None:
    config = planned()
    plan = forecast_at(config, find_pace(config))
    shown = plan_as_json(config, plan)
    assert shown["expected_s"] == [plan.seconds, plan.most_s]
    assert plan.seconds <= plan.most_s
    assert shown["runs"] == 3


def test_a_budget_that_is_too_small_is_named_in_the_plan() -> None:
    config = planned(passes={"budget": {"passes": 2}})
    notes = {row.label: row.note for row in plan_rows(config, forecast_at(config, PACE))}
    assert "too small for 3" in notes["repeats"]


def test_python_m_is_llem() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "llenergymeasure", "--help"], capture_output=True, text=True, check=True
    )
    assert "Usage" in said.stdout


def test_a_tracker_knows_power_and_interval_now_and_the_rate_while_passes_run() -> None:
    heard: list[Any] = []
    config = planned(max_output_tokens=16, repeats={"count": 3, "target": 0.02})
    tell = Tracker(config, PACE, lambda description, **more: heard.append(more))
    tell.begin_run(1, 3)
    tell.enter("bare")
    tell("idle, bare")
    assert heard[-1]["live"]() == "until ± 2 %, at most 30 runs"
    tell.watched(lambda: 412.3)
    tell.known(0.0371)
    assert heard[-1]["live"]() == "412 W, ± 3.7 % so far, target ± 2 %"
    tell.measured(walk_s=0.5)
    tell.enter("full")
    tell("3 passes", passes=3)
    assert heard[-1]["passes"] == 3
    assert heard[-1]["live"]() == "412 W, ≈ 128 token/s, ± 3.7 % so far, target ± 2 %"


def test_the_interval_so_far_is_that_of_the_runs_and_there_is_none_below_three() -> None:
    repeats = Repeats(planned(repeats={"count": 5}), remark=lambda _: None, strict=False)
    seen = []
    for per_token in (1.0, 1.1, 0.9, None):
        repeats.add(RunCost(passes=3, seconds=1.0, joules=1.0, per_token=per_token))
        seen.append(repeats.half_width)
    # 4.303, of two degrees of freedom, times 0.1 / sqrt(3); and nothing where a run has no cost.
    assert seen == [None, None, pytest.approx(4.303 * 0.1 / 3**0.5, rel=1e-3), None]
