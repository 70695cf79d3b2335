"""Which facts make a result?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llenergymeasure.config.engines import Traits
from llenergymeasure.records.architecture import Architecture
from llenergymeasure.records.dataset import DatasetFacts
from llenergymeasure.records.machine import Environment, Overhead, Start, Throttling
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
    processors while the loaded model was left alone, `throttling` what a CPU quota did in its passes (None
    without one), `unread` the domains that could not be read from the start, with the reasons.
    `output_lengths` are what each request wanted, by index.
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
    dataset: DatasetFacts | None = None
    output_lengths: tuple[int, ...] | None = None
    spinning_cores: float | None = None
    throttling: Throttling | None = None
    unread: Mapping[str, str] = field(default_factory=dict)
    traits: Traits | None = None

    @property
    def engine(self) -> Traits:
        """Of the engine as it ran, whether it is installed now or not; the first versions kept none."""
        return self.traits or self.config.engine

    @property
    def passes(self) -> tuple[Pass, ...]:
        """The measured passes: those of the full blocks."""
        return tuple(one for block in self.blocks if block.kind == "full" for one in block.passes)
