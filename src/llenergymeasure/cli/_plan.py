"""What would a run do, step by step, and how long would it take?"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from dataclasses import asdict

from pydantic import JsonValue

from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.measure.forecast import Forecast, StepName, find_pace, forecast_at
from llenergymeasure.records.figures import about, duration
from llenergymeasure.results.history import earlier_results
from llenergymeasure.results.summary import Row

NAMES: Mapping[StepName, str] = {
    "cooling": "cooling",
    "bare": "idle, bare",
    "load": "load",
    "loaded": "idle, loaded",
    "warm_up": "warm-up",
    "full": "passes",
    "prefill": "prefill passes",
    "after": "idle, after",
}


def forecast_here(config: ExperimentConfig, *, gpu: bool) -> Forecast:
    """From what this machine did before, where the output directory has it."""
    return forecast_at(config, find_pace(config, earlier_results(config, socket.gethostname()), gpu=gpu))


def plan_rows(config: ExperimentConfig, plan: Forecast) -> Iterator[Row]:
    """The steps of one run, how often they are repeated, and what that comes to."""
    for step in plan.steps:
        most = f"{about(step.most_s)} at most" if step.most_s > step.seconds else ""
        yield Row(
            NAMES[step.name], f"about {about(step.seconds)}", "; ".join(filter(None, (most, step.note)))
        )
    asked, budget = config.repeats, config.passes.budget
    runs = f"{plan.runs} run{'' if plan.runs == 1 else 's'}"
    note = "each in a fresh process" if plan.runs > 1 else "a single process"
    if plan.runs < asked.count:
        limits = f"{budget.passes} passes, {duration(budget.seconds)}"
        note += f"; the budget ({limits}) is too small for {asked.count} by this forecast"
    if plan.most_runs > plan.runs and asked.target is not None:
        note += f"; up to {plan.most_runs} for ± {asked.target * 100:.3g} %"
    yield Row("repeats", runs, note)
    ends = [f"a run times out after {duration(config.timeout_s)} (timeout_s)"]
    if plan.most_s > plan.seconds:
        ends.insert(0, f"{about(plan.most_s)} at most")
    yield Row("expected", f"about {about(plan.seconds)}", "; ".join(ends), strong=True)
    yield Row("", "", f"Expected times are {plan.source}")


def as_json(config: ExperimentConfig, plan: Forecast) -> dict[str, JsonValue]:
    return {
        "steps": [asdict(step) for step in plan.steps],
        "runs": plan.runs,
        "most_runs": plan.most_runs,
        "expected_s": [plan.seconds, max(plan.seconds, plan.most_s)],
        "source": plan.source,
        "timeout_s": config.timeout_s,
    }
