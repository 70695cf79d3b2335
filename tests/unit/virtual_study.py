"""Studies whose runs take place in virtual time, in this process, with faults sprinkled in.

As a program, `python virtual_study.py FOLDER POINTS`, it runs one study to its end, from where it was left.
"""

from __future__ import annotations

import random
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from benchmarks.virtual_run import VirtualRuns
from pydantic import JsonValue

from llenergymeasure.results.folder import RUNS
from llenergymeasure.results.study import StudyResult
from llenergymeasure.study import start
from llenergymeasure.study.account import account
from llenergymeasure.study.executors import Ended
from llenergymeasure.study.plan import Plan
from llenergymeasure.study.run import How, Step, run_plan
from llenergymeasure.study.task import Ending, Task, read_task, write_ending
from llenergymeasure.study.unit import perform

Fault = Callable[[Task, int], str | None]


def base(**more: JsonValue) -> dict[str, JsonValue]:
    return {
        "model": "any",
        "backend": "simulated",
        "n": 2,
        "dataset": {"name": "synthetic", "prompt_tokens": 8},
        "max_output_tokens": 8,
        "passes": {"seconds": 1.0, "count": 1, "prefill": 0},
        "repeats": {"count": 1},
        "baseline": {"seconds": 0},
        "warmup": {"min_batches": 0, "window": 3},
        **more,
    }


def no_fault(_task: Task, _attempt: int) -> str | None:
    return None


@dataclass
class VirtualExecutor:
    """Runs each task at once. `fault` says of a task and its attempt how it fails, None where it does not."""

    fault: Fault = no_fault
    slots: int = 1
    where: str = "virtual time"
    remarks: tuple[str, ...] = ()
    started: list[tuple[str, int]] = field(default_factory=list)
    _done: list[Ended] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._done.clear()

    def start(self, tasks: Sequence[Path], *, limit_s: float) -> None:
        assert limit_s > 0
        assert len(tasks) <= self.slots
        for path in tasks:
            task = read_task(path)
            self.started.append((task.experiment, task.number))
            kind = self.fault(task, int(path.stem.rpartition("-")[2]))
            if kind in {"oom", "error", "config"}:
                write_ending(path, Ending(kind=kind, message=f"made to fail: {kind}"))  # type: ignore[arg-type]
            elif kind == "unwritten":
                write_ending(path, perform(task, run=VirtualRuns()))
                shutil.rmtree(task.folder / RUNS / str(task.number))
            elif kind is None:
                write_ending(path, replace(perform(task, run=VirtualRuns()), remarks=self.remarks))
            self._done.append(Ended(path, "its process was ended by SIGSEGV", timed_out=kind == "hang"))

    def ended(self) -> list[Ended]:
        found, self._done = self._done, []
        return found


def sprinkled(seed: int, share: float) -> Fault:
    """Faults on the first attempt of that share of the runs, and of half of those on the second one too."""

    def fault(task: Task, attempt: int) -> str | None:
        draw = random.Random(f"{seed}/{task.experiment}/{task.number}/{attempt}")
        if draw.random() > (share if attempt == 1 else 0.5):
            return None
        return draw.choice(["crash", "hang", "oom", "error", "unwritten"])

    return fault


def run_virtually(
    study: Mapping[str, JsonValue],
    folder: Path,
    *,
    executor: VirtualExecutor | None = None,
    how: How | None = None,
    steps: list[Step] | None = None,
    remarks: list[str] | None = None,
) -> StudyResult:
    plan = start.planned(study)
    heard_steps: list[Step] = [] if steps is None else steps
    heard: list[str] = [] if remarks is None else remarks
    run_plan(
        plan,
        folder,
        executor=executor or VirtualExecutor(),
        how=how or How(),
        tell=heard_steps.append,
        remark=heard.append,
    )
    return account(plan, folder)


def planned(study: Mapping[str, JsonValue]) -> Plan:
    return start.planned(study)


if __name__ == "__main__":
    where = Path(sys.argv[1])
    seeds: list[JsonValue] = list(range(1, int(sys.argv[2]) + 1))
    run_virtually(
        {**base(repeats={"count": 2}), "sweep": {"random_seed": seeds}},
        where,
        executor=VirtualExecutor(fault=sprinkled(3, 0.3)),
        how=How(resume=True),
    )
