"""The one loop of repetition: the same experiment in fresh processes, until it is known well enough."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from llenergymeasure.analysis.run_energy import RunEnergy, run_energy
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import ExperimentInterrupted, LLEMError
from llenergymeasure.measure.budget import Repeats, RunCost
from llenergymeasure.measure.forecast import Tracker, find_pace
from llenergymeasure.measure.gpus import gpu_facts
from llenergymeasure.measure.lock import DomainLocks
from llenergymeasure.measure.replay import is_readable
from llenergymeasure.measure.runner import Job, Run, experiment_id, run, started_now
from llenergymeasure.measure.scratch import scratch
from llenergymeasure.records import FailedRun, Progress
from llenergymeasure.results.folder import experiment_folder, parts, run_folder, whole_runs
from llenergymeasure.results.history import earlier_results
from llenergymeasure.results.store import preflight_output


@dataclass(frozen=True, slots=True)
class Finished:
    """The runs of one experiment that were measured, those that failed, and the folder of them all.

    `ended_by` is what interrupted the last of them, for the caller to raise again.
    """

    energies: tuple[RunEnergy, ...]
    failed: tuple[FailedRun, ...]
    folder: Path
    ended_by: BaseException | None = None


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
    """All runs of the experiment, each in `runs/<number>` of a folder in the output directory, or of one that
    goes on leaving.

    `run` makes one of them. A run that fails after another was measured is noted, and the rest go on; two in
    a row end it, and so does an interruption. Where nothing was measured the first run's error is raised.
    """
    experiment = experiment_id(config, started_now())
    repeats = Repeats(config, remark=remark, strict=strict)
    measured: list[RunEnergy] = []
    failed: list[FailedRun] = []
    ended_by: BaseException | None = None
    place = _place(config)
    pace = find_pace(config, earlier_results(config, socket.gethostname()), gpu=bool(gpu_facts()))
    tracker = Tracker(config, pace, tell)
    with (
        scratch() as temporary,
        experiment_folder((place or temporary) / experiment) as folder,
        nullcontext() if place is None else _remains(folder, remark),
        DomainLocks(owner=experiment) as locks,
    ):
        while (turn := repeats.next()) is not None:
            try:
                tracker.begin_run(turn.number, turn.runs)
                # The log of a later run that fails says why.
                with run_folder(
                    folder, turn.number, keep=lambda part: bool(measured) or is_readable(part)
                ) as at:
                    one = run_energy(
                        run(config, Job(experiment, origins, turn, at, temporary, locks, tracker))
                    )
            except (KeyboardInterrupt, SystemExit, ExperimentInterrupted) as error:
                if not measured:
                    raise
                failed.append(FailedRun(turn.number, _named(error), "interrupted"))
                ended_by = error
                break
            except LLEMError as error:
                if not measured:
                    raise
                said = _with_notes(error.message, error)
                failed.append(FailedRun(turn.number, said))
                remark(f"run {turn.number} failed: {said}")
                repeats.add(None)
                continue
            measured.append(one)
            repeats.add(RunCost.of(one))
            tracker.known(repeats.half_width)
        tell("computing")
        yield Finished(tuple(measured), tuple(failed), folder, ended_by)


def _place(config: ExperimentConfig) -> Path | None:
    """Where files are to be kept. A place that will not do is refused by the preflight of the first run,
    together with whatever else is in its way.
    """
    if config.output_dir is None or preflight_output(config.output_dir) is not None:
        return None
    return config.output_dir


@contextmanager
def _remains(folder: Path, remark: Callable[[str], None]) -> Iterator[None]:
    """Where an error ends the experiment, say what of it can still be computed."""
    try:
        yield
    except BaseException:
        if whole_runs(folder) or parts(folder):
            remark(f"What was measured is saved in {folder}; to see it: llem recompute {folder}")
        raise


def _named(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        names = {128 + one: one.name for one in signal.Signals}
        said = next((name for code, name in names.items() if code == error.code), f"exit code {error.code}")
    else:
        said = "Ctrl-C" if isinstance(error, KeyboardInterrupt) else str(error)
    return _with_notes(said, error)


def _with_notes(said: str, error: BaseException) -> str:
    """With what became of its requests, where there was a server."""
    return "; ".join([said, *getattr(error, "__notes__", ())])
