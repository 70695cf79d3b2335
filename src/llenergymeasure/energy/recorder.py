"""What did all meters say, from the start of a run to its end?"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from llenergymeasure.energy import Meter
from llenergymeasure.energy.trace import (
    PARQUET_NAME,
    STREAM_NAME,
    Row,
    TraceWriter,
    compact,
    read_trace,
    series_keys,
)
from llenergymeasure.exceptions import ResultError
from llenergymeasure.records import Clock, Domain, Gap, Sample, Trace, Window

# Seconds between two reads, close and far. 17 ms shares no factor with the 20, 50 and 100 ms at which
# counters step, so that successive polls fall on ever other phases of a step and its time can be learnt.
_SENSOR_PERIODS_S = (0.017, 0.1)
_PROCESS_PERIODS_S = (0.1, 0.25)
# A read may take a third of the meter's time at the most, so that a slow driver is left to the workload.
_SHARE_OF_TIME = 3
# Counters step every 100 ms at the slowest: two of those, and time for a poll, put an edge between two steps.
_SETTLE_S = 0.25
_FLUSH_S = 1.0
_BLOCKED_NS = 1_000_000_000
_JOIN_S = 2.0


@dataclass(slots=True)
class _Watched:
    """A meter, when it is read next, and since when it has given nothing of a domain, with the reason."""

    meter: Meter
    domains: tuple[Domain, ...]
    index: dict[tuple[str, str], int]
    periods_s: tuple[float, float]
    due_ns: int = 0
    calling_since_ns: int | None = None
    cpu_ns: int = 0
    failing: dict[str, tuple[int, str]] = field(default_factory=dict)
    was_read: threading.Event = field(default_factory=threading.Event)
    wake: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None


class Recorder:
    """Reads `meters` all the time and keeps what they say in `directory`, for windows that are chosen later.

    With `start` (or as a context manager) each meter gets a daemon thread of its own, so that one that blocks
    holds up no other, and what was read is on disk within a second (`power.arrow`). With
    `start(threaded=False)` nothing runs by itself: call `poll` at least every `tick_s`. `stop` leaves
    `power.parquet`. A meter that raises or blocks gives a `Gap`, not an end.
    """

    tick_s = _SENSOR_PERIODS_S[0]

    def __init__(self, meters: Sequence[Meter], *, clock: Clock, directory: Path) -> None:
        self._meters = tuple(meters)
        self._clock = clock
        self._directory = directory
        self._watched: tuple[_Watched, ...] = ()
        self._writer: TraceWriter | None = None
        self._flusher: threading.Thread | None = None
        self._flusher_cpu_ns = 0
        self._stopping = threading.Event()
        self._buffer_lock = threading.Lock()
        self._file_lock = threading.Lock()
        self._rows: list[Row] = []
        self._gaps: list[Gap] = []
        self._samples = 0
        self._dense = False
        self._close_until_ns = 0
        self._next_flush_ns = 0
        self._failure: OSError | None = None

    @property
    def samples(self) -> int:
        """Fields read so far."""
        return self._samples

    @property
    def cpu_s(self) -> float:
        """CPU seconds that reading and writing have taken so far, the driver's part of a read included."""
        return (sum(watched.cpu_ns for watched in self._watched) + self._flusher_cpu_ns) / 1e9

    @property
    def domains(self) -> tuple[Domain, ...]:
        return tuple(domain for watched in self._watched for domain in watched.domains)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.stop()
        else:
            self._close()

    def start(self, *, threaded: bool = True) -> None:
        """Open the meters and begin; returns once each was read (or has blocked for a second)."""
        with ExitStack() as opening:
            opened: list[_Watched] = []
            for meter in self._meters:
                opening.enter_context(meter)
                opened.append(_watched(meter, opened))
            self._watched = tuple(opened)
            self._writer = TraceWriter(self._directory / STREAM_NAME, self.domains)
            # From here on `_close` closes them, those that answer.
            opening.pop_all()
        if not threaded:
            self.poll()
            return
        for watched in self._watched:
            watched.thread = threading.Thread(target=self._watch, args=(watched,), daemon=True)
            watched.thread.start()
        self._flusher = threading.Thread(target=self._flush_on_and_on, daemon=True)
        self._flusher.start()
        for watched in self._watched:
            watched.was_read.wait(_BLOCKED_NS / 1e9)

    def dense(self, wanted: bool, /) -> None:
        """Look closely from now on, or (after a little while, in which counters step once more) no longer."""
        if self._dense and not wanted:
            self._close_until_ns = self._clock.monotonic_ns() + round(_SETTLE_S * 1e9)
        self._dense = wanted
        for watched in self._watched:
            if wanted:
                watched.due_ns = 0
                watched.wake.set()

    def settle(self) -> None:
        """Wait until counters have stepped since now, so that a window that ends now can be placed."""
        self._clock.sleep(_SETTLE_S)

    def poll(self) -> None:
        """Read what is due, and write what has been read for a second; for use without threads."""
        now_ns = self._clock.monotonic_ns()
        for watched in self._watched:
            if now_ns >= watched.due_ns:
                self._read(watched)
        if now_ns >= self._next_flush_ns:
            self._next_flush_ns = now_ns + round(_FLUSH_S * 1e9)
            self._flush()

    def trace(self) -> Trace:
        """All that was recorded so far; in a close look it settles first, so that a window may end now.

        ResultError where the trace could not be written or read.
        """
        if self._writer is None:
            return read_trace(self._directory / PARQUET_NAME)
        if self._dense:
            self.settle()
        self._flush()
        self._raise_failure()
        with self._file_lock:
            trace = read_trace(self._directory / STREAM_NAME)
        return Trace(trace.domains, trace.series, (*trace.gaps, *self._open_gaps()))

    def stop(self) -> None:
        """Settle where a close look has only just ended, stop, and turn the trace into Parquet."""
        if self._writer is None:
            return
        if self._dense or self._clock.monotonic_ns() < self._close_until_ns:
            self.settle()
        self._close()
        self._raise_failure()
        compact(self._directory)

    def _close(self) -> None:
        self._stopping.set()
        for watched in self._watched:
            watched.wake.set()
        for watched in self._watched:
            if watched.thread is not None:
                watched.thread.join(_JOIN_S)
            # A meter whose driver has not come back is left alone: closing it would block as well.
            if watched.thread is None or not watched.thread.is_alive():
                watched.meter.__exit__(None, None, None)
        if self._flusher is not None:
            self._flusher.join()
        self._gaps += self._open_gaps()
        self._flush()
        try:
            if self._writer is not None:
                self._writer.close()
        except OSError as error:
            self._failure = self._failure or error
        self._writer = None

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise ResultError(
                f"the trace can't be written to {self._directory}: {self._failure}",
                hint="free space there, or set TMPDIR to a disk that has some",
            ) from self._failure

    def _watch(self, watched: _Watched) -> None:
        while not self._stopping.is_set():
            self._read(watched)
            watched.wake.wait(max(0, watched.due_ns - self._clock.monotonic_ns()) / 1e9)
            watched.wake.clear()

    def _flush_on_and_on(self) -> None:
        while not self._stopping.wait(_FLUSH_S):
            self._flush()
            self._flusher_cpu_ns = time.thread_time_ns()

    def _read(self, watched: _Watched) -> None:
        cpu_ns, start_ns = time.thread_time_ns(), self._clock.monotonic_ns()
        close = self._dense or start_ns < self._close_until_ns
        watched.due_ns = start_ns + round(watched.periods_s[0 if close else 1] * 1e9)
        watched.calling_since_ns = start_ns
        samples: Sequence[Sample] = ()
        reason = "the meter gave no value"
        try:
            samples = watched.meter.sample()
        except Exception as error:  # noqa: BLE001  a meter may be other people's code; it becomes a Gap
            reason = f"{type(error).__name__}: {error}"
        end_ns = self._clock.monotonic_ns()
        watched.calling_since_ns = None
        if watched.due_ns:
            watched.due_ns = max(watched.due_ns, start_ns + _SHARE_OF_TIME * (end_ns - start_ns))
        with self._buffer_lock:
            if self._writer is not None:
                self._keep(watched, samples, Window(start_ns, end_ns), reason)
        watched.was_read.set()
        watched.cpu_ns += time.thread_time_ns() - cpu_ns

    def _keep(self, watched: _Watched, samples: Sequence[Sample], call: Window, reason: str) -> None:
        self._samples += len(samples)
        self._rows += [
            (watched.index[one.domain, one.quantity], one.t_before_ns, one.t_after_ns, one.raw)
            for one in samples
        ]
        heard = {one.domain for one in samples}
        for domain in watched.domains:
            if domain.name not in heard:
                watched.failing.setdefault(domain.name, (call.start_ns, reason))
            elif domain.name in watched.failing:
                since_ns, why = watched.failing.pop(domain.name)
                self._gaps.append(Gap(Window(since_ns, call.end_ns), why, domain.name))
            elif call.end_ns - call.start_ns > _BLOCKED_NS:
                self._gaps.append(Gap(call, _blocked(call), domain.name))

    def _open_gaps(self) -> tuple[Gap, ...]:
        """Gaps that have not ended: domains that give nothing, and calls that have not returned."""
        now_ns = self._clock.monotonic_ns()
        gaps = []
        for watched in self._watched:
            since_ns = watched.calling_since_ns
            blocked = since_ns is not None and now_ns - since_ns > _BLOCKED_NS
            for domain in watched.domains:
                start_ns, reason = watched.failing.get(domain.name, (None, ""))
                if start_ns is not None:
                    gaps.append(Gap(Window(start_ns, now_ns), reason, domain.name))
                elif blocked and since_ns is not None:
                    call = Window(since_ns, now_ns)
                    gaps.append(Gap(call, _blocked(call), domain.name))
        return tuple(gaps)

    def _flush(self) -> None:
        with self._file_lock:
            with self._buffer_lock:
                rows, gaps = self._rows, self._gaps
                self._rows, self._gaps = [], []
            if self._writer is None or self._failure is not None or not (rows or gaps):
                return
            try:
                self._writer.write(rows, gaps)
            except OSError as error:
                self._failure = error


def _watched(meter: Meter, before: Sequence[_Watched]) -> _Watched:
    domains = tuple(meter.domains())
    first = sum(len(watched.index) for watched in before)
    index = {key: first + number for number, key in enumerate(series_keys(domains))}
    modelled = any(domain.model is not None for domain in domains)
    return _Watched(meter, domains, index, _PROCESS_PERIODS_S if modelled else _SENSOR_PERIODS_S)


def _blocked(call: Window) -> str:
    return f"a read of the meter took {call.duration_s:.1f} s"
