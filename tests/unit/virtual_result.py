"""Whole runs in virtual time, from the configuration to its result, with an engine that a test bends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from benchmarks.virtual_run import VirtualRuns, virtual_experiment

from llenergymeasure.backends import Observer, Session
from llenergymeasure.backends.simulated import SimulatedBackend
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.records import Clock, Completion, Generation, Request, SessionFacts
from llenergymeasure.results.models import ExperimentResult

Bend = Callable[[Completion], Completion]


# Few requests in much time, which is quickly simulated.
SLOW = {"prefill_s_per_token": 1e-4, "decode_s_per_step": 1e-2}
# As the backend has it where nothing is said.
BRISK = {"prefill_s_per_token": 2e-5, "decode_s_per_step": 2e-3}


def config(**changes: object) -> ExperimentConfig:
    asked = changes.get("simulated")
    changes["simulated"] = {**SLOW, **(asked if isinstance(asked, dict) else {})}
    return ExperimentConfig.model_validate(
        {
            "model": "any",
            "backend": "simulated",
            "n": 4,
            "dataset": {"name": "synthetic", "prompt_tokens": 16},
            "max_output_tokens": 32,
            **changes,
        }
    )


def unbent(done: Completion) -> Completion:
    return done


@dataclass(frozen=True)
class BentBackend:
    """The simulated engine, which tells of each request what `bend` makes of it."""

    clock: Clock
    bend: Bend

    def why_unavailable(self) -> str | None:
        return None

    def why_refused(self, config: ExperimentConfig) -> str | None:
        return None

    @contextmanager
    def open(self, config: ExperimentConfig) -> Iterator[Session]:
        with SimulatedBackend(self.clock).open(config) as session:
            yield BentSession(session, self.bend)


@dataclass(frozen=True)
class BentSession:
    session: Session
    bend: Bend

    def generate(self, requests: Sequence[Request], observe: Observer) -> Generation:
        done = self.session.generate(requests, observe).completions
        return Generation(tuple(self.bend(one) for one in done))

    def synchronize(self) -> None:
        self.session.synchronize()

    def facts(self) -> SessionFacts:
        return self.session.facts()

    def reset_peak(self) -> None:
        self.session.reset_peak()


def virtual_result(*, bend: Bend = unbent, **changes: object) -> ExperimentResult:
    """What an experiment of `config(**changes)` comes to."""
    return virtual_experiment(
        config(**changes), VirtualRuns(load=lambda clock: BentBackend(clock, bend)), strict=False
    )


def with_tokens(read: int, written: int) -> Bend:
    """An engine that counts so many more prompt and output tokens."""
    return lambda done: replace(
        done, prompt_tokens=done.prompt_tokens + read, output_tokens=done.output_tokens + written
    )


def failing(index: int) -> Bend:
    """A server that refuses one request of each walk."""
    return lambda done: (
        replace(done, finish="error", prompt_tokens=0, output_tokens=0, t_first_ns=None)
        if done.index == index
        else done
    )


def late_by(seconds: float) -> Bend:
    """A client that sends every request so long after it was due."""
    return lambda done: replace(done, t_scheduled_ns=done.t_sent_ns - round(seconds * 1e9))
