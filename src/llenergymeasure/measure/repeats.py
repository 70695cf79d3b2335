"""The one loop of repetition: the same experiment in fresh processes, until it is known well enough."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from llenergymeasure.analysis.run_energy import run_cost, run_joules
from llenergymeasure.analysis.statistics import stein_count
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import ExperimentError, ExperimentInterrupted, LLEMError
from llenergymeasure.measure.budget import Turn
from llenergymeasure.measure.forecast import Tracker, find_pace
from llenergymeasure.measure.gpus import gpu_facts
from llenergymeasure.measure.lock import DomainLocks
from llenergymeasure.measure.runner import Job, Run, experiment_id, run, started_now
from llenergymeasure.measure.scratch import Files, scratch
from llenergymeasure.records import FailedRun, Measurement, Progress
from llenergymeasure.results.history import earlier_results
from llenergymeasure.results.store import RUNS


@dataclass(frozen=True, slots=True)
class Finished:
    """The runs of one experiment that were measured, those that failed, and where their files lie."""

    measurements: tuple[Measurement, ...]
    failed: tuple[FailedRun, ...]
    files: Files


@contextmanager
def repeat(
    config: ExperimentConfig,
    *,
    origins: Mapping[str, str],
    tell: Progress,
    remark: Callable[[str], None],
    strict: bool = False,
    run: Run = run,
) -> Iterator[Finished]:
    """All runs of the experiment, each in `runs/<number>` of a folder that goes unless it is kept.

    `run` makes one of them. A run that fails after another was measured is noted, and the rest go on; two in
    a row end it. Where nothing was measured the error of the first run is raised.
    """
    experiment = experiment_id(config, started_now())
    turn = Turn.first(config, remark=remark, strict=strict)
    measured: list[Measurement] = []
    failed: list[FailedRun] = []
    spent_j: float | None = 0.0
    pace = find_pace(config, earlier_results(config, socket.gethostname()), gpu=bool(gpu_facts()))
    tracker = Tracker(config, pace, tell)
    with scratch() as files, DomainLocks(owner=experiment) as locks:
        while turn.number <= turn.runs and not _ended(config, turn, measured, failed, spent_j):
            directory = files.directory / RUNS / str(turn.number)
            directory.mkdir(parents=True)
            tracker.begin_run(turn.number, turn.runs)
            try:
                one = run(config, Job(experiment, origins, turn, directory, locks, tracker))
            except ExperimentInterrupted:
                raise
            except LLEMError as error:
                if not measured:
                    raise
                failed.append(_failed(turn.number, error))
                remark(f"run {turn.number} failed: {error.message}")
                turn = turn.after()
                continue
            measured.append(one)
            joules = run_joules(one)
            spent_j = None if joules is None or spent_j is None else spent_j + joules
            turn = turn.after(one.passes)
            if len(measured) == config.repeats.count >= 3 and config.repeats.target is not None:
                turn = replace(turn, runs=_wanted(config, measured))
        tell("computing")
        yield Finished(tuple(measured), tuple(failed), files)


def _ended(
    config: ExperimentConfig,
    turn: Turn,
    measured: list[Measurement],
    failed: list[FailedRun],
    spent_j: float | None,
) -> bool:
    """Whether the budget is used up, or two runs in a row have failed."""
    if len(failed) >= 2 and [one.index for one in failed[-2:]] == [turn.number - 2, turn.number - 1]:
        return True
    limit_j = config.passes.budget.joules
    over = limit_j is not None and spent_j is not None and spent_j >= limit_j
    return bool(measured) and (turn.passes <= 0 or turn.seconds <= 0 or over)


def _wanted(config: ExperimentConfig, measured: list[Measurement]) -> int:
    """How many runs the scatter of the first ones asks for."""
    assert config.repeats.target is not None
    costs = [run_cost(one) for one in measured]
    known = [cost for cost in costs if cost is not None]
    if len(known) < len(costs):
        return config.repeats.count
    wanted = stein_count(known, target=config.repeats.target, minimum=config.repeats.count)
    return min(wanted, config.repeats.max)


def _failed(number: int, error: LLEMError) -> FailedRun:
    failure = error.failure if isinstance(error, ExperimentError) else None
    return FailedRun(number, error.message, failure)
