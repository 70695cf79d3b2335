"""`llem list`: which results and studies are in a directory, and how far are they?"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from llenergymeasure import __version__
from llenergymeasure.cli._errors import reported
from llenergymeasure.cli._layout import fitting
from llenergymeasure.cli._streams import print_json, print_lines
from llenergymeasure.config.load import LoadConfig
from llenergymeasure.exceptions import ResultError
from llenergymeasure.measure.marks import left_behind
from llenergymeasure.records import Estimate
from llenergymeasure.records.dataset import counted
from llenergymeasure.records.figures import amount
from llenergymeasure.results.find import where_results_are
from llenergymeasure.results.folder import is_live, parts, whole_runs
from llenergymeasure.results.index import Index, stamp_of
from llenergymeasure.results.models import RESULT_SCHEMA_VERSION
from llenergymeasure.results.store import RESULT_FILE, check_version
from llenergymeasure.results.study import STUDY_FILE, StudyResult
from llenergymeasure.results.summary import MISSING
from llenergymeasure.results.windows import RECORDED
from llenergymeasure.study import ledger
from llenergymeasure.study.ledger import Begun, Closed, Done, Failed, Opened


@dataclass(frozen=True, slots=True)
class Entry:
    """A result (`result`, `windows` or `command`), a study, or what a killed run left.

    `state`: done, running, failed, unfinished, unreadable. `started_at` is in UTC; where nothing says so, it
    is when the folder last changed.
    """

    name: str
    kind: str
    state: str
    what: str
    figure: str
    started_at: str


def list_(directory: Path | None, *, as_json: bool, verbose: bool) -> None:
    with reported(verbose=verbose):
        directory = directory or where_results_are()
        if not directory.is_dir():
            raise ResultError(f"{directory} is not a directory", hint="give the one that --output named")
        found = entries(directory)
        if as_json:
            print_json([asdict(one) for one in found])
        elif not found:
            print_lines([f"{directory} holds no results"])
        else:
            print_lines(_lines(found))


def _lines(found: Sequence[Entry]) -> Iterator[str]:
    rows = [["name", "kind", "state", "energy per output token", "what"]]
    rows += [[one.name, one.kind, one.state, one.figure, one.what] for one in found]
    for lines in fitting(rows, indent=""):
        yield from lines


def entries(directory: Path) -> list[Entry]:
    """Those right below the directory, the newest last."""
    with os.scandir(directory) as found:
        folders = [one.name for one in found if one.is_dir()]
    with Index(directory, by=__version__) as index:
        listed = [entry for name in folders if (entry := _entry(directory / name, index)) is not None]
    return sorted(listed, key=lambda one: (one.started_at, one.name))


def _entry(folder: Path, index: Index) -> Entry | None:
    """What is read of a file that does not change any more is remembered in the index."""
    for name, read in ((ledger.NAME, _study), (STUDY_FILE, _merged), (RESULT_FILE, _result)):
        path = f"{folder}/{name}"
        if (stamp := stamp_of(path)) is None:
            continue
        if (known := index.get(path, stamp)) is not None:
            return Entry(**known)
        entry = read(folder)
        if not entry.started_at:
            entry = replace(entry, started_at=_utc(stamp[0]))
        if entry.state not in {"running", "unfinished"}:
            index.put(path, stamp, asdict(entry))
        return entry
    changed = _utc(folder.stat().st_mtime_ns)
    if (state := left_behind(folder)) is not None:
        what = "" if state == "running" else f"no result: llem recompute {folder}"
        return Entry(folder.name, "windows", state, what, MISSING, changed)
    if whole_runs(folder) or parts(folder):
        runs = f"{counted(len(whole_runs(folder)), 'whole run')} and no result: llem recompute {folder}"
        state = "running" if is_live(folder) else "unfinished"
        return Entry(folder.name, "result", state, "" if state == "running" else runs, MISSING, changed)
    return None


def _utc(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / 1e9, UTC).isoformat(timespec="seconds")


def _result(folder: Path) -> Entry:
    try:
        data = from_json((folder / RESULT_FILE).read_bytes(), allow_inf_nan=False)
        if isinstance(data, dict) and data.get("kind") in RECORDED:
            return _recorded(folder.name, data)
        if data["schema_version"] != "1":
            check_version(data, folder / RESULT_FILE, newest=RESULT_SCHEMA_VERSION)
        config, cost = data["config"], data["energy"]["per_output_token"]
        estimate = _estimate(cost)
        outcomes = [run["outcome"] for run in data.get("runs", ())]
        lost = [f"{outcomes.count(one)} of {len(outcomes)} runs {one}" for one in ("failed", "interrupted")]
        modelled = data["energy"]["method"] in {"modelled", "mixed"}
        what = f"{config['model']} on {config['backend']}"
        if config.get("load") is not None:
            what += f", {LoadConfig.model_validate(config['load']).in_words}"
        state = ", ".join(text for text in lost if not text.startswith("0 ")) or "done"
        figure = amount(estimate, modelled=modelled)
        return Entry(folder.name, "result", state, what, figure, data["started_at"]["utc"])
    except ResultError as error:
        why = error.message.partition("result.json ")[2]
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        why = f"{type(error).__name__}: {error}"
    return Entry(folder.name, "result", "unreadable", why[:80], MISSING, "")


def _merged(folder: Path) -> Entry:
    try:
        study = StudyResult.load(folder)
    except ResultError as error:
        return Entry(folder.name, "study", "unreadable", error.message[:80], MISSING, "")
    runs, planned = sum(row.runs for row in study.rows), sum(row.planned for row in study.rows)
    state = "done" if study.finished else "unfinished"
    state = f"done, {len(study.failed)} failed" if study.finished and study.failed else state
    what = f"{runs} of {planned} runs of {len(study.rows)} experiments, merged"
    return Entry(folder.name, "study", state, what, MISSING, study.started_at)


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
    what = what if len(what) <= 80 else f"{what[:79]}…"
    return Entry(name, data["kind"], state, what, figure, data["started_at"]["utc"])


def _estimate(data: Mapping[str, Any]) -> Estimate:
    ends = data["systematic"]
    return Estimate(
        data["value"], data["unit"], data["low"], data["high"],
        None if ends is None else (ends[0], ends[1]),
        data["reason"],
    )  # fmt: skip


def _is_finished(folder: Path) -> bool:
    try:
        return StudyResult.load(folder).finished
    except ResultError:
        return False


def _study(folder: Path) -> Entry:
    try:
        records = list(ledger.read(folder))
    except ResultError as error:
        return Entry(folder.name, "study", "unreadable", error.message[:80], MISSING, "")
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
    closed = records[-1] if records and isinstance(records[-1], Closed) else None
    # Repeats for which a budget left no room will not come; those that --only left out may.
    over = closed is not None and (
        done + failed >= planned or (closed.why == "finished" and _is_finished(folder))
    )
    state = "running" if ledger.is_running(folder) else "done" if over else "unfinished"
    if over and failed:
        state = f"done, {failed} failed"
    what = f"{done} of {planned} runs of {tried} experiments"
    return Entry(folder.name, "study", state, what, MISSING, records[0].at if records else "")
