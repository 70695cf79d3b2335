"""Which results and studies do paths hold, and which of their files cannot be read?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import JsonValue

from llenergymeasure.analysis.imported import Imported, read_any
from llenergymeasure.config.flat import leaves
from llenergymeasure.exceptions import ConfigError, ResultError
from llenergymeasure.results.folder import RUNS
from llenergymeasure.results.models import ExperimentResult
from llenergymeasure.results.store import RESULT_FILE
from llenergymeasure.results.study import STUDY_FILE, StudyGap, StudyResult, StudyRow, row_of
from llenergymeasure.results.windows import WindowsResult

# How deep below a directory that was named results are looked for: machine/study/experiment.
DEPTH = 3
# How and how long it was measured, which is not what experiments are about.
_NOT_SETTINGS = {
    *("passes", "repeats", "warmup", "baseline", "energy", "footprint", "preset", "timeout_s", "output_dir")
}
# A name of more settings than these says less than the one that the result has.
_MOST_IN_A_NAME = 4


@dataclass(frozen=True, slots=True)
class Place:
    """Where a result should be, and the row of the study that it belongs to; None where it has none."""

    folder: Path | None
    row: StudyRow | None = None


@dataclass(frozen=True, slots=True)
class Sources:
    """All that the paths hold, not read yet. `study` is the one study where they hold nothing else."""

    places: tuple[Place, ...]
    left_out: tuple[StudyGap, ...]
    study: StudyResult | None
    unread: tuple[str, ...]


@dataclass(slots=True)
class Unlike:
    """Finds the settings in which results differ, and keeps no more of each than that."""

    _first: dict[str, JsonValue] = field(default_factory=dict)
    _apart: list[dict[str, JsonValue] | None] = field(default_factory=list)

    def add(self, result: ExperimentResult | None) -> None:
        if result is None:
            self._apart.append(None)
            return
        own = dict(leaves(result.config.model_dump(mode="json", exclude=_NOT_SETTINGS)))
        own["host"] = result.environment.hostname
        first = self._first = self._first or own
        self._apart.append({key: own.get(key) for key in first | own if own.get(key) != first.get(key)})

    def settings(self) -> list[dict[str, JsonValue] | None]:
        """Of each result, in the order in which they were added; None where there was none."""
        keys = dict.fromkeys(key for one in self._apart for key in one or ())
        return [
            None if one is None else {key: one.get(key, self._first.get(key)) for key in keys}
            for one in self._apart
        ]


def sources(paths: Sequence[Path]) -> Sources:
    """What the paths name: results, studies, or directories of them. ResultError where one holds nothing."""
    places: dict[object, Place] = {}
    studies: dict[Path, StudyResult] = {}
    unread: list[str] = []
    for path in paths:
        try:
            found = [path.parent] if path.name == STUDY_FILE else list(_folders(path, DEPTH))
        except OSError as error:
            raise ResultError(f"{error.filename} can't be read: {error.strerror}") from error
        if not found:
            raise ResultError(
                f"{path} holds no result" if path.exists() else f"there is nothing at {path}",
                hint="give a result.json, the folder of one, a study's folder, or a directory of these",
            )
        for folder in found:
            if not (folder / STUDY_FILE).is_file():
                places.setdefault(folder.resolve(), Place(folder))
                continue
            try:
                studies[folder.resolve()] = StudyResult.load(folder)
            except ResultError as error:
                unread.append(error.message)
                places |= {one.resolve(): Place(one) for one in _results_in(folder)}
    for folder, study in studies.items():
        for row in study.rows:
            at = None if row.folder is None else folder / row.folder
            places[at or (folder, row.hash, row.place)] = Place(at, row)
    alone = len(studies) == 1 and all(place.row is not None for place in places.values())
    return Sources(
        tuple(places.values()),
        tuple(gap for study in studies.values() for gap in study.left_out),
        next(iter(studies.values())) if alone else None,
        tuple(unread),
    )


def _folders(path: Path, depth: int) -> Iterator[Path]:
    """The folders of studies and results at a path or below it; a file stands for itself."""
    if path.is_file() or (path / STUDY_FILE).is_file() or (path / RESULT_FILE).is_file():
        yield path
    elif path.is_dir() and depth:
        for one in sorted(path.iterdir()):
            if one.is_dir() and one.name != RUNS and not one.name.startswith("."):
                yield from _folders(one, depth - 1)


def _results_in(folder: Path) -> Iterator[Path]:
    return (one.parent for one in sorted(folder.glob(f"*/{RESULT_FILE}")))


def read(
    found: Sources, unread: list[str]
) -> Iterator[tuple[Place, ExperimentResult | WindowsResult | None]]:
    """One result after the other; None for a row of a study without one. What cannot be read is named in
    `unread`.
    """
    for place in found.places:
        result: ExperimentResult | WindowsResult | Imported | None = None
        try:
            if place.folder is not None:
                result, *_ = read_any(place.folder)
        except (ConfigError, ResultError) as error:
            if place.row is None and len(found.places) == 1:
                raise
            unread.append(error.message)
        if isinstance(result, Imported):
            unread.append(
                f"{place.folder} is of {result.tool}, and a report is of llem's own results; "
                "llem compare and llem export read it"
            )
            result = None
        if result is not None or place.row is not None:
            yield place, result


def row_for(folder: Path, result: ExperimentResult, row: StudyRow | None) -> StudyRow:
    """The row of its study with the figures of its file; else one of its own."""
    if row is not None:
        return row.model_copy(update=row_of(result))
    return StudyRow.model_validate(
        {
            "label": result.experiment_id,
            "names": (),
            "hash": result.config_hash,
            "varied": {},
            "outcome": "partial" if len(result.measured) < len(result.runs) else "done",
            "folder": str(folder),
            "planned": len(result.runs),
            **row_of(result),
        }
    )


def named(
    rows: Sequence[StudyRow], settings: Sequence[Mapping[str, JsonValue] | None]
) -> tuple[StudyRow, ...]:
    """Rows of several sources: each is named by the settings in which they differ, if these are few and tell
    them apart.
    """
    made = [
        " ".join(f"{key.rpartition('.')[2]}={value}" for key, value in one.items())
        if one and len(one) <= _MOST_IN_A_NAME
        else row.label
        for row, one in zip(rows, settings, strict=True)
    ]
    count = Counter(made)
    return tuple(
        row.model_copy(
            update={
                "label": label if count[label] == 1 else f"{label} · {row.label}",
                "varied": row.varied if one is None else dict(one),
            }
        )
        for row, label, one in zip(rows, made, settings, strict=True)
    )
