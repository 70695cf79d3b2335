"""What can stand where a shell asks for the value of an option?

A shell asks at every press of a key, so that each question imports no more than it needs.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def backends(incomplete: str) -> list[str]:
    from llenergymeasure.config.engines import backend_names

    return _beginning(backend_names(), incomplete)


def precisions(incomplete: str) -> list[str]:
    return _choices("precision", incomplete)


def presets(incomplete: str) -> list[str]:
    from llenergymeasure.config.presets import PRESET_VALUES

    return _beginning(PRESET_VALUES, incomplete)


def meters(incomplete: str) -> list[str]:
    from llenergymeasure.config.models import BUILTIN_METERS
    from llenergymeasure.config.plugins import METERS

    return _beginning(dict.fromkeys((*BUILTIN_METERS, *sorted(METERS.names()))), incomplete)


def models(incomplete: str) -> list[str]:
    """Aliases and what is in the hub's cache. Shells break words at colons, so that random:<shape> is not
    among them.
    """
    from llenergymeasure.models.hub import cached_ids
    from llenergymeasure.models.resolve import ALIASES

    return _beginning((*ALIASES, *cached_ids()), incomplete)


def assignments(incomplete: str) -> list[str]:
    """Keys of --set, with each value where there are few."""
    from llenergymeasure.config.keys import all_keys

    found = []
    for key in all_keys():
        choices = key.values.split(", ") if ", " in key.values and " or " not in key.values else [""]
        found += [f"{key.name}={choice}" for choice in choices]
    return _beginning(found, incomplete)


def results(incomplete: str) -> list[str]:
    """Results and studies: by path in the directory that is being typed; else `last`, ids, folders in
    `results`, and JSON files here.
    """
    from llenergymeasure.results.find import LAST, where_results_are

    if "/" in incomplete:
        return _beginning(map(str, _results_in(Path(incomplete[: incomplete.rfind("/") + 1]))), incomplete)
    found = _results_in(where_results_are())
    files = sorted(map(str, Path().glob("*.json")))
    return _beginning([LAST, *(one.name for one in found), *map(str, found), *files], incomplete)


def _results_in(place: Path) -> list[Path]:
    try:
        return sorted(one for one in place.iterdir() if _is_result(one))
    except OSError:
        return []


def _is_result(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("result.json", "study.json"))


def _choices(key: str, incomplete: str) -> list[str]:
    from llenergymeasure.config.keys import all_keys

    values = next(one.values for one in all_keys() if one.name == key)
    return _beginning(values.split(", "), incomplete)


def _beginning(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
