"""The process of one run of a study: `python -m llenergymeasure.study.unit TASK.json [--tied]`.

Executors place it, recorder and worker together, on one node. It writes how it ended beside its task.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from llenergymeasure.analysis.run_energy import run_energy
from llenergymeasure.exceptions import LLEMError
from llenergymeasure.measure.budget import RunCost, Turn
from llenergymeasure.measure.forecast import Tracker, find_pace
from llenergymeasure.measure.lock import DomainLocks
from llenergymeasure.measure.replay import is_readable
from llenergymeasure.measure.runner import Job, Run, run
from llenergymeasure.measure.scratch import scratch
from llenergymeasure.results.folder import PART, RUNS, experiment_folder, run_folder
from llenergymeasure.study.ends import end_on_signals, end_with_parent
from llenergymeasure.study.task import Ending, Task, ending_of, read_task, write_ending


def _unheard(_text: str) -> None:
    pass


def perform(task: Task, *, run: Run = run, remark: Callable[[str], None] = _unheard) -> Ending:
    """Make the run with `run`. Whatever ends it leaves nothing running."""
    began = time.monotonic()
    turn = Turn(task.number, task.runs, task.passes, task.seconds, remark=remark)
    tracker = Tracker(task.config, find_pace(task.config), _no_progress)
    with (
        scratch() as temporary,
        experiment_folder(task.folder) as folder,
        DomainLocks(owner=task.experiment) as locks,
    ):
        # What an earlier attempt left.
        shutil.rmtree(folder / RUNS / f"{task.number}{PART}", ignore_errors=True)
        with run_folder(folder, task.number, keep=is_readable) as part:
            job = Job(task.experiment, task.origins, turn, part, temporary, locks, tracker, task.config)
            energy = run_energy(run(task.by_url or task.config, job))
    return Ending(RunCost.of(energy), seconds=time.monotonic() - began)


def main(path: Path, *, tied: bool) -> int:
    """The exit code: 0 for a run that was measured, 1 for one that failed. `tied` ends the run with the
    process that started this one.
    """
    end_on_signals()
    task = read_task(path)
    if tied:
        end_with_parent()
    remarks: list[str] = []
    try:
        ending = perform(task, remark=remarks.append)
    except LLEMError as error:
        ending = ending_of(error)
    except SystemExit as error:
        account = tuple(getattr(error, "__notes__", ()))
        write_ending(path, Ending(kind="interrupted", message="it was asked to end", remarks=account))
        raise
    except MemoryError:
        ending = Ending(kind="oom", message="this process ran out of memory")
    write_ending(path, replace(ending, remarks=tuple(remarks)))
    return 0 if ending.kind is None else 1


def _no_progress(description: str, **_: object) -> None:
    pass


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), tied="--tied" in sys.argv[2:]))
