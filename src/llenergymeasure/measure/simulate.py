"""The simulated device in the parent: its power follows the phases of the run."""

from __future__ import annotations

import random

from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.measure.harness import Phase
from llenergymeasure.records import Clock
from llenergymeasure.simulation.device import SimulatedNvml

# More than any block has passes; what is left of them is cut off at its end.
_LEVELS = 512


class FollowedDevice:
    """An NVML device whose watts are set by what the run does.

    A run's own cost is drawn when it loads, with `run_scatter`; in a block the level changes after every
    `passes.seconds`, with `scatter`.
    """

    def __init__(self, config: ExperimentConfig, *, clock: Clock, run: int = 1) -> None:
        self._config, self._clock = config, clock
        # each run draws anew, as another process does
        self._random = random.Random(f"{config.random_seed} {run}")  # noqa: S311  a simulation, not a secret
        settings = config.simulated
        self._active_w = settings.active_w * max(0.0, self._random.gauss(1.0, settings.run_scatter))
        self.nvml = SimulatedNvml(clock, idle_w=settings.idle_w, counter_step_s=settings.counter_step_s)

    def enter(self, phase: Phase) -> None:
        settings, power = self._config.simulated, self.nvml.gpus[0].power
        now_ns = self._clock.monotonic_ns()
        power.cut(now_ns)
        if phase in {"full", "prefill"}:
            for number in range(_LEVELS):
                drawn = max(0.0, self._random.gauss(1.0, settings.scatter))
                power.set(now_ns + round(number * self._config.passes.seconds * 1e9), self._active_w * drawn)
            return
        levels = {"cooling": settings.idle_w, "bare": settings.idle_w, "warm_up": self._active_w}
        power.set(now_ns, levels.get(phase, settings.context_w))
