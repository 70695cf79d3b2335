"""The same question asked of whole experiments: simulated boards in virtual time, and all of llem's code."""

from __future__ import annotations

import gc
import random
from functools import partial
from multiprocessing import get_context
from statistics import fmean

from benchmarks.virtual_run import VirtualRuns, virtual_experiment
from llenergymeasure.analysis.compare import compare
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.results.models import ExperimentResult

ACTIVE_W, BETWEEN, WITHIN, REPEATS = 400.0, 0.015, 0.002, 3


def print_pairs(count: int) -> None:
    """A table of how many pairs were called different, by change of power."""
    print(f"\n{count} pairs of whole experiments, {REPEATS} runs each, {BETWEEN:.1%} between runs")
    print("\n| change of power | called different |\n|---|---|")
    # A run collects garbage before each pass; what was imported need not be looked at every time.
    with get_context("spawn").Pool(initializer=gc.freeze) as workers:
        for change in (0.0, 0.05):
            found = workers.map(partial(called_different, change=change), range(count), chunksize=1)
            print(f"| {change:.0%} | {fmean(found):.1%} |", flush=True)


def called_different(seed: int, *, change: float) -> bool:
    draw = random.Random(seed)
    a, b = (experiment(ACTIVE_W * factor, draw.randrange(2**32)) for factor in (1.0, 1 + change))
    # The seed that makes the scatter makes the prompts too, which are equally long.
    energy = compare(a, b, allow=["workload"]).ratios[0]
    return energy.verdict in ("higher", "lower")


def experiment(active_w: float, seed: int) -> ExperimentResult:
    """`quick` with short passes."""
    config = ExperimentConfig.model_validate(
        {
            "model": "any",
            "backend": "simulated",
            "n": 4,
            "random_seed": seed,
            "dataset": {"name": "synthetic", "prompt_tokens": 16},
            "max_output_tokens": 64,
            "repeats": {"count": REPEATS},
            "passes": {"seconds": 1.5, "count": 3, "prefill": 0},
            "baseline": {"seconds": 1.0},
            "warmup": {"max_seconds": 1.0},
            "simulated": {
                "scatter": WITHIN,
                "run_scatter": BETWEEN,
                "batch_size": 4,
                "active_w": active_w,
            },
        }
    )
    return virtual_experiment(config, VirtualRuns(tick_s=0.01))
