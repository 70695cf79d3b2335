"""`llem recompute`: does this version get the same numbers from a stored trace?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from pydantic import JsonValue

from llenergymeasure import __version__
from llenergymeasure.analysis.metrics import metrics
from llenergymeasure.cli._errors import reported
from llenergymeasure.cli._streams import print_json, print_lines, reader_may_leave
from llenergymeasure.config.flat import leaves
from llenergymeasure.exceptions import ResultError
from llenergymeasure.measure.replay import read_measurements
from llenergymeasure.records import FailedRun
from llenergymeasure.results import ExperimentResult
from llenergymeasure.results.store import REQUESTS_FILE, RUNS, why_requests_differ

Leaves: TypeAlias = Mapping[str, JsonValue]

# What each version changed in the method, for those who compute older results again.
METHODS = {
    "0.9": "since 0.9 joules are counted from silence to silence, and prefill and decode come from passes of "
    "their own; passes of 0.8 have neither, and are read as windows amid other work, with wider intervals"
}


def recompute(result: Path, *, as_json: bool, verbose: bool) -> None:
    with reported(verbose=verbose):
        folder = result.parent if result.name == "result.json" else result
        stored = ExperimentResult.load(folder)
        if not stored.measured:
            raise ResultError(f"{folder} holds no measured run", hint="restore the whole folder from a copy")
        measurements = read_measurements(folder, [run.index for run in stored.measured])
        failed = [FailedRun(run.index, run.reason or "") for run in stored.runs if run.outcome == "failed"]
        anew = metrics(measurements, failed=failed)
        same_version = __version__ in {stored.environment.llem, measurements[0].environment.llem}
        before, after = (dict(leaves(one.as_json(), lists=True)) for one in (stored, anew))
        changed = [
            key
            for key in before | after
            if (key in before, before.get(key)) != (key in after, after.get(key))
        ]
        with reader_may_leave():
            if as_json:
                print_json(anew.as_json())
            else:
                print_lines(_changes(stored, before, after, changed))
        for one in measurements if same_version else ():
            requests = folder / RUNS / str(one.index) / REQUESTS_FILE
            if why := why_requests_differ(requests, one.blocks):
                raise ResultError(f"{requests} {why}", hint="restore the whole folder from a copy")
        if changed and same_version:
            raise ResultError(
                f"{folder}: the result and the files beside it do not belong together: "
                f"the version that wrote them gets {len(changed)} other values from them",
                hint="restore the whole folder from a copy",
            )


def _changes(stored: ExperimentResult, before: Leaves, after: Leaves, changed: Sequence[str]) -> list[str]:
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
