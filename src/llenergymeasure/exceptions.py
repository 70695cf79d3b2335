"""What can go wrong, and which exit code it gets.

LLEMError                1   anything llem knows how to explain
├── ConfigError          2   what the user asked for makes no sense
├── PreFlightError       1   it makes sense, but this machine can't do it; nothing was loaded
├── BackendError         1   the engine refused or broke
├── EnergyError          1   a meter that was asked for can't be used
├── ResultError          1   a result can't be read or written
└── ExperimentError      1   a run ended without a result; `failure` says where and why
    ├── ExperimentTimeout    124
    └── ExperimentInterrupted 130
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

Stage: TypeAlias = Literal["preflight", "load", "warmup", "measure", "save"]
FailureKind: TypeAlias = Literal["oom", "crash", "timeout", "interrupted", "config", "error"]


@dataclass(frozen=True, slots=True)
class RunFailure:
    """Why a run has no result."""

    run_id: str
    stage: Stage
    kind: FailureKind
    message: str
    traceback: str | None = None
    log_tail: str | None = None
    hint: str | None = None


class LLEMError(Exception):
    """The root of the tree. `hint` is the way out, shown on a line of its own."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(LLEMError):
    exit_code = 2


class PreFlightError(LLEMError):
    """Everything that keeps this machine from running the experiment, in one list."""


class BackendError(LLEMError):
    pass


class EnergyError(LLEMError):
    pass


class ResultError(LLEMError):
    """`result` is what was measured, where it is the saving that failed."""

    def __init__(self, message: str, *, hint: str | None = None, result: object = None) -> None:
        super().__init__(message, hint=hint)
        self.result = result


class ExperimentError(LLEMError):
    """A run that ended without a result."""

    def __init__(self, message: str, *, hint: str | None = None, failure: RunFailure | None = None) -> None:
        super().__init__(message, hint=hint)
        self.failure = failure


class ExperimentTimeout(ExperimentError):  # noqa: N818  the name says what happened, as in subprocess
    exit_code = 124


class ExperimentInterrupted(ExperimentError):  # noqa: N818  the same
    exit_code = 130
