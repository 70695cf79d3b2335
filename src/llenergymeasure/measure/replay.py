"""How does a stored run become a measurement again, so that its numbers can be computed anew?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.energy.recording.trace import PARQUET_NAME, read_trace
from llenergymeasure.exceptions import ResultError
from llenergymeasure.measure.protocol import EventLog
from llenergymeasure.measure.scratch import EVENTS_NAME
from llenergymeasure.records import (
    Architecture,
    Block,
    BlockKind,
    Environment,
    Idle,
    Measurement,
    MeasurementWarning,
    Overhead,
    Pass,
    SessionFacts,
    Start,
    WarmUp,
    Window,
)
from llenergymeasure.results.store import RUNS
from llenergymeasure.results.upgrade import config_1_to_2


@dataclass(frozen=True, slots=True)
class Silenced:
    """A block without what its passes gave, which the worker's own event holds."""

    kind: BlockKind
    before: Window | None
    after: Window | None


@dataclass(frozen=True, slots=True)
class Measured:
    """The parent's last event: all of a measurement but the trace and the passes, which lie beside it."""

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
    spinning_cores: float | None = None
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


def _of_folder(directory: Path) -> Iterator[Measurement]:
    path = directory / EVENTS_NAME
    messages = _messages(path)
    if not messages:
        raise ResultError(f"{path} is empty", hint="take it from a copy of the run's folder")
    try:
        cycles, last = _cycles(messages[-1])
        event = _MEASURED.validate_python(last, context={"stored": True})
        done = [_PASSES.validate_python(found) for found in _walked(messages)]
    except (ValueError, KeyError, TypeError) as error:
        raise ResultError(f"{path} does not end with what was measured", hint="it was cut short") from error
    kept = {one.name: getattr(event, one.name) for one in fields(event) if one.name not in _BESIDE}
    trace = read_trace(directory / PARQUET_NAME)
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


def _messages(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
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
