"""`llem recompute`: does this version get the same numbers from a stored trace?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from pydantic import JsonValue

from llenergymeasure import __version__
from llenergymeasure.analysis.metrics import metrics
from llenergymeasure.analysis.windows import windows_result
from llenergymeasure.cli._display import print_any
from llenergymeasure.cli._errors import reported
from llenergymeasure.cli._streams import (
    filled,
    print_json,
    print_lines,
    say,
    say_saved,
    talk,
)
from llenergymeasure.config.flat import leaves
from llenergymeasure.exceptions import ResultError
from llenergymeasure.measure.marks import left_behind, read_recording
from llenergymeasure.measure.record import finish
from llenergymeasure.measure.replay import read_measurements, read_unsaved
from llenergymeasure.records import FailedRun
from llenergymeasure.results import ExperimentResult
from llenergymeasure.results.find import find
from llenergymeasure.results.folder import RUNS, holds_runs, parts, whole_runs
from llenergymeasure.results.store import (
    REQUESTS_FILE,
    RESULT_FILE,
    UNTRACED,
    save_in,
    why_requests_differ,
)
from llenergymeasure.results.windows import WindowsResult, load_any

Leaves: TypeAlias = Mapping[str, JsonValue]
Result: TypeAlias = ExperimentResult | WindowsResult

# So many changed values are listed one by one without being asked; of more, those that people look for.
FEW = 20
HEADLINES = (
    "energy.per_output_token.value",
    "energy.total.value",
    "energy.net.value",
    "energy.prefill.value",
    "energy.decode.value",
)

# What each version changed in the method, for those who compute older results again.
METHODS = {
    "0.9": "since 0.9 joules are counted from silence to silence, and prefill and decode come from passes of "
    "their own; passes of 0.8 have neither, and are read as windows amid other work, with wider intervals",
    "0.10": "since 0.10 a pass's share of its block is read from the counter's steps around its edges, and "
    "warnings have other words",
    "0.12": "since 0.12 the first read of modelled CPU time counts, so that windows just after the start of "
    "a recording have other joules; a silence that draws far more than the other one is broken, which widens "
    "the interval; and a counter that jumps ahead by more than the device can draw is reset",
}


def recompute(
    named: Path, *, save: bool, as_json: bool, verbose: bool, directory: Path | None = None
) -> None:
    with reported(verbose=verbose):
        result = find(named, directory)
        folder = result.parent if result.name == RESULT_FILE else result
        if folder.is_dir() and holds_runs(folder) and not (folder / RESULT_FILE).exists():
            _compute(folder, save=save, as_json=as_json)
            return
        if (state := left_behind(folder)) is not None:
            if state == "running":
                raise ResultError(f"{folder}: its recorder still runs", hint="wait for its end")
            _compute_windows(folder, save=save, as_json=as_json)
            return
        for part in parts(folder):
            talk(
                f"{part} is what a run left that did not end, and belongs to no result; "
                f"to see its contents: llem recompute {part}"
            )
        stored = load_any(folder)
        if isinstance(stored, WindowsResult):
            _recompute_windows(stored, folder, as_json=as_json, verbose=verbose)
        else:
            _recompute_runs(stored, folder, as_json=as_json, verbose=verbose)


def _compute(folder: Path, *, save: bool, as_json: bool) -> None:
    """From the runs that are there without a result."""
    measurements, failed = read_unsaved(folder)
    anew = metrics(measurements, failed=failed)
    whole, left = whole_runs(folder), [one.name for one in parts(folder)]
    if whole or left:
        lost = f", {', '.join(left)} did not end" if left else ""
        talk(f"{folder} has no result.json; whole runs: {len(whole)}{lost}")
    if not whole and any(one.code == "interrupted" for one in anew.warnings):
        talk("These are the whole blocks of passes of a run that did not end")
    if save and not whole:
        raise ResultError(f"nothing was saved: {folder} has no whole run", hint="leave out --save to see it")
    if save:
        say_saved(save_in(folder, anew))
    elif whole:
        say(f"To write it: llem recompute --save {folder}")
    print_any(anew, as_json=as_json)


def _compute_windows(folder: Path, *, save: bool, as_json: bool) -> None:
    """From what a recorder left that was killed."""
    if save:
        anew, saved = finish(folder, keep=True)
        say_saved(saved or folder)
    else:
        anew = windows_result(read_recording(folder))
        say(f"{folder} has no result.json; to write it: llem recompute --save {folder}")
    print_any(anew, as_json=as_json)


def _recompute_runs(stored: ExperimentResult, folder: Path, *, as_json: bool, verbose: bool) -> None:
    """Compared with the stored result."""
    if not stored.measured:
        raise ResultError(f"{folder} holds no measured run", hint="restore the whole folder from a copy")
    if UNTRACED in stored.notes and not (folder / RUNS).is_dir():
        raise ResultError(f"{folder}: {UNTRACED}", hint="name the folder of a run with --output")
    measurements = read_measurements(folder, [run.index for run in stored.measured])
    failed = [
        FailedRun(run.index, run.reason or "", run.outcome)
        for run in stored.runs
        if run.outcome != "measured"
    ]
    anew = metrics(measurements, failed=failed)
    same_version = __version__ in {stored.environment.llem, measurements[0].environment.llem}
    changed = _show(stored, anew, as_json=as_json, verbose=verbose)
    for one in measurements if same_version else ():
        requests = folder / RUNS / str(one.index) / REQUESTS_FILE
        if why := why_requests_differ(requests, one.blocks):
            raise ResultError(f"{requests} {why}", hint="restore the whole folder from a copy")
    if same_version:
        _refuse_changes(folder, changed)


def _recompute_windows(stored: WindowsResult, folder: Path, *, as_json: bool, verbose: bool) -> None:
    changed = _show(stored, windows_result(read_recording(folder)), as_json=as_json, verbose=verbose)
    if stored.environment.llem == __version__:
        _refuse_changes(folder, changed)


def _show(stored: Result, anew: Result, *, as_json: bool, verbose: bool) -> list[str]:
    """Print the new result, or which values differ; returns the keys of these."""
    before, after = (dict(leaves(one.as_json(), lists=True)) for one in (stored, anew))
    changed = [
        key for key in before | after if (key in before, before.get(key)) != (key in after, after.get(key))
    ]
    if as_json:
        print_json(anew)
    else:
        changes = _changes(stored, before, after, changed, every=verbose or len(changed) <= FEW)
        print_lines(line for text in changes for line in filled(text))
    return changed


def _refuse_changes(folder: Path, changed: Sequence[str]) -> None:
    if changed:
        raise ResultError(
            f"{folder}: the result and the files beside it do not belong together: "
            f"the version that wrote them gets {len(changed)} other values from them",
            hint="restore the whole folder from a copy",
        )


def _changes(
    stored: Result, before: Leaves, after: Leaves, changed: Sequence[str], *, every: bool
) -> list[str]:
    written = stored.environment.llem
    by = f"llem v{__version__}" + ("" if written == __version__ else f" (it was written by v{written})")
    if not changed:
        return [f"{stored.experiment_id}: all {len(before)} values are the same, by {by}"]
    why = [reason for version, reason in METHODS.items() if _number(written) < _number(version)]
    head = f"{stored.experiment_id}: {len(changed)} of {len(before)} values differ, by {by}"
    listed = changed if every else [key for key in HEADLINES if key in changed]
    lines = [f"{key}: {_shown(before, key)} → {_shown(after, key)}" for key in listed]
    return [
        head,
        *(f"why: {reason}" for reason in why),
        *lines,
        *([] if every else _counted(changed, before, after)),
    ]


def _counted(changed: Sequence[str], before: Leaves, after: Leaves) -> Iterator[str]:
    """How many values of each part of a result are other ones, new or gone."""
    by_part: dict[str, list[str]] = {}
    for key in changed:
        by_part.setdefault(re.split(r"[.\[]", key)[0], []).append(key)
    for part, mine in by_part.items():
        kinds = {
            "changed": sum(key in before and key in after for key in mine),
            "new": sum(key not in before for key in mine),
            "gone": sum(key not in after for key in mine),
        }
        yield f"{part}: {', '.join(f'{count} {kind}' for kind, count in kinds.items() if count)}"
    yield "-v lists every value"


def _number(version: str) -> tuple[int, ...]:
    """Of a version, for comparison; one that is no plain number is older than all."""
    parts = version.split(".")[:2]
    return tuple(map(int, parts)) if all(part.isdecimal() for part in parts) else ()


def _shown(leaves: Leaves, key: str) -> str:
    return "(absent)" if key not in leaves else "null" if leaves[key] is None else str(leaves[key])
