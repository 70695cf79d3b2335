"""How do parts of a study that ran on several machines become one?"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from llenergymeasure.exceptions import ResultError
from llenergymeasure.results import ExperimentResult
from llenergymeasure.results.store import RESULT_FILE
from llenergymeasure.results.study import STUDY_FILE, StudyResult, StudyRow


def merge(folders: Sequence[Path], target: Path, *, accept_drift: bool) -> StudyResult:
    """One study of the rows of all, with a copy of each experiment's folder in `target`.

    An experiment that several have is taken from the one with the most measured runs. Where the studies,
    their machines or versions differ that is refused; with `accept_drift` the labels say which machine each
    row is from. ResultError names what can't be joined; nothing is written then.
    """
    parts = [(folder.parent if folder.name == STUDY_FILE else folder) for folder in folders]
    studies = {folder: StudyResult.load(folder) for folder in parts}
    if len(studies) < 2:
        raise ResultError("there is nothing to join", hint="give the folders of two or more parts of a study")
    if target.exists() and any(target.iterdir() if target.is_dir() else [target]):
        raise ResultError(f"{target} is there already", hint="choose another --output")
    if len({study.identity for study in studies.values()}) > 1 and not accept_drift:
        raise ResultError(
            "these are not parts of one study: their experiments differ",
            hint="run the same file everywhere, each part with --only; or join them with --accept-drift",
        )
    places = {
        folder: {row.hash: _where(folder / row.folder) for row in study.rows if row.folder is not None}
        for folder, study in studies.items()
    }
    found = {place for each in places.values() for place in each.values()}
    if len(found) > 1 and not accept_drift:
        raise ResultError(
            "these were measured in different places, whose numbers are not to be mixed without a word:\n  "
            + "\n  ".join(sorted(found)),
            hint="--accept-drift joins them, and labels each experiment with its place",
        )
    taken = _taken(studies, places, by_place=len(found) > 1)
    first = next(iter(studies.values()))
    rows = []
    target.mkdir(parents=True, exist_ok=True)
    for number, (folder, row) in enumerate(taken.values()):
        if row.folder is None:
            rows.append(row)
            continue
        name = row.folder if not any(row.folder == one.folder for one in rows) else f"{row.folder}-{number}"
        shutil.copytree(folder / row.folder, target / name)
        rows.append(row.model_copy(update={"folder": name}))
        if len(found) > 1:
            place = places[folder][row.hash]
            rows[-1] = rows[-1].model_copy(update={"label": f"{row.label} ({place})", "place": place})
    order = {row.hash: at for at, row in enumerate(first.rows)}
    rows.sort(key=lambda row: order.get(row.hash, len(order)))
    merged = first.model_copy(
        update={
            "rows": tuple(rows),
            "finished": all(row.outcome != "pending" for row in rows),
            "simulated": any(study.simulated for study in studies.values()),
            "started_at": min(study.started_at for study in studies.values()),
            "ended_at": max(study.ended_at or "" for study in studies.values()) or None,
        }
    )
    merged.write(target)
    return merged


def _taken(
    studies: Mapping[Path, StudyResult], places: Mapping[Path, Mapping[str, str]], *, by_place: bool
) -> dict[tuple[str, str], tuple[Path, StudyRow]]:
    """The row of each experiment (in each place) with the most runs, in the order of the studies."""
    found: dict[tuple[str, str], tuple[Path, StudyRow]] = {}
    measured = {row.hash for study in studies.values() for row in study.rows if row.folder is not None}
    for folder, study in studies.items():
        for row in study.rows:
            if row.folder is None and row.hash in measured:
                continue
            key = row.hash, places[folder].get(row.hash, "") if by_place else ""
            if key not in found or _known(row) > _known(found[key][1]):
                found[key] = folder, row
    return found


def _known(row: StudyRow) -> tuple[int, bool]:
    return row.runs, row.outcome != "pending"


def _where(folder: Path) -> str:
    """The machine and the versions that a result is from."""
    if not (folder / RESULT_FILE).exists():
        raise ResultError(f"{folder} has no {RESULT_FILE}", hint="take the whole folder from its machine")
    result = ExperimentResult.load(folder)
    facts = result.environment
    gpus = [gpu.name or gpu.uuid for gpu in facts.gpus if gpu.uuid in result.session.gpu_uuids]
    versions = [f"{name} {version}" for name, version in sorted(result.session.versions.items())]
    return ", ".join(filter(None, [facts.hostname, facts.cpu, *gpus, f"llem {facts.llem}", *versions]))
