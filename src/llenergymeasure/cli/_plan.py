"""What would a run do, step by step, and how long would it take?"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from pydantic import JsonValue

from llenergymeasure.cli._format import duration
from llenergymeasure.config.models import ExperimentConfig


@dataclass(frozen=True, slots=True)
class Step:
    """One phase of a run and the least and most seconds that it is expected to take."""

    name: str
    low_s: float
    high_s: float
    note: str = ""


def steps(config: ExperimentConfig) -> tuple[Step, ...]:
    """The phases in order. Load is a guess; how long the model needs for a walk over all prompts, which is
    never cut short, is not known before it runs.
    """
    idle, passes, warmup = config.baseline.seconds, config.passes, config.warmup
    if config.backend == "simulated":
        load = Step("load", config.simulated.load_s, config.simulated.load_s)
    else:
        load = Step("load", 1.0, 60.0, "a guess: disk, network and the model's size decide")
    least = min(passes.minimum, passes.budget.passes)
    return (
        Step("idle, bare", idle, idle),
        load,
        Step("idle, loaded", idle, idle),
        Step(
            "warm-up",
            0.0,
            warmup.max_seconds,
            f"until {warmup.window} batches agree within {warmup.variation * 100:.3g} %",
        ),
        Step(
            "passes",
            min(least * passes.seconds, passes.budget.seconds),
            passes.budget.seconds,
            f"{least} of at least {duration(passes.seconds)} and all {config.n:,} prompts each, however long "
            f"those take; up to {passes.budget.passes} for ±{passes.target * 100:.3g} %",
        ),
        Step("idle, after", idle, idle),
    )


def expected_s(config: ExperimentConfig) -> tuple[float, float]:
    """Least and most seconds of the whole run; the time limit caps both."""
    low = sum(step.low_s for step in steps(config))
    high = sum(step.high_s for step in steps(config))
    return min(low, config.timeout_s), min(high, config.timeout_s)


def as_json(config: ExperimentConfig) -> dict[str, JsonValue]:
    low, high = expected_s(config)
    return {
        "steps": [asdict(step) for step in steps(config)],
        "expected_s": [low, high],
        "timeout_s": config.timeout_s,
    }
