"""The same question asked of whole runs: simulated boards in virtual time, llem's harness and analysis."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator
from functools import partial
from multiprocessing import get_context
from statistics import fmean

from benchmarks.virtual_run import virtual_run
from llenergymeasure.analysis.compare import ENERGY, Figure, judge
from llenergymeasure.backends.simulated import SimulatedBackend
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.measure.simulate import FollowedDevice
from llenergymeasure.records import Estimate
from llenergymeasure.simulation.clock import VirtualClock

ACTIVE_W, BETWEEN_RUNS, WITHIN_RUNS, REPEATS = 400.0, 0.015, 0.015, 3


def print_pairs(count: int) -> None:
    """A table of how many pairs were called different, by change of power."""
    print(f"\n{count} pairs of {REPEATS} whole runs each, {BETWEEN_RUNS:.1%} between runs")
    print("\n| change of power | called different |\n|---|---|")
    # A run collects garbage before each pass; what was imported need not be looked at every time.
    with get_context("spawn").Pool(initializer=gc.freeze) as workers:
        for change in (0.0, 0.03, 0.05):
            found = workers.map(partial(_called_different, change=change), range(count), chunksize=1)
            print(f"| {change:.0%} | {fmean(found):.1%} |", flush=True)


def _called_different(seed: int, *, change: float) -> bool:
    draw = random.Random(seed)
    a, b = (_side(ACTIVE_W * factor, draw) for factor in (1.0, 1 + change))
    return judge(ENERGY, "", a, b, cancels=True).verdict in ("higher", "lower")


def _side(watts: float, draw: random.Random) -> Figure:
    costs = tuple(_costs(watts, draw))
    return Figure(Estimate(fmean(costs), "J/token", reason="each run has its own"), costs, len(costs))


def _costs(watts: float, draw: random.Random) -> Iterator[float]:
    """Joules per output token of each run, a process of its own on the same board."""
    for _ in range(REPEATS):
        config = _config(watts * draw.gauss(1.0, BETWEEN_RUNS), seed=draw.randrange(2**32))
        clock = VirtualClock()
        device = FollowedDevice(config, clock=clock)
        found = virtual_run(
            config,
            clock,
            device.nvml,
            load=partial(SimulatedBackend, clock),
            enter=device.enter,
            tick_s=0.01,
        )
        assert found.per_output_token.value is not None
        yield found.per_output_token.value


def _config(active_w: float, *, seed: int) -> ExperimentConfig:
    """`quick` with short passes."""
    return ExperimentConfig.model_validate(
        {
            "model": "any",
            "backend": "simulated",
            "n": 4,
            "random_seed": seed,
            "dataset": {"name": "synthetic", "prompt_tokens": 16},
            "max_output_tokens": 64,
            "repeats": {"count": 1},
            "passes": {"seconds": 1.5, "count": 3, "prefill": 0},
            "baseline": {"seconds": 1.0},
            "warmup": {"max_seconds": 1.0},
            "simulated": {"scatter": WITHIN_RUNS, "batch_size": 4, "active_w": active_w},
        }
    )
