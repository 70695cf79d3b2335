"""Every code of the closed list: a run that raises it, and one like it that does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import pytest
from recordings import at, made, seen_by
from scripted_run import S, measured, message, one_pass, result_of
from test_conditions import Kernel, Worker
from test_lacks import sick_zone
from test_metrics import host_trace
from test_validity import POWER, WATTS, constant, device, steps
from test_validity_device import AT_REST_S, HIDDEN_PID, IN_A_PASS_S, LOST, THERMAL, Machine, Script
from test_validity_device import POWER as POWER_LIMIT
from virtual_result import failing, late_by, virtual_result, with_tokens

from llenergymeasure.analysis.codes import INVALIDATING
from llenergymeasure.analysis.metrics import metrics
from llenergymeasure.records import (
    REMEDIES,
    CalibratedBy,
    FailedRun,
    MeasurementWarning,
    RequestCounts,
    ServerCounts,
    SessionFacts,
    Throttling,
    Trace,
    WarningCode,
    Window,
)
from llenergymeasure.results.models import Energy, ExperimentResult
from llenergymeasure.results.windows import WindowsResult
from llenergymeasure.simulation.nvml_names import SimulatedProcess
from llenergymeasure.simulation.sensor import COUNTER, INSTANT, SimulatedSensor
from llenergymeasure.simulation.waveform import Waveform

Make = Callable[[Path], ExperimentResult | WindowsResult]


@dataclass(frozen=True)
class Case:
    raises: Make
    does_not: Make


def calibrated(when: str) -> Make:
    """A run on the first day of 2026, of a board that was calibrated on that day."""

    def make(directory: Path) -> ExperimentResult:
        trace = device()
        known = CalibratedBy(when, "an analyser", 0.01, 1e-6, 0.1, 0.0)
        domains = [replace(one, systematic_gain=None, calibrated=known) for one in trace.domains]
        return result_of(replace(trace, domains=tuple(domains)))

    return make


def board(*scripts: tuple[float, Script], sensor: SimulatedSensor | None = None) -> Make:
    """Two simulated boards, of which the run uses the first; `scripts` happen at those seconds, at 0 before
    anything reads.
    """

    def make(directory: Path) -> ExperimentResult:
        machine = Machine(directory, sensor=sensor)
        for at_s, do in scripts:
            if at_s == 0:
                do(machine.nvml)
            else:
                machine.at(at_s, do)
        return machine.result()

    return make


def run(**changes: object) -> Make:
    """The whole method on the simulated engine and device, in virtual time."""
    return lambda _: virtual_result(**changes)  # type: ignore[arg-type]


def scripted(trace: Trace, *, seconds: float = 6.0, **changes: object) -> Make:
    """A trace whose every reading is written down."""
    passes = tuple(one_pass(start, seconds) for start in (20, 30, 40))
    return lambda _: result_of(trace, passes, **changes)


def host(happens: Callable[[Kernel], object], *, held: Throttling | None = None) -> Make:
    """A kernel whose counters move as `happens` has it, from the bare idle to the end, and a quota that held
    the passes back.
    """

    def make(_: Path) -> ExperimentResult:
        kernel = Kernel()
        kernel.throttled = None if held is None else Throttling(0, 0, 0.0)
        conditions = kernel.conditions()
        conditions.enter("bare")
        happens(kernel)
        conditions.enter("full")
        kernel.throttled = held
        conditions.enter("silence")
        return result_of(device(), warnings=conditions.warnings())

    return make


def zone(*, fails_in_s: float | None) -> Make:
    """A board and two packages, of which the second can't be read from some second on."""
    return lambda directory: sick_zone(directory, fails_in_s=fails_in_s)


def silences(first: float, second: float) -> Make:
    """A worker that uses so many cores in the halves of a silence."""

    def make(_: Path) -> ExperimentResult:
        worker = Worker()
        worker.silence(first, second)
        return result_of(device(), warnings=worker.conditions.warnings())

    return make


def lost(outcome: Literal["failed", "interrupted"]) -> Make:
    """A second run that gave no measurement."""
    return lambda _: metrics([measured(device())], failed=[FailedRun(2, "Ctrl-C", outcome)])


