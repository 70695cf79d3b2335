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
    idle, warmup, cooling = config.baseline.seconds, config.warmup, config.baseline.cooling_seconds
    low, high = 1.0, 60.0
    if config.backend == "simulated":
        low = high = config.simulated.load_s
    guess = "a guess: disk, network and the model's size decide" if config.backend != "simulated" else ""
    first, most = config.cycles, _most_cycles(config)
    each = ""
    if most > 1:
        each = f"in each of {first} processes" + (f", or up to {most}" if most > first else "")
    cool = (Step("cooling", 0.0, cooling * most, each),) if cooling else ()
    return (
        *cool,
        Step("idle, bare", idle, idle),
        Step("load", low * first, high * most, "; ".join(filter(None, (each, guess)))),
        Step("idle, loaded", idle * first, idle * most),
        Step(
            "warm-up",
            0.0,
            warmup.max_seconds * most,
            f"until {warmup.window} batches agree within {warmup.variation * 100:.3g} %",
        ),
        _passes(config),
        Step("idle, after", idle * first, idle * most),
    )


def _passes(config: ExperimentConfig) -> Step:
    passes, budget = config.passes, config.passes.budget
    wanted = passes.minimum * config.cycles
    least = min(wanted, budget.passes)
    capped = f" ({wanted} by passes.minimum, capped by passes.budget.passes)" if wanted > least else ""
    return Step(
        "passes",
        min(least * passes.seconds, budget.seconds),
        budget.seconds,
        f"{least}{capped} of at least {duration(passes.seconds)} and all {config.n:,} prompts each, however "
        f"long those take; up to {budget.passes} for ±{passes.target * 100:.3g} %; none begins after "
        f"{duration(budget.seconds)}",
    )


def _most_cycles(config: ExperimentConfig) -> int:
    """Their scatter may ask for more of them than `cycles`, from three on; the budget of passes ends it."""
    if config.cycles < 3:
        return config.cycles
    return max(config.cycles, -(-config.passes.budget.passes // config.passes.minimum))


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
