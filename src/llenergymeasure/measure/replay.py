"""How does a stored run, or what a killed one left, become a measurement again?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from llenergymeasure.config.engines import Traits
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.energy.recording.trace import PARQUET_NAME, STREAM_NAME, read_trace
from llenergymeasure.exceptions import ResultError
from llenergymeasure.measure.protocol import EventLog
from llenergymeasure.measure.scratch import EVENTS_NAME
from llenergymeasure.models.architecture import from_stored
from llenergymeasure.records import (
    Architecture,
    Block,
    BlockKind,
    DatasetFacts,
    Environment,
    FailedRun,
    Idle,
    Measurement,
    MeasurementWarning,
    Overhead,
    Pass,
    SessionFacts,
    Start,
    Throttling,
    WarmUp,
    Window,
)
from llenergymeasure.records.dataset import counted
from llenergymeasure.results.folder import PART, RUNS, is_live, is_run, parts, whole_runs
from llenergymeasure.results.upgrade import config_1_to_2


@dataclass(frozen=True, slots=True)
class Silenced:
    """A block without what its passes gave, which the worker's own event holds."""

    kind: BlockKind
    before: Window | None
    after: Window | None


@dataclass(frozen=True, slots=True)
class Measured:
    """The parent's event after each block and at the end of a run: all of a measurement but the trace and the
    passes, which lie beside it.
    """

    experiment_id: str
    config: ExperimentConfig
    origins: Mapping[str, str]
    started: Start
    environment: Environment
    facts: SessionFacts
    architecture: Architecture | None
    idle: Idle
    load: Window
    warm_up: WarmUp
    overhead: Overhead
    warnings: tuple[MeasurementWarning, ...]
    simulated: bool
    notes: tuple[str, ...]
    workload_hash: str | None
    blocks: tuple[Silenced, ...]
    index: int = 1
    cut_prompts: int | None = None
    dataset: DatasetFacts | None = None
    output_lengths: tuple[int, ...] | None = None
    spinning_cores: float | None = None
    throttling: Throttling | None = None
    unread: Mapping[str, str] = field(default_factory=dict)
    traits: Traits | None = None
    say: Literal["measured"] = "measured"


_MEASURED = TypeAdapter(Measured)
_PASSES = TypeAdapter(tuple[Pass, ...])
_BESIDE = {"blocks", "say"}


def write_measurement(directory: Path, measurement: Measurement) -> None:
    """Append what `read_measurements` needs to the events of the run."""
    kept = {one.name: getattr(measurement, one.name) for one in fields(Measured) if one.name not in _BESIDE}
    event = Measured(**kept, blocks=tuple(Silenced(b.kind, b.before, b.after) for b in measurement.blocks))
    log = EventLog(directory / EVENTS_NAME)
    log.write("parent", _MEASURED.dump_json(event))
    log.close()


def read_measurements(directory: Path, indexes: Sequence[int]) -> tuple[Measurement, ...]:
    """The runs of those `indexes` of a stored experiment, from their events and traces.

    A folder of version 0.8 holds the files of one run themselves, and its cycles become runs. ResultError
    where a file is missing, cut short or of a schema that this version can't read.
    """
    runs = directory / RUNS
    if not runs.is_dir():
        return tuple(_of_folder(directory))
    return tuple(one for index in indexes for one in _of_folder(runs / str(index)))


def read_unsaved(directory: Path) -> tuple[tuple[Measurement, ...], tuple[FailedRun, ...]]:
    """What a folder without a result holds: its whole runs and those that did not end, or where none is whole
    what can be read of the others; a run's own folder gives that run. ResultError where that is nothing.
    """
    if is_run(directory):
        if directory.suffix == PART and is_live(directory.absolute().parents[1]):
            raise ResultError(f"{directory} belongs to a run that goes on", hint="wait until it has ended")
        return tuple(_of_folder(directory) if directory.suffix != PART else [_of_part(directory)]), ()
    if is_live(directory):
        raise ResultError(f"the runs in {directory} go on", hint="wait until they have ended")
    if whole := whole_runs(directory):
        lost = [int(one.stem) for one in parts(directory)]
        failed = [FailedRun(number, "its files are not whole", "interrupted") for number in lost]
        return read_measurements(directory, whole), tuple(failed)
    if found := tuple(_of_part(one) for one in parts(directory) if is_readable(one)):
        return found, ()
    raise ResultError(f"no run in {directory} completed a block of passes", hint="measure again")


