"""Which results lie at the paths that somebody named, and what does their study say of each?"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llenergymeasure.analysis.imported import Imported, read_any
from llenergymeasure.exceptions import ConfigError, ResultError
from llenergymeasure.results.folder import RUNS
from llenergymeasure.results.models import ExperimentResult
from llenergymeasure.results.rows import Cell, Row, cell
from llenergymeasure.results.store import RESULT_FILE, WHAT_TO_GIVE
from llenergymeasure.results.study import STUDY_FILE, StudyResult
from llenergymeasure.results.study_table import setting
from llenergymeasure.results.windows import WindowsResult


@dataclass(frozen=True, slots=True)
class Place:
    """Where a result is. `facts` are what its study says of it; `named`: it was named itself, so that it must
    be one.
    """

    path: Path
    facts: Row = field(default_factory=dict)
    named: bool = False


def places(paths: Mapping[Path, bool], skip: Callable[[str], None]) -> list[Place]:
    """The results at these paths, each once: a result, a study, or a directory with any number of both; each
    path with whether it was named itself.

    ResultError where one of them holds no result; `skip` hears of a study's experiment without one.
    """
    found: dict[Path, Place] = {}
    for path, is_named in paths.items():
        mine = list(_below(path, skip, is_named=is_named))
        if not mine:
            raise ResultError(f"there is no result in {path}", hint=WHAT_TO_GIVE)
        for one in mine:
            found.setdefault(one.path.absolute(), one)
    return list(found.values())


def label_kinds(found: Sequence[Place]) -> dict[str, type[Cell]]:
    """The facts that studies add, with the kind of their values; text where those are of several kinds, and
    then they are made text.
    """
    kinds: dict[str, set[type[Cell]]] = {}
    for place in found:
        for name, value in place.facts.items():
            kinds.setdefault(name, set()).update(() if value is None else (type(value),))
    return {
        name: seen.pop() if len(seen) == 1 else float if seen == {int, float} else str
        for name, seen in kinds.items()
    }


def read(
    found: Sequence[Place], skip: Callable[[str], None]
) -> Iterator[tuple[Row, ExperimentResult | WindowsResult | Imported]]:
    """Each result with what its study says of it, read when it is asked for; a file of another tool with all
    measurements in it.

    One that can't be read is skipped, and `skip` hears why; ConfigError or ResultError where it was named
    itself, and ResultError where none can be read.
    """
    count, texts = 0, {name for name, kind in label_kinds(found).items() if kind is str}
    for place in found:
        try:
            results = read_any(place.path)
        except (ConfigError, ResultError) as error:
            if place.named:
                raise
            skip(f"{place.path}: {error.message}" if isinstance(error, ConfigError) else error.message)
            continue
        count += 1
        facts = place.facts.items()
        own = {name: setting(value) if name in texts else value for name, value in facts}
        for result in results:
            if isinstance(result, Imported):
                for name, why in result.left_out.items():
                    skip(f"{name} of {result.name}: {why}")
            yield own, result
    if not count:
        raise ResultError("none of these results can be read", hint="llem list shows what is there")


def _below(path: Path, skip: Callable[[str], None], *, is_named: bool) -> Iterator[Place]:
    if path.is_dir() and not (path / RESULT_FILE).exists():
        yield from _in_directory(path, skip)
    elif path.name == STUDY_FILE:
        yield from _of_study(path.parent, skip)
    else:
        yield Place(path, named=is_named)


def _in_directory(path: Path, skip: Callable[[str], None]) -> Iterator[Place]:
    if (path / STUDY_FILE).exists():
        yield from _of_study(path, skip)
        return
    for at, folders, files in os.walk(path):
        if STUDY_FILE in files:
            try:
                yield from _of_study(Path(at), skip)
            except ResultError as error:
                skip(error.message)
        elif RESULT_FILE in files:
            yield Place(Path(at))
        if STUDY_FILE in files or RESULT_FILE in files:
            folders.clear()
        folders[:] = sorted(one for one in folders if one != RUNS and not one.startswith("."))


def _of_study(folder: Path, skip: Callable[[str], None]) -> Iterator[Place]:
    study = StudyResult.load(folder)
    for row in study.rows:
        facts: Row = {"study": study.name or folder.name, "label": row.label}
        facts |= {key: cell(value) for key, value in row.varied.items()}
        if row.folder is None or not (folder / row.folder / RESULT_FILE).exists():
            why = f": {row.failures[-1].message}" if row.failures else ""
            skip(f"{row.label} of {folder} has no result ({row.outcome}{why})")
            continue
        yield Place(folder / row.folder, facts)
