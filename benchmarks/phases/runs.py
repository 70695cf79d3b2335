"""One experiment in virtual time on a board whose joules per token are known, and what llem says they are."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.virtual_run import Stage, VirtualRuns, virtual_experiment
from llenergymeasure.backends import Observer
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.measure.harness import Phase
from llenergymeasure.records import Clock, Completion, Estimate, Generation, Request, SessionFacts
from llenergymeasure.simulation.clock import VirtualClock
from llenergymeasure.simulation.device import SimulatedNvml
from llenergymeasure.simulation.sensor import COUNTER, INSTANT, SimulatedSensor

BATCH, BATCHES, PROMPT, OUTPUT = 4, 4, 200, 24
GPU = "GPU-simulated-0"


@dataclass(frozen=True, slots=True)
class Device:
    """A board and an engine: each batch begins with `host_s` of work on the host alone, at `host_w`; then its
    prompt tokens take `s_per_prompt_token` each at `prefill_w`, and every further token of each request
    `s_per_step` at `decode_w` on average, which wanders by `within` over a batch (relative amplitude).

    The power of a run scatters by `run_scatter`, that of each batch by `scatter` (relative sds).
    """

    host_s: float = 0.0
    host_w: float = 130.0
    prefill_w: float = 500.0
    decode_w: float = 300.0
    context_w: float = 90.0
    s_per_prompt_token: float = 1e-4
    s_per_step: float = 0.01
    within: float = 0.0
    scatter: float = 0.01
    run_scatter: float = 0.005
    step_s: float = 0.1
    counter: bool = True

    @property
    def prefill_j(self) -> float:
        """Joules of a prompt token: the host's work belongs to the batch's prefill."""
        of_batch = self.host_w * self.host_s + self.prefill_w * self.s_per_prompt_token * BATCH * PROMPT
        return of_batch / (BATCH * PROMPT)

    @property
    def decode_j(self) -> float:
        """Joules of an output token after a request's first."""
        return self.decode_w * self.s_per_step / BATCH


@dataclass(frozen=True, slots=True)
class Found:
    """One cost: whether its interval held the truth; half of its width and its error, relative to it."""

    cost: str
    held: bool
    half_width: float
    error: float


def run(seed: int, *, device: Device, repeats: int = 5) -> list[Found]:
    """Both costs by `repeats` runs of the experiment."""
    energy = virtual_experiment(config(seed, repeats), runs_on(device, seed)).energy
    return [
        _found("prefill", energy.prefill, device.prefill_j),
        _found("decode", energy.decode, device.decode_j),
    ]


def _found(cost: str, estimate: Estimate, truth: float) -> Found:
    assert estimate.value is not None, estimate
    assert estimate.low is not None, estimate
    assert estimate.high is not None
    half = (estimate.high - estimate.low) / 2 / truth
    return Found(cost, estimate.low <= truth <= estimate.high, half, estimate.value / truth - 1)


def config(seed: int, repeats: int) -> ExperimentConfig:
    return ExperimentConfig.model_validate(
        {
            "model": "any",
            "backend": "simulated",
            "n": BATCH * BATCHES,
            "random_seed": seed,
            "dataset": {"name": "synthetic", "prompt_tokens": PROMPT},
            "max_output_tokens": OUTPUT,
            "simulated": {"batch_size": BATCH, "load_s": 0.1},
            "repeats": {"count": repeats},
            "passes": {"seconds": 5.0, "count": 1},
            "baseline": {"seconds": 0.0},
            "warmup": {"max_seconds": 0.5, "min_batches": 1, "window": 3},
        }
    )


def runs_on(device: Device, seed: int) -> VirtualRuns:
    boards: dict[Clock, Board] = {}

    def stage(_: ExperimentConfig, number: int) -> Stage:
        clock = VirtualClock()
        boards[clock] = board = Board(device, clock, seed=1000 * seed + number)
        return Stage(clock, board.nvml, board.enter)

    return VirtualRuns(stage, load=lambda clock: Engine(boards[clock]), tick_s=0.005)


class Board:
    """The device's power follows what the engine does; a run's own scatter is drawn once."""

    def __init__(self, device: Device, clock: VirtualClock, *, seed: int) -> None:
        self.device, self.clock = device, clock
        self._draw = random.Random(seed)
        self._run = self._scattered(device.run_scatter)
        # A counter's steps and a run's windows know nothing of each other.
        sensor = SimulatedSensor(
            step_s=device.step_s,
            phase_s=self._draw.uniform(0, device.step_s),
            step_jitter_s=device.step_s / 100,
            seed=seed,
            fields=frozenset({COUNTER, INSTANT} if device.counter else {INSTANT}),
        )
        self.nvml = SimulatedNvml(clock, idle_w=device.context_w, sensor=sensor)

    def enter(self, phase: Phase) -> None:
        """Only the engine's work changes the power."""

    def batch(self, prompt: int, steps: int) -> int:
        """Draw the power of one batch; returns when its first tokens were there."""
        device, scatter = self.device, self._run * self._scattered(self.device.scatter)
        self._draw_for(device.host_w * scatter, device.host_s)
        self._draw_for(device.prefill_w * scatter, device.s_per_prompt_token * prompt)
        first_ns = self.clock.monotonic_ns()
        for step in range(steps):
            wave = math.sin(2 * math.pi * (step + 0.5) / steps)
            self._draw_for(device.decode_w * scatter * (1 + device.within * wave), device.s_per_step)
        return first_ns

    def _draw_for(self, watts: float, seconds: float) -> None:
        if seconds > 0:
            self.nvml.set_power(watts)
            self.clock.sleep(seconds)

    def rest(self) -> None:
        self.nvml.set_power(self.device.context_w)

    def _scattered(self, relative_sd: float) -> float:
        return max(0.0, self._draw.gauss(1.0, relative_sd))


class Engine:
    """A backend on the board."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def why_unavailable(self) -> str | None:
        return None

    def why_refused(self, config: ExperimentConfig) -> str | None:  # noqa: ARG002  the Backend protocol
        return None

    @contextmanager
    def open(self, config: ExperimentConfig) -> Iterator[Engine]:  # noqa: ARG002  the Backend protocol
        yield self

    def generate(self, requests: Sequence[Request], observe: Observer) -> Generation:
        done: list[Completion] = []
        for batch, start in enumerate(range(0, len(requests), BATCH)):
            done += self._batch(requests[start : start + BATCH], batch, observe)
        self._board.rest()
        return Generation(tuple(done))

    def _batch(self, members: Sequence[Request], batch: int, observe: Observer) -> Iterator[Completion]:
        clock = self._board.clock
        sent_ns = clock.monotonic_ns()
        observe.batch(members, sent_ns)
        output = members[0].max_output_tokens
        first_ns = self._board.batch(sum(len(one.prompt) for one in members), output - 1)
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
