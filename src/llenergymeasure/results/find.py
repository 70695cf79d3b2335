"""Which stored result does a person mean: a path, `last`, or the beginning of an id?"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from llenergymeasure.config.loader import read_sources
from llenergymeasure.config.suggest import nearest
from llenergymeasure.exceptions import ConfigError, ResultError
from llenergymeasure.results.folder import holds_runs
from llenergymeasure.results.store import RESULT_FILE
from llenergymeasure.results.study import STUDY_FILE

LAST = "last"
DEFAULT = Path("results")
FEW = 10
_Name = TypeVar("_Name", str, Path, str | Path)


def where_results_are() -> Path:
    """`results` in the working directory where there is one, else the user's default output directory."""
    if DEFAULT.is_dir():
        return DEFAULT
    for layer in reversed(read_sources().shared):
        if "output_dir" in layer and isinstance(named := layer["output_dir"].value, str):
            return Path(named)
    return DEFAULT


def find(name: str | Path, directory: Path | None = None) -> Path:
    """The path of a result or a study. One that exists is itself; else `last` is the newest in `directory`
    (`where_results_are` when None), and another name is the beginning of an id: of a result or a study there,
    or of an experiment in one of its studies. A name with a slash is a path, whether it exists or not.

    ConfigError where several begin like that, ResultError where none does.
    """
    path, text = Path(name), str(name)
    if os.path.lexists(path) or path.name != text:
        return path
    place = directory or where_results_are()
    if text == LAST:
        return _last(place)
    # Those at the top first: an experiment of a study may have the same label.
    for found in (list(_folders(place)), list(_below(place))):
        begin = [one for one in found if one.name == text] or [
            one for one in found if one.name.startswith(text)
        ]
        if len(begin) > 1:
            raise ConfigError(
                "\n  ".join([f"{text} begins the names of {len(begin)} results in {place}:", *_some(begin)]),
                hint="give more of the name",
            )
        if begin:
            return begin[0]
    near = nearest(text, [one.name for one in _folders(place)])
    raise ResultError(
        f"there is no result at {text}, and none in {place} begins like that",
        hint=f"did you mean {near}?" if near else f"llem list {place} shows what is there",
    )


def without_pages(names: Iterable[_Name]) -> list[_Name]:
    """Without the HTML files, which `results/*` names too once `llem report` has written its page there; all
    of them where nothing else is named.
    """
    given = list(names)
    return [one for one in given if Path(one).suffix.lower() not in {".html", ".htm"}] or given


def find_all(
    names: Sequence[str | Path], directory: Path | None, skip: Callable[[str], None]
) -> dict[Path, bool]:
    """The paths that these names and globs stand for, each with whether it was named itself. `skip` hears of
    what a glob matches beside results; errors as of `find`, and ResultError for a glob without any.
    """
    found: dict[Path, bool] = {}
    for name in without_pages(names):
        if not is_glob(name):
            found[find(name, directory)] = True
            continue
        count = len(found)
        for path in matches(name):
            if is_study(path) or may_be_result(path):
                found.setdefault(path, False)
            else:
                skip(f"{path} is not a result")
        if len(found) == count:
            raise ResultError(f"{name} matches no results", hint="llem list shows what is there")
    return found


def is_glob(name: str | Path) -> bool:
    """Whether it is a pattern, and not the name of a path that has such signs."""
    return any(sign in str(name) for sign in "*?[") and not os.path.lexists(name)


def matches(pattern: str | Path) -> list[Path]:
    return [Path(one) for one in sorted(glob.glob(str(pattern), recursive=True))]  # noqa: PTH207  as it may be absolute


def is_study(path: Path) -> bool:
    """Whether it is a study with its result, or that file."""
    return (path / STUDY_FILE).exists() or (path.name == STUDY_FILE and path.exists())


def may_be_result(path: Path) -> bool:
    """Whether a path that a glob matches is a result, or should be one, without reading it."""
    if path.is_dir():
        return (path / RESULT_FILE).exists() or holds_runs(path)
    return path.suffix == ".json"


def _last(place: Path) -> Path:
    stamped = [(changed, one) for one in _folders(place) if (changed := _changed_ns(one)) is not None]
    if not stamped:
        raise ResultError(f"{place} holds no results", hint="--dir names the directory that holds them")
    return max(stamped)[1]


def _changed_ns(folder: Path) -> int | None:
    """When its result was written; None where there is none yet."""
    for name in (STUDY_FILE, RESULT_FILE):
        try:
            return os.stat(f"{folder}/{name}").st_mtime_ns  # noqa: PTH116  as in results.index
        except OSError:
            continue
    return None


def _folders(place: Path) -> Iterator[Path]:
    try:
        with os.scandir(place) as found:
            names = sorted(one.name for one in found if one.is_dir())
    except OSError:
        return
    yield from (place / name for name in names)


def _below(place: Path) -> Iterator[Path]:
    """The experiments of the studies in a directory."""
    for study in _folders(place):
        if (study / STUDY_FILE).exists():
            yield from (one for one in _folders(study) if (one / RESULT_FILE).exists() or holds_runs(one))


def _some(found: list[Path]) -> list[str]:
    shown = [one.name for one in found[:FEW]]
    return shown if len(found) <= FEW else [*shown, f"and {len(found) - FEW} more"]
