"""Prefill and decode told apart on a board whose energy per token is known."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from benchmarks.phases.runs import Device, measured

from llenergymeasure.analysis.joules import pass_joules
from llenergymeasure.analysis.net import IdleLevel, idle_level
from llenergymeasure.analysis.phases import Phases, prefill_and_decode
from llenergymeasure.analysis.statistics import relative_half_width
from llenergymeasure.energy.idle import idle_power
from llenergymeasure.energy.nvml import SYSTEMATIC_GAIN, NvmlMeter
from llenergymeasure.energy.recorder import Recorder
from llenergymeasure.records import (
    Completion,
    Domain,
    Estimate,
    Generation,
    Pass,
    PowerModel,
    Quantity,
    Series,
    Trace,
    Window,
)
from llenergymeasure.simulation.clock import VirtualClock
from llenergymeasure.simulation.device import SimulatedNvml

S_PER_PROMPT_TOKEN, S_PER_STEP = 2e-4, 0.02
PREFILL_W, DECODE_W = 500.0, 300.0
IDLE_W = 80.0


@dataclass
class Seen:
    trace: Trace
    domains: tuple[Domain, ...]
    passes: list[Pass]
    idle: Window


def run(directory: Path, *, passes: int, seed: int = 1) -> Seen:
    """Batches of four on a board that draws one power while it reads and another while it writes."""
    directory.mkdir(exist_ok=True)
    clock, noise = VirtualClock(), random.Random(seed)
    nvml = SimulatedNvml(clock, idle_w=IDLE_W)
    recorder = Recorder([NvmlMeter(nvml, clock=clock)], clock=clock, directory=directory)
    recorder.start(threaded=False)
    done = []
    with clock.every(recorder.tick_s, recorder.poll):
        recorder.dense(True)
        clock.sleep(0.5)
        idle_ns = clock.monotonic_ns()
        clock.sleep(2.0)
        idle = Window(idle_ns, clock.monotonic_ns())
        for _ in range(passes):
            done.append(one_pass(clock, nvml, noise))
            nvml.set_power(IDLE_W)
            clock.sleep(0.3)
        recorder.dense(False)
        clock.sleep(1.0)
    recorder.stop()
    trace = recorder.trace()
    return Seen(trace, trace.domains, done, idle)


def one_pass(clock: VirtualClock, nvml: SimulatedNvml, noise: random.Random) -> Pass:
    """The same work every time; its power scatters by 1 % from batch to batch."""
    source = random.Random(7)
    start_ns, completions = clock.monotonic_ns(), []
    for batch in range(6):
        prompts = [source.randrange(100, 900) for _ in range(4)]
        output = source.randrange(10, 40)
        sent_ns = clock.monotonic_ns()
        nvml.set_power(PREFILL_W * noise.gauss(1, 0.01))
        clock.sleep(S_PER_PROMPT_TOKEN * sum(prompts))
        first_ns = clock.monotonic_ns()
        nvml.set_power(DECODE_W * noise.gauss(1, 0.01))
        clock.sleep(S_PER_STEP * (output - 1))
        completions += [
            Completion(
                index=index,
                walk=0,
                batch=batch,
                prompt_tokens=tokens,
                output_tokens=output,
                t_scheduled_ns=sent_ns,
                t_sent_ns=sent_ns,
                t_first_ns=first_ns,
                t_end_ns=clock.monotonic_ns(),
                finish="length",
            )
            for index, tokens in enumerate(prompts)
        ]
    return Pass(Window(start_ns, clock.monotonic_ns()), 1, Generation(tuple(completions)))


def chance(seen: Seen) -> float | None:
    joules = pass_joules(seen.trace, seen.domains, seen.passes)
    assert joules is not None
    return relative_half_width(joules)


def told(seen: Seen) -> Phases:
    idle = idle_power(seen.trace, seen.idle, seen.domains[0].name)
    level = idle_level(seen.trace, seen.domains, seen.idle, idle)
    return prefill_and_decode(
        seen.trace, seen.domains, seen.passes, idle=level, chance=chance(seen), why_none="none"
    )


def of_one_batch(*completions: Completion, why_none: str = "no meter") -> Phases:
    """What is told without any meter."""
    start_ns, end_ns = completions[0].t_sent_ns, max(one.t_end_ns for one in completions)
    passed = Pass(Window(start_ns, end_ns), 1, Generation(completions))
    return prefill_and_decode(
        Trace((), {}),
        (),
        [passed],
        idle=IdleLevel(Estimate.missing("W", why_none)),
        chance=None,
        why_none=why_none,
    )


A = S_PER_PROMPT_TOKEN * PREFILL_W
B = S_PER_STEP * DECODE_W / 4
NET_A = S_PER_PROMPT_TOKEN * (PREFILL_W - IDLE_W)
NET_B = S_PER_STEP * (DECODE_W - IDLE_W) / 4


def test_both_costs_are_recovered(tmp_path: Path) -> None:
    seen = run(tmp_path, passes=20)
    phases = told(seen)
    assert phases.prefill.value == pytest.approx(A, rel=0.02)
    assert phases.decode.value == pytest.approx(B, rel=0.02)
    assert phases.net_prefill.value == pytest.approx(NET_A, rel=0.02)
    assert phases.net_decode.value == pytest.approx(NET_B, rel=0.02)
    for estimate in (phases.prefill, phases.decode, phases.net_prefill, phases.net_decode):
        assert estimate.value is not None
        assert estimate.low is not None
        assert estimate.value - estimate.low < 0.05 * estimate.value
    for net in (phases.net_prefill, phases.net_decode):
        assert net.value is not None
        assert net.systematic == pytest.approx([net.value * gain for gain in SYSTEMATIC_GAIN], rel=1e-6)


def test_intervals_hold_the_truth(tmp_path: Path) -> None:
    held = 0
    for seed in range(20):
        seen = run(tmp_path / str(seed), passes=8, seed=seed)
        phases = told(seen)
        for estimate, truth in ((phases.prefill, A), (phases.decode, B)):
            assert estimate.low is not None
            assert estimate.high is not None
            held += estimate.low <= truth <= estimate.high
    assert held >= 36


def test_two_passes_give_values_without_an_interval(tmp_path: Path) -> None:
    seen = run(tmp_path, passes=2)
    prefill = told(seen).prefill
    assert prefill.value is not None
    assert prefill.low is None
    assert prefill.reason == "2 repetitions: an interval from chance needs at least 3"


def test_without_first_token_times_there_are_no_phases() -> None:
    phases = of_one_batch(Completion(0, 0, 0, 10, 5, 0, 0, None, 10**9, "length"))
    assert phases.prefill.value is None
    assert phases.decode.reason == "the backend tells no first-token times"


def test_without_a_meter_both_are_missing_with_the_reason() -> None:
    phases = of_one_batch(Completion(0, 0, 0, 10, 5, 0, 0, 5 * 10**8, 10**9, "length"))
    assert (phases.prefill.reason, phases.decode.reason) == ("no meter", "no meter")


def test_one_token_each_has_no_decode() -> None:
    phases = of_one_batch(Completion(0, 0, 0, 10, 1, 0, 0, 10**9, 10**9, "length"))
    assert phases.decode.reason == "no token was made in decode"


def test_requests_of_a_batch_that_begin_one_after_another_have_no_phases() -> None:
    early = Completion(0, 0, 0, 10, 5, 0, 0, 2 * 10**8, 10**9, "length")
    late = Completion(1, 0, 0, 10, 5, 0, 0, 3 * 10**8, 10**9, "length")
    phases = of_one_batch(early, late)
    for estimate in (phases.prefill, phases.decode, phases.net_prefill, phases.net_decode):
        assert estimate.value is None
        assert estimate.reason is not None
        assert "continuous batching" in estimate.reason


def test_batches_that_overlap_have_no_phases() -> None:
    one = Completion(0, 0, 0, 10, 5, 0, 0, 2 * 10**8, 10**9, "length")
    other = Completion(1, 0, 1, 10, 5, 9 * 10**8, 9 * 10**8, 11 * 10**8, 19 * 10**8, "length")
    assert "continuous batching" in (of_one_batch(one, other).prefill.reason or "")


def test_first_tokens_that_are_told_one_after_another_are_still_one_prefill() -> None:
    early = Completion(0, 0, 0, 10, 5, 0, 0, 200_000_000, 10**9, "length")
    late = Completion(1, 0, 0, 10, 5, 0, 0, 200_050_000, 10**9, "length")
    assert of_one_batch(early, late).prefill.reason == "no meter"


def test_a_model_of_power_tells_phases_apart_by_processor_time(tmp_path: Path) -> None:
    """Two processors are busy in prefill and one in decode; a busy one costs 4 W, known within 3 to 8 W."""
    time, size = Quantity("cpu_time", "model", "s", 1e-9), Quantity("resident", "model", "bytes", 1.0)
    host = Domain("host", "host", (time, size), model=PowerModel("m", "c", 4.0, (3.0, 8.0), 0.0, (0.0, 0.0)))
    t_s = np.arange(0, 70, 0.1)
    prefill_s = np.floor(t_s / 3) * 0.5 + np.minimum(t_s % 3, 0.5)
    busy_ns = ((2 * prefill_s + (t_s - prefill_s)) * 100).astype(np.int64) * 10_000_000
    t_ns = (t_s * 1e9).astype(np.int64)
    flat = np.full(t_ns.size, 10**9)
    trace = Trace(
        (host,),
        {
            ("host", "cpu_time"): Series(time, t_ns, t_ns, busy_ns),
            ("host", "resident"): Series(size, t_ns, t_ns, flat),
        },
    )
    passes = []
    for number in range(4):
        done = []
        for batch in range(5):
            sent_ns = (number * 5 + batch) * 3 * 10**9
            first_ns, end_ns = sent_ns + 5 * 10**8, sent_ns + 3 * 10**9
            done.append(Completion(0, 0, batch, 100, 26, sent_ns, sent_ns, first_ns, end_ns, "length"))
        passes.append(Pass(Window(done[0].t_sent_ns, done[-1].t_end_ns), 1, Generation(tuple(done))))
    idle = IdleLevel(Estimate(0.5, "W", 0.5, 0.5))
    phases = prefill_and_decode(trace, (host,), passes, idle=idle, chance=0.0, why_none="none")
    prefill, decode = phases.prefill, phases.decode
    assert prefill.value == pytest.approx(2 * 4.0 * 0.5 / 100, rel=0.03)
    assert decode.value == pytest.approx(4.0 * 2.5 / 25, rel=0.03)
    assert decode.value is not None
    assert decode.systematic == pytest.approx((decode.value * 3 / 4, decode.value * 2))
    assert phases.net_decode.value == pytest.approx((4.0 - 0.5) * 2.5 / 25, rel=0.03)


def test_what_lies_between_two_processes_is_no_part_of_either() -> None:
    """Idle machine, load and warm-up lie between cycles, each at a power of its own."""
    device, halves, held = Device(), [], []
    for seed in range(6):
        found = measured(device, seed=seed, passes=3, batches=2, cycles=3)
        for cost, truth in zip((found.prefill, found.decode), device.joules(net=False), strict=True):
            assert cost.low is not None
            assert cost.high is not None
            held.append(cost.low <= truth <= cost.high)
            halves.append((cost.high - cost.low) / 2 / truth)
    assert fmean(halves) < 0.025
    assert sum(held) >= 10, held
