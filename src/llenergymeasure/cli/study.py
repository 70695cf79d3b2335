"""`llem run STUDY`, `llem show STUDY`, `llem list`: how does a study look while it runs and afterwards?"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Protocol, get_args

import typer
from pydantic import JsonValue
from tqdm import tqdm

from llenergymeasure.analysis.cheapest import Holding, cheapest_lines, holding, holding_lines
from llenergymeasure.cli._layout import fitting
from llenergymeasure.cli._progress import remark
from llenergymeasure.cli._streams import (
    filled,
    print_json,
    print_lines,
    printable,
    reader_may_leave,
    room,
    say_saved,
    talk,
)
from llenergymeasure.cli._vram import get_gpu_vram_gb
from llenergymeasure.config.study import most_probes
from llenergymeasure.exceptions import ConfigError
from llenergymeasure.records.figures import about, plain
from llenergymeasure.results.history import earlier_results
from llenergymeasure.results.study import SORTS, StudyResult, StudyRow, in_order
from llenergymeasure.results.study_table import Format, account, labelled, marks, searches, table
from llenergymeasure.results.summary import columns, some
from llenergymeasure.study import start
from llenergymeasure.study.plan import Plan
from llenergymeasure.study.preview import preview
from llenergymeasure.study.run import How, Step, chosen
from llenergymeasure.study.visits import visit_groups


class Shown(Protocol):
    """What was asked of the display."""

    @property
    def dry_run(self) -> bool: ...
    @property
    def quiet(self) -> bool: ...
    @property
    def as_json(self) -> bool: ...


def run(
    path: Path, overrides: Mapping[str, JsonValue], of_study: Mapping[str, object], *, how: Shown
) -> None:
    """Exit code 3 where the study finished with failures."""
    flags = {key: value for key, value in overrides.items() if not key.startswith("execution.")}
    execution = {key.removeprefix("execution."): overrides[key] for key in overrides.keys() - flags.keys()}
    output = str(flags.pop("output_dir", "")) or None
    given: dict[str, JsonValue] = {
        key: value for key in ("order", "executor") if isinstance(value := of_study.get(f"--{key}"), str)
    }
    given |= {"gaps": 0.0} if "--no-gaps" in of_study else {}
    if twice := sorted(given.keys() & execution.keys()):
        keys = ", ".join(f"execution.{key}" for key in twice)
        raise ConfigError(f"{keys}: given twice, by a flag of its own and by --set")
    execution |= given
    plan = start.planned(path, overrides=flags, execution=execution)
    named = of_study.get("--only")
    only = named if isinstance(named, tuple) else ()
    if how.dry_run:
        _preview(plan, output, only=only, as_json=how.as_json)
        return
    folder = start.folder_of(plan, output)
    on = How(
        resume="--resume" in of_study,
        retry_failed="--retry-failed" in of_study,
        accept_drift="--accept-drift" in of_study,
        only=only,
    )
    with _following(quiet=how.quiet) as (tell, remark):
        result = start.run(plan, folder, how=on, tell=tell, remark=remark)
    if not how.quiet:
        say_saved(folder)
    show(result, form="json" if how.as_json else "text", sort=None)
    incomplete = not result.finished and not on.only
    if result.failed or incomplete or any(gap.kind == "invalid" for gap in result.left_out):
        raise typer.Exit(3)


def show(study: StudyResult, *, form: Format, sort: str | None, holds: str | None = None) -> None:
    """The table of a study, and what is missing of it; of those alone that hold an accuracy where one is
    asked for.
    """
    held = None if holds is None else holding(study, holds)
    rows = in_order(study.rows if held is None else held.rows, sort)
    with reader_may_leave():
        if form == "json":
            print_json(study.model_copy(update={"rows": rows}).as_json())
        elif form == "text":
            print_lines(text_lines(study, rows, held))
        else:
            print_lines(table(study, form, rows).splitlines())


def text_lines(study: StudyResult, rows: Sequence[StudyRow], held: Holding | None) -> Iterator[str]:
    done = sum(row.outcome == "done" for row in study.rows)
    head = f"{study.name or study.identity[:12]}: {done} of {len(study.rows)} experiments done"
    yield from filled(f"{head} · simulated: no model ran, no sensor was read" if study.simulated else head)
    yield ""
    yield from _narrowed(labelled(study, rows))
    found = cheapest_lines(study) if held is None else holding_lines(study, held)
    notes = [*marks(study), *searches(study), *found, *account(study)]
    if notes:
        yield ""
    for note in notes:
        yield from filled(note)


# What goes first where the table is wider than the terminal.
_LEAST_NEEDED = (
    *("memory", "sent late (p99)", "ITL", "requests", "TPOT", "per request", "TTFT"),
    *("goodput", "per good request", "good"),
)
# Of so many rows the rest of the columns follows, in a table below.
_FEW = 20


def _narrowed(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Tables that fit, or else every cell of a row below its name."""
    shown, left_out = rows, []
    for head in _LEAST_NEEDED:
        if _width(shown) > room() and head in shown[0]:
            at = list(shown[0]).index(head)
            shown = [[*row[:at], *row[at + 1 :]] for row in shown]
            left_out.append(head)
    fits = _width(shown) <= room() and len(shown[0]) > 1
    yield from chain(*fitting(shown if fits else rows))
    if fits and left_out and len(rows) <= _FEW + 1:
        rest = [0, *(at for at, head in enumerate(rows[0]) if head in left_out)]
        yield ""
        yield from _narrowed([[row[at] for at in rest] for row in rows])
    elif fits and left_out:
        yield from filled(f"not shown for lack of width: {', '.join(left_out)}", indent="  ")


