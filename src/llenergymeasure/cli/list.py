"""`llem list`: which results and studies are in a directory, and how far are they?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llenergymeasure.cli._errors import reported
from llenergymeasure.cli._layout import fitting
from llenergymeasure.cli._streams import print_json, print_lines, reader_may_leave
from llenergymeasure.exceptions import ResultError
from llenergymeasure.measure.marks import left_behind
from llenergymeasure.records import Estimate
from llenergymeasure.records.dataset import counted
from llenergymeasure.records.figures import amount
from llenergymeasure.results.folder import is_live, parts, whole_runs
from llenergymeasure.results.store import RESULT_FILE
from llenergymeasure.results.study import STUDY_FILE, StudyResult
from llenergymeasure.results.summary import MISSING
from llenergymeasure.results.windows import RECORDED
from llenergymeasure.study import ledger
from llenergymeasure.study.ledger import Begun, Closed, Done, Failed, Opened


@dataclass(frozen=True, slots=True)
class Entry:
    """A result (`result`, `windows` or `command`), a study, or what a killed run left.

    `state`: done, running, failed, unfinished.
    """

    name: str
    kind: str
    state: str
    what: str
    figure: str


def list_(directory: Path, *, as_json: bool, verbose: bool) -> None:
    with reported(verbose=verbose):
        if not directory.is_dir():
            raise ResultError(f"{directory} is not a directory", hint="give the one that --output named")
        found = list(entries(directory))
        with reader_may_leave():
            if as_json:
                print_json([asdict(one) for one in found])
            elif not found:
                print_lines([f"{directory} holds no results"])
            else:
                rows = [["name", "kind", "state", "energy per output token", "what"]]
                rows += [[one.name, one.kind, one.state, one.figure, one.what] for one in found]
                print_lines(line for lines in fitting(rows, indent="") for line in lines)


def entries(directory: Path) -> Iterator[Entry]:
    """Those right below the directory, by name. A file is read as far as its head is needed."""
    for folder in sorted(one for one in directory.iterdir() if one.is_dir()):
        if (folder / ledger.NAME).exists():
            yield _study(folder)
        elif (folder / STUDY_FILE).exists():
            yield _merged(folder)
        elif (folder / RESULT_FILE).exists():
            yield _result(folder)
        elif (state := left_behind(folder)) is not None:
            what = "" if state == "running" else f"no result: llem recompute {folder}"
            yield Entry(folder.name, "windows", state, what, MISSING)
        elif whole_runs(folder) or parts(folder):
            runs = f"{counted(len(whole_runs(folder)), 'whole run')} and no result: llem recompute {folder}"
            state = "running" if is_live(folder) else "unfinished"
            yield Entry(folder.name, "result", state, "" if state == "running" else runs, "–")


def _result(folder: Path) -> Entry:
    try:
        data = json.loads((folder / RESULT_FILE).read_bytes())
        if isinstance(data, dict) and data.get("kind") in RECORDED:
            return _recorded(folder.name, data)
        config, cost = data["config"], data["energy"]["per_output_token"]
        estimate = _estimate(cost)
        outcomes = [run["outcome"] for run in data.get("runs", ())]
        lost = [f"{outcomes.count(one)} of {len(outcomes)} runs {one}" for one in ("failed", "interrupted")]
        modelled = data["energy"]["method"] in {"modelled", "mixed"}
        what = f"{config['model']} on {config['backend']}"
        state = ", ".join(text for text in lost if not text.startswith("0 ")) or "done"
        return Entry(folder.name, "result", state, what, amount(estimate, modelled=modelled))
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        return Entry(folder.name, "result", "unreadable", f"{type(error).__name__}: {error}"[:80], "–")


def _merged(folder: Path) -> Entry:
    try:
        study = StudyResult.load(folder)
    except ResultError as error:
        return Entry(folder.name, "study", "unreadable", error.message[:80], "–")
    runs, planned = sum(row.runs for row in study.rows), sum(row.planned for row in study.rows)
    state = "done" if study.finished else "unfinished"
    state = f"done, {len(study.failed)} failed" if study.finished and study.failed else state
    return Entry(
        folder.name, "study", state, f"{runs} of {planned} runs of {len(study.rows)} experiments, merged", "–"
    )


def _recorded(name: str, data: Mapping[str, Any]) -> Entry:
    """Of somebody's own code, or of a command: a figure where one name alone has it."""
    count, failed = (sum(one[key] for one in data["windows"]) for key in ("count", "failed"))
    word = "run" if data["kind"] == "command" else "window"
    costs = [_estimate(one["per_output_token"]) for one in data["windows"]]
    known = [one for one in costs if one.value is not None]
    figure = (
        amount(known[0], modelled=data["method"] in {"modelled", "mixed"}) if len(known) == 1 else MISSING
    )
    program = " ".join(" ".join(data["program"]).split())
    what = f"{count} {word}{'' if count == 1 else 's'} of {program}"
    state = "done" if not failed else f"{failed} of {count} {word}s failed"
    return Entry(name, data["kind"], state, what if len(what) <= 80 else f"{what[:79]}…", figure)


def _estimate(data: Mapping[str, Any]) -> Estimate:
    ends = data["systematic"]
    return Estimate(
        data["value"], data["unit"], data["low"], data["high"],
        None if ends is None else (ends[0], ends[1]),
        data["reason"],
    )  # fmt: skip


def _study(folder: Path) -> Entry:
    try:
        records = list(ledger.read(folder))
    except ResultError as error:
        return Entry(folder.name, "study", "unreadable", error.message[:80], "–")
    opened = [one for one in records if isinstance(one, Opened)]
    plan = opened[-1].plan if opened else ()
    last: dict[tuple[str, int], Begun | Done | Failed] = {}
    for one in records:
        if isinstance(one, Begun | Done | Failed):
            last[one.experiment, one.repeat] = one
    done = sum(isinstance(one, Done) for one in last.values())
    failed = sum(isinstance(one, Failed) and one.final for one in last.values())
    # What a search tries counts from when it does.
    sought = {one.hash for one in plan if not one.repeats}
    planned = sum(one.repeats for one in plan) + sum(which in sought for which, _ in last)
    tried = len(plan) - len(sought - {which for which, _ in last})
    closed = bool(records) and isinstance(records[-1], Closed)
    state = "running" if ledger.is_running(folder) else "done" if closed and done >= planned else "unfinished"
    if closed and failed and done + failed >= planned:
        state = f"done, {failed} failed"
    return Entry(folder.name, "study", state, f"{done} of {planned} runs of {tried} experiments", "–")