def on_hosts(*names: str) -> Make:
    """A run on each."""
    one = measured(device())
    return lambda _: metrics(
        [
            replace(one, index=number, environment=replace(one.environment, hostname=name))
            for number, name in enumerate(names, start=1)
        ]
    )


def served(**server: int) -> Make:
    """A run whose client sent 200 requests, of so many prompts as it has."""
    one = measured(device())
    client = RequestCounts(200, 200, 0, 0, prompt_tokens=10_000, output_tokens=4_000)
    counts: dict[str, Any] = {"requests": 200, "prompt_tokens": 10_000, "output_tokens": 4_000, **server}
    facts = replace(one.facts, requests=client, counted=ServerCounts(1, "any", **counts))
    return lambda _: metrics([replace(one, facts=facts)])


def throttled(policy: int, start_s: int, end_s: int) -> tuple[float, Script]:
    return 0.0, lambda nvml: nvml.gpus[0].throttle(policy, Window(start_s * S, end_s * S))


def joined(at_s: float, pid: int, *, index: int = 0) -> tuple[float, Script]:
    return at_s, lambda nvml: nvml.gpus[index].processes.append(SimulatedProcess(pid))


def over_passes(*watts: float) -> Make:
    """A pass of 5 s at each of these powers."""
    starts = [15 + 6 * number for number in range(len(watts))]
    powers = steps(*((start - 0.5, power) for start, power in zip(starts, watts, strict=True)))
    passes = tuple(one_pass(start, 5.0) for start in starts)
    return lambda _: result_of(device(watts=powers), passes)


def own(*, exit_code: int | None = None, **changes: object) -> Make:
    """Somebody's own code, or a command, on a board."""
    marks = [at("x", 20, 10, exit_code=exit_code)]
    return lambda _: made(seen_by(Waveform(100.0), poll_ms=50), marks, **changes)


def flagged(code: WarningCode) -> Make:
    """With what the recorder itself has said; that it does is tested with a real one."""
    return own(warnings=(MeasurementWarning.of(code, "as the recorder has it"),))