def _width(rows: Sequence[Sequence[str]]) -> int:
    return 2 + max(map(len, columns(rows)))


def _preview(plan: Plan, output: str | None, *, only: Sequence[str], as_json: bool) -> None:
    """What would run, what was left out, and what that takes. Nothing is written."""
    import socket

    start.gpus_of(plan)  # refused here as by the run
    identity, plan = plan.identity, replace(plan, experiments=chosen(plan, only))
    first = plan.experiments[0].config
    place = None if (output or first.output_dir) is None else start.folder_of(plan, output)
    history = earlier_results(first.model_copy(update={"output_dir": place}), socket.gethostname())
    gpu_gb = get_gpu_vram_gb()
    found = preview(plan, history, gpu=gpu_gb is not None)
    seconds = sum(one.tried * one.seconds for one in found)
    joules = [None if one.joules is None else one.tried * one.joules for one in found]
    known = [one for one in joules if one is not None]
    if as_json:
        with reader_may_leave():
            print_json(
                {
                    "identity": identity,
                    "experiments": [
                        {
                            "label": one.experiment.label,
                            "names": list(one.experiment.names),
                            "runs": one.runs,
                            "memory_bytes": one.memory_bytes,
                            "memory_reason": one.why,
                            "expected_s": one.seconds,
                            "expected_j": one.joules,
                            "config": one.experiment.config.model_dump(mode="json"),
                        }
                        for one in found
                    ],
                    "left_out": [
                        {"label": gap.label, "kind": gap.kind, "reason": gap.reason} for gap in plan.left_out
                    ],
                    "expected_s": seconds,
                    "expected_j": sum(known) if len(known) == len(joules) else None,
                }
            )
        return
    rows = [["experiment", "runs", "memory", "time", "energy"]]
    for one in found:
        size = "–" if one.memory_bytes is None else plain(one.memory_bytes, "B")
        energy = "–" if one.joules is None else f"≈ {plain(one.joules, 'J')}"
        rows.append([one.experiment.label, f"{one.runs}", size, f"about {about(one.seconds)}", energy])
    with reader_may_leave():
        print_lines(
            _preview_lines(
                plan,
                rows,
                cut=[one.experiment.label for one in found if one.runs < one.experiment.config.repeats.count],
                runs=round(sum(one.tried * one.runs for one in found)),
                seconds=seconds,
                joules=known if len(known) == len(joules) else [],
            )
        )


