"""What does a study cost beside its runs, and does it stay small where there are many?

    python -m benchmarks.study [--quick] [--directory DIR]

One run is made in virtual time, and its files are copied for every other one, so that what is left is what
the study itself does: plan, ledger, task, ending, hashes, results. About six minutes for 10,000 runs,
quick half a minute for 500. The directory is the disk that is written to, a gigabyte of it.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Self

import psutil
from pydantic import JsonValue

from benchmarks.overhead.turns import Row
from benchmarks.virtual_run import VirtualRuns
from llenergymeasure.measure.scratch import EVENTS_NAME
from llenergymeasure.results.folder import RUNS
from llenergymeasure.study import start
from llenergymeasure.study.account import account
from llenergymeasure.study.executors import Ended
from llenergymeasure.study.plan import Plan
from llenergymeasure.study.preview import preview
from llenergymeasure.study.run import How, Step, run_plan
from llenergymeasure.study.task import Ending, read_task, write_ending
from llenergymeasure.study.unit import perform

COUNTS = (10_000, 500)
RUN_S, SCAN_S, PLAN_S, TABLE_S, GROWTH = 0.050, 5.0, 10.0, 5.0, 1.1


@dataclass
class CopyingExecutor:
    """Makes the first run, and copies its files for all others. `away_s` is the time in it, `ends` when each
    run had ended, `bytes` the memory of this process then.
    """

    slots: int = 1
    where: str = "copies"
    away_s: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)
    _made: tuple[str, Path, Ending] | None = None
    _done: list[Ended] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._done.clear()

    def start(self, tasks: Sequence[Path], *, limit_s: float) -> None:
        assert limit_s > 0
        began = time.perf_counter()
        for path in tasks:
            task = read_task(path)
            run = task.folder / RUNS / str(task.number)
            if self._made is None:
                self._made = task.experiment, run, perform(task, run=VirtualRuns())
            name, made, ending = self._made
            if run != made:
                shutil.copytree(made, run)
                events = run / EVENTS_NAME
                events.write_text(events.read_text().replace(name, task.experiment))
            write_ending(path, ending)
            self._done.append(Ended(path, ""))
        self.away_s.append(time.perf_counter() - began)

    def ended(self) -> list[Ended]:
        found, self._done = self._done, []
        self.ends.append(time.perf_counter())
        if len(self.ends) % 100 == 0:
            self.bytes.append(psutil.Process().memory_info().rss)
        return found


def study(count: int, **more: JsonValue) -> Mapping[str, JsonValue]:
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
        "sweep": {"random_seed": f"1-{count}"},
        **more,
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.study", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="500 runs instead of 10,000: a look")
    parser.add_argument("--directory", type=Path, help="where the study is written; TMPDIR when absent")
    options = parser.parse_args()
    missed = 0
    print("| cost | figure | target | |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(prefix="llem-study-", dir=options.directory) as folder:
        for row in _rows(COUNTS[options.quick], Path(folder)):
            verdict = {True: "met", False: "NOT MET", None: ""}[row.met]
            print(f"| {row.name} | {row.figure} | {row.target} | {verdict} |", flush=True)
            missed += row.met is False
    return 1 if missed else 0


def _rows(count: int, folder: Path) -> Iterator[Row]:
    for points, most_s in ((200, 1.0), (10_000, PLAN_S)):
        began = time.process_time()
        preview(start.planned(study(points)), (), gpu=False)
        took = time.process_time() - began
        yield Row(
            f"plan and preview of {points:,} points, CPU", f"{took:.2f} s", f"≤ {most_s} s", took <= most_s
        )
    plan, executor = start.planned(study(count)), CopyingExecutor()
    cpu = time.process_time()
    _run(plan, folder, executor, How())
    cpu = time.process_time() - cpu
    own = [
        later - earlier - away
        for earlier, later, away in zip(executor.ends, executor.ends[1:], executor.away_s[1:], strict=False)
    ]
    tenth = len(own) // 10
    first, last = median(own[:tenth]), median(own[-tenth:])
    yield Row(
        f"bookkeeping of each of {count:,} runs, result included, median",
        f"{1000 * median(own):.1f} ms, {1000 * cpu / count:.1f} ms of CPU with the copying",
        f"≤ {1000 * RUN_S:.0f} ms",
        median(own) <= RUN_S,
    )
    yield Row("the same, last tenth over first tenth", f"{last / first:.2f}", "", None)
    early, late = executor.bytes[0], executor.bytes[-1]
    yield Row(
        f"memory after run {count:,} over that after run 100",
        f"{late / early:.3f} ({early / 1e6:.0f} to {late / 1e6:.0f} MB)",
        f"≤ {GROWTH}",
        late / early <= GROWTH,
    )
    began = time.perf_counter()
    _run(plan, folder, executor, How(resume=True))
    scan_s = time.perf_counter() - began
    yield Row(f"resuming {count:,} finished runs", f"{scan_s:.2f} s", f"≤ {SCAN_S} s", scan_s <= SCAN_S)
    began = time.perf_counter()
    rows = account(plan, folder).rows
    assert all(row.outcome == "done" for row in rows)
    table_s = time.perf_counter() - began
    yield Row(f"the table of {count:,} experiments", f"{table_s:.2f} s", f"≤ {TABLE_S} s", table_s <= TABLE_S)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    yield Row("peak memory, the table included", f"{peak / 1e6:.0f} MB", "", None)


def _run(plan: Plan, folder: Path, executor: CopyingExecutor, how: How) -> None:
    run_plan(plan, folder, executor=executor, how=how, tell=_unheard, remark=print)


def _unheard(step: Step) -> None:
    pass


if __name__ == "__main__":
    sys.exit(main())
