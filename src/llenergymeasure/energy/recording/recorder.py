"""What did all meters say, from the start of a run to its end?

One loop and what it does at each turn; cut in two, the halves would share all its state.
"""

from __future__ import annotations

import threading
import time
from array import array
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Self

from llenergymeasure.energy import Elsewhere, Meter
from llenergymeasure.energy.boundary import PARTS, within
from llenergymeasure.energy.bounded import bounded
from llenergymeasure.energy.recording.pacing import gap_ns, moment_ns, quiet_s, rested_ns
from llenergymeasure.energy.recording.trace import (
    PARQUET_NAME,
    STREAM_NAME,
    TraceWriter,
    compact,
    read_trace,
    series_keys,
)
from llenergymeasure.energy.recording.watch import BLOCKED_NS, Watched, watched
from llenergymeasure.exceptions import EnergyError, ResultError
from llenergymeasure.records import Clock, Domain, Gap, RoundTrip, Sample, Trace, Window
from llenergymeasure.results.folder import unwritable

# A silence in which a counter shows no events still ends, and so does a look at a driver that blocks.
_SILENCE_AT_MOST_S = 3.0
_LOOK_AT_MOST_NS = 300_000_000
# An edge has shown after the slowest counter's lag and step.
_EDGE_NS = 250_000_000
_MOST_NUMBERS = 1_000_000
_OPEN_S = 20.0
_JOIN_S = 2.0


