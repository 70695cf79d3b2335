"""Which facts make a result?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llenergymeasure.records.machine import Environment, Overhead, Start
from llenergymeasure.records.measuring import Trace
from llenergymeasure.records.running import Architecture, Idle, Pass, SessionFacts, WarmUp
from llenergymeasure.records.telling import MeasurementWarning
from llenergymeasure.records.windows import Window

if TYPE_CHECKING:
    from llenergymeasure.config.models import ExperimentConfig


@dataclass(frozen=True, slots=True)
class Measurement:
    """All that `analysis` needs to make a result, and all that a later version needs to make it again."""

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
    passes: Sequence[Pass]
    trace: Trace
    overhead: Overhead
    warnings: tuple[MeasurementWarning, ...] = ()
    simulated: bool = False
    notes: tuple[str, ...] = field(default=())
    workload_hash: str | None = None
    cut_prompts: int | None = None
