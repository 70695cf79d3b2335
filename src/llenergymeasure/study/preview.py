"""What would a study run, in how much memory, for how long and for how many joules?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llenergymeasure.exceptions import LLEMError
from llenergymeasure.measure.forecast import find_pace, forecast_at
from llenergymeasure.models.vram import estimate_vram
from llenergymeasure.results import ExperimentResult
from llenergymeasure.study.plan import Experiment, Plan


@dataclass(frozen=True, slots=True)
class Preview:
    """One experiment: bytes of a run, seconds and joules of all its runs; None with the reason in `why`."""

    experiment: Experiment
    runs: int
    memory_bytes: int | None
    seconds: float
    joules: float | None
    why: str | None


def preview(plan: Plan, history: Sequence[ExperimentResult], *, gpu: bool) -> list[Preview]:
    """From earlier results of this machine, newest first, where they are of the same model."""
    memory: dict[tuple[object, ...], tuple[int | None, str | None]] = {}
    found = []
    for one in plan.experiments:
        config = one.config
        alike = [
            result
            for result in history
            if (result.config.model, result.config.backend) == (config.model, config.backend)
        ]
        forecast = forecast_at(config, find_pace(config, alike, gpu=gpu))
        key = (
            config.model,
            config.backend,
            config.precision,
            config.batch_size,
            config.max_tokens,
            config.max_input_tokens,
            repr(config.engine),
        )
        if key not in memory:
            try:
                estimate = estimate_vram(config)
                memory[key] = estimate.total_bytes, estimate.reason
            except LLEMError as error:
                memory[key] = None, error.message
        size, why = memory[key]
        joules = _joules(one, alike, forecast.runs)
        found.append(Preview(one, forecast.runs, size, forecast.seconds, joules, why))
    return found


def _joules(one: Experiment, alike: Sequence[ExperimentResult], runs: int) -> float | None:
    """By the mean power of the newest result of the model, over the passes of all runs."""
    for result in alike:
        total = result.energy.total.value
        if total is not None and result.duration_s > 0:
            passes = one.config.passes
            return total / result.duration_s * runs * passes.count * passes.seconds
    return None
