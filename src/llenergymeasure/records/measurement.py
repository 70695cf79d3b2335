"""Which facts make a result?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llenergymeasure.records.architecture import Architecture
from llenergymeasure.records.machine import Environment, Overhead, Start
from llenergymeasure.records.measuring import Trace
from llenergymeasure.records.running import Block, Idle, Pass, SessionFacts, WarmUp
from llenergymeasure.records.telling import MeasurementWarning
from llenergymeasure.records.windows import Window

if TYPE_CHECKING:
    from llenergymeasure.config.models import ExperimentConfig


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was seen of one run: all that `analysis` needs of it, now and in a later version.

    `index` numbers the runs of an experiment from 1. `spinning_cores` is what its processes used of the
    processors while the loaded model was left alone.
    """

    experiment_id: str
    index: int
    config: ExperimentConfig
    origins: Mapping[str, str]
    started: Start
    environment: Environment
    facts: SessionFacts
    architecture: Architecture | None
    idle: Idle
    load: Window
    warm_up: WarmUp
    blocks: Sequence[Block]
    trace: Trace
    overhead: Overhead
    warnings: tuple[MeasurementWarning, ...] = ()
    simulated: bool = False
    notes: tuple[str, ...] = field(default=())
    workload_hash: str | None = None
    cut_prompts: int | None = None
    spinning_cores: float | None = None

    @property
    def passes(self) -> tuple[Pass, ...]:
        """The measured passes: those of the full blocks."""
        return tuple(one for block in self.blocks if block.kind == "full" for one in block.passes)
