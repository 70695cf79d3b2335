"""What passes between a recorder and whoever marks windows in it, and how do its files become a recording?

One JSON object a line, each way. To the recorder: `begin` and `end` of a window, by an id that its sender
makes up; `silence` before and after a block, which is looked at densely from then on, and `over`; `stop`.
From it: `hello`, then `ready` or `refused`; `quiet` once a silence has lasted long enough; `done` with the
result.
All times are CLOCK_MONOTONIC of the one kernel.

Whoever records from another host asks for the reads themselves: `stream`, answered by `streaming` with the
domains and from then on by `samples`; `clock` by what the clock shows; `dense` and `edge`, which are not
answered; and `catch_up` by `caught_up` once all reads up to then were sent.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from annotated_types import Ge

from llenergymeasure.energy.recording.trace import PARQUET_NAME, STREAM_NAME, read_trace
from llenergymeasure.exceptions import ResultError
from llenergymeasure.measure.scratch import EVENTS_NAME
from llenergymeasure.records import (
    Environment,
    Marked,
    MeasurementWarning,
    MeterChoice,
    Overhead,
    Recording,
    RecordingKind,
    Start,
    Trace,
    Window,
)

if TYPE_CHECKING:
    from pydantic import TypeAdapter

# History: 1, marks alone; 2, reads are streamed to another host.
MARKS_VERSION = 2
# In the folder of a recording as long as it has no result.
FIFO_NAME = "marks"
# A meter that was read this long before the last one has stopped answering: it is a gap, and no end.
_READS_APART_NS = 5_000_000_000

Tokens: TypeAlias = Annotated[int, Ge(0)]


@dataclass(frozen=True, slots=True)
class Begin:
    id: str
    name: str
    t_ns: int
    do: Literal["begin"] = "begin"


@dataclass(frozen=True, slots=True)
class End:
    """`error` names the exception that left the window. The last three are of a command that ran in it, whose
    peak memory may only be known to lie from what was seen of it to below `peak_below_bytes`.
    """

    id: str
    t_ns: int
    prompt: Tokens | None = None
    output: Tokens | None = None
    error: str | None = None
    peak_bytes: int | None = None
    peak_below_bytes: int | None = None
    exit_code: int | None = None
    do: Literal["end"] = "end"


@dataclass(frozen=True, slots=True)
class Silence:
    """From now on the sender draws constant power: before window `id` begins, or since it ended."""

    id: str
    t_ns: int
    do: Literal["silence"] = "silence"


@dataclass(frozen=True, slots=True)
class Over:
    """The silence after window `id` is over."""

    id: str
    t_ns: int
    do: Literal["over"] = "over"


@dataclass(frozen=True, slots=True)
class Stop:
    """No more windows; `gpus` are the UUIDs of those that the sender knows it used."""

    gpus: tuple[str, ...] = ()
    do: Literal["stop"] = "stop"


@dataclass(frozen=True, slots=True)
class Stream:
    do: Literal["stream"] = "stream"


@dataclass(frozen=True, slots=True)
class AskClock:
    id: int
    do: Literal["clock"] = "clock"


@dataclass(frozen=True, slots=True)
class Dense:
    wanted: bool
    do: Literal["dense"] = "dense"


@dataclass(frozen=True, slots=True)
class Edge:
    do: Literal["edge"] = "edge"


@dataclass(frozen=True, slots=True)
class CatchUp:
    id: int
    do: Literal["catch_up"] = "catch_up"


Mark: TypeAlias = Begin | End | Silence | Over | Stop
Request: TypeAlias = Stream | AskClock | Dense | Edge | CatchUp


@cache
def mark_adapter() -> TypeAdapter[Mark]:
    from pydantic import Field, TypeAdapter

    return TypeAdapter(Annotated[Mark, Field(discriminator="do")])


@cache
def said_adapter() -> TypeAdapter[Mark | Request]:
    from pydantic import Field, TypeAdapter

    return TypeAdapter(Annotated[Mark | Request, Field(discriminator="do")])


@dataclass(frozen=True, slots=True)
class Began:
    """The first event in the file: what is known as the recording begins."""

    experiment_id: str
    kind: RecordingKind
    program: tuple[str, ...]
    energy: MeterChoice
    started: Start
    environment: Environment
    ready_ns: int
    version: int = MARKS_VERSION
    say: Literal["began"] = "began"


@dataclass(frozen=True, slots=True)
class Ended:
    """The last event in the file."""

    t_ns: int
    overhead: Overhead
    gpu_uuids: tuple[str, ...] = ()
    warnings: tuple[MeasurementWarning, ...] = ()
    notes: tuple[str, ...] = ()
    say: Literal["ended"] = "ended"


@cache
def began_adapter() -> TypeAdapter[Began]:
    from pydantic import TypeAdapter

    return TypeAdapter(Began)


@cache
def ended_adapter() -> TypeAdapter[Ended]:
    from pydantic import TypeAdapter

    return TypeAdapter(Ended)


def left_behind(folder: Path) -> Literal["running", "unfinished"] | None:
    """Whether it is a recording without a result, and then whether its recorder still lives."""
    fifo = folder / FIFO_NAME
    if not (fifo.is_fifo() and (folder / EVENTS_NAME).exists()):
        return None
    try:
        os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        return "unfinished"
    return "running"


def read_recording(folder: Path) -> Recording:
    """What the files of a recording hold. One whose recorder was killed is read up to what it wrote last.

    ResultError where a file is missing or damaged.
    """
    path = folder / EVENTS_NAME
    messages = _messages(path)
    if not messages:
        raise ResultError(f"{path} is not the events of a recording: it is empty")
    try:
        began = began_adapter().validate_python(messages[0])
        last = messages[-1] if messages[-1].get("say") == "ended" else None
        ended = None if last is None else ended_adapter().validate_python(last)
        marks = [mark_adapter().validate_python(one) for one in messages[1:] if "do" in one]
    except ValueError as error:
        raise ResultError(f"{path} is not the events of a recording: {error}") from error
    compacted, stream = folder / PARQUET_NAME, folder / STREAM_NAME
    if ended is None and not compacted.exists() and is_blank(stream):
        # It was killed before what it had read was written: the windows are known, without joules.
        trace, end_ns = Trace((), {}), max((one.t_ns for one in marks if isinstance(one, End)), default=0)
    else:
        trace = read_trace(compacted if compacted.exists() else stream)
        end_ns = _last_read_ns(trace, began.ready_ns)
    if ended is None:
        lost = MeasurementWarning.of("recorder_lost", "the recorder ended before it was asked to")
        ended = Ended(end_ns, Overhead(0.0, 0, 0.0), warnings=(lost,))
    marked, left_open = paired(marks, until_ns=ended.t_ns)
    return Recording(
        experiment_id=began.experiment_id,
        kind=began.kind,
        program=began.program,
        energy=began.energy,
        started=began.started,
        environment=began.environment,
        whole=Window(began.ready_ns, max(began.ready_ns, ended.t_ns)),
        marked=marked,
        trace=trace,
        overhead=ended.overhead,
        gpu_uuids=ended.gpu_uuids,
        left_open=left_open,
        warnings=ended.warnings,
        notes=ended.notes,
    )


@dataclass(slots=True)
class _Pair:
    begin: Begin | None = None
    end: End | None = None
    silences: list[Silence] = field(default_factory=list)
    over: Over | None = None


def paired(marks: Iterable[Mark], *, until_ns: int) -> tuple[tuple[Marked, ...], Mapping[str, int]]:
    """The windows that have both ends, and how many of each name have none.

    Marks of several processes come in any order. What ended after `until_ns` was not recorded to its end.
    """
    pairs: dict[str, _Pair] = {}
    for mark in marks:
        if isinstance(mark, Stop):
            continue
        pair = pairs.setdefault(mark.id, _Pair())
        match mark:
            case Begin():
                pair.begin = mark
            case End():
                pair.end = mark
            case Silence():
                pair.silences.append(mark)
            case Over():
                pair.over = mark
    marked, left_open = [], dict[str, int]()
    for pair in pairs.values():
        if pair.begin is None:
            continue
        begin, end = pair.begin, pair.end
        if end is None or end.t_ns > until_ns or end.t_ns < begin.t_ns:
            left_open[begin.name] = left_open.get(begin.name, 0) + 1
            continue
        marked.append(
            Marked(
                name=begin.name,
                window=Window(begin.t_ns, end.t_ns),
                silences=_silences(pair.silences, begin, end, pair.over),
                prompt_tokens=end.prompt,
                output_tokens=end.output,
                error=end.error,
                peak_bytes=end.peak_bytes,
                peak_below_bytes=end.peak_below_bytes,
                exit_code=end.exit_code,
            )
        )
    return tuple(marked), left_open


def _silences(
    silences: Sequence[Silence], begin: Begin, end: End, over: Over | None
) -> tuple[Window, Window] | None:
    before = [one.t_ns for one in silences if one.t_ns <= begin.t_ns]
    if not before or over is None or over.t_ns < end.t_ns:
        return None
    return Window(before[0], begin.t_ns), Window(end.t_ns, over.t_ns)


def is_blank(stream: Path) -> bool:
    """Whether nothing was written to it."""
    return not stream.exists() or not stream.stat().st_size


def _last_read_ns(trace: Trace, least_ns: int) -> int:
    """Until when all was read, without those that had stopped answering."""
    last = [int(series.t_before_ns[-1]) for series in trace.series.values()]
    return max(least_ns, min(one for one in last if max(last) - one < _READS_APART_NS) if last else 0)


def _messages(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError as error:
        raise ResultError(f"there are no events at {path}", hint="name the folder of a recording") from error
    except OSError as error:
        raise ResultError(f"{path} can't be read: {error.strerror}") from error
    messages = []
    for number, line in enumerate(lines, start=1):
        try:
            messages.append(dict(json.loads(line)["message"]))
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):
                break  # it was being written when the recorder was killed
            raise ResultError(f"{path} is damaged in line {number}: {error}") from error
    return messages
