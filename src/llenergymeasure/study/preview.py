"""What would a study run, in how much memory, for how long and for how many joules?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llenergymeasure.config.study import most_probes
from llenergymeasure.exceptions import LLEMError
from llenergymeasure.measure.forecast import find_pace, forecast_at
from llenergymeasure.models.vram import estimate_vram
from llenergymeasure.results import ExperimentResult
from llenergymeasure.study.plan import Experiment, Plan


@dataclass(frozen=True, slots=True)
class Preview:
    """One experiment: bytes of a run, seconds and joules of all its runs; None with the reason in `why`.

    A search has its lowest and its highest value; `tried` is the part of its experiments that will run at
    most for each of the two.
    """

    experiment: Experiment
    runs: int
    memory_bytes: int | None
    seconds: float
    joules: float | None
    why: str | None
    tried: float = 1.0


def preview(plan: Plan, history: Sequence[ExperimentResult], *, gpu: bool) -> list[Preview]:
    """From earlier results of this machine, newest first, where they are of the same model."""
    memory: dict[tuple[object, ...], tuple[int | None, str | None]] = {}
    found = []
    ends = {
        one.hash: most_probes(len(tried)) / 2
        for tried in plan.searches.values()
        for one in (tried[0], tried[-1])
    }
    for one in plan.experiments:
        if one.sought is not None and one.hash not in ends:
            continue
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
        part = ends.get(one.hash, 1.0)
        found.append(Preview(one, forecast.runs, size, forecast.seconds, joules, why, part))
    return found


def _joules(one: Experiment, alike: Sequence[ExperimentResult], runs: int) -> float | None:
    """By the mean power of the newest result of the model, over the passes of all runs."""
    for result in alike:
        total = result.energy.total.value
        if total is not None and result.duration_s > 0:
            passes = one.config.passes
            return total / result.duration_s * runs * passes.count * passes.seconds
    return None
