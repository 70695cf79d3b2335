"""How does a load run by itself, each request sent when it is due, while others look at it?"""

from __future__ import annotations

import asyncio
import resource
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from llenergymeasure.backends import SoFar
from llenergymeasure.backends.openai.stream import Reply
from llenergymeasure.backends.openai.tally import Tally
from llenergymeasure.config.load import LoadConfig
from llenergymeasure.exceptions import BackendError
from llenergymeasure.records import Completion, Completions, Generation, Served
from llenergymeasure.workload.arrivals import Arrival

Send: TypeAlias = Callable[[Arrival, int], Awaitable[None]]

# Once nothing more is sent, answers that take longer to come are cancelled.
DRAIN_S = 60.0
_LOOK_S = 0.02
# Descriptors that a worker needs for other things than its connections.
_SPARE_DESCRIPTORS = 64
# What macOS takes although it says that there is no limit.
_MACOS_DESCRIPTORS = 10_240


async def drive(load: LoadConfig, arrivals: Iterator[Arrival], send: Send) -> None:
    """Call `send` for each arrival with the moment at which it is due, then; returns when all have returned.

    The turns of a conversation follow one another in `arrivals`: a user of a closed loop takes them all.
    """
    start_ns = time.monotonic_ns()
    conversations = _conversations(arrivals)

    async def converse(turns: Sequence[Arrival], answered_ns: int | None) -> int | None:
        for arrival in turns:
            due_ns = start_ns if answered_ns is None else answered_ns + round(arrival.think_s * 1e9)
            if arrival.due_s is not None:
                due_ns = start_ns + round(arrival.due_s * 1e9)
            await _until(due_ns)
            await send(arrival, due_ns)
            answered_ns = time.monotonic_ns()
        return answered_ns

    async def user() -> None:
        answered_ns = None
        for turns in conversations:
            answered_ns = await converse(turns, answered_ns)

    try:
        async with asyncio.TaskGroup() as group:
            if load.arrivals == "closed":
                for _ in range(load.concurrency):
                    group.create_task(user())
                return
            for turns in conversations:
                await _until(start_ns + round((turns[0].due_s or 0.0) * 1e9))
                group.create_task(converse(turns, None))
    except BaseExceptionGroup as several:
        raise _first(several) from None


def _conversations(arrivals: Iterator[Arrival]) -> Iterator[Sequence[Arrival]]:
    turns: list[Arrival] = []
    for arrival in arrivals:
        if turns and arrival.after != turns[-1].number:
            yield turns
            turns = []
        turns.append(arrival)
    if turns:
        yield turns


