"""From a hand-made measurement, whose joules are known, to the numbers of its result."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from llenergymeasure.analysis.joules import counted_domains
from llenergymeasure.analysis.metrics import metrics
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.records import (
    Completion,
    Domain,
    Environment,
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


def measurement(trace: Trace, passes: list[Pass] | None = None, **changes: Any) -> Measurement:
    config = ExperimentConfig(model="any", backend="simulated", n=2, max_output_tokens=50)
    whole = Measurement(
        experiment_id="id",
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
        passes=passes or [one_pass(20, 6), one_pass(30, 6), one_pass(40, 6)],
        trace=trace,
        overhead=Overhead(0.1, 100, 1.0),
    )
    return replace(whole, **changes)


def test_total_is_the_sum_over_passes_and_tokens_likewise() -> None:
    result = metrics(measurement(gpu_trace(100.0)))
    assert result.energy.total.value == pytest.approx(1800, rel=1e-3)
    assert (result.tokens.input, result.tokens.output, result.tokens.requests) == (600, 300, 6)
    assert result.energy.per_output_token.value == pytest.approx(6.0, rel=1e-3)
    assert result.energy.per_request.value == pytest.approx(300.0, rel=1e-3)
    assert (result.energy.boundary, result.energy.method, result.energy.valid) == ("gpu", "counter", True)


def test_net_takes_the_loaded_idle_off_and_says_so() -> None:
    result = metrics(measurement(gpu_trace(100.0)))
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
    energy = metrics(measurement(busy)).energy
    gross, net = energy.total.value or 0.0, energy.net.value or 0.0
    assert [gross, net] == pytest.approx([3600, 1800], rel=1e-2)
    assert energy.total.systematic == pytest.approx((0.9 * gross - 20 * 18, 1.2 * gross + 10 * 18))
    assert energy.net.systematic == pytest.approx((0.9 * net, 1.2 * net))


def test_a_gpu_that_the_session_did_not_use_is_listed_and_not_added() -> None:
    result = metrics(measurement(gpu_trace(100.0, GPU, OTHER)))
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
    result = metrics(measurement(host_trace(2.0), facts=SessionFacts("cpu", {}, {})))
    assert result.energy.method == result.energy.boundary == "modelled"
    assert result.energy.total.value == pytest.approx(2 * 4.0 * 18, rel=1e-2)
    assert result.energy.total.systematic == pytest.approx((2 * 3.0 * 18, 2 * 8.0 * 18), rel=1e-2)
    assert result.energy.idle.bare.value is None
    assert "energy_modelled" in {warning.code for warning in result.warnings}


def test_without_any_source_energy_is_missing_and_not_zero() -> None:
    result = metrics(measurement(Trace((), {})))
    assert result.energy.total.value is None
    assert result.energy.per_output_token.value is None
    assert not result.energy.valid
    assert "no_energy_source" in {warning.code for warning in result.warnings}


def test_a_single_pass_has_a_value_and_a_warning_instead_of_an_interval() -> None:
    result = metrics(measurement(gpu_trace(100.0), [one_pass(20, 6)]))
    assert result.energy.per_output_token.value == pytest.approx(6.0, rel=1e-2)
    assert result.energy.per_output_token.low is None
    assert "single_pass" in {warning.code for warning in result.warnings}


def test_three_equal_passes_meet_the_target() -> None:
    codes = {warning.code for warning in metrics(measurement(gpu_trace(100.0))).warnings}
    assert not codes & {"target_not_met", "single_pass", "not_steady"}


def test_passes_that_scatter_miss_the_target() -> None:
    passes = [one_pass(20, 6), one_pass(30, 7), one_pass(40, 8)]
    codes = {warning.code for warning in metrics(measurement(gpu_trace(100.0), passes)).warnings}
    assert "target_not_met" in codes


def test_an_early_end_breaks_the_pin_only_where_lengths_are_exact() -> None:
    passes = [one_pass(20, 6, output=40, finish="eos"), one_pass(30, 6), one_pass(40, 6)]
    pinned = metrics(measurement(gpu_trace(100.0), passes))
    config = pinned.config.model_copy(update={"output_length": "natural"})
    natural = metrics(measurement(gpu_trace(100.0), passes, config=config))
    assert pinned.tokens.pinned_ok is False
    assert "output_not_pinned" in {warning.code for warning in pinned.warnings}
    assert natural.tokens.pinned_ok is None


def test_no_output_at_all_divides_by_nothing() -> None:
    passes = [one_pass(20 + 10 * at, 6, output=0) for at in range(3)]
    result = metrics(measurement(gpu_trace(100.0), passes))
    assert result.energy.per_output_token.value is None
    assert result.energy.total.value == pytest.approx(1800, rel=1e-3)
    said = {warning.code: warning.message for warning in result.warnings}
    assert said["target_not_met"] == (
        "no joules per output token: nothing was produced; the budget ended it after 3 of 5 passes"
    )


def test_a_gap_inside_a_pass_is_told_and_one_outside_is_not() -> None:
    inside = replace(gpu_trace(100.0), gaps=(Gap(Window(22 * S, 24 * S), "late"),))
    outside = replace(gpu_trace(100.0), gaps=(Gap(Window(60 * S, 64 * S), "late"),))
    assert "recorder_gap" in {warning.code for warning in metrics(measurement(inside)).warnings}
    assert "recorder_gap" not in {warning.code for warning in metrics(measurement(outside)).warnings}


def test_warm_up_that_did_not_settle_is_told() -> None:
    restless = WarmUp(Window(11 * S, 13 * S), (0.5, 0.9), False)
    result = metrics(measurement(gpu_trace(100.0), warm_up=restless))
    assert "not_steady" in {warning.code for warning in result.warnings}
    assert not result.steady


def test_the_same_measurement_gives_the_same_numbers() -> None:
    assert metrics(measurement(gpu_trace(123.4))) == metrics(measurement(gpu_trace(123.4)))


def test_throughput_is_tokens_over_the_passes_time() -> None:
    result = metrics(measurement(gpu_trace(100.0)))
    assert result.performance.output_tokens_per_second.value == pytest.approx(300 / 18)
    assert result.performance.ttft_s.p50.value == pytest.approx(0.1)
    assert result.performance.itl_s.p50.value is None
    assert result.performance.flops.total is None
    assert result.performance.flops.reason == "the model's shape is not known"


def test_passes_that_climb_are_called_correlated_and_equal_ones_are_not() -> None:
    def codes(seconds: list[float]) -> dict[str, str]:
        passes = [one_pass(15 + 9 * at, length) for at, length in enumerate(seconds)]
        run = metrics(measurement(gpu_trace(100.0), passes))
        return {warning.code: warning.message for warning in run.warnings}

    assert "passes_correlated" not in codes([6.0] * 8)
    climbing = codes([6.0, 6.2, 6.4, 6.6, 6.8, 7.0, 7.2, 7.4])
    assert climbing["passes_correlated"] == "neighbours among 8 are alike: their interval is a lower bound"
