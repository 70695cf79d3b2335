"""What did somebody mark in a recording of their own code or command?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from llenergymeasure.records.machine import Environment, Overhead, Start
from llenergymeasure.records.measuring import Trace
from llenergymeasure.records.telling import MeasurementWarning
from llenergymeasure.records.windows import Window

RecordingKind: TypeAlias = Literal["windows", "command"]
BoundaryName: TypeAlias = Literal["auto", "gpu", "gpu+cpu+dram", "host", "wall"]


@dataclass(frozen=True, slots=True)
class MeterChoice:
    """Which meter and which GPUs, whether a modelled figure will do, and what it takes in; as `energy` in a
    configuration.
    """

    meter: str = "auto"
    gpus: str | tuple[str, ...] = "auto"
    require_measured: bool = False
    boundary: BoundaryName = "auto"


@dataclass(frozen=True, slots=True)
class Marked:
    """One window of a name. `silences` are those before and after a block.

    `error` names the exception that left it. The last three are those of a command that ran in it. Where the
    kernel does not know its peak memory, `peak_bytes` is what was seen of it now and then, and
    `peak_below_bytes` what it was below.
    """

    name: str
    window: Window
    silences: tuple[Window, Window] | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    error: str | None = None
    peak_bytes: int | None = None
    peak_below_bytes: int | None = None
    exit_code: int | None = None


@dataclass(frozen=True, slots=True)
class Recording:
    """What was recorded beside code that llem does not run itself: all that `analysis` needs of it.

    `program` is the command line of what was measured. `whole` is the time that was recorded, `left_open`
    how many windows of a name had no end, `gpu_uuids` the GPUs that the program used.
    """

    experiment_id: str
    kind: RecordingKind
    program: tuple[str, ...]
    energy: MeterChoice
    started: Start
    environment: Environment
    whole: Window
    marked: Sequence[Marked]
    trace: Trace
    overhead: Overhead
    gpu_uuids: tuple[str, ...] = ()
    left_open: Mapping[str, int] | None = None
    warnings: tuple[MeasurementWarning, ...] = ()
    notes: tuple[str, ...] = ()
