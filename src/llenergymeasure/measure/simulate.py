"""The simulated device in the parent: its power follows the phases of the run."""

from __future__ import annotations

import random

from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.measure.harness import Phase
from llenergymeasure.records import Clock
from llenergymeasure.simulation.device import SimulatedNvml


class FollowedDevice:
    """An NVML device whose watts are set by what the run does; a pass's scatter is drawn when it starts."""

    def __init__(self, config: ExperimentConfig, *, clock: Clock) -> None:
        self._settings = config.simulated
        self._random = random.Random(config.random_seed)  # noqa: S311  a simulation, not a secret
        self.nvml = SimulatedNvml(
            clock, idle_w=config.simulated.idle_w, counter_step_s=config.simulated.counter_step_s
        )

    def enter(self, phase: Phase) -> None:
        self.nvml.set_power(self._watts(phase))

    def _watts(self, phase: Phase) -> float:
        settings = self._settings
        if phase == "bare":
            return settings.idle_w
        if phase == "warm_up":
            return settings.active_w
        if phase == "pass":
            return settings.active_w * max(0.0, self._random.gauss(1.0, settings.scatter))
        return settings.context_w
