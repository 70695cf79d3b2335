"""What would a run do, step by step, and how long would it take?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import ceil

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
    first = min(config.cycles, ceil(_least_passes(config) / config.passes.minimum))
    most = _most_cycles(config) if first == config.cycles else first
    each = ""
    if config.cycles > 1:
        each = f"in each of {first} processes" + (f", or up to {most}" if most > first else "")
        each += f", the budget being too small for {config.cycles}" if first < config.cycles else ""
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
    wanted, least = passes.minimum * config.cycles, _least_passes(config)
    capped = ""
    if least < wanted:
        by = "passes" if least == budget.passes else "seconds"
        capped = f" ({wanted} by passes.minimum, capped by passes.budget.{by})"
    return Step(
        "passes",
        least * passes.seconds,
        max(budget.seconds, least * passes.seconds),
        f"{least}{capped} of at least {duration(passes.seconds)} and all {config.n:,} prompts each, however "
        f"long those take; up to {budget.passes} for ±{passes.target * 100:.3g} %; none begins after "
        f"{duration(budget.seconds)}",
    )


def _least_passes(config: ExperimentConfig) -> int:
    """Those of the first stage that the budget allows for, where the last may begin right before its end."""
    budget = config.passes.budget
    in_time = ceil(budget.seconds / config.passes.seconds)
    return max(1, min(config.passes.minimum * config.cycles, budget.passes, in_time))


def _most_cycles(config: ExperimentConfig) -> int:
    """Their scatter may ask for more of them than `cycles`, from three on; the budget of passes ends it."""
    begun = ceil(config.passes.budget.passes / config.passes.minimum)
    return max(config.cycles, begun) if config.cycles >= 3 else config.cycles


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
