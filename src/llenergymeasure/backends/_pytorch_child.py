"""What do the process that the harness sees and a child of it say to each other, and what does a child do?"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal, TypeAlias

from llenergymeasure.backends._pytorch_place import Place
from llenergymeasure.backends._pytorch_session import PytorchSession, opened
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import BackendError, LLEMError
from llenergymeasure.records import Generation, Request, SessionFacts

END_S = 5.0
# How long a process waits for the others within one operation; loading differs by the disk's caches.
TOGETHER = timedelta(minutes=10)

Question: TypeAlias = (
    tuple[Literal["generate"], Sequence[Request]] | tuple[Literal["facts", "reset_peak"], None]
)


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

    def ask(self, *question: Any) -> None:
        try:
            self._pipe.send(question)
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
                pipe.send(_answered(session, pipe.recv()))
    except (EOFError, BrokenPipeError):
        return
    except (LLEMError, MemoryError) as error:
        hint = error.hint if isinstance(error, LLEMError) else None
        pipe.send(_Failed(str(error), hint, isinstance(error, MemoryError)))


def _answered(session: PytorchSession, question: Question) -> Generation | SessionFacts | Literal["done"]:
    match question:
        case "generate", requests:
            assert requests is not None
            generation = session.generate(requests, _Nobody())
            session.synchronize()
            return generation
        case "facts", _:
            return session.facts()
        case _:
            session.reset_peak()
            return "done"