def is_readable(part: Path) -> bool:
    """Whether a run that did not end left at least one block of passes."""
    try:
        _of_part(part)
    except ResultError:
        return False
    return True


def _of_part(directory: Path) -> Measurement:
    """A run as far as its last whole block of passes."""
    path = directory / EVENTS_NAME
    messages = _messages(path, whole=False)
    last = max((at for at, one in enumerate(messages) if one.get("say") == "measured"), default=0)
    blocks = [one for one in messages[:last] if one.get("say") == "block_done"]
    if not any(one.get("kind") == "full" for one in blocks):
        raise ResultError(f"{path} holds no whole block of passes", hint="measure again")
    (seen,) = _of_messages(directory, [*blocks, messages[last]])
    said = MeasurementWarning.of(
        "interrupted", f"run {seen.index} was ended after {counted(len(seen.blocks), 'block')}"
    )
    return replace(seen, warnings=(*seen.warnings, said))


def _of_folder(directory: Path) -> Iterator[Measurement]:
    path = directory / EVENTS_NAME
    messages = _messages(path)
    if not messages:
        raise ResultError(f"{path} is empty", hint="take it from a copy of the run's folder")
    return _of_messages(directory, messages)


def _of_messages(directory: Path, messages: Sequence[dict[str, Any]]) -> Iterator[Measurement]:
    path = directory / EVENTS_NAME
    try:
        cycles, last = _cycles(messages[-1])
        last |= {"architecture": from_stored(last["architecture"])}
        event = _MEASURED.validate_python(last, context={"stored": True})
        done = [_PASSES.validate_python(found) for found in _walked(messages)]
    except (ValueError, KeyError, TypeError) as error:
        raise ResultError(f"{path} does not end with what was measured", hint="it was cut short") from error
    kept = {one.name: getattr(event, one.name) for one in fields(event) if one.name not in _BESIDE}
    # One that did not end, or found no room for the smaller file, left the stream.
    stream = directory / STREAM_NAME
    trace = read_trace(stream if stream.exists() else directory / PARQUET_NAME)
    if cycles is None:
        _same_count(len(done), len(event.blocks), "blocks", path)
        both = zip(event.blocks, done, strict=True)
        blocks = [Block(one.kind, one.before, passes, one.after) for one, passes in both]
        yield Measurement(**kept, blocks=blocks, trace=trace)
        return
    _same_count(len(done), len(cycles), "passes", path)
    for number, cycle in enumerate(dict.fromkeys(cycles), start=1):
        mine = [Block("full", None, one, None) for one, of in zip(done, cycles, strict=True) if of == cycle]
        yield Measurement(**kept | {"index": number}, blocks=mine, trace=trace)


def _cycles(last: dict[str, Any]) -> tuple[list[int] | None, dict[str, Any]]:
    """The cycle of each pass in an event of version 0.8, and the event in today's form."""
    if "cycles" not in last:
        return None, last
    new = {key: value for key, value in last.items() if key != "cycles"}
    return list(last["cycles"]), new | {"config": config_1_to_2(last["config"]), "blocks": ()}


def _walked(messages: Sequence[Mapping[str, Any]]) -> Iterator[object]:
    """The passes of each block, or each pass alone in events of version 0.8."""
    for message in messages:
        if message.get("say") == "block_done":
            yield message["passes"]
        elif message.get("say") == "pass_done":
            one = dict(message["result"])
            yield [{key: value for key, value in one.items() if key != "cycle"}]


def _same_count(found: int, due: int, what: str, path: Path) -> None:
    if found != due:
        raise ResultError(f"{path} holds {found} {what}, and {due} were measured")


def _messages(path: Path, *, whole: bool = True) -> list[dict[str, Any]]:
    """All of them; of a run that did not end without the last line where that was cut short."""
    try:
        text = path.read_text(encoding="utf-8")
        lines = (text if whole else text[: text.rfind("\n") + 1]).splitlines()
    except FileNotFoundError as error:
        raise ResultError(f"there are no events at {path}", hint="name the folder of a saved run") from error
    except (OSError, ValueError) as error:
        raise ResultError(f"{path} is damaged: {error}") from error
    messages = []
    for number, line in enumerate(lines, start=1):
        try:
            messages.append(dict(json.loads(line)["message"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ResultError(f"{path} is damaged in line {number}: {error}") from error
    return messages
