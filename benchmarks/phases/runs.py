"""One whole run in virtual time on a board whose joules per token are known, and what llem says they are."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.virtual_run import virtual_run
from llenergymeasure.backends import Observer
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.measure.harness import Phase
from llenergymeasure.records import Completion, Estimate, Generation, Request, SessionFacts
from llenergymeasure.results.models import Energy
from llenergymeasure.simulation.clock import VirtualClock
from llenergymeasure.simulation.device import SimulatedNvml
from llenergymeasure.simulation.sensor import COUNTER, INSTANT, SimulatedSensor

BATCH = 4
GPU = "GPU-simulated-0"


@dataclass(frozen=True, slots=True)
class Device:
    """A board and an engine: a batch reads P prompt tokens in P · `s_per_prompt_token` at `prefill_w`, and
    then writes one token more for each of its requests every `s_per_step` at `decode_w`. It idles at
    `context_w`, and at `bare_w` before a model is loaded.

    Durations and powers of every batch scatter by `scatter`, the power of a whole pass by `pass_scatter`
    (relative standard deviations). `counter` is whether it has an energy counter beside its power.
    """

    prefill_w: float = 500.0
    decode_w: float = 300.0
    context_w: float = 90.0
    bare_w: float = 25.0
    s_per_prompt_token: float = 1e-4
    s_per_step: float = 0.01
    scatter: float = 0.01
    pass_scatter: float = 0.01
    step_s: float = 0.1
    counter: bool = True

    def joules(self, *, net: bool) -> tuple[float, float]:
        """What a prompt token costs, and what an output token after the first."""
        idle_w = self.context_w if net else 0.0
        return (
            (self.prefill_w - idle_w) * self.s_per_prompt_token,
            (self.decode_w - idle_w) * self.s_per_step / BATCH,
        )


@dataclass(frozen=True, slots=True)
class Found:
    """One cost by one way: whether its interval held the truth; half of its width and its error, relative to
    the truth.
    """

    way: str
    cost: str
    held: bool
    half_width: float
    error: float


def run(seed: int, *, device: Device, passes: int = 20, batches: int = 8) -> list[Found]:
    """What both ways say of both costs, where they say something."""
    found = measured(device, seed=seed, passes=passes, batches=batches)
    assert found.regression is not None
    ways = {
        "phases": ((found.prefill, found.decode), device.joules(net=False)),
        "regression": ((found.regression.prefill, found.regression.decode), device.joules(net=True)),
    }
    return [
        _found(way, cost, estimate, truth)
        for way, (estimates, truths) in ways.items()
        for cost, estimate, truth in zip(("prefill", "decode"), estimates, truths, strict=True)
        if estimate.value is not None
    ]


def _found(way: str, cost: str, estimate: Estimate, truth: float) -> Found:
    assert estimate.value is not None
    assert estimate.low is not None
    assert estimate.high is not None
    return Found(
        way,
        cost,
        held=estimate.low <= truth <= estimate.high,
        half_width=(estimate.high - estimate.low) / 2 / truth,
        error=estimate.value / truth - 1,
    )


def measured(device: Device, *, seed: int, passes: int, batches: int, cycles: int = 1) -> Energy:
    """The energy part of the result of a run with that many passes over that many batches in each cycle."""
    asked, clock = _config(passes, batches, seed, cycles), VirtualClock()
    board = _Board(device, clock, seed)
    return virtual_run(asked, clock, board.nvml, load=lambda: _Engine(board), enter=board.enter)


def _config(passes: int, batches: int, seed: int, cycles: int) -> ExperimentConfig:
    return ExperimentConfig.model_validate(
        {
            "model": "any",
            "backend": "simulated",
            "n": BATCH * batches,
            "random_seed": seed,
            "max_input_tokens": 1024,
            "simulated": {"batch_size": BATCH, "load_s": 0.1},
            "cycles": cycles,
            "passes": {
                "seconds": 1.5,
                "minimum": passes,
                "budget": {"passes": passes * cycles, "seconds": 1e6},
            },
            "baseline": {"seconds": 2.0},
            "warmup": {"max_seconds": 1.0},
        }
    )


class _Board:
    """The device's power follows what the engine does; the scatter of a pass is drawn when it starts."""

    def __init__(self, device: Device, clock: VirtualClock, seed: int) -> None:
        self.device, self.clock = device, clock
        self._draw = random.Random(seed)
        self._pass = 1.0
        # A counter's steps and a run's windows know nothing of each other.
        sensor = SimulatedSensor(
            step_s=device.step_s,
            phase_s=self._draw.uniform(0, device.step_s),
            fields=frozenset({COUNTER, INSTANT} if device.counter else {INSTANT}),
        )
        self.nvml = SimulatedNvml(clock, idle_w=device.context_w, sensor=sensor)

    def enter(self, phase: Phase) -> None:
        self._pass = self._scattered(self.device.pass_scatter)
        if phase != "pass":
            bare = phase in {"bare", "cooling", "load"}
            self.nvml.set_power(self.device.bare_w if bare else self.device.context_w)

    def work(self, watts: float, seconds: float) -> None:
        """Draw `watts` for `seconds`, both with this batch's and this pass's scatter."""
        scatter = self.device.scatter
        self.nvml.set_power(watts * self._pass * self._scattered(scatter))
        self.clock.sleep(seconds * self._scattered(scatter))

    def rest(self) -> None:
        self.nvml.set_power(self.device.context_w)

    def _scattered(self, relative_sd: float) -> float:
        return max(0.0, self._draw.gauss(1.0, relative_sd))


class _Engine:
    """A backend on the board. Its batches differ in prompt and in output tokens, walk after walk the same."""

    def __init__(self, board: _Board) -> None:
        self._board = board

    def why_unavailable(self) -> str | None:
        return None

    def why_refused(self, config: ExperimentConfig) -> str | None:  # noqa: ARG002  the Backend protocol
        return None

    @contextmanager
    def open(self, config: ExperimentConfig) -> Iterator[_Engine]:  # noqa: ARG002  the Backend protocol
        yield self

    def generate(self, requests: Sequence[Request], observe: Observer) -> Generation:
        lengths = random.Random(len(requests))
        done: list[Completion] = []
        for batch, start in enumerate(range(0, len(requests), BATCH)):
            members = requests[start : start + BATCH]
            done += self._batch(members, batch, lengths.randrange(12, 60), observe)
        self._board.rest()
        return Generation(tuple(done))

    def _batch(
        self, members: Sequence[Request], batch: int, output: int, observe: Observer
    ) -> Iterator[Completion]:
        clock, device = self._board.clock, self._board.device
        sent_ns = clock.monotonic_ns()
        observe.batch(members, sent_ns)
        prompt = sum(len(one.prompt) for one in members)
        self._board.work(device.prefill_w, device.s_per_prompt_token * prompt)
        first_ns = clock.monotonic_ns()
        self._board.work(device.decode_w, device.s_per_step * (output - 1))
        end_ns = clock.monotonic_ns()
        for one in members:
            yield Completion(
                index=one.index,
                walk=0,
                batch=batch,
                prompt_tokens=len(one.prompt),
                output_tokens=output,
                t_scheduled_ns=sent_ns,
                t_sent_ns=sent_ns,
                t_first_ns=first_ns,
                t_end_ns=end_ns,
                finish="length",
            )

    def synchronize(self) -> None:
        """A batch sleeps until it is done."""

    def facts(self) -> SessionFacts:
        return SessionFacts(device="simulated", arguments={}, versions={}, gpu_uuids=(GPU,))

    def reset_peak(self) -> None:
        """There is no memory."""
