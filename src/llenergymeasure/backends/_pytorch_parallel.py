"""How do several processes share a workload: a batch for each, or a part of every matrix for each?

One process is the session that the harness sees; the others are its children, and each runs the same session
on its own device. With whole models in each (data parallel) the batches go round, as they would in one
process, and no process waits for another before the end of a walk. With a tensor parallel plan all of them
run every batch in step.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from llenergymeasure.backends import Observer
from llenergymeasure.backends._pytorch_child import END_S, Child, joined
from llenergymeasure.backends._pytorch_place import Place
from llenergymeasure.backends._pytorch_refusals import refuse
from llenergymeasure.backends._pytorch_session import PytorchSession
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import BackendError
from llenergymeasure.records import Generation, Request, SessionFacts


@contextmanager
def shared_out(config: ExperimentConfig) -> Iterator[ParallelSession]:
    """As many processes as `pytorch.num_processes`, each with its session; leaving ends all of them."""
    refuse(config)
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
    """Sessions in several processes that answer as one."""

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
        """Batches go round, each to a whole model."""
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
            child.ask("facts", None)
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
            child.ask("reset_peak", None)
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
                    "the processes of the tensor parallel plan parted: their outputs differ",
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
