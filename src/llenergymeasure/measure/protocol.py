"""The messages between parent and worker, one JSON object a line, and the log of all that passed."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import ConfigDict, Field, TypeAdapter

from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.records import (
    BlockKind,
    DatasetFacts,
    Pass,
    RequestCounts,
    RunFailure,
    SessionFacts,
    WarmUp,
    Window,
)

PROTOCOL_VERSION = 4


@dataclass(frozen=True, slots=True)
class Open:
    config: ExperimentConfig
    do: Literal["open"] = "open"


@dataclass(frozen=True, slots=True)
class StartWarmUp:
    do: Literal["warm_up"] = "warm_up"


@dataclass(frozen=True, slots=True)
class StartBlock:
    """Run `passes` passes without a pause, once `go` has come."""

    number: int
    kind: BlockKind
    passes: int
    do: Literal["block"] = "block"


@dataclass(frozen=True, slots=True)
class Go:
    """The silence before the block is over: the first pass may start."""

    do: Literal["go"] = "go"


@dataclass(frozen=True, slots=True)
class Report:
    """The silence after the block is over: what was measured may be sent."""

    do: Literal["report"] = "report"


@dataclass(frozen=True, slots=True)
class Close:
    do: Literal["close"] = "close"


@dataclass(frozen=True, slots=True)
class Cancel:
    do: Literal["cancel"] = "cancel"


@dataclass(frozen=True, slots=True)
class Hello:
    """First message of a worker; `t_ns` must lie between two readings of the parent's clock."""

    version: int
    pid: int
    t_ns: int
    say: Literal["hello"] = "hello"


@dataclass(frozen=True, slots=True)
class Ready:
    """The model is loaded. `cut` prompts were longer than max_input_tokens; `output_lengths` are what each
    request wants, by index.
    """

    load: Window
    facts: SessionFacts
    cut: int
    workload_hash: str
    dataset: DatasetFacts | None = None
    output_lengths: tuple[int, ...] | None = None
    say: Literal["ready"] = "ready"


@dataclass(frozen=True, slots=True)
class Warm:
    warm_up: WarmUp
    say: Literal["warm"] = "warm"


@dataclass(frozen=True, slots=True)
class WarmUpBatch:
    """Batch `number` of the warm-up begins; the one before it took `last_s`. Of a running load `note` says
    what it does instead.
    """

    number: int
    last_s: float | None
    note: str | None = None
    say: Literal["warm_up_batch"] = "warm_up_batch"


@dataclass(frozen=True, slots=True)
class Edge:
    """About to start block `number`: silent until `go`."""

    number: int
    say: Literal["edge"] = "edge"


@dataclass(frozen=True, slots=True)
class NextPass:
    """A pass of block `number` has ended, and the next one begins at once."""

    number: int
    say: Literal["next_pass"] = "next_pass"


@dataclass(frozen=True, slots=True)
class Rest:
    """The last pass of block `number` has ended: silent until `report`."""

    number: int
    say: Literal["rest"] = "rest"


@dataclass(frozen=True, slots=True)
class BlockDone:
    number: int
    kind: BlockKind
    passes: tuple[Pass, ...]
    say: Literal["block_done"] = "block_done"


@dataclass(frozen=True, slots=True)
class Closed:
    """The model is freed; `facts` as they were just before, with the peak memory of the passes."""

    facts: SessionFacts
    say: Literal["closed"] = "closed"


@dataclass(frozen=True, slots=True)
class Failed:
    """`requests` is what became of all that were sent to a server."""

    failure: RunFailure
    requests: RequestCounts | None = None
    say: Literal["failed"] = "failed"


Command: TypeAlias = Annotated[
    Open | StartWarmUp | StartBlock | Go | Report | Close | Cancel, Field(discriminator="do")
]
Message: TypeAlias = Annotated[
    Hello | Ready | WarmUpBatch | Warm | Edge | NextPass | Rest | BlockDone | Closed | Failed,
    Field(discriminator="say"),
]

# Built once the first message goes: whoever only imports this module has no use for them.
_LATER = ConfigDict(defer_build=True)
COMMANDS: TypeAdapter[Command] = TypeAdapter(Command, config=_LATER)
MESSAGES: TypeAdapter[Message] = TypeAdapter(Message, config=_LATER)


def encode_command(command: Command) -> bytes:
    return COMMANDS.dump_json(command) + b"\n"


def encode_message(message: Message) -> bytes:
    return MESSAGES.dump_json(message) + b"\n"


class EventLog:
    """Every message as it passed, so that a result can be computed again: one JSON object a line, with
    `t_ns` when the parent sent or received it, `from`, and the `message`.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    def write(self, sender: Literal["parent", "worker"], line: bytes) -> None:
        head = json.dumps({"t_ns": time.monotonic_ns(), "from": sender})
        left = head[:-1].encode() + b', "message": ' + line.strip() + b"}\n"
        while left:
            # A disk that fills takes the first part of a line, and refuses the rest.
            left = left[self._file.write(left) :]

    def close(self) -> None:
        self._file.close()
