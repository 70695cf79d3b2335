"""The method on virtual time: a bench instead of a child, a device whose true energy is known."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, stdev

import pytest
from benchmarks.virtual_run import VirtualRuns
from virtual_result import BRISK, config

from llenergymeasure.analysis.metrics import experiment_result
from llenergymeasure.analysis.run_energy import run_energy
from llenergymeasure.analysis.statistics import stein_count, t_quantile
from llenergymeasure.backends.simulated import SimulatedBackend
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import ConfigError, ExperimentError, ExperimentInterrupted, ResultError
from llenergymeasure.measure.bench import Bench, Position
from llenergymeasure.measure.budget import Turn, passes_that_fit, why_too_few
from llenergymeasure.measure.harness import MEMORY_S, Observations, Phase, Rig, conduct
from llenergymeasure.measure.repeats import repeat
from llenergymeasure.measure.runner import Job, Run
from llenergymeasure.records import (
    FailedRun,
    Measurement,
    WarmUp,
    Window,
)
from llenergymeasure.results.folder import is_live, parts, whole_runs
from llenergymeasure.results.models import ExperimentResult
from llenergymeasure.simulation.clock import VirtualClock

ONE: dict[str, object] = {"repeats": {"count": 1}}
QUIET = {"scatter": 0.0}


@dataclass
class Experiment:
    """Runs of one configuration in virtual time, and all that was said on the way."""

    runs: VirtualRuns
    result: ExperimentResult
    failed: tuple[FailedRun, ...]
    remarks: list[str]
    told: list[dict[str, object]]
    ended_by: BaseException | None

    @property
    def seen(self) -> Observations:
        return self.runs.seen[0]

    @property
    def phases(self) -> list[Phase]:
        return self.runs.phases[0]


def experiment(
    asked: ExperimentConfig,
    *,
    runs: VirtualRuns | None = None,
    make: Run | None = None,
    strict: bool = False,
) -> Experiment:
    made = runs or VirtualRuns()
    remarks: list[str] = []
    told: list[dict[str, object]] = []

    def tell(description: str, **detail: object) -> None:
        told.append({"description": description, **detail})

    with repeat(
        asked, origins={}, tell=tell, remark=remarks.append, strict=strict, run=make or made
    ) as finished:
        result = experiment_result(finished.energies, failed=finished.failed)
    return Experiment(made, result, finished.failed, remarks, told, finished.ended_by)


# One run


def test_a_run_goes_from_the_idle_machine_to_the_idle_machine() -> None:
    found = experiment(config(**ONE))
    assert found.phases == [
        "bare", "load", "rest", "loaded", "warm_up", "silence", "full", "silence", "silence", "prefill",
        "silence", "rest", "after", "closing",
    ]  # fmt: skip
    seen, idle = found.seen, found.seen.idle
    assert idle.bare is not None
    assert idle.loaded is not None
    assert idle.after is not None
    full, prefill = seen.blocks
    assert full.before is not None
    assert full.after is not None
    assert prefill.before is not None
    assert prefill.after is not None
    in_order = [
        idle.bare,
        seen.ready.load,
        idle.loaded,
        seen.warm_up.window,
        full.before,
        full.window,
        full.after,
        prefill.before,
        prefill.window,
        prefill.after,
        idle.after,
    ]
    edges = [edge for window in in_order for edge in (window.start_ns, window.end_ns)]
    assert edges == sorted(edges)


def test_passes_of_a_block_follow_one_another_without_a_pause() -> None:
    (full, _) = experiment(config(**ONE, passes={"count": 4})).seen.blocks
    windows = [one.window for one in full.passes]
    assert len(windows) == 4
    assert [one.start_ns for one in windows[1:]] == [one.end_ns for one in windows[:-1]]
    assert full.window == Window(windows[0].start_ns, windows[-1].end_ns)


def test_a_silence_lies_at_both_ends_of_every_block_and_is_as_long_as_the_counter_asks() -> None:
    for block in experiment(config(**ONE)).seen.blocks:
        assert block.before is not None
        assert block.after is not None
        assert (block.before.end_ns, block.after.start_ns) == (block.window.start_ns, block.window.end_ns)
        # 0.4 s, and after the work as much as the counter may lag on top
        assert 0.4 <= block.before.duration_s < 0.6
        assert 0.55 <= block.after.duration_s < 0.75


def test_a_slow_counter_gets_a_longer_silence_and_a_hidden_one_no_endless_one() -> None:
    (slow, _) = experiment(config(**ONE, simulated={"counter_step_s": 0.5})).seen.blocks
    (hidden, _) = experiment(config(**ONE, simulated={"counter_step_s": 60.0})).seen.blocks
    assert slow.before is not None
    assert 1.0 < slow.before.duration_s <= 2.0  # three steps
    assert hidden.before is not None
    assert hidden.before.duration_s == pytest.approx(3.0, abs=0.2)


def test_the_recorder_looks_closely_in_silences_and_at_the_edges_of_passes_only() -> None:
    found = experiment(config(**ONE, passes={"count": 3}))
    series = found.runs.measurements[0].trace.series["gpu:GPU-simulated-0", "energy"]

    def reads_per_s(window: Window) -> float:
        inside = (series.t_before_ns >= window.start_ns) & (series.t_after_ns <= window.end_ns)
        return float(inside.sum()) / window.duration_s

    (full, _) = found.seen.blocks
    assert full.before is not None
    assert reads_per_s(full.before) > 120
    for one in full.passes:
        edge_ns = one.window.start_ns + 250_000_000
        assert reads_per_s(Window(one.window.start_ns, edge_ns)) > 100
        assert 5 < reads_per_s(Window(edge_ns, one.window.end_ns)) < 25


def test_the_joules_of_each_block_are_those_of_the_device() -> None:
    found = experiment(config())
    for stage, seen in zip(found.runs.stages, found.runs.measurements, strict=True):
        for block in run_energy(seen).blocks:
            truth_j = stage.nvml.true_energy_j(block.block.window)
            (spent,) = block.spent.values()
            assert block.joules == pytest.approx(truth_j, rel=5e-4)
            assert abs((block.joules or 0) - truth_j) <= spent.half_width_j


def test_a_pass_lasts_as_long_as_asked_and_replays_the_same_work() -> None:
    (full, prefill) = experiment(config(**ONE, passes={"seconds": 7.0})).seen.blocks
    for one in full.passes:
        assert 7.0 <= one.window.duration_s < 7.5
        assert one.generation.output_tokens == one.walks * 4 * 32
    (once,) = prefill.passes
    assert 7.0 <= once.window.duration_s < 7.1
    assert once.generation.output_tokens == once.walks * 4
    assert once.generation.prompt_tokens == once.walks * 4 * 16


@pytest.mark.parametrize(
    "changes", [{"passes": {"prefill": 0}}, {"max_output_tokens": 1}], ids=["none asked for", "one token"]
)
def test_without_prefill_passes_there_is_one_block(changes: dict[str, object]) -> None:
    assert [block.kind for block in experiment(config(**ONE, **changes)).seen.blocks] == ["full"]


def test_idle_windows_may_be_left_out() -> None:
    found = experiment(config(**ONE, baseline={"seconds": 0}))
    assert found.seen.idle.bare is found.seen.idle.loaded is found.seen.idle.after is None
    assert not {"bare", "loaded", "after", "rest"} & set(found.phases)


def test_idle_after_work_begins_when_a_running_mean_has_forgotten_it() -> None:
    seen = experiment(config(**ONE)).seen
    assert seen.idle.loaded is not None
    assert seen.idle.after is not None
    assert seen.idle.loaded.start_ns - seen.ready.load.end_ns >= MEMORY_S * 1e9
    assert seen.idle.after.start_ns - seen.blocks[-1].window.end_ns >= MEMORY_S * 1e9


def test_warm_up_that_never_settles_ends_at_its_cap() -> None:
    warmup = {"max_seconds": 3.0, "variation": 0.001}
    warm_up = experiment(config(**ONE, simulated={"scatter": 0.5}, warmup=warmup)).seen.warm_up
    assert not warm_up.steady
    assert 3.0 <= warm_up.window.duration_s < 3.5


def test_steady_warm_up_stops_as_soon_as_times_agree_and_knows_how_long_a_walk_takes() -> None:
    seen = experiment(config(**ONE, simulated=QUIET)).seen
    assert seen.warm_up.steady
    assert len(seen.warm_up.batch_s) == 5
    one = seen.blocks[0].passes[0]
    assert seen.warm_up.walk_s == pytest.approx(one.window.duration_s / one.walks, rel=1e-6)


def test_cooling_ends_when_power_no_longer_falls() -> None:
    found = experiment(config(**ONE, baseline={"cooling_seconds": 60.0}))
    assert found.phases[0] == "cooling"
    assert found.seen.idle.bare is not None
    assert found.seen.idle.bare.start_ns / 1e9 < 12


def test_progress_names_the_phases_and_counts_the_runs() -> None:
    told = experiment(config(simulated=QUIET, repeats={"count": 2})).told
    assert [(one["run"], one["runs"]) for one in told[:-1]] == sorted(
        (one["run"], one["runs"]) for one in told[:-1]
    )
    first = [one for one in told if one.get("run") == 1]
    said = list(dict.fromkeys(one["description"] for one in first))
    assert said == [
        "idle, bare", "loading", "idle, loaded", "warming up", "3 passes", "1 pass of prefill", "idle, after",
        "closing",
    ]  # fmt: skip
    assert told[-1]["description"] == "computing"
    (blocks,) = [one for one in first if one["description"] == "3 passes"]
    seconds = experiment(config(**ONE, simulated=QUIET)).seen.blocks[0].window.duration_s
    assert blocks["total"] == pytest.approx(seconds, abs=0.05)


def test_progress_of_the_warm_up_shows_which_batch_runs_and_for_how_long() -> None:
    told = experiment(config(**ONE, simulated=QUIET)).told
    warming = [one for one in told if one["description"] == "warming up" and one["note"]]
    assert [str(one["note"]).partition(",")[0] for one in warming] == [
        f"batch {number}" for number in range(1, 7)
    ]
    done = [one["done"] for one in warming]
    assert done == sorted(done)  # type: ignore[type-var]
    assert {one["total"] for one in warming} == {30.0}


# Where energy is modelled


@dataclass
class NoSensor:
    """A recorder whose meters need no silence. It is only looked at."""

    clock: VirtualClock
    looks: list[int] = field(default_factory=list)
    dense_calls: list[bool] = field(default_factory=list)
    quiet_s: tuple[float, float] = (0.0, 0.0)

    def quiet_enough(self, since_ns: int) -> bool:
        raise AssertionError("there is no silence")

    def dense(self, wanted: bool, /) -> None:
        self.dense_calls.append(wanted)

    def edge(self) -> None:
        pass

    def look(self) -> None:
        self.looks.append(self.clock.monotonic_ns())


def test_where_energy_is_modelled_there_are_no_silences_and_both_edges_are_read() -> None:
    asked, clock = config(**ONE, baseline={"seconds": 0}), VirtualClock()
    recorder, marks, kept = NoSensor(clock), list[int](), list[Observations]()
    with Bench(asked, load=lambda _: SimulatedBackend(clock), clock=clock, position=Position()) as bench:
        rig = Rig(
            worker=bench,
            recorder=recorder,
            clock=clock,
            enter=lambda _: None,
            mark=lambda: marks.append(clock.monotonic_ns()),
            progress=lambda *_, **__: None,
            warmed=lambda _: None,
            keep=kept.append,
            costs=lambda *_: [],
            watts=lambda _: [],
        )
        seen = conduct(asked, rig, Turn.first(asked, remark=lambda _: None, strict=False))
    edges = [edge for one in seen.blocks for edge in (one.window.start_ns, one.window.end_ns)]
    assert [(one.before, one.after) for one in seen.blocks] == [(None, None)] * 2
    assert recorder.looks == edges
    assert (recorder.dense_calls, marks) == ([], [])
    # After each block all that was seen by then, so that a run that ends early leaves its whole blocks.
    assert [one.blocks for one in kept] == [seen.blocks[:1], seen.blocks]


# Repeats


def test_runs_are_fresh_and_prefill_comes_after_and_before_the_full_block_by_turns() -> None:
    found = experiment(config(repeats={"count": 4}))
    assert [[block.kind for block in seen.blocks] for seen in found.runs.seen] == [
        ["full", "prefill"],
        ["prefill", "full"],
        ["full", "prefill"],
        ["prefill", "full"],
    ]
    assert [phases.count("load") for phases in found.runs.phases] == [1] * 4
    assert [run.index for run in found.result.runs] == [1, 2, 3, 4]
    replicates = found.result.energy.replicates
    assert replicates is not None
    assert (replicates.unit, replicates.count) == ("run", 4)


def test_without_a_target_count_is_enough_however_restless_the_device_is() -> None:
    found = experiment(config(simulated={"run_scatter": 0.3}))
    assert len(found.runs.seen) == 3
    assert "target_not_met" not in {warning.code for warning in found.result.warnings}
    assert (found.result.energy.repeats_for_2_percent or 0) > 100


def test_quiet_runs_need_no_more_than_the_first_stage() -> None:
    asked = config(repeats={"count": 5, "target": 0.02}, simulated=QUIET)
    assert len(experiment(asked).runs.seen) == 5


def test_restless_runs_get_as_many_as_the_first_stage_asks_for() -> None:
    asked = config(
        repeats={"count": 4, "target": 0.05},
        passes={"count": 1, "seconds": 2.0, "prefill": 0, "budget": {"seconds": 600}},
        simulated={"run_scatter": 0.06},
        random_seed=1,
    )
    found = experiment(asked)
    costs = [run_energy(one).cost for one in found.runs.measurements[:4]]
    wanted = stein_count([cost for cost in costs if cost is not None], target=0.05, minimum=4)
    assert 4 < wanted < 30
    assert len(found.runs.seen) == wanted
    # Stein: the interval is from the scatter of the first stage and the number of all runs.
    cost = found.result.energy.per_output_token
    assert cost.value is not None
    assert cost.high is not None
    first = [run.figures.energy_per_output_token_j or 0 for run in found.result.measured[:4] if run.figures]
    half = t_quantile(0.975, 3) * stdev(first) / fmean(first) / wanted**0.5
    assert (cost.high - cost.value) / cost.value == pytest.approx(half, rel=0.01)
    assert "target_not_met" not in {warning.code for warning in found.result.warnings}


def test_no_more_runs_than_the_most_that_are_allowed() -> None:
    asked = config(
        repeats={"count": 3, "target": 0.01, "max": 6},
        passes={"count": 1, "seconds": 2.0, "prefill": 0},
        simulated={"run_scatter": 0.2},
    )
    found = experiment(asked)
    assert len(found.runs.seen) == 6
    assert "target_not_met" in {warning.code for warning in found.result.warnings}


def test_a_single_run_with_a_target_makes_a_second_block_of_what_the_first_asks_for() -> None:
    passes = {"count": 5, "target": 0.08, "budget": {"seconds": 400}}
    found = experiment(config(**ONE, simulated={"scatter": 0.2}, passes=passes, random_seed=3))
    kinds = [block.kind for block in found.seen.blocks]
    assert kinds == ["full", "full", "prefill"]
    first, second, _ = found.seen.blocks
    assert len(first.passes) == 5
    energy = run_energy(found.runs.measurements[0])
    shares = energy.of("full")[0].shares
    assert shares is not None
    costs = [share / one.generation.output_tokens for share, one in zip(shares, first.passes, strict=True)]
    wanted = stein_count(costs, target=0.08, minimum=5)
    assert 5 < wanted < 70
    assert len(second.passes) == wanted - 5
    replicates = found.result.energy.replicates
    assert replicates is not None
    assert (replicates.unit, replicates.count) == ("pass", wanted)


def test_a_quiet_single_run_needs_no_second_block() -> None:
    found = experiment(config(**ONE, simulated=QUIET, passes={"count": 3, "target": 0.02, "prefill": 0}))
    assert [len(block.passes) for block in found.seen.blocks] == [3]


# Budgets


def test_the_budget_of_passes_is_shared_by_the_runs() -> None:
    found = experiment(config(passes={"count": 4, "budget": {"passes": 7}}))
    assert [len(seen.blocks[0].passes) for seen in found.runs.seen if seen.blocks[0].kind == "full"] == [2, 3]
    assert sum(len(one.passes) for one in found.runs.measurements) == 7


def test_the_budget_of_seconds_is_shared_by_the_runs() -> None:
    found = experiment(config(passes={"count": 4, "budget": {"seconds": 34.0}}, simulated={**QUIET, **BRISK}))
    # walks of 0.249 s: 5.23 s a pass, 11.3 s a run
    assert [len(one.passes) for one in found.runs.measurements] == [2, 2, 2]


def test_the_budget_of_joules_ends_the_runs() -> None:
    def runs(joules: float) -> int:
        passes = {"count": 1, "budget": {"joules": joules}}
        return len(experiment(config(passes=passes, simulated={**QUIET, **BRISK})).runs.seen)

    # 400 W for 5.23 s: 2,091 J a run
    assert [runs(2_000.0), runs(2_200.0), runs(1e6)] == [1, 2, 3]


def test_a_budget_ends_a_single_run_s_second_block() -> None:
    passes = {"count": 3, "target": 0.001, "budget": {"passes": 7}}
    found = experiment(config(**ONE, simulated={"scatter": 0.2}, passes=passes))
    assert [len(block.passes) for block in found.seen.blocks] == [3, 4, 1]


WALK_S = 2.0


@pytest.mark.parametrize(
    ("passes", "turn", "fits"),
    [
        ({"count": 3}, (1, 3, 90, 120.0), 3),
        ({"count": 3}, (1, 3, 90, 35.9), 1),  # three walks a pass: 6 s; 36 s for 2 passes in each of 3 runs
        ({"count": 3}, (1, 3, 90, 36.0), 2),
        ({"count": 3}, (3, 3, 90, 12.0), 2),
        ({"count": 3}, (1, 3, 5, 120.0), 1),
        ({"count": 3}, (1, 3, 1, 0.1), 1),  # never none
        ({"count": 3}, (5, 3, 2, 120.0), 2),  # beyond the planned runs what is left is this one's
    ],
)
def test_what_of_the_budget_one_run_may_use(
    passes: dict[str, object], turn: tuple[int, int, int, float], fits: int
) -> None:
    warm_up = WarmUp(Window(0, 1), (WALK_S,), steady=True, walk_s=WALK_S)
    number, runs, left, seconds = turn
    now = Turn(number, runs, left, seconds, remark=lambda _: None)
    assert passes_that_fit(config(passes=passes), warm_up, now) == fits


# A budget that leaves too little


def test_too_small_a_budget_is_said_before_the_first_pass_and_ends_after_what_it_holds() -> None:
    found = experiment(config(passes={"budget": {"seconds": 4.0}}, n=40, simulated={**QUIET, **BRISK}))
    (remark,) = found.remarks
    # 40 prompts take 2.49 s, so that a pass of 5 s takes three walks
    assert "takes about 7.48 s" in remark
    assert "leaves 1 of the 3 repeats" in remark
    assert len(found.runs.seen) == 1


WALK_OF_PROMPT_S = 0.0623


@pytest.mark.parametrize(
    ("n", "seconds", "budget_s", "hint"),
    [
        (40, 0.5, 2.4, "-n 12 would fit, or passes.budget.seconds=8"),  # 0.8 s each: 12 × 0.0623 s
        (80, 2.0, 9.0, "-n 48 would fit, or passes.budget.seconds=15"),  # 3 s each, in one walk
        (80, 2.0, 8.0, "-n 42 would fit, or passes.budget.seconds=15"),  # 2.67 s each
        (1, 5.0, 9.0, "passes.seconds=2.99 would fit, or passes.budget.seconds=16"),  # no n helps
        (40, 5.0, 4.0, "passes.budget.seconds=23"),  # nor does a pass that no sensor sees
    ],
)
def test_what_is_said_to_fit(n: int, seconds: float, budget_s: float, hint: str) -> None:
    asked = config(n=n, passes={"seconds": seconds, "budget": {"seconds": budget_s}}, repeats={"count": 3})
    warm_up = WarmUp(Window(0, 1), (WALK_OF_PROMPT_S,), steady=True, walk_s=n * WALK_OF_PROMPT_S)
    found = why_too_few(asked, warm_up)
    assert found is not None
    assert found[1] == hint


def test_where_one_request_is_too_long_fewer_tokens_are_named() -> None:
    asked = config(n=1, max_output_tokens=100, passes={"seconds": 0.5, "budget": {"seconds": 9.0}})
    found = why_too_few(asked, WarmUp(Window(0, 1), (10.0,), steady=True, walk_s=10.0))
    assert found is not None
    assert found[1] == "max_output_tokens=30 would fit, or passes.budget.seconds=30"


def test_what_is_said_to_fit_does() -> None:
    def found(n: int) -> Experiment:
        passes = {"budget": {"seconds": 4.0}, "seconds": 0.5, "prefill": 0}
        return experiment(config(passes=passes, n=n, simulated=QUIET))

    (remark,) = found(80).remarks
    n = int(remark.partition("-n ")[2].partition(" ")[0])
    again = found(n)
    assert again.remarks == []
    assert len(again.runs.seen) == 3
    assert again.result.energy.per_output_token.low is not None


def test_strict_stops_there_before_a_pass() -> None:
    runs = VirtualRuns()
    with pytest.raises(ConfigError, match="--strict") as caught:
        experiment(config(passes={"budget": {"seconds": 4.0}}, n=40, simulated=BRISK), runs=runs, strict=True)
    assert caught.value.hint == "passes.budget.seconds=23"
    assert "warm_up" in runs.phases[0]
    assert "full" not in runs.phases[0]


@pytest.mark.parametrize(
    "changes", [{}, {"repeats": {"count": 2}}, {"repeats": {"count": 1}, "passes": {"count": 2}}]
)
def test_what_was_asked_for_anyway_is_not_remarked_on(changes: dict[str, object]) -> None:
    assert experiment(config(simulated=QUIET, **changes), strict=True).remarks == []


# Runs that fail


@dataclass
class Failing:
    """Makes runs in virtual time, of which those numbered `fails` end with an error."""

    fails: Sequence[int]
    runs: VirtualRuns = field(default_factory=VirtualRuns)
    error: BaseException = field(default_factory=lambda: ExperimentError("the worker was killed"))
    tried: list[int] = field(default_factory=list)

    def __call__(self, config: ExperimentConfig, job: Job) -> Measurement:
        self.tried.append(job.turn.number)
        if job.turn.number in self.fails:
            raise self.error
        return self.runs(config, job)


def test_one_failing_run_of_three_leaves_a_value_without_an_interval_and_says_why() -> None:
    failing = Failing([2])
    found = experiment(config(), make=failing)
    assert failing.tried == [1, 2, 3]
    assert [(run.index, run.outcome) for run in found.result.runs] == [
        (1, "measured"), (2, "failed"), (3, "measured"),
    ]  # fmt: skip
    assert found.result.runs[1].reason == "the worker was killed"
    assert [run.index for run in found.result.measured] == [1, 3]
    assert any("run 2 failed" in remark for remark in found.remarks)
    cost = found.result.energy.per_output_token
    assert cost.value is not None
    assert (cost.low, cost.reason) == (None, "2 repetitions: an interval needs 3")
    assert "target_not_met" not in {one.code for one in found.result.warnings}


def test_one_failing_run_of_four_leaves_an_interval_of_three() -> None:
    found = experiment(config(repeats={"count": 4}), make=Failing([4]))
    assert found.result.energy.per_output_token.low is not None
    assert len(found.result.measured) == 3


def test_two_failing_runs_in_a_row_end_it_and_two_apart_do_not() -> None:
    in_a_row, apart = Failing([2, 3]), Failing([2, 4])
    experiment(config(repeats={"count": 6}), make=in_a_row)
    experiment(config(repeats={"count": 6}), make=apart)
    assert in_a_row.tried == [1, 2, 3]
    assert apart.tried == [1, 2, 3, 4, 5, 6]


def test_the_error_of_a_first_run_is_the_experiment_s() -> None:
    failing = Failing([1])
    with pytest.raises(ExperimentError, match="was killed"):
        experiment(config(), make=failing)
    assert failing.tried == [1]


INTERRUPTIONS = [
    (KeyboardInterrupt(), "Ctrl-C"),
    (SystemExit(143), "SIGTERM"),
    (ExperimentInterrupted("the worker was told to stop"), "the worker was told to stop"),
]


@pytest.mark.parametrize(("error", "name"), INTERRUPTIONS)
def test_an_interruption_ends_all_runs_and_those_that_were_measured_count(
    error: BaseException, name: str
) -> None:
    failing = Failing([2], error=error)
    found = experiment(config(repeats={"count": 4}), make=failing)
    assert failing.tried == [1, 2]
    assert found.ended_by is error
    runs = [(run.index, run.outcome, run.reason) for run in found.result.runs]
    assert runs == [(1, "measured", None), (2, "interrupted", name)]
    codes = [one.code for one in found.result.warnings]
    assert codes.count("interrupted") == 1


@pytest.mark.parametrize(("error", "name"), INTERRUPTIONS)
def test_an_interruption_before_a_run_was_measured_leaves_nothing(
    error: BaseException, name: str, tmp_path: Path
) -> None:
    with pytest.raises(type(error)):
        experiment(config(output_dir=tmp_path / "out"), make=Failing([1], error=error))
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_a_part_until_it_is_whole(tmp_path: Path) -> None:
    out, seen = tmp_path / "out", list[list[str]]()

    def run(config: ExperimentConfig, job: Job) -> Measurement:
        (folder,) = out.iterdir()
        assert job.directory.parent == folder / "runs"
        assert is_live(folder)
        seen.append(sorted(one.name for one in job.directory.parent.iterdir()))
        assert list(job.temporary.iterdir()) == []
        return Failing([3])(config, job)

    found = experiment(config(repeats={"count": 4}, output_dir=out), make=run)
    assert seen == [["1.part"], ["1", "2.part"], ["1", "2", "3.part"], ["1", "2", "3.part", "4.part"]]
    (folder,) = out.iterdir()
    assert whole_runs(folder) == (1, 2, 4)
    assert [one.name for one in parts(folder)] == ["3.part"]
    assert not is_live(folder)
    assert found.result.save(out) == folder


def test_without_an_output_directory_the_files_are_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    places: list[Path] = []

    def run(config: ExperimentConfig, job: Job) -> Measurement:
        places.append(job.directory)
        return VirtualRuns()(config, job)

    experiment(config(repeats={"count": 2}), make=run)
    assert len(places) == 2
    assert all(one.is_relative_to(tmp_path) for one in places)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_is_an_error_that_names_it_and_no_bug(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "writing bytes. Detail: no space")
    out = tmp_path / "out"
    with pytest.raises(ResultError, match=os.strerror(errno.ENOSPC)) as caught:
        experiment(config(output_dir=out), make=Failing([1], error=full))
    assert "mounted on /" in caught.value.message
    assert "free" in caught.value.message
    found = experiment(config(output_dir=out), make=Failing([2], error=full))
    assert [run.outcome for run in found.result.runs] == ["measured", "failed", "measured"]
    elsewhere = FileNotFoundError(errno.ENOENT, "of ours", str(tmp_path / "elsewhere"))
    with pytest.raises(OSError, match="of ours"):
        experiment(config(output_dir=out), make=Failing([1], error=elsewhere))

    def vanishing(config: ExperimentConfig, job: Job) -> Measurement:
        shutil.rmtree(job.directory)
        return VirtualRuns()(config, replace(job, directory=tmp_path))

    with pytest.raises(ResultError, match=r"1\.part: No such file"):
        experiment(config(output_dir=out), make=vanishing)
    with pytest.raises(OSError, match="of ours"):
        experiment(config(output_dir=out), make=Failing([1], error=OSError(errno.EBADF, "of ours")))
