"""How do several processes share a workload: a batch for each, or a part of every matrix for each?

One process is the session that the harness sees; the others are its children, and each runs the same session
on its own device. With whole models in each (data parallel) the batches go round, as they would in one
process, and no process waits for another before the end of a walk. With a tensor parallel plan all of them
run every batch in step.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from llenergymeasure.backends import Observer, refuse
from llenergymeasure.backends.pytorch.loading import Place
from llenergymeasure.backends.pytorch.refusals import why_refused
from llenergymeasure.backends.pytorch.session import PytorchSession, opened
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import BackendError, LLEMError
from llenergymeasure.records import Generation, Request, SessionFacts

END_S = 5.0
# How long a process waits for the others within one operation; loading differs by the disk's caches.
TOGETHER = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class _Failed:
    """What a child could not do; `memory` tells that it ran out of it."""

    message: str
    hint: str | None
    memory: bool


class _Nobody:
    """The observer of a child: its batches were told to the one that matters when they were handed over."""

    def batch(self, requests: Sequence[Request], t_ns: int) -> None:
        """Nobody listens here."""


class Child:
    """A process with a session of its own, and the pipe to it."""

    def __init__(self, config: ExperimentConfig, place: Place, meeting: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process: BaseProcess = context.Process(
            target=_serve, args=(theirs, config, place, meeting), daemon=True
        )
        self._name = f"process {place.rank + 1} of {place.size}"
        self._process.start()
        theirs.close()

    def ask(self, method: str, *given: Any) -> None:
        """Have it call a method of its session."""
        try:
            self._pipe.send((method, *given))
        except BrokenPipeError as error:
            raise self._died() from error

    def answer(self) -> Any:
        """What it says next; BackendError or MemoryError where it failed or is gone."""
        ready = wait([self._pipe, self._process.sentinel])
        try:
            said = self._pipe.recv() if self._pipe in ready or self._pipe.poll() else None
        except (EOFError, ConnectionResetError) as error:
            raise self._died() from error
        if said is None:
            raise self._died()
        if isinstance(said, _Failed):
            if said.memory:
                raise MemoryError(f"{self._name}: {said.message}")
            raise BackendError(f"{self._name}: {said.message}", hint=said.hint)
        return said

    def check(self) -> None:
        """Raise what it failed with, or that it is gone; return where it is at work."""
        if self._pipe.poll() or self._process.exitcode is not None:
            self.answer()

    def hang_up(self) -> None:
        """It ends by itself once it notices that."""
        self._pipe.close()

    def end(self, within_s: float) -> None:
        self._process.join(within_s)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()

    def _died(self) -> BackendError:
        self._process.join(END_S)
        code = self._process.exitcode
        how = "closed its pipe and hangs" if code is None else f"died of exit code {code}"
        if code is not None and code < 0:
            how = f"died of signal {-code} ({signal.Signals(-code).name})"
        return BackendError(
            f"{self._name} {how}",
            hint="worker.log holds what it said; when memory is short, the kernel kills with signal 9",
        )


@contextmanager
def joined(config: ExperimentConfig, place: Place, meeting: Path) -> Iterator[PytorchSession]:
    """A session of one process, and where the model is split, the group that it is split over."""
    if config.pytorch.tp_plan is None:
        with opened(config, place) as session:
            yield session
        return
    import torch
    from torch import distributed

    kind = "nccl" if torch.cuda.is_available() and config.pytorch.device != "cpu" else "gloo"
    distributed.init_process_group(
        kind, init_method=f"file://{meeting}", rank=place.rank, world_size=place.size, timeout=TOGETHER
    )
    try:
        with opened(config, place) as session:
            yield session
    finally:
        distributed.destroy_process_group()


def _serve(pipe: Connection, config: ExperimentConfig, place: Place, meeting: Path) -> None:
    """A child's life: load, then answer until the pipe closes. An interrupt is for the first process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The device that transformers binds a part of the model to.
    os.environ["LOCAL_RANK"] = str(place.rank)
    try:
        with joined(config, place, meeting) as session:
            pipe.send("ready")
            while True:
                pipe.send(_answered(session, *pipe.recv()))
    except (EOFError, BrokenPipeError):
        return
    except (LLEMError, MemoryError) as error:
        hint = error.hint if isinstance(error, LLEMError) else None
        pipe.send(_Failed(str(error), hint, isinstance(error, MemoryError)))


def _answered(session: PytorchSession, method: str, *given: Any) -> Any:
    answer = getattr(session, method)(*given, *([_Nobody()] if method == "generate" else []))
    session.synchronize()
    return "done" if answer is None else answer