async def _until(t_ns: int) -> None:
    await asyncio.sleep(max(0.0, (t_ns - time.monotonic_ns()) / 1e9))


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def connections_at_most() -> int:
    """How many this process may open; its soft limit is raised to the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MACOS_DESCRIPTORS if hard == resource.RLIM_INFINITY else hard
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return max(soft, most) - len(list(Path("/dev/fd").iterdir())) - _SPARE_DESCRIPTORS


def refuse_too_many(wanted: int, most: int) -> None:
    """BackendError where so many requests at once have no connection each."""
    if wanted > most:
        raise BackendError(
            f"{wanted} requests at once take a connection each, and this process may open {most}",
            hint="raise the limit of open files before the run, such as ulimit -n 65536, or lower the load",
        )


class RunningLoad:
    """A stream of requests in a thread of its own, in which `loop` runs until the stream is over.

    `post` sends a request and fills the reply, `settle` says what became of it, and `count` counts the tokens
    of a text, which takes too long while others wait: of one answer to each prompt, when all is over.
    """

    def __init__(
        self,
        load: LoadConfig,
        arrivals: Iterator[Arrival],
        *,
        loop: asyncio.AbstractEventLoop,
        post: Callable[[Arrival, Reply], Awaitable[None]],
        settle: Callable[[Arrival, Reply, int], Completion],
        count: Callable[[str], int | None],
    ) -> None:
        self._load, self._arrivals = load, arrivals
        self._loop, self._post, self._settle, self._count = loop, post, settle, count
        self._most = connections_at_most()
        if load.arrivals == "closed":
            refuse_too_many(load.concurrency, self._most)
        self._live: dict[int, Reply] = {}
        self._drawn = self._sent = self._ended = self._chunks = 0
        # Request-nanoseconds until a moment, since when so many are on their way: one value, so that another
        # thread reads it whole.
        self._waited = (0, time.monotonic_ns(), 0)
        self._failures, self._failure = 0, ""
        # Of one answer to each prompt the walk, all of its text, and what of that is no reasoning.
        self._texts: dict[int, tuple[int | None, str, str | None]] = {}
        self._tally: Tally | None = None
        self._edges_ns: Sequence[int] = ()
        self._is_draining = self._is_exhausted = False
        self._error: BaseException | None = None
        self._task: asyncio.Task[None] | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: loop.run_until_complete(self._run()), daemon=True)

    @contextmanager
    def running(self) -> Iterator[RunningLoad]:
        self._thread.start()
        try:
            yield self
        finally:
            self._stop()

    def so_far(self) -> SoFar:
        waited_ns, since_ns, waiting = self._waited
        now_ns = time.monotonic_ns()
        chunks = self._chunks + sum(len(reply.chunk_ns) for reply in list(self._live.values()))
        return SoFar(now_ns, chunks, self._ended, waited_ns + waiting * (now_ns - since_ns))

    def cut(self, edges_ns: Sequence[int]) -> None:
        if self._failures and self._failures == self._ended:
            raise self._hopeless(self._failures)
        self._edges_ns = edges_ns
        self._tally = Tally(edges_ns)

    def wait(self, until_ns: int) -> None:
        self._over.wait(max(0.0, (until_ns - time.monotonic_ns()) / 1e9))
        self._raise_error()
        if self._is_exhausted and self._sent == self._drawn:
            raise BackendError(
                "the last request of the trace was sent before the last window ended",
                hint="take a longer trace (and a higher n), or lower passes.seconds or warmup.max_seconds",
            )

    def drain(self) -> None:
        until_ns = time.monotonic_ns() + round(DRAIN_S * 1e9)
        self._is_draining = True
        while self._live and time.monotonic_ns() < until_ns and not self._over.wait(_LOOK_S):
            pass
        self._stop()
        self._raise_error()

    def windows(self) -> Sequence[tuple[Generation, Served]]:
        assert self._tally is not None, "windows were cut"
        found = self._tally.windows()
        ended = sum(len(one.completions) for one, _ in found)
        if ended and all(one.finish == "error" for generation, _ in found for one in generation.completions):
            raise self._hopeless(ended)
        return [(self._with_texts(one.completions), served) for one, served in found]

    def _with_texts(self, completions: Sequence[Completion]) -> Generation:
        answers: list[str | None] = []

        def done() -> Iterator[Completion]:
            for one in completions:
                walk, text, answer = self._texts.get(one.index, (None, "", None))
                is_kept = walk == one.walk
                answers.append(answer if is_kept else None)
                yield replace(one, local_output_tokens=self._count(text)) if is_kept else one

        return Generation(Completions.of(done()), texts=tuple(answers))

    def _hopeless(self, failed: int) -> BackendError:
        return BackendError(
            f"all {failed} requests failed; the last: {self._failure}", hint="the server's own log says more"
        )

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _stop(self) -> None:
        """Cancel what is left, and return when nothing is."""
        while self._task is None and not self._over.wait(_LOOK_S):
            pass
        if not self._over.is_set() and self._task is not None:
            self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()

    async def _run(self) -> None:
        self._task = asyncio.current_task()
        try:
            await drive(self._load, self._all_arrivals(), self._one)
        except asyncio.CancelledError:
            pass
        # The thread that waits for this load raises whatever it was.
        except BaseException as error:  # noqa: BLE001
            self._error = error
        finally:
            self._over.set()

    def _all_arrivals(self) -> Iterator[Arrival]:
        for arrival in self._arrivals:
            self._drawn += 1
            yield arrival
        self._is_exhausted = True

    async def _one(self, arrival: Arrival, due_ns: int) -> None:
        if self._is_draining:
            # Whoever would send more is cancelled with what is left.
            await asyncio.get_running_loop().create_future()
        refuse_too_many(len(self._live) + 1, self._most)
        reply = Reply(time.monotonic_ns())
        self._sent += 1
        self._live[arrival.number] = reply
        self._note(reply.sent_ns)
        is_cancelled = False
        try:
            await self._post(arrival, reply)
        except asyncio.CancelledError:
            is_cancelled = True
            raise
        finally:
            del self._live[arrival.number]
            self._note(time.monotonic_ns())
            self._ended += 1
            self._chunks += len(reply.chunk_ns)
            if reply.failure is not None and not is_cancelled:
                self._failures, self._failure = self._failures + 1, reply.failure
            if self._tally is not None:
                done = self._settle(arrival, reply, due_ns)
                self._tally.add(done, reply.chunk_ns, is_cancelled=is_cancelled)
                is_inside = self._edges_ns[0] <= done.t_end_ns < self._edges_ns[-1]
                if reply.failure is None and is_inside and done.index not in self._texts:
                    self._texts[done.index] = done.walk, reply.text, reply.answer

    def _note(self, now_ns: int) -> None:
        waited_ns, since_ns, waiting = self._waited
        self._waited = (waited_ns + waiting * (now_ns - since_ns), now_ns, len(self._live))
