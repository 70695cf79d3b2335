"""One whole run in virtual time, with cycles as `rigorous` has them, and whether two of them differ."""

from __future__ import annotations

import random

from benchmarks.virtual_run import virtual_run
from llenergymeasure.analysis.compare import ratio
from llenergymeasure.backends.simulated import SimulatedBackend
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.measure.simulate import FollowedDevice
from llenergymeasure.records import Estimate
from llenergymeasure.simulation.clock import VirtualClock

ACTIVE_W = 400.0


def config(active_w: float, seed: int) -> ExperimentConfig:
    """`rigorous` with short passes: the time between them is what virtual time spends most on."""
    return ExperimentConfig.model_validate(
        {
            "model": "any",
            "backend": "simulated",
            "n": 4,
            "random_seed": seed,
            "dataset": {"name": "synthetic", "prompt_tokens": 16},
            "max_output_tokens": 64,
            "cycles": 5,
            "passes": {"seconds": 1.5, "minimum": 3, "target": 0.5},
            "baseline": {"seconds": 1.0},
            "warmup": {"max_seconds": 1.0},
            "simulated": {"scatter": 0.015, "batch_size": 4, "active_w": active_w},
        }
    )


def cost(active_w: float, seed: int) -> Estimate:
    """Joules per output token of one whole run."""
    asked, clock = config(active_w, seed), VirtualClock()
    device = FollowedDevice(asked, clock=clock)
    found = virtual_run(
        asked,
        clock,
        device.nvml,
        load=lambda: SimulatedBackend(clock),
        enter=device.enter,
        tick_s=0.01,
    )
    return found.per_output_token


def called_different(seed: int, *, change: float) -> bool:
    seeds = random.Random(seed)
    a = cost(ACTIVE_W, seeds.randrange(2**32))
    b = cost(ACTIVE_W * (1 + change), seeds.randrange(2**32))
    found = ratio(a, b, cancels=True)
    assert found.low is not None
    assert found.high is not None
    return not found.low <= 1 <= found.high