@contextmanager
def shared_out(config: ExperimentConfig) -> Iterator[ParallelSession]:
    """As many processes as `pytorch.num_processes`, each with its session; leaving ends all of them."""
    refuse(why_refused(config))
    size = config.pytorch.num_processes
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="llem-"))
        meeting = Path(folder) / "meeting"
        children: list[Child] = []
        stack.callback(_end, children)
        for rank in range(1, size):
            children.append(Child(config, Place(rank, size), meeting))  # noqa: PERF401  ended even if one can't start
        with _named(children):
            first = stack.enter_context(joined(config, Place(0, size), meeting))
        for child in children:
            child.answer()
        yield ParallelSession(first, children, config)


def _end(children: Sequence[Child]) -> None:
    """None of them is alive after this; those that are still at work are killed after a while."""
    until_s = time.monotonic() + END_S
    for child in children:
        child.hang_up()
    for child in children:
        child.end(max(0.0, until_s - time.monotonic()))


class ParallelSession:
    def __init__(self, first: PytorchSession, children: Sequence[Child], config: ExperimentConfig) -> None:
        self._first = first
        self._children = children
        self._batch = config.pytorch.batch_size
        self._split = config.pytorch.tp_plan is not None
        self._is_broken_off = False

    def generate(self, requests: Sequence[Request], observe: Observer) -> Generation:
        """All requests once. Batches of whole models run at the same time, and their times overlap.

        BackendError after a walk that was broken off: the others may still be at it, and would answer late.
        """
        if self._is_broken_off:
            raise BackendError(
                "a walk was broken off, and some processes may still be at it", hint="open the session again"
            )
        self._is_broken_off = True
        generation = self._in_step(requests, observe) if self._split else self._in_turn(requests, observe)
        self._is_broken_off = False
        return generation

    def _in_turn(self, requests: Sequence[Request], observe: Observer) -> Generation:
        size = len(self._children) + 1
        batches = [requests[at : at + self._batch] for at in range(0, len(requests), self._batch)]
        asked = []
        for rank, child in enumerate(self._children, start=1):
            share = batches[rank::size]
            if share:
                for batch in share:
                    observe.batch(batch, time.monotonic_ns())
                child.ask("generate", [request for batch in share for request in batch])
                asked.append((rank, child))
        own = [request for batch in batches[::size] for request in batch]
        shares = [(0, self._first.generate(own, observe))]
        shares += [(rank, child.answer()) for rank, child in asked]
        done = {
            one.index: (replace(one, batch=one.batch * size + rank), ids)
            for rank, share in shares
            for one, ids in zip(share.completions, share.output_ids or (), strict=True)
        }
        ordered = [done[request.index] for request in requests]
        return Generation(tuple(one for one, _ in ordered), output_ids=tuple(ids for _, ids in ordered))

    def synchronize(self) -> None:
        """A child answers once its own device is idle, so that only this one's is left to wait for."""
        self._first.synchronize()

    def facts(self) -> SessionFacts:
        """Bytes are sums over the processes; the arguments are those of the first, which all share."""
        for child in self._children:
            child.ask("facts")
        own = self._first.facts()
        every: list[SessionFacts] = [own, *(child.answer() for child in self._children)]
        count = len(every)
        return replace(
            own,
            device=", ".join(dict.fromkeys(one.device for one in every)),
            arguments={
                **own.arguments,
                "num_processes": count,
                "tp_plan": "auto" if self._split else None,
            },
            gpu_uuids=tuple(dict.fromkeys(uuid for one in every for uuid in one.gpu_uuids)),
            weights_bytes=_sum([one.weights_bytes for one in every]),
            kv_cache_bytes=_sum([one.kv_cache_bytes for one in every]),
            peak_bytes=_sum([one.peak_bytes for one in every]),
            memory_source=own.memory_source and f"{own.memory_source}, summed over {count} processes",
        )

    def reset_peak(self) -> None:
        for child in self._children:
            child.ask("reset_peak")
        self._first.reset_peak()
        for child in self._children:
            child.answer()

    def _in_step(self, requests: Sequence[Request], observe: Observer) -> Generation:
        """The first process's times: a token is there once all parts have met, and all have it then."""
        for child in self._children:
            child.ask("generate", requests)
        with _named(self._children):
            own = self._first.generate(requests, observe)
        for child in self._children:
            if child.answer().output_ids != own.output_ids:
                raise BackendError(
                    "the tensor-parallel processes diverged: their outputs differ",
                    hint="--set pytorch.num_processes=1 and leave tp_plan out",
                )
        return own


@contextmanager
def _named(children: Sequence[Child]) -> Iterator[None]:
    """Where the others broke off this process only hears that a connection closed: say what happened."""
    try:
        yield
    except (RuntimeError, BackendError):
        for child in children:
            child.check()
        raise


def _sum(parts: Sequence[int | None]) -> int | None:
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None
