"""How does a stored run become a measurement again, so that its numbers can be computed anew?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.energy.trace import PARQUET_NAME, read_trace
from llenergymeasure.exceptions import ResultError
from llenergymeasure.measure.events import EVENTS_NAME, EventLog
from llenergymeasure.measure.protocol import MESSAGES, PassDone
from llenergymeasure.records import (
    Architecture,
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


@dataclass(frozen=True, slots=True)
class Measured:
    """The parent's last event: all of a measurement but the trace and the passes, which lie beside it.

    `cycles` has the cycle of each pass, in order.
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
    cycles: tuple[int, ...]
    cut_prompts: int | None = None
    say: Literal["measured"] = "measured"


_MEASURED = TypeAdapter(Measured)
_BESIDE = {"cycles", "say"}


def write_measurement(directory: Path, measurement: Measurement) -> None:
    """Append what `read_measurement` needs to the events of the run."""
    kept = {one.name: getattr(measurement, one.name) for one in fields(Measured) if one.name not in _BESIDE}
    event = Measured(**kept, cycles=tuple(one.cycle for one in measurement.passes))
    log = EventLog(directory / EVENTS_NAME)
    log.write("parent", _MEASURED.dump_json(event))
    log.close()


def read_measurement(directory: Path) -> Measurement:
    """The measurement of a stored run, from its events and its trace.

    ResultError where a file is missing, cut short or of a schema that this version can't read.
    """
    path = directory / EVENTS_NAME
    messages = _messages(path)
    if not messages:
        raise ResultError(f"{path} is empty", hint="take it from a copy of the run's folder")
    try:
        event = _MEASURED.validate_python(messages[-1], context={"stored": True})
        done = [MESSAGES.validate_python(one) for one in messages if one.get("say") == "pass_done"]
    except ValidationError as error:
        raise ResultError(f"{path} does not end with what was measured", hint="it was cut short") from error
    passes = _numbered([one.result for one in done if isinstance(one, PassDone)], event.cycles, path)
    kept = {one.name: getattr(event, one.name) for one in fields(event) if one.name not in _BESIDE}
    return Measurement(**kept, passes=passes, trace=read_trace(directory / PARQUET_NAME))


def _messages(path: Path) -> list[dict[str, object]]:
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


def _numbered(passes: Sequence[Pass], cycles: Sequence[int], path: Path) -> tuple[Pass, ...]:
    if len(passes) != len(cycles):
        raise ResultError(f"{path} holds {len(passes)} passes, and {len(cycles)} were measured")
    return tuple(replace(one, cycle=cycle) for one, cycle in zip(passes, cycles, strict=True))
