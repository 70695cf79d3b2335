"""What does an engine without a model do: which lengths and times, and which faults?"""

from __future__ import annotations

import math
import os
import random
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from llenergymeasure.backends import Answer, HandOver, Observer, installed_versions, run_batches
from llenergymeasure.config.engines.simulated import SimulatedFault
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import BackendError
from llenergymeasure.records import Clock, FinishReason, Generation, Request, SessionFacts

GPU_UUID = "GPU-simulated-0"
HANG_S = 3600.0


class SimulatedBackend:
    """Requested lengths and times on the clock it is given; a virtual one costs no real time."""

    def __init__(self, clock: Clock = time, *, run: int | None = None) -> None:
        """`run` is what the scatter of times is drawn by besides the seed; the process where it is None."""
        self._clock = clock
        self._run = os.getpid() if run is None else run

    def why_unavailable(self) -> str | None:
        return None

    def why_refused(self, config: ExperimentConfig) -> str | None:  # noqa: ARG002  the Backend protocol
        return None

    @contextmanager
    def open(self, config: ExperimentConfig) -> Iterator[SimulatedSession]:
        self._clock.sleep(config.simulated.load_s)
        fault = config.simulated.fault
        if fault is not None and fault.at == "open":
            _strike(fault, self._clock)
        yield SimulatedSession(config, self._clock, run=self._run)


class SimulatedSession:
    """Batches in the order of the requests.

    A batch with P prompt tokens, whose longest output has L tokens, takes s · (P · prefill_s_per_token +
    (L − 1) · decode_s_per_step), where s has mean 1 and sd `scatter`, drawn anew for every batch. The
    prefill yields the first token of every request, each decode step one more.

    Lengths are drawn from the seed at the start of each walk, so that every walk does the same work.
    `reset_peak` is called between warm-up and the first pass; it is how faults tell the two apart.
    """

    def __init__(self, config: ExperimentConfig, clock: Clock, *, run: int = 1) -> None:
        self._config = config
        self._clock = clock
        # Another process does the same work in other times.
        self._scatter = random.Random(f"{config.random_seed} {run}")  # noqa: S311  a simulation, not a secret
        self._stage = "warmup"
        self._batches_of_stage = 0

    def generate(self, requests: Sequence[Request], observe: Observer) -> Generation:
        lengths = random.Random(self._config.random_seed)  # noqa: S311  the same

        def answer(members: Sequence[Request], hand_over: HandOver) -> list[Answer]:
            outputs = [
                _output_length(request, lengths, eos_probability=self._config.simulated.eos_probability)
                for request in members
            ]
            longest = max(tokens for tokens, _ in outputs)
            hand_over()
            self._strike_if_due()
            first_ns, last_ns = self._run(members, longest)
            self._batches_of_stage += 1
            decode_ns, steps = last_ns - first_ns, max(longest - 1, 1)
            return [
                Answer(tokens, first_ns, first_ns + decode_ns * (tokens - 1) // steps, finish)
                for tokens, finish in outputs
            ]

        size = self._config.simulated.batch_size
        return run_batches(requests, observe, answer, size=size, clock=self._clock)

    def synchronize(self) -> None:
        """Nothing is ever left on the device: a batch sleeps until it is done."""

    def facts(self) -> SessionFacts:
        asked = self._config.simulated
        return SessionFacts(
            device="simulated",
            arguments={
                "batch_size": asked.batch_size,
                "prefill_s_per_token": asked.prefill_s_per_token,
                "decode_s_per_step": asked.decode_s_per_step,
                "scatter": asked.scatter,
                "eos_probability": asked.eos_probability,
                "random_seed": self._config.random_seed,
            },
            versions=installed_versions("llenergymeasure"),
            gpu_uuids=(GPU_UUID,),
        )

    def reset_peak(self) -> None:
        if self._stage == "warmup":
            self._stage, self._batches_of_stage = "pass", 0

    def _run(self, members: Sequence[Request], longest: int) -> tuple[int, int]:
        """Sleep through the two phases; when the first and the last tokens were there."""
        asked = self._config.simulated
        slowness = _mean_one(self._scatter, asked.scatter)
        self._clock.sleep(
            slowness * asked.prefill_s_per_token * sum(len(request.prompt) for request in members)
        )
        first_ns = self._clock.monotonic_ns()
        self._clock.sleep(slowness * asked.decode_s_per_step * (longest - 1))
        return first_ns, self._clock.monotonic_ns()

    def _strike_if_due(self) -> None:
        fault = self._config.simulated.fault
        if fault is not None and fault.at == self._stage and self._batches_of_stage >= fault.after_batches:
            _strike(fault, self._clock)


def _output_length(
    request: Request, lengths: random.Random, *, eos_probability: float
) -> tuple[int, FinishReason]:
    """Tokens up to and including end-of-sequence, whose place is geometric, and why they ended."""
    if request.exact or eos_probability == 0:
        return request.max_output_tokens, "length"
    if eos_probability == 1:
        return 1, "eos"
    # The inverse of P(length ≤ k) = 1 − (1 − p)^k at a uniform draw.
    drawn = max(1, math.ceil(math.log1p(-lengths.random()) / math.log1p(-eos_probability)))
    return (drawn, "eos") if drawn <= request.max_output_tokens else (request.max_output_tokens, "length")


def _mean_one(generator: random.Random, relative_sd: float) -> float:
    """A log-normal draw with mean 1 and that standard deviation: positive however wide it is."""
    variance = math.log1p(relative_sd**2)
    return generator.lognormvariate(-variance / 2, math.sqrt(variance))


def _strike(fault: SimulatedFault, clock: Clock) -> None:
    match fault.kind:
        case "crash":
            # As from the kernel's OOM killer: no handler runs, nothing is flushed.
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            clock.sleep(HANG_S)
            raise BackendError(f"the simulated hang ended after {HANG_S:.0f} s")
        case "oom":
            raise MemoryError("simulated: the device is out of memory")
        case "error":
            raise BackendError(
                f"simulated: the engine failed at {fault.at} after {fault.after_batches} batches",
                hint="take simulated.fault out of the configuration",
            )