def _preview_lines(
    plan: Plan,
    rows: Sequence[Sequence[str]],
    *,
    cut: Sequence[str],
    runs: int,
    seconds: float,
    joules: Sequence[float],
) -> Iterator[str]:
    """`cut` are the experiments whose budget is too small for all of their repeats."""
    for lines in fitting(rows):
        yield from lines
    yield ""
    for one in plan.experiments:
        if len(one.names) > 1:
            yield from filled(f"{one.label} is also {', '.join(one.names[1:])}: it runs once")
    if cut:
        yield from filled(f"{some(cut)}: passes.budget is too small for all repeats by this forecast")
    for gap in plan.left_out:
        word = "excluded" if gap.kind == "excluded" else "not valid"
        yield from filled(f"{gap.label}: {word}: {gap.reason}")
    searches = plan.searches
    count = len(plan.experiments)
    for name, tried in searches.items():
        assert plan.search is not None, "experiments of a search"
        probes = most_probes(len(tried))
        count -= len(tried) - probes
        over = f"{plan.search.over} ({name})" if name else plan.search.over
        between = f", then up to {probes - 2} in between" if probes > 2 else ""
        yield from filled(f"search over {over}: the lowest and the highest value{between}")
    how = plan.execution
    where = "on this host" if how.executor == "local" else f"through {how.executor}"
    energy = f", ≈ {plain(sum(joules), 'J')}" if joules else ""
    if how.executor == "local" and how.parallel == "none" and visit_groups(plan.experiments):
        yield from filled("a server is started for each repeat, which visits its loads in a new order")
    most = "at most " if searches else ""
    yield from filled(
        f"{most}{_count(count, 'experiment')}, {_count(runs, 'run')} in {how.order} order {where}: "
        f"about {about(seconds)}{energy}"
    )
    yield "Nothing was loaded or measured."


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


@contextmanager
def _following(*, quiet: bool) -> Iterator[tuple[Callable[[Step], None], Callable[[str], None]]]:
    """A bar with the time left on a terminal, a line for each run in a log, nothing when quiet."""
    on_terminal = sys.stderr is not None and sys.stderr.isatty()
    began = time.monotonic()
    with tqdm(total=None, file=sys.stderr, disable=quiet or not on_terminal, leave=False) as bar:
        bar.bar_format = "{desc}"

        def tell(step: Step) -> None:
            left = "" if step.left_s is None else f", about {about(step.left_s)} left"
            text = (
                f"{step.done} of {step.planned} runs: {step.label}, repeat {step.repeat}, {step.said}{left}"
            )
            if bar.disable:
                if not quiet:
                    talk(f"[{time.monotonic() - began:.0f} s] {text}")
                return
            width = shutil.get_terminal_size((80, 24)).columns
            if step.said.startswith("measured"):
                tqdm.write(printable(f"{step.label}, repeat {step.repeat}: {step.said}"), file=sys.stderr)
            bar.set_description_str(printable(text)[: width - 1])

        yield tell, _unheard if quiet else partial(remark, bar)


def _unheard(text: str) -> None:
    pass


def show_stored(path: Path, *, form: str | None, sort: str | None, holds: str | None) -> None:
    """The table of a stored study. ConfigError for a format or an order that does not exist."""
    form = form or "text"
    if form not in get_args(Format):
        raise ConfigError(f"--format {form}: one of {', '.join(get_args(Format))}")
    if sort is not None and sort not in SORTS:
        raise ConfigError(f"--sort {sort}: one of {', '.join(SORTS)}")
    chosen: Format = next(one for one in get_args(Format) if one == form)
    show(StudyResult.load(path), form=chosen, sort=sort, holds=holds)
