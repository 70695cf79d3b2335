"""What a worker does with one backend: open it, warm it up, run blocks of passes, close it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from statistics import median
from typing import Self, cast

from llenergymeasure.analysis.statistics import is_steady
from llenergymeasure.backends import Backend, Load, LoadedSession, Session
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import BackendError
from llenergymeasure.measure import load as loads
from llenergymeasure.measure.protocol import Ready, WarmUpBatch
from llenergymeasure.records import (
    BlockKind,
    Clock,
    Completion,
    Completions,
    Generation,
    Pass,
    Request,
    RequestCounts,
    SessionFacts,
    Stage,
    Verdict,
    WarmUp,
    Window,
)
from llenergymeasure.workload.arrivals import arrivals
from llenergymeasure.workload.judging import judge
from llenergymeasure.workload.prepared import prepared


class Position:
    """The observer of a session: remembers how far it came, for the message of a failure."""

    def __init__(self) -> None:
        self.stage: Stage = "load"
        self.batches = 0

    def enter(self, stage: Stage) -> None:
        self.stage, self.batches = stage, 0

    def batch(self, requests: Sequence[Request], t_ns: int) -> None:  # noqa: ARG002  the Observer protocol
        self.batches += 1


class Bench:
    """One backend with its workload, on one clock. In a child it answers the protocol; in virtual time the
    harness calls it directly.
    """

    def __init__(
        self, config: ExperimentConfig, *, load: Callable[[str], Backend], clock: Clock, position: Position
    ) -> None:
        self._config = config
        self._load = load
        self._clock = clock
        self._position = position
        self._stack = ExitStack()
        self._measured = self._was_judged = False
        self._stream: Load | None = None
        self._running = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def open(self) -> Ready:
        backend = self._load(self._config.backend)
        work = prepared(self._config)
        self._requests: tuple[Request, ...] = work.workload.requests
        self._work = work
        start_ns = self._clock.monotonic_ns()
        self._session: Session = self._stack.enter_context(backend.open(self._config))
        self._session.synchronize()
        load = Window(start_ns, self._clock.monotonic_ns())
        lengths = tuple(request.max_output_tokens for request in self._requests)
        return Ready(load, self._facts(), work.workload.cut, work.hash, work.dataset, lengths)

    def warm_up(self, began: Callable[[WarmUpBatch], None] | None = None) -> WarmUp:
        """A load begins to run, and goes on once it is steady. Else the longest batch once, so that memory
        has grown to its size; then a typical one until its times settle or the cap is reached, and
        `min_batches` in any case. The same work each time, or durations could not be compared. `began` hears
        of each batch.
        """
        self._position.enter("warmup")
        tell = began or _nobody
        if self._config.is_stream:
            self._stack.callback(self._running.close)
            self._stream = self._running.enter_context(self._served())
            return loads.warm_up(self._stream, self._config, tell)
        settings = self._config.warmup
        batches = self._batches()
        start_ns = self._clock.monotonic_ns()
        tell(WarmUpBatch(1, None))
        longest, typical = batches[-1], batches[len(batches) // 2]
        if self._config.why_no_prefill is None:
            self._run(_with_one_token(longest))
        end_ns = self._run(longest)
        durations: list[float] = []
        steady = False
        while len(durations) < settings.min_batches or (
            not steady and (end_ns - start_ns) / 1e9 < settings.max_seconds
        ):
            last_s = durations[-1] if durations else (end_ns - start_ns) / 1e9
            tell(WarmUpBatch(len(durations) + 2, last_s))
            began_ns, end_ns = end_ns, self._run(typical)
            durations.append((end_ns - began_ns) / 1e9)
            steady = is_steady(durations, count=settings.window, variation=settings.variation)
        usual_s = median(durations[-settings.window :] or [(end_ns - start_ns) / 1e9])
        return WarmUp(Window(start_ns, end_ns), tuple(durations), steady, walk_s=len(batches) * usual_s)

    def run_block(
        self,
        kind: BlockKind,
        passes: int,
        *,
        before: Callable[[], None],
        edge: Callable[[], None],
        after: Callable[[], None],
    ) -> tuple[Pass, ...]:
        """Passes without a pause between two silences, which `before` and `after` wait for; `edge` hears of
        each pass but the first as it begins. Of a running load they are windows of it.

        In a silence nothing may happen here: the garbage is collected before, and what the passes gave is
        looked at once the second one is over.
        """
        self._position.enter("measure")
        requests = self._requests if kind == "full" else _with_one_token(self._requests)
        if not self._measured:
            self._session.reset_peak()
            self._measured = True
        if self._stream is not None:
            return self._windows(self._stream, passes, before=before, edge=edge, after=after)
        gc.collect()
        self._session.synchronize()
        with _no_collection():
            before()
        walked = []
        edge_ns = self._clock.monotonic_ns()
        for number in range(passes):
            if number:
                edge()
            start_ns = edge_ns
            walks, edge_ns = self._walk_for(requests, start_ns)
            walked.append((Window(start_ns, edge_ns), walks))
        with _no_collection():
            after()
        all_walks = [walk for _, walks in walked for walk in walks]
        # Greedy decoding says the same in each.
        judged = [] if kind == "prefill" else all_walks if self._is_drawn else all_walks[:1]
        verdicts = self._verdicts(judged)
        return tuple(
            Pass(
                window,
                len(walks),
                Generation(tuple(_with_verdicts(self._numbered(walks, requests), verdicts))),
            )
            for window, walks in walked
        )

    def _served(self) -> AbstractContextManager[Load]:
        session, load = self._session, self._config.load
        if not hasattr(session, "serve") or load is None:
            raise BackendError(
                f"the backend {self._config.backend} takes a load, and its session serves none"
            )
        gc.collect()
        # What is here stays: nobody need look through it while requests wait.
        gc.freeze()
        self._stack.callback(gc.unfreeze)
        plan = arrivals(load, self._requests, seed=self._config.random_seed)
        return cast("LoadedSession", session).serve(plan, self._position)

    def _windows(
        self,
        stream: Load,
        count: int,
        *,
        before: Callable[[], None],
        edge: Callable[[], None],
        after: Callable[[], None],
    ) -> tuple[Pass, ...]:
        found = loads.run_windows(stream, self._config, count, before=before, edge=edge, after=after)
        for one in found:
            _check_counts(one.generation)
        verdicts = self._verdicts([one.generation for one in found])
        done = (self._with_local(one.generation, self._requests) for one in found)
        return tuple(
            replace(one, generation=Generation(Completions.of(_with_verdicts(each, verdicts))))
            for one, each in zip(found, done, strict=True)
        )

    @property
    def _is_drawn(self) -> bool:
        return self._config.decoder.temperature > 0

    def _verdicts(self, walks: Sequence[Generation]) -> Iterator[Verdict | None]:
        """On the completions of these walks in order, where any has a reference."""
        if not walks or self._was_judged or not any(self._work.references):
            return iter(())
        self._was_judged = not self._is_drawn
        return iter(judge(self._config, self._work.references, walks))

    def _walk_for(self, requests: Sequence[Request], start_ns: int) -> tuple[list[Generation], int]:
        """Walk the workload until that has lasted long enough; the walks, and when the last one ended."""
        walks: list[Generation] = []
        end_ns = start_ns
        while not walks or (end_ns - start_ns) / 1e9 < self._config.passes.seconds:
            walks.append(self._session.generate(requests, self._position))
            self._session.synchronize()
            end_ns = self._clock.monotonic_ns()
        return walks, end_ns

    def close(self) -> SessionFacts:
        """Free the model; returns the last facts, with the peak of the passes."""
        facts = self._facts()
        self._stack.close()
        return facts

    def stop(self) -> RequestCounts | None:
        """Cancel what is on its way; returns what became of every request, None where there is no server."""
        self._running.close()
        session = getattr(self, "_session", None)
        return cast("LoadedSession", session).account() if hasattr(session, "account") else None

    def _facts(self) -> SessionFacts:
        return replace(
            self._session.facts(),
            tokenizer_hash=self._work.tokenizer_hash,
            chat_template_hash=self._work.chat_template_hash,
            chat_template_date=self._work.chat_template_date,
        )

    def _run(self, batch: Sequence[Request]) -> int:
        done = self._session.generate(batch, self._position)
        self._session.synchronize()
        end_ns = self._clock.monotonic_ns()
        _check(done, batch)
        return end_ns

    def _batches(self) -> list[tuple[Request, ...]]:
        """The batches of a walk, shortest prompts first."""
        size = self._config.batch_size
        batches = [self._requests[at : at + size] for at in range(0, len(self._requests), size)]
        return sorted(batches, key=lambda batch: sum(len(request.prompt) for request in batch))

    def _numbered(self, walks: Sequence[Generation], requests: Sequence[Request]) -> Iterator[Completion]:
        """Each with its walk, and with llem's count of its prompt where the engine gives none."""
        for number, generation in enumerate(walks):
            _check(generation, requests)
            for done in self._with_local(generation, requests):
                yield replace(done, walk=number)

    def _with_local(self, generation: Generation, requests: Sequence[Request]) -> Iterator[Completion]:
        given = {request.index: len(request.prompt) for request in requests}
        for done in generation.completions:
            local = done.local_prompt_tokens
            yield replace(done, local_prompt_tokens=given[done.index] if local is None else local)


