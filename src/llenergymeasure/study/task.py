"""One run of a study: what does it need to know, and what became of it?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import (
    ConfigError,
    ExperimentError,
    ExperimentTimeout,
    LLEMError,
    PreFlightError,
)
from llenergymeasure.measure.budget import RunCost
from llenergymeasure.records import FailureKind


@dataclass(frozen=True, slots=True)
class Task:
    """A run: its experiment and the folder of that, its number of how many, and the budget that is left.

    `by_url` is the configuration in force where a server stands for several runs.
    """

    experiment: str
    folder: Path
    config: ExperimentConfig
    origins: Mapping[str, str]
    number: int
    runs: int
    passes: int
    seconds: float
    by_url: ExperimentConfig | None = None


@dataclass(frozen=True, slots=True)
class Ending:
    """`cost` of a run that was measured; else what kind of failure it was, in words, and the way out.

    `remarks` are what a user should read of it.
    """

    cost: RunCost | None = None
    seconds: float = 0.0
    kind: FailureKind | None = None
    message: str = ""
    hint: str | None = None
    remarks: tuple[str, ...] = ()


def ending_of(error: LLEMError) -> Ending:
    """How a run failed, in the terms of the policy of retries."""
    kind: FailureKind = "error"
    if isinstance(error, ExperimentTimeout):
        kind = "timeout"
    elif isinstance(error, ExperimentError) and error.failure is not None:
        kind = error.failure.kind
    elif isinstance(error, ConfigError | PreFlightError):
        kind = "config"
    return Ending(kind=kind, message=error.message, hint=error.hint)


_TASK = TypeAdapter(Task)
_ENDING = TypeAdapter(Ending)


def write_task(path: Path, task: Task) -> None:
    # An earlier process may have ended an attempt of the same number, and the study before it was on record.
    _ending(path).unlink(missing_ok=True)
    path.write_bytes(_TASK.dump_json(task))


def read_task(path: Path) -> Task:
    return _TASK.validate_json(path.read_bytes(), context={"stored": True})


def write_ending(task: Path, ending: Ending) -> None:
    """Beside the task, whole or not at all."""
    path = _ending(task)
    aside = path.with_name(f".{path.name}")
    aside.write_bytes(_ENDING.dump_json(ending))
    aside.replace(path)


def read_ending(task: Path) -> Ending | None:
    """None where the process of the run died before it wrote one."""
    try:
        return _ENDING.validate_json(_ending(task).read_bytes())
    except (OSError, ValidationError):
        return None


def remove(task: Path) -> None:
    for path in (task, _ending(task), log_of(task)):
        path.unlink(missing_ok=True)


def log_of(task: Path) -> Path:
    """What the process of a run printed."""
    return task.with_suffix(".log")


def _ending(task: Path) -> Path:
    return task.with_suffix(".ending.json")
