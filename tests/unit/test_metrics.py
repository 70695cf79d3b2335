"""From a hand-made measurement, whose joules are known, to the numbers of its result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pytest

from llenergymeasure.analysis.metrics import metrics
from llenergymeasure.analysis.run_energy import counted_domains
from llenergymeasure.analysis.statistics import stein_count, t_quantile
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.records import (
    Block,
    Completion,
    Domain,
    Environment,
    FailedRun,
    FinishReason,
    Gap,
    Generation,
    Idle,
    Measurement,
    Overhead,
    Pass,
    PowerModel,
    Quantity,
    Series,
    SessionFacts,
    Start,
    Trace,
    WarmUp,
    Window,
)
from llenergymeasure.results.models import ExperimentResult

S = 1_000_000_000
GPU = Domain("gpu:GPU-a", "gpu", (Quantity("energy", "nvml.total_energy", "J", 1e-3),))
OTHER = replace(GPU, name="gpu:GPU-b")
MODEL = PowerModel("model", "nowhere", 4.0, (3.0, 8.0), 0.0, (0.0, 0.0))
HOST = Domain(
    "host",
    "host",
    (Quantity("cpu_time", "cpu-time-model", "s", 1e-9), Quantity("resident", "cpu-time-model", "bytes", 1.0)),
    model=MODEL,
)


def series(quantity: Quantity, raw_per_s: float, *, offset: float = 0.0) -> Series:
    """Read every 10 ms for 100 s: a counter that moves steadily."""
    t_ns = np.arange(0, 100 * S, S // 100, dtype=np.int64)
    raw = np.round(offset + raw_per_s * t_ns / S).astype(np.int64)
    return Series(quantity, t_ns, t_ns + 1000, raw)


def gpu_trace(watts: float, *domains: Domain) -> Trace:
    found = domains or (GPU,)
    return Trace(
        found, {(domain.name, "energy"): series(domain.quantities[0], watts * 1000) for domain in found}
    )


def host_trace(busy: float) -> Trace:
    time, size = HOST.quantities
    flat = series(size, 0.0, offset=1e9)
    return Trace((HOST,), {("host", "cpu_time"): series(time, busy * 1e9), ("host", "resident"): flat})


def one_pass(start_s: float, seconds: float, *, output: int = 50, finish: FinishReason = "length") -> Pass:
    sent_ns, end_ns = int(start_s * S), int((start_s + seconds) * S)
    done = [
        Completion(
            index=index,
            walk=0,
            batch=0,
            prompt_tokens=100,
            output_tokens=output,
            t_scheduled_ns=sent_ns,
            t_sent_ns=sent_ns,
            t_first_ns=sent_ns + S // 10,
            t_end_ns=end_ns,
            finish=finish,
        )
        for index in range(2)
    ]
    return Pass(Window(sent_ns, end_ns), 1, Generation(tuple(done)))


def blocks_of(passes: Sequence[Pass]) -> tuple[Block, ...]:
    """Each pass as a block of its own, between a second of silence and 1.2 s of it."""
    return tuple(
        Block(
            "full",
            Window(one.window.start_ns - S, one.window.start_ns),
            (one,),
            Window(one.window.end_ns, one.window.end_ns + 6 * S // 5),
        )
        for one in passes
    )


def measurement(trace: Trace, passes: Sequence[Pass] | None = None, **changes: Any) -> Measurement:
    """A single run, whose passes are its replicates."""
    config = ExperimentConfig.model_validate(
        {"model": "any", "backend": "simulated", "n": 2, "max_output_tokens": 50, "repeats": {"count": 1}}
    )
    whole = Measurement(
        experiment_id="id",
        index=1,
        config=config,
        origins={"model": "flag"},
        started=Start("2026-01-01T00:00:00+00:00", 0, None),
        environment=Environment(
            "h", "os", "k", "3.11", "0", None, 2, 2**34, None, None, None, None, None, (), {}
        ),
        facts=SessionFacts("cuda:0", {}, {}, gpu_uuids=("GPU-a",)),
        architecture=None,
        idle=Idle(Window(2 * S, 5 * S), Window(8 * S, 11 * S), Window(80 * S, 83 * S)),
        load=Window(5 * S, 8 * S),
        warm_up=WarmUp(Window(11 * S, 13 * S), (0.5, 0.5, 0.5), True),
        blocks=blocks_of(passes or [one_pass(20, 6), one_pass(30, 6), one_pass(40, 6)]),
        trace=trace,
        overhead=Overhead(0.1, 100, 1.0),
    )
    return replace(whole, **changes)


def of_run(one: Measurement) -> ExperimentResult:
    return metrics([one])


def test_total_is_the_sum_over_passes_and_tokens_likewise() -> None:
    result = of_run(measurement(gpu_trace(100.0)))
    assert result.energy.total.value == pytest.approx(1800, rel=1e-3)
    assert (result.tokens.input, result.tokens.output, result.tokens.requests) == (600, 300, 6)
    assert result.energy.per_output_token.value == pytest.approx(6.0, rel=1e-3)
    assert result.energy.per_request.value == pytest.approx(300.0, rel=1e-3)
    assert (result.energy.boundary, result.energy.method, result.energy.valid) == ("gpu", "counter", True)


def test_net_takes_the_loaded_idle_off_and_says_so() -> None:
    result = of_run(measurement(gpu_trace(100.0)))
    assert result.energy.idle.loaded.value == pytest.approx(100.0, rel=1e-2)
    assert result.energy.net.value == pytest.approx(0.0, abs=20)
    assert result.energy.net_of == "loaded"


def test_the_offset_of_a_sensor_is_in_the_total_and_not_in_net() -> None:
    doubtful = replace(GPU, systematic_gain=(0.9, 1.2), systematic_offset_w=(-20.0, 10.0))
    trace = gpu_trace(100.0, doubtful)
    counter = trace.series[GPU.name, "energy"]
    # 100 W more from the first pass on
    more = np.maximum(counter.raw - 100_000 * 15, 0)
    busy = replace(trace, series={(GPU.name, "energy"): replace(counter, raw=counter.raw + more)})
    energy = of_run(measurement(busy)).energy
    gross, net = energy.total.value or 0.0, energy.net.value or 0.0
    assert [gross, net] == pytest.approx([3600, 1800], rel=1e-2)
    assert energy.total.systematic == pytest.approx((0.9 * gross - 20 * 18, 1.2 * gross + 10 * 18))
    assert energy.net.systematic == pytest.approx((0.9 * net, 1.2 * net))


def test_a_gpu_that_the_session_did_not_use_is_listed_and_not_added() -> None:
    result = of_run(measurement(gpu_trace(100.0, GPU, OTHER)))
    assert result.energy.total.value == pytest.approx(1800, rel=1e-3)
    assert [reading.domain for reading in result.energy.readings] == ["gpu:GPU-a"]
    assert any("gpu:GPU-b" in note for note in result.notes)


def test_gpus_asked_for_are_counted_although_the_session_names_none() -> None:
    config = ExperimentConfig.model_validate(
        {"model": "any", "backend": "simulated", "n": 2, "energy": {"gpus": "all"}}
    )
    facts = SessionFacts("server", {}, {})
    counted = counted_domains((GPU, OTHER), config, facts)
    assert counted == (GPU, OTHER)


def test_a_model_of_power_never_joins_what_is_measured() -> None:
    config = ExperimentConfig(model="any", backend="simulated", n=2)
    assert counted_domains((GPU, HOST), config, SessionFacts("cuda", {}, {}, gpu_uuids=("GPU-a",))) == (GPU,)
    assert counted_domains((GPU, HOST), config, SessionFacts("cpu", {}, {})) == (HOST,)


def test_a_module_counts_only_where_its_gpu_is_not_read_and_then_without_the_host() -> None:
    module = replace(GPU, name="module:GPU-a", kind="module")
    package = replace(GPU, name="cpu:0", kind="cpu")
    asked = ExperimentConfig.model_validate({"model": "any", "energy": {"gpus": "all"}})
    facts = SessionFacts("cuda", {}, {}, gpu_uuids=("GPU-a",))
    assert counted_domains((GPU, module, package), asked, facts) == (GPU, package)
    assert counted_domains((module, package), asked, facts) == (module,)


def test_modelled_energy_says_so_and_keeps_its_width_apart() -> None:
    result = of_run(measurement(host_trace(2.0), facts=SessionFacts("cpu", {}, {})))
    assert result.energy.method == result.energy.boundary == "modelled"
    assert result.energy.total.value == pytest.approx(2 * 4.0 * 18, rel=1e-2)
    assert result.energy.total.systematic == pytest.approx((2 * 3.0 * 18, 2 * 8.0 * 18), rel=1e-2)
    assert result.energy.idle.bare.value is None
    assert "energy_modelled" in {warning.code for warning in result.warnings}


def test_without_any_source_energy_is_missing_and_not_zero() -> None:
    result = of_run(measurement(Trace((), {})))
    assert result.energy.total.value is None
    assert result.energy.per_output_token.value is None
    assert not result.energy.valid
    assert "no_energy_source" in {warning.code for warning in result.warnings}


def test_a_single_pass_has_a_value_and_a_warning_instead_of_an_interval() -> None:
    result = of_run(measurement(gpu_trace(100.0), [one_pass(20, 6)]))
    assert result.energy.per_output_token.value == pytest.approx(6.0, rel=1e-2)
    assert result.energy.per_output_token.low is None
    assert {"single_process", "single_pass"} <= {warning.code for warning in result.warnings}


def with_target(one: Measurement, target: float) -> Measurement:
    passes = one.config.passes.model_copy(update={"target": target})
    return replace(one, config=one.config.model_copy(update={"passes": passes}))


def test_three_equal_passes_meet_the_target() -> None:
    result = of_run(with_target(measurement(gpu_trace(100.0)), 0.02))
    codes = {warning.code for warning in result.warnings}
    assert not codes & {"target_not_met", "single_pass", "not_steady"}


def test_passes_that_scatter_miss_the_target_where_there_is_one() -> None:
    seen = measurement(gpu_trace(100.0), [one_pass(20, 6), one_pass(30, 7), one_pass(40, 8)])
    said = {one.code: one.message for one in of_run(with_target(seen, 0.02)).warnings}
    assert "± 2 % was wanted" in said["target_not_met"]
    assert "target_not_met" not in {one.code for one in of_run(seen).warnings}


def test_an_early_end_breaks_the_pin_only_where_lengths_are_exact() -> None:
    passes = [one_pass(20, 6, output=40, finish="eos"), one_pass(30, 6), one_pass(40, 6)]
    pinned = of_run(measurement(gpu_trace(100.0), passes))
    config = pinned.config.model_copy(update={"output_length": "natural"})
    natural = of_run(measurement(gpu_trace(100.0), passes, config=config))
    assert pinned.tokens.pinned_ok is False
    assert "output_not_pinned" in {warning.code for warning in pinned.warnings}
    assert natural.tokens.pinned_ok is None


def test_no_output_at_all_divides_by_nothing() -> None:
    passes = [one_pass(20 + 10 * at, 6, output=0) for at in range(3)]
    result = of_run(measurement(gpu_trace(100.0), passes))
    assert result.energy.per_output_token.value is None
    assert result.energy.total.value == pytest.approx(1800, rel=1e-3)
    assert result.energy.per_output_token.reason == "nothing was produced"
    assert result.runs[0].figures is not None
    assert result.runs[0].figures.energy_per_output_token_j is None
    asked = of_run(with_target(measurement(gpu_trace(100.0), passes), 0.02))
    said = {warning.code: warning.message for warning in asked.warnings}
    assert said["target_not_met"] == "no joules per output token: nothing was produced"


def test_a_gap_inside_a_pass_is_told_and_one_outside_is_not() -> None:
    inside = replace(gpu_trace(100.0), gaps=(Gap(Window(22 * S, 24 * S), "late"),))
    outside = replace(gpu_trace(100.0), gaps=(Gap(Window(60 * S, 64 * S), "late"),))
    assert "recorder_gap" in {warning.code for warning in of_run(measurement(inside)).warnings}
    assert "recorder_gap" not in {warning.code for warning in of_run(measurement(outside)).warnings}


def test_warm_up_that_did_not_settle_is_told() -> None:
    restless = WarmUp(Window(11 * S, 13 * S), (0.5, 0.9), False)
    result = of_run(measurement(gpu_trace(100.0), warm_up=restless))
    assert "not_steady" in {warning.code for warning in result.warnings}
    assert not result.steady


def test_the_same_measurement_gives_the_same_numbers() -> None:
    assert of_run(measurement(gpu_trace(123.4))) == of_run(measurement(gpu_trace(123.4)))


def test_throughput_is_tokens_over_the_passes_time() -> None:
    result = of_run(measurement(gpu_trace(100.0)))
    assert result.performance.output_tokens_per_second.value == pytest.approx(300 / 18)
    assert result.performance.ttft_s.p50.value == pytest.approx(0.1)
    assert result.performance.flops.total is None
    assert result.performance.flops.reason == "the model's shape is not known"


def test_passes_that_climb_are_called_correlated_and_equal_ones_are_not() -> None:
    def codes(seconds: list[float]) -> dict[str, str]:
        passes = [one_pass(15 + 9 * at, length) for at, length in enumerate(seconds)]
        run = of_run(measurement(gpu_trace(100.0), passes))
        return {warning.code: warning.message for warning in run.warnings}

    assert "passes_correlated" not in codes([6.0] * 8)
    climbing = codes([6.0, 6.2, 6.4, 6.6, 6.8, 7.0, 7.2, 7.4])
    assert climbing["passes_correlated"] == "neighbours among 8 are alike: their interval is a lower bound"


# Several runs


def several(*watts: float, gpu: Domain = GPU, seconds: float = 6.0, count: int = 2) -> list[Measurement]:
    """Runs of `count` passes on boards that draw that much, after each other on one clock."""
    config = ExperimentConfig.model_validate(
        {
            "model": "any",
            "backend": "simulated",
            "n": 2,
            "max_output_tokens": 50,
            "repeats": {"count": len(watts)} if len(watts) > 1 else {"count": 1},
        }
    )
    passes = [one_pass(20 + seconds * at, seconds) for at in range(count)]
    block = Block(
        "full",
        Window(19 * S, 20 * S),
        tuple(passes),
        Window(passes[-1].window.end_ns, passes[-1].window.end_ns + 6 * S // 5),
    )
    return [
        replace(measurement(gpu_trace(power, gpu), config=config), index=number, blocks=(block,))
        for number, power in enumerate(watts, start=1)
    ]


def test_sums_are_over_runs_and_each_run_has_its_own_part() -> None:
    result = metrics(several(100.0, 110.0, 120.0))
    assert result.energy.total.value == pytest.approx(330 * 12, rel=1e-3)
    assert (result.tokens.output, result.tokens.requests) == (600, 12)
    assert result.duration_s == pytest.approx(36.0)
    assert [run.index for run in result.measured] == [1, 2, 3]
    for run, watts in zip(result.runs, (100.0, 110.0, 120.0), strict=True):
        assert run.energy is not None
        assert run.energy.total.value == pytest.approx(watts * 12, rel=1e-3)
        assert run.energy.idle.loaded.value == pytest.approx(watts, rel=1e-2)
        assert run.figures is not None
        assert run.figures.energy_per_output_token_j == pytest.approx(watts * 12 / 200, rel=1e-3)
        assert run.figures.output_tokens_per_second == pytest.approx(200 / 12)
        assert run.tokens is not None
        assert run.tokens.output == 200


def test_the_interval_of_the_cost_is_from_runs_and_not_from_their_passes() -> None:
    watts = (100.0, 104.0, 108.0)
    result = metrics(several(*watts, count=5))
    replicates = result.energy.replicates
    assert replicates is not None
    assert (replicates.unit, replicates.count) == ("run", 3)
    cost = result.energy.per_output_token
    # s = 4 W of 104 W, n = 3, t(2) = 4.302653
    chance = 4.302653 * 4 / 104 / math.sqrt(3)
    assert cost.value == pytest.approx(104 * 30 / 500, rel=1e-3)
    assert (cost.half_width or 0) / (cost.value or 1) == pytest.approx(chance, rel=0.02)
    assert (result.energy.total.half_width or 0) < 0.01 * (result.energy.total.value or 0)


def test_errors_of_runs_add_in_quadrature_where_independent_and_linearly_where_common() -> None:
    """Runs that are alike: every term of the sum is √4 or 4 times that of one, worked by hand."""
    trace = stepped_trace()
    runs = [replace(one, trace=trace) for one in several(100.0, 100.0, 100.0, 100.0)]
    one, four = metrics(runs[:1]).energy.uncertainty, metrics(runs).energy.uncertainty
    assert one is not None
    assert four is not None
    single = {term.name: term.half_width or 0.0 for term in one.total}
    assert {"timing", "lag"} <= set(single)
    for term in four.total:
        expected = single[term.name] * (4 if term.common else 2)
        assert term.half_width == pytest.approx(expected), term.name
    half = sum(single[term.name] * 4 for term in four.total if term.common)
    half += math.hypot(*(single[term.name] * 2 for term in four.total if not term.common))
    assert metrics(runs).energy.total.half_width == pytest.approx(half)


def stepped_trace() -> Trace:
    """A counter with steps of 100 ms: 60 W before the passes of 12 s, 300 W in them and 90 W after."""
    moments = np.arange(0, 100, 0.1)
    joules = (
        60 * np.minimum(moments, 20) + 300 * np.clip(moments - 20, 0, 12) + 90 * np.maximum(moments - 32, 0)
    )
    t_s = np.arange(0, 100, 0.004)
    raw = np.round(joules[np.searchsorted(moments, t_s, side="right") - 1] * 1000).astype(np.int64)
    t_ns = np.round(t_s * S).astype(np.int64)
    return Trace((GPU,), {(GPU.name, "energy"): Series(GPU.quantities[0], t_ns, t_ns + 1000, raw)})


def test_what_is_systematic_is_the_same_in_every_run_and_adds_up_as_it_is() -> None:
    doubtful = replace(GPU, systematic_gain=(0.9, 1.2), systematic_offset_w=(-20.0, 10.0))
    energy = metrics(several(100.0, 110.0, 120.0, gpu=doubtful)).energy
    gross = energy.total.value or 0.0
    assert energy.total.systematic == pytest.approx((0.9 * gross - 20 * 36, 1.2 * gross + 10 * 36))
    cost = energy.per_output_token.value or 0.0
    assert energy.per_output_token.systematic == pytest.approx(
        [cost * end / gross for end in energy.total.systematic or ()]
    )


def test_a_run_whose_energy_is_unknown_leaves_the_total_unknown_and_the_others_their_own() -> None:
    runs = several(100.0, 100.0, 100.0)
    lost = replace(runs[1], trace=Trace((GPU,), {}))
    result = metrics([runs[0], lost, runs[2]])
    assert result.energy.total.value is None
    assert "never read" in (result.energy.total.reason or "")
    assert result.energy.per_output_token.value is None
    assert result.runs[0].energy is not None
    assert result.runs[0].energy.total.value == pytest.approx(1200.0, rel=1e-3)
    assert result.runs[1].energy is not None
    assert result.runs[1].energy.total.value is None


def test_how_many_repeats_two_per_cent_would_take_is_by_stein_s_rule() -> None:
    result = metrics(several(97.0, 100.0, 103.0))
    costs = [run.figures.energy_per_output_token_j or 0 for run in result.measured if run.figures]
    assert result.energy.repeats_for_2_percent == stein_count(costs, target=0.02, minimum=1)
    # s = 3 %: (4.302653 × 0.03 / 0.02)² = 41.7
    assert result.energy.repeats_for_2_percent == 42
    assert metrics(several(97.0, 103.0)).energy.repeats_for_2_percent is None
    assert metrics(several(97.0)).energy.repeats_for_2_percent is None


def test_two_runs_have_no_interval_and_a_single_one_says_what_its_interval_is() -> None:
    two, one = metrics(several(100.0, 101.0)), metrics(several(100.0, count=4))
    assert two.energy.per_output_token.low is None
    assert two.energy.per_output_token.reason == "2 repetitions: an interval needs 3"
    assert "single_process" not in {warning.code for warning in two.warnings}
    assert one.energy.per_output_token.low is not None
    assert "single_process" in {warning.code for warning in one.warnings}


def test_failed_runs_stand_among_the_others_in_their_order() -> None:
    runs = several(100.0, 101.0)
    result = metrics([runs[0], replace(runs[1], index=3)], failed=[FailedRun(2, "the worker was killed")])
    assert [(run.index, run.outcome, run.reason) for run in result.runs] == [
        (1, "measured", None), (2, "failed", "the worker was killed"), (3, "measured", None),
    ]  # fmt: skip
    failed = result.runs[1]
    assert (failed.window, failed.energy, failed.figures) == (None, None, None)


def test_idle_power_is_the_mean_over_runs_with_their_scatter() -> None:
    watts = (60.0, 62.0, 64.0)
    idle = metrics(several(*watts)).energy.idle.loaded
    assert idle.value == pytest.approx(fmean(watts), rel=1e-3)
    assert idle.half_width == pytest.approx(t_quantile(0.975, 2) * stdev(watts) / math.sqrt(3), rel=0.02)


def test_cores_that_spin_are_shown_beside_idle_and_unknown_ones_are_not_zero() -> None:
    runs = several(100.0, 100.0)
    known = metrics([replace(runs[0], spinning_cores=1.0), replace(runs[1], spinning_cores=2.0)]).energy.idle
    assert known.spinning is not None
    assert (known.spinning.value, known.spinning.unit) == (1.5, "cores")
    assert metrics(runs).energy.idle.spinning is None


# Passes that lead in to the others


def test_a_first_pass_that_differs_is_left_out_of_costs_and_kept_in_the_total() -> None:
    """The first pass of each run draws 200 W, the others 100 W, run after run."""
    trace = gpu_trace(100.0)
    counter = trace.series[GPU.name, "energy"]
    extra = np.clip(counter.t_before_ns / S - 20, 0, 6) * 100_000
    busy = replace(
        trace,
        series={(GPU.name, "energy"): replace(counter, raw=counter.raw + np.round(extra).astype(np.int64))},
    )
    runs = [replace(one, trace=busy) for one in several(100.0, 100.0, 100.0, count=4)]
    result = metrics(runs)
    assert result.energy.total.value == pytest.approx(3 * (4 * 600 + 600), rel=1e-2)
    assert result.energy.per_output_token.value == pytest.approx(600 / 100, rel=2e-2)
    assert result.tokens.output == 3 * 400
    windows = [run.window for run in result.runs if run.window is not None]
    assert [[one.lead_in for one in window.passes] for window in windows] == [[True, False, False, False]] * 3
    assert any("first pass of each run differs" in note for note in result.notes)
    even = metrics(several(100.0, 100.0, 100.0, count=4))
    assert not any(one.lead_in for run in even.runs if run.window for one in run.window.passes)


def test_work_that_nobody_here_meters_has_no_energy_and_the_reason() -> None:
    facts = SessionFacts("server", {}, {}, why_unmetered="the server runs on h")
    result = of_run(measurement(host_trace(1.0), facts=facts))
    assert result.energy.total.value is None
    assert str(result.energy.total.reason).startswith("the server runs on h")
    config = ExperimentConfig.model_validate(
        {"model": "any", "backend": "simulated", "n": 2, "energy": {"gpus": ["GPU-a"]}}
    )
    package = Domain("cpu:0", "cpu", (Quantity("energy", "rapl.package-0", "J", 1e-6),))
    assert counted_domains((GPU, package, HOST), config, facts) == (GPU,)


def test_a_failed_request_counts_apart_and_has_no_latency() -> None:
    def pass_at(start_s: float) -> Pass:
        whole = one_pass(start_s, 6)
        ok, other = whole.generation.completions
        broken = replace(
            other, finish="error", prompt_tokens=100, output_tokens=10, t_end_ns=other.t_first_ns or 0
        )
        return replace(whole, generation=Generation((ok, broken)))

    result = of_run(measurement(gpu_trace(100.0), [pass_at(20), pass_at(30), pass_at(40)]))
    assert (result.tokens.requests, result.tokens.failed) == (3, 3)
    assert (result.tokens.input, result.tokens.output, result.tokens.pinned_ok) == (600, 180, True)
    assert result.energy.per_request.value == pytest.approx(600, rel=1e-3)
    assert result.performance.requests_per_second.value == pytest.approx(1 / 6)
    assert result.performance.e2e_s.count == 3
    assert "requests_failed" in {warning.code for warning in result.warnings}
