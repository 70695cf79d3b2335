"""How long a run takes when nothing else is said: what each preset changes in the defaults.

`batch_size` is that of the engine in force, where it has one.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pydantic import JsonValue

PRESET_VALUES: Mapping[str, Mapping[str, JsonValue]] = MappingProxyType(
    {
        "smoke": {
            "passes.seconds": 1.0,
            "repeats.count": 1,
            "passes.budget.seconds": 10.0,
            "baseline.seconds": 1.0,
            "warmup.window": 3,
            "warmup.min_batches": 1,
            "warmup.max_seconds": 2.0,
        },
        "quick": {},
        "rigorous": {
            "repeats.count": 5,
            "repeats.target": 0.02,
            "passes.seconds": 10.0,
            "passes.count": 2,
            "passes.budget.seconds": 1200.0,
            "baseline.seconds": 10.0,
            "baseline.cooling_seconds": 120.0,
            "warmup.max_seconds": 120.0,
        },
        # Text generation of AI Energy Score (optimum-benchmark, energy_star/text_generation.yaml): 1,000
        # prompts one at a time, 10 tokens each, bf16. Its prompts are used where they are on this disk.
        "ai-energy-score": {
            "dataset.name": "ai-energy-score",
            "n": 1000,
            "precision": "bf16",
            "max_output_tokens": 10,
            "output_length": "exact",
            "batch_size": 1,
            "passes.budget.seconds": 7200.0,
            "timeout_s": 14400.0,
        },
        # MLPerf Inference's power rules ask for at least 600 s of load; three parts of it give an interval.
        "mlperf-power": {
            "repeats.count": 1,
            "passes.seconds": 200.0,
            "passes.budget.seconds": 7200.0,
            "baseline.seconds": 60.0,
            "warmup.max_seconds": 120.0,
            "timeout_s": 14400.0,
        },
    }
)