def _with_one_token(requests: Sequence[Request]) -> tuple[Request, ...]:
    return tuple(replace(request, max_output_tokens=1, exact=True) for request in requests)


def _with_verdicts(done: Iterable[Completion], verdicts: Iterator[Verdict | None]) -> Iterator[Completion]:
    """The first completions with a verdict each, as far as there are any."""
    for one in done:
        verdict = next(verdicts, None)
        yield one if verdict is None else replace(one, verdict=verdict)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Nobody allocates in a silence, but a collection that was due would begin at the next object."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _nobody(began: WarmUpBatch) -> None:
    pass


def _check(generation: Generation, requests: Sequence[Request]) -> None:
    """BackendError where a session does not answer each request once, in order, at times that can be."""
    answered = [done.index for done in generation.completions]
    if answered != [request.index for request in requests]:
        raise BackendError(
            f"the backend answered {len(answered)} requests of {len(requests)}, or in another order",
            hint="a session returns one completion for each request, in the order of the requests",
        )
    _check_counts(generation)


def _check_counts(generation: Generation) -> None:
    for done in generation.completions:
        if done.prompt_tokens < 0 or done.output_tokens < 0:
            raise BackendError(
                f"the backend counts {done.prompt_tokens} prompt tokens and "
                f"{done.output_tokens} output tokens in request {done.index}",
                hint="a session counts the tokens that were read and generated, at least 0",
            )
        first_ns = done.t_sent_ns if done.t_first_ns is None else done.t_first_ns
        if not done.t_sent_ns <= first_ns <= done.t_end_ns:
            raise BackendError(
                f"the times of request {done.index} run backwards: sent at {done.t_sent_ns} ns, "
                f"first token at {done.t_first_ns} ns, end at {done.t_end_ns} ns",
                hint="a session stamps times with time.monotonic_ns",
            )