class Recorder:
    """Reads `meters` all the time and keeps what they say in `directory`, for windows that are chosen later;
    where that is None nothing is kept.

    With `start` (or as a context manager) each device gets a daemon thread of its own, so that one that
    blocks holds up no other, and what was read is on disk after `flush_s` (`power.arrow`). With
    `start(threaded=False)` nothing runs by itself: call `poll` at least every `tick_s`. `stop` leaves
    `power.parquet`. A meter that raises or blocks gives a `Gap`, not an end.

    Silences and the edges of passes are looked at densely, so that the steps of counters are known to ± 3 ms;
    else a few reads a second do. `samples` counts the fields that were read, and `due_ns` is when `poll` has
    something to do. `listener`, where one is set, is handed the numbers of what was read and the gaps, every
    `flush_s`: for a host elsewhere.
    """

    tick_s = 0.001

    def __init__(
        self,
        meters: Sequence[Meter],
        *,
        clock: Clock,
        directory: Path | None,
        boundary: str = "auto",
        flush_s: float = 1.0,
    ) -> None:
        self._meters = tuple(meters)
        self._boundary = boundary
        self._clock = clock
        self._directory = directory
        self.domains: tuple[Domain, ...] = ()
        self._watched: tuple[Watched, ...] = ()
        self._dense = False
        self._close_until_ns = 0
        self._devices = 0
        self._is_open = False
        self._writer: TraceWriter | None = None
        self._flusher: threading.Thread | None = None
        self._flusher_cpu_ns = 0
        self._stopping = threading.Event()
        self._buffer_lock = threading.Lock()
        self._file_lock = threading.Lock()
        # Numbers, not tuples: hundreds of new objects a second would keep the garbage collector busy.
        self._rows = array("q")
        self._gaps: list[Gap] = []
        self._trips: list[RoundTrip] = []
        self._elsewhere: tuple[Elsewhere, ...] = ()
        self.listener: Callable[[Sequence[int], Sequence[Gap]], None] | None = None
        self.flush_s = flush_s
        self.samples = 0
        # What was read last of each quantity of a domain, for whoever shows it.
        self.latest: dict[tuple[str, str], Sample] = {}
        self._next_flush_ns = self.due_ns = 0
        self._failure: OSError | None = None

    @property
    def cpu_s(self) -> float:
        """CPU seconds that reading and writing have taken so far, the driver's part of a read included."""
        return (sum(one.cpu_ns for one in self._watched) + self._flusher_cpu_ns) / 1e9

    @property
    def driver_cpu_s(self) -> float:
        """The part of `cpu_s` that was spent in the drivers' calls, as far as the meters count it."""
        return sum(one.part.driver_cpu_ns for one in self._watched) / 1e9

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, _: object, error: object, traceback: object) -> None:
        if error is None:
            self.stop()
        else:
            self._close()

    def start(self, *, threaded: bool = True, file_first: bool = True) -> None:
        """Open the meters and begin; returns once each was read (or has blocked for a second).

        Without `file_first` reading begins at once, and the file follows after `flush_s`: what writes it
        takes longer to import than all else that a recorder needs.

        EnergyError where a meter can't be opened, does not answer, or sees what another one sees.
        """
        with ExitStack() as opening:
            for meter in self._meters:
                self._open(meter, opening)
            if file_first:
                self._writer = self._new_writer()
            self._is_open = True
            # From here on `_close` closes them, those that answer.
            opening.pop_all()
        if not threaded:
            self.poll()
            return
        for one in self._watched:
            one.thread = threading.Thread(target=self._watch, args=(one,), daemon=True)
            one.thread.start()
        self._flusher = threading.Thread(target=self._flush_on_and_on, daemon=True)
        self._flusher.start()
        deadline = time.monotonic() + BLOCKED_NS / 1e9
        for one in self._watched:
            one.was_read.wait(max(0.0, deadline - time.monotonic()))

    def _open(self, meter: Meter, opening: ExitStack) -> None:
        name = f"the meter {type(meter).__name__}"
        bounded(meter.__enter__, _OPEN_S, what=name)
        opening.callback(partial(self._leave, meter))
        domains = tuple(bounded(meter.domains, _OPEN_S, what=name))
        taken = {domain.name for domain in self.domains}
        if twice := [domain.name for domain in domains if domain.name in taken]:
            raise EnergyError(
                f"{name} reads {', '.join(twice)}, which another meter reads already",
                hint="choose one of them by name: --meter",
            )
        first = len(series_keys(self.domains))
        index = {key: first + number for number, key in enumerate(series_keys(domains))}
        self.domains += domains
        self._watched += tuple(watched(meter, domains, index))
        self._elsewhere = tuple(one.elsewhere for one in self._watched if one.elsewhere is not None)
        self._devices = sum(one.part.period_s is None for one in self._watched)

    def dense(self, wanted: bool, /) -> None:
        """Look closely from now on, or no longer. ResultError where the disk has stopped taking the trace."""
        self._raise_failure()
        self._dense = wanted
        for one in self._elsewhere:
            one.dense(wanted)
        if wanted:
            self._hurry([one for one in self._watched if one.part.period_s is None])

    def edge(self) -> None:
        """A pass begins: look closely until every counter has shown it."""
        self._close_until_ns = self._clock.monotonic_ns() + _EDGE_NS
        for one in self._elsewhere:
            one.edge()
        self._hurry([one for one in self._watched if one.part.period_s is None])

    def look(self) -> None:
        """Read now, once, whatever is not read densely; returns when that is done (or a driver blocks)."""
        since_ns = now_ns = self._clock.monotonic_ns()
        asked = [
            one for one in self._watched if one.domains and not (self._dense and one.part.period_s is None)
        ]
        self._hurry(asked)
        while now_ns - since_ns < _LOOK_AT_MOST_NS and any(one.looked_ns < since_ns for one in asked):
            self._clock.sleep(0.001)
            now_ns = self._clock.monotonic_ns()

    def _hurry(self, parts: Sequence[Watched]) -> None:
        self.due_ns = 0
        for one in parts:
            one.due_ns = 0
            one.bell.ring()

    @property
    def quiet_s(self) -> tuple[float, float]:
        """The least seconds of a silence before and after a block, and the lag to allow for after it besides:
        what the slowest source needs within `boundary` or of a part of the machine, (0, 0) where none is
        measured. What is recorded beside them, such as a slow BMC, holds up no silence.
        """
        # Where the work is all on other hosts, theirs alone may lead.
        elsewhere = [domain for domain in self.domains if domain.host]
        leading = within(self.domains, self._boundary) or within(elsewhere, self._boundary)
        each = [quiet_s(domain) for domain in self.domains if domain.kind in PARTS or domain in leading]
        return max((least for least, _ in each), default=0.0), max((lag for _, lag in each), default=0.0)

    def quiet_enough(self, since_ns: int) -> bool:
        """Whether a silence that began then has lasted its least time, and shown three usable events of every
        counter that steps. One that shows none, stuck or too slow to read, ends it after three seconds.
        """
        lasted_s = (self._clock.monotonic_ns() - since_ns) / 1e9
        if lasted_s < self.quiet_s[0]:
            return False
        return lasted_s >= _SILENCE_AT_MOST_S or all(
            events.enough_since(since_ns) for one in self._watched for events in one.events.values()
        )

    def poll(self) -> None:
        """Read what is due, and write what has been read for a second; for use without threads."""
        now_ns = self._clock.monotonic_ns()
        if now_ns < self.due_ns:
            return
        for one in self._watched:
            if one.due_ns > self._clock.monotonic_ns():
                continue
            began_ns = time.thread_time_ns()
            self._read(one)
            one.cpu_ns += time.thread_time_ns() - began_ns
        if now_ns >= self._next_flush_ns:
            self._next_flush_ns = now_ns + round(self.flush_s * 1e9)
            self.flush()
        self.due_ns = min([self._next_flush_ns, *(one.due_ns for one in self._watched)])

    def trace(self, *, windows: Sequence[Window] | None = None) -> Trace:
        """All that was recorded so far, or what matters for `windows`: them and a few seconds around each.

        ResultError where the trace could not be written or read.
        """
        assert self._directory is not None
        if not self._is_open:
            return read_trace(self._directory / PARQUET_NAME, windows=windows)
        self._catch_up()
        self.flush()
        self._raise_failure()
        with self._file_lock:
            trace = read_trace(self._directory / STREAM_NAME, windows=windows)
        return replace(trace, gaps=(*trace.gaps, *self._open_gaps()))

    def stop(self) -> None:
        """Stop, and turn the trace into Parquet."""
        if not self._is_open:
            return
        self._catch_up()
        self._close()
        self._raise_failure()
        if self._directory is not None:
            compact(self._directory)

    def _catch_up(self) -> None:
        """Take in what other hosts have read up to now."""
        for one in self._elsewhere:
            one.catch_up()
        if self._elsewhere:
            self.look()

    def _close(self) -> None:
        self._stopping.set()
        for one in self._watched:
            one.bell.ring()
        deadline = time.monotonic() + _JOIN_S
        for one in self._watched:
            if one.thread is not None:
                one.thread.join(max(0.0, deadline - time.monotonic()))
        for meter in self._meters:
            self._leave(meter)
        if self._flusher is not None:
            self._flusher.join()
        self._gaps += self._open_gaps()
        self.flush()
        try:
            if self._writer is not None:
                self._writer.close()
        except OSError as error:
            self._failure = self._failure or error
        self._is_open = False

    def _new_writer(self) -> TraceWriter:
        return TraceWriter(None if self._directory is None else self._directory / STREAM_NAME, self.domains)

    def _leave(self, meter: Meter) -> None:
        """Close a meter. One whose driver has not come back is left alone: closing it would also block."""
        if any(one.thread and one.thread.is_alive() for one in self._watched if one.meter is meter):
            return
        try:
            bounded(
                partial(meter.__exit__, None, None, None), _JOIN_S, what=f"the meter {type(meter).__name__}"
            )
        except Exception as error:  # noqa: BLE001  other people's code; what it has measured is safe by now
            window = Window(now_ns := self._clock.monotonic_ns(), now_ns)
            self._gaps.append(Gap(window, f"{type(meter).__name__} could not be closed: {error}"))

    def _raise_failure(self) -> None:
        if self._failure is not None and self._directory is not None:
            raise unwritable("the trace", self._directory, self._failure) from self._failure

    def _watch(self, one: Watched) -> None:
        while not self._stopping.is_set():
            self._read(one)
            one.cpu_ns = time.thread_time_ns()
            wait_ns = one.due_ns - self._clock.monotonic_ns()
            if wait_ns > 0:
                one.bell.wait(wait_ns / 1e9)

    def _flush_on_and_on(self) -> None:
        while not self._stopping.wait(self.flush_s):
            self.flush()
            self._flusher_cpu_ns = time.thread_time_ns()

    def _read(self, one: Watched) -> None:
        # Kept apart from 0, which `_hurry` sets in the meantime where it wants a read at once.
        one.due_ns = 1
        samples, call, reason = one.read(self._clock)
        with self._buffer_lock:
            if self._is_open:
                self.samples += len(samples)
                self.latest.update(((s.domain, s.quantity), s) for s in samples)
                self._gaps += one.gaps_ended_by(samples, call, reason)
                if one.elsewhere is not None:
                    self._trips += one.elsewhere.round_trips()
                if len(self._rows) < _MOST_NUMBERS:
                    for s in samples:
                        number = one.index[s.domain, s.quantity]
                        self._rows.extend((number, s.t_before_ns, s.t_after_ns, s.raw))
                elif not self._gaps:
                    self._gaps.append(Gap(call, "the disk does not take what is read"))
        if not one.was_read.is_set():
            one.was_read.set()
        one.looked_ns = call.start_ns
        if one.due_ns:
            one.due_ns = max(rested_ns(call), self._wanted_ns(one, call.start_ns))

    def _wanted_ns(self, one: Watched, start_ns: int) -> int:
        """When a part that was read at `start_ns` should be read again."""
        if one.part.period_s is not None:
            return start_ns + round(one.part.period_s * 1e9)
        dense = self._dense or start_ns < self._close_until_ns
        after_ns = max(start_ns, one.next_event_ns) if dense else start_ns
        gap = gap_ns(one.domains, dense=dense, devices=self._devices)
        return moment_ns(after_ns, gap, even=dense)

    def _open_gaps(self) -> tuple[Gap, ...]:
        now_ns = self._clock.monotonic_ns()
        return tuple(gap for one in self._watched for gap in one.open_gaps(now_ns))

    def flush(self) -> None:
        """Hand all that was read so far to the disk."""
        with self._file_lock:
            with self._buffer_lock:
                rows, gaps, trips = self._rows, self._gaps, self._trips
                self._rows, self._gaps, self._trips = array("q"), [], []
            if not self._is_open or self._failure is not None:
                return
            try:
                if self._writer is None:
                    self._writer = self._new_writer()
                if rows or gaps or trips:
                    self._writer.write(rows, gaps, trips)
                if self.listener is not None and (rows or gaps):
                    self.listener(rows, gaps)
            except OSError as error:
                self._failure = error
            except ResultError as error:
                self._failure = OSError(error.message)
