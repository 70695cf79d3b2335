"""From a trace to the result of a run whose windows are known. Shared by the tests that judge a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from llenergymeasure.analysis.metrics import metrics
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.records import (
    Block,
    Completion,
    Environment,
    Generation,
    Idle,
    Measurement,
    Overhead,
    Pass,
    SessionFacts,
    Start,
    Trace,
    WarmUp,
    WarningCode,
    Window,
)
from llenergymeasure.results.models import ExperimentResult

S = 1_000_000_000
BARE, LOADED, AFTER = Window(2 * S, 5 * S), Window(8 * S, 11 * S), Window(60 * S, 63 * S)


def one_pass(start_s: float, seconds: float = 6.0, *, output: int = 50) -> Pass:
    start_ns, end_ns = round(start_s * S), round((start_s + seconds) * S)
    done = Completion(0, 0, 0, 100, output, start_ns, start_ns, start_ns + S // 10, end_ns, "length")
    return Pass(Window(start_ns, end_ns), 1, Generation((done,)))


PASSES = (one_pass(20), one_pass(30), one_pass(40))


def close_looks() -> list[tuple[float, bool]]:
    """When a recorder is to look closely, and when no longer: a second around each edge, as in a run."""
    edges_s = [edge_ns / S for one in PASSES for edge_ns in (one.window.start_ns, one.window.end_ns)]
    return [(edge_s + away_s, away_s < 0) for edge_s in edges_s for away_s in (-1.0, 1.2)]


def blocks_of(passes: Sequence[Pass]) -> tuple[Block, ...]:
    """Each pass as a block of its own, with a second of silence before it and 1.2 s after it."""
    return tuple(
        Block(
            "full",
            Window(one.window.start_ns - S, one.window.start_ns),
            (one,),
            Window(one.window.end_ns, one.window.end_ns + 6 * S // 5),
        )
        for one in passes
    )


def single_run(**passes: Any) -> ExperimentConfig:
    return ExperimentConfig.model_validate(
        {
            "model": "any",
            "backend": "simulated",
            "n": 1,
            "max_output_tokens": 50,
            "repeats": {"count": 1},
            "passes": passes,
        }
    )


def with_target(target: float = 0.02) -> ExperimentConfig:
    """A single run that aims at a target over its passes."""
    return single_run(target=target)


def measured(trace: Trace, passes: Sequence[Pass] = PASSES, **changes: Any) -> Measurement:
    whole = Measurement(
        experiment_id="id",
        index=1,
        config=single_run(),
        origins={},
        started=Start("2026-01-01T00:00:00+00:00", 0, None),
        environment=Environment(
            "h", "os", "k", "3.11", "0", None, 2, 2**34, None, None, None, None, None, (), {}
        ),
        facts=SessionFacts("cuda:0", {}, {}, gpu_uuids=("GPU-a",)),
        architecture=None,
        idle=Idle(BARE, LOADED, AFTER),
        load=Window(5 * S, 8 * S),
        warm_up=WarmUp(Window(11 * S, 13 * S), (0.5, 0.5, 0.5), True),
        blocks=blocks_of(passes),
        trace=trace,
        overhead=Overhead(0.1, 100, 1.0),
    )
    return replace(whole, **changes)


def result_of(trace: Trace, passes: Sequence[Pass] = PASSES, **changes: Any) -> ExperimentResult:
    return metrics([measured(trace, passes, **changes)])


def codes(result: ExperimentResult) -> set[str]:
    """All but that it is a single run, which every scripted one is."""
    return {str(warning.code) for warning in result.warnings} - {"single_process"}


def message(result: ExperimentResult, code: WarningCode) -> str:
    return next(warning.message for warning in result.warnings if warning.code == code)