IN_PASS, AT_REST = IN_A_PASS_S, AT_REST_S
PART_TIME = replace(POWER, window_ns=S // 40)
FAST = {"passes": {"seconds": 2.0}, "baseline": {"seconds": 0}}
ONE: dict[str, object] = {"repeats": {"count": 1}, "baseline": {"seconds": 0}}
TARGET: dict[str, object] = {
    "repeats": {"count": 3, "target": 0.02, "max": 4},
    "passes": {"seconds": 2.0, "count": 1},
    "baseline": {"seconds": 0},
}

CASES: dict[WarningCode, Case] = {
    "no_energy_source": Case(scripted(Trace((), {})), scripted(device())),
    "energy_modelled": Case(scripted(host_trace(2.0), facts=SessionFacts("cpu", {}, {})), scripted(device())),
    "window_too_short": Case(scripted(device(), seconds=3.0), scripted(device(), seconds=5.0)),
    "counter_power_mismatch": Case(
        board(sensor=SimulatedSensor(gain=1.0, counter_gain=0.57)),
        board(sensor=SimulatedSensor(gain=0.9)),
    ),
    "counter_reset": Case(
        board((IN_PASS, lambda nvml: nvml.gpus[0].reset_counter())),
        board((AT_REST, lambda nvml: nvml.gpus[0].reset_counter())),
    ),
    "sensor_stuck": Case(
        board((15.0, lambda nvml: nvml.gpus[0].stick_counter())),
        board((AT_REST, lambda nvml: nvml.gpus[0].stick_counter())),
    ),
    "sensor_uncharacterised": Case(
        board(sensor=SimulatedSensor(fields=frozenset({INSTANT}))),
        board(sensor=SimulatedSensor(fields=frozenset({COUNTER, INSTANT}))),
    ),
    "part_time_sensor": Case(
        scripted(device(counts=False, power=(PART_TIME, constant(WATTS)))),
        scripted(device(counts=False, power=(POWER, constant(WATTS)))),
    ),
    "thermal_throttle": Case(board(throttled(THERMAL, 31, 34)), board(throttled(THERMAL, 50, 58))),
    "power_cap_active": Case(board(throttled(POWER_LIMIT, 22, 25)), board(throttled(POWER_LIMIT, 50, 58))),
    "clock_changed": Case(
        board((28.0, lambda nvml: nvml.set_clock(1200.0))),
        board((AT_REST, lambda nvml: nvml.set_clock(210.0))),
    ),
    "temperature_drift": Case(
        board((28.0, lambda nvml: nvml.set_temperature(72.0))),
        board((AT_REST, lambda nvml: nvml.set_temperature(35.0))),
    ),
    "idle_drift": Case(
        board((AT_REST, lambda nvml: nvml.set_power(120.0))),
        board((AT_REST, lambda nvml: nvml.set_power(100.0))),
    ),
    "foreign_gpu_process": Case(board(joined(IN_PASS, 1)), board(joined(IN_PASS, 1, index=1))),
    "cannot_exclude_foreign_processes": Case(
        board(joined(IN_PASS, HIDDEN_PID)), board(joined(AT_REST, HIDDEN_PID))
    ),
    "mig_shared": Case(
        board((0.0, lambda nvml: nvml.gpus[0].share_out("MIG-1", "MIG-2"))),
        board((0.0, lambda nvml: nvml.gpus[1].share_out("MIG-1", "MIG-2"))),
    ),
    "host_busy": Case(
        host(lambda kernel: kernel.idle(3.0, busy=1.0)), host(lambda kernel: kernel.idle(3.0, busy=0.2))
    ),
    "not_steady": Case(
        run(**FAST, warmup={"max_seconds": 5.0}, simulated={"scatter": 0.5}),
        run(**FAST, warmup={"max_seconds": 5.0}, simulated={"scatter": 0.001}),
    ),
    "target_not_met": Case(
        run(**TARGET, simulated={"run_scatter": 0.2}), run(**TARGET, simulated={"scatter": 0.001})
    ),
    "single_pass": Case(run(**ONE, passes={"count": 1}), run(**ONE, passes={"count": 2})),
    "single_process": Case(run(**ONE), run(**FAST, repeats={"count": 2})),
    "silence_broken": Case(silences(0.0, 1.0), silences(1.0, 1.0)),
    "tokens_disputed": Case(
        run(**FAST, bend=with_tokens(1, 0)),  # 17 of 16
        run(**FAST, bend=with_tokens(1, 0), dataset={"name": "synthetic", "prompt_tokens": 128}),
    ),
    "output_not_pinned": Case(
        run(**FAST, bend=with_tokens(0, -1)), run(**FAST, bend=with_tokens(0, -1), output_length="natural")
    ),
    "requests_failed": Case(run(**FAST, bend=failing(0)), run(**FAST)),
    "schedule_lag": Case(run(**FAST, bend=late_by(0.05)), run(**FAST)),
    "recorder_gap": Case(
        board((IN_PASS, lambda nvml: setattr(nvml.gpus[0], "fails_with", LOST))),
        board((AT_REST, lambda nvml: setattr(nvml.gpus[0], "fails_with", LOST))),
    ),
    "swap_active": Case(
        host(lambda kernel: setattr(kernel, "swapped", kernel.swapped + 4096)),
        host(lambda kernel: kernel.idle(3.0)),
    ),
    "suspended": Case(
        host(lambda kernel: setattr(kernel, "slept_ns", kernel.slept_ns + 2 * S)),
        host(lambda kernel: setattr(kernel, "wall_ns", kernel.wall_ns + 2 * S)),
    ),
    "cpu_throttled": Case(
        host(lambda kernel: None, held=Throttling(100, 40, 2.5)),
        host(lambda kernel: None, held=Throttling(100, 1, 0.1)),
    ),
    "domain_missing": Case(zone(fails_in_s=33.0), zone(fails_in_s=None)),
    "passes_correlated": Case(
        over_passes(100, 102, 104, 106, 108, 110, 112), over_passes(100, 112, 102, 110, 104, 108, 106)
    ),
    "interrupted": Case(lost("interrupted"), lost("failed")),
    "device_shared": Case(flagged("device_shared"), own()),
    "recorder_lost": Case(flagged("recorder_lost"), own()),
    "window_open": Case(own(left_open={"x": 1}), own()),
    "command_failed": Case(own(kind="command", exit_code=3), own(kind="command", exit_code=0)),
    "calibration_old": Case(calibrated("2024-12-01"), calibrated("2025-02-01")),
    "places_differ": Case(on_hosts("node1", "node2"), on_hosts("node1", "node1")),
    "server_shared": Case(served(requests=250), served(requests=202)),
    "prompts_cached": Case(
        served(cache_lookup_tokens=10_000, cache_hit_tokens=9_000),
        served(cache_lookup_tokens=10_000, cache_hit_tokens=90),
    ),
    "drift": Case(over_passes(100, 98, 96, 94.1, 92), over_passes(100, 98, 101, 98, 100)),
}


def codes(result: ExperimentResult | WindowsResult) -> set[str]:
    return {warning.code for warning in result.warnings}


def test_every_code_of_the_closed_list_has_its_case() -> None:
    assert set(CASES) == set(get_args(WarningCode))


@pytest.mark.parametrize("code", CASES)
def test_the_code_is_raised_with_what_was_seen_and_a_remedy(code: WarningCode, tmp_path: Path) -> None:
    result = CASES[code].raises(tmp_path)
    (first, *_) = [warning for warning in result.warnings if warning.code == code]
    assert len(first.message) > len("nothing")
    assert first.remedy == REMEDIES[code]
    if code in INVALIDATING:
        energy = validity(result)
        assert not energy.valid
        assert any(code in reason for reason in energy.reasons)


@pytest.mark.parametrize("code", CASES)
def test_a_run_like_it_does_not_raise_the_code(code: WarningCode, tmp_path: Path) -> None:
    result = CASES[code].does_not(tmp_path)
    assert code not in codes(result)
    assert validity(result).valid


def validity(result: ExperimentResult | WindowsResult) -> Energy | WindowsResult:
    return result if isinstance(result, WindowsResult) else result.energy


# Those that rest on two counts or two times


@pytest.mark.parametrize(
    ("prompt_tokens", "more", "told", "disputed"),
    [(128, 1, False, False), (64, 1, True, False), (16, 1, True, True), (16, -16, True, True)],
)
def test_counts_are_told_beyond_one_per_cent_and_disputed_beyond_five(
    prompt_tokens: int, more: int, *, told: bool, disputed: bool
) -> None:
    result = virtual_result(
        bend=with_tokens(more, 0),
        dataset={"name": "synthetic", "prompt_tokens": prompt_tokens},
        **FAST,
    )
    requests = result.tokens.requests
    assert result.tokens.input == requests * (prompt_tokens + more)
    assert (result.tokens.local_input, result.tokens.local_output) == (requests * prompt_tokens, None)
    assert ("tokens_disputed" in codes(result)) == told
    assert result.tokens.disputed == disputed


def test_output_that_the_tokenizer_counts_otherwise_is_told_with_both_counts() -> None:
    counted = virtual_result(bend=lambda done: replace(done, local_output_tokens=30), **FAST)
    requests = counted.tokens.requests
    assert (counted.tokens.output, counted.tokens.local_output) == (32 * requests, 30 * requests)
    assert f"{32 * requests:,} and the tokenizer {30 * requests:,}" in message(counted, "tokens_disputed")


@pytest.mark.parametrize(("late_s", "told"), [(0.004, False), (0.006, True)])
def test_a_client_is_late_beyond_what_a_timer_is(late_s: float, *, told: bool) -> None:
    assert ("schedule_lag" in codes(virtual_result(bend=late_by(late_s), **FAST))) == told


@pytest.mark.parametrize(("n", "told"), [(50, True), (200, False)])
def test_a_client_lags_where_one_request_in_a_hundred_is_late(n: int, *, told: bool) -> None:
    late = late_by(1.0)
    result = virtual_result(bend=lambda done: late(done) if done.index == 0 else done, **{**FAST, "n": n})
    assert ("schedule_lag" in codes(result)) == told
