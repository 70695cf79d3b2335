"""`llem recompute`: does this version get the same numbers from a stored trace?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, TypeAlias

import typer
from pydantic import JsonValue

from llenergymeasure import __version__
from llenergymeasure.cli._display import print_json, print_lines, reader_may_leave
from llenergymeasure.cli._errors import reported
from llenergymeasure.config.flat import leaves
from llenergymeasure.exceptions import ResultError
from llenergymeasure.records import FailedRun
from llenergymeasure.results import ExperimentResult
from llenergymeasure.results.windows import WindowsResult, load_any

Leaves: TypeAlias = Mapping[str, JsonValue]
Result: TypeAlias = ExperimentResult | WindowsResult

# What each version changed in the method, for those who compute older results again.
METHODS = {
    "0.9": "since 0.9 joules are counted from silence to silence, and prefill and decode come from passes of "
    "their own; passes of 0.8 have neither, and are read as windows amid other work, with wider intervals"
}


def recompute(
    result: Annotated[Path, typer.Argument(metavar="RESULT", help="The folder of a saved run")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print the new result instead")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show tracebacks")] = False,
) -> None:
    """Compute a stored run's numbers again from its trace and events, and say what changed.

    Exit code 1 where values differ although this very version wrote the result.
    """
    with reported(verbose=verbose):
        from llenergymeasure.analysis.metrics import metrics
        from llenergymeasure.measure.replay import read_measurements
        from llenergymeasure.results.store import REQUESTS_FILE, RUNS, why_requests_differ

        folder = result.parent if result.name == "result.json" else result
        stored = load_any(folder)
        if isinstance(stored, WindowsResult):
            _recompute_windows(stored, folder, as_json=as_json)
            return
        if not stored.measured:
            raise ResultError(f"{folder} holds no measured run", hint="restore the whole folder from a copy")
        measurements = read_measurements(folder, [run.index for run in stored.measured])
        failed = [FailedRun(run.index, run.reason or "") for run in stored.runs if run.outcome == "failed"]
        anew = metrics(measurements, failed=failed)
        same_version = __version__ in {stored.environment.llem, measurements[0].environment.llem}
        before, after, changed = _compared(stored, anew)
        with reader_may_leave():
            if as_json:
                print_json(anew.as_json())
            else:
                print_lines(_changes(stored, before, after, changed))
        for one in measurements if same_version else ():
            requests = folder / RUNS / str(one.index) / REQUESTS_FILE
            if why := why_requests_differ(requests, one.blocks):
                raise ResultError(f"{requests} {why}", hint="restore the whole folder from a copy")
        if same_version:
            _refuse_changes(folder, changed)


def _recompute_windows(stored: WindowsResult, folder: Path, *, as_json: bool) -> None:
    from llenergymeasure.analysis.windows import windows_result
    from llenergymeasure.measure.marks import read_recording

    anew = windows_result(read_recording(folder))
    before, after, changed = _compared(stored, anew)
    with reader_may_leave():
        if as_json:
            print_json(anew.as_json())
        else:
            print_lines(_changes(stored, before, after, changed))
    if stored.environment.llem == __version__:
        _refuse_changes(folder, changed)


def _compared(stored: Result, anew: Result) -> tuple[Leaves, Leaves, list[str]]:
    """All values of both, and which of them differ."""
    before, after = (dict(leaves(one.as_json(), lists=True)) for one in (stored, anew))
    changed = [
        key for key in before | after if (key in before, before.get(key)) != (key in after, after.get(key))
    ]
    return before, after, changed


def _refuse_changes(folder: Path, changed: Sequence[str]) -> None:
    if changed:
        raise ResultError(
            f"{folder}: the result and the files beside it do not belong together: "
            f"the version that wrote them gets {len(changed)} other values from them",
            hint="restore the whole folder from a copy",
        )


def _changes(stored: Result, before: Leaves, after: Leaves, changed: Sequence[str]) -> list[str]:
    written = stored.environment.llem
    by = f"llem v{__version__}" + ("" if written == __version__ else f" (it was written by v{written})")
    if not changed:
        return [f"{stored.experiment_id}: all {len(before)} values are the same, by {by}"]
    why = [reason for version, reason in METHODS.items() if _number(written) < _number(version)]
    return [
        f"{stored.experiment_id}: {len(changed)} of {len(before)} values differ, by {by}",
        *(f"why: {reason}" for reason in why),
        *(f"{key}: {_shown(before, key)} → {_shown(after, key)}" for key in changed),
    ]


def _number(version: str) -> tuple[int, ...]:
    """Of a version, for comparison; one that is no plain number is older than all."""
    parts = version.split(".")[:2]
    return tuple(map(int, parts)) if all(part.isdecimal() for part in parts) else ()


def _shown(leaves: Leaves, key: str) -> str:
    return "(absent)" if key not in leaves else "null" if leaves[key] is None else str(leaves[key])
