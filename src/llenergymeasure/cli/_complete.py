"""What can stand where a shell asks for the value of an option?

A shell asks at every press of a key, so that each question imports no more than it needs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

# Of the word that is being typed, what bash takes for the word; None where it takes the whole.
_tail: str | None = None


def join_words() -> None:
    """Make `--set preset=ri` two words again: bash breaks words at `=` and `:`, asks for the last."""
    global _tail  # noqa: PLW0603  a process answers one question
    if os.environ.get("_LLEM_COMPLETE") != "complete_bash":
        return
    broken = os.environ["COMP_WORDS"].split("\n")
    at = int(os.environ["COMP_CWORD"])
    words: list[str] = []
    for number, word in enumerate(broken[: at + 1]):
        sticks = number > 1 and (word in {"=", ":"} or broken[number - 1] in {"=", ":"})
        words[-1:] = [words[-1] + word] if sticks else [*words[-1:], word]
        if sticks and number == at:
            _tail = "" if word in {"=", ":"} else word
    os.environ["COMP_WORDS"] = "\n".join(words)
    os.environ["COMP_CWORD"] = str(len(words) - 1)


def backends(incomplete: str) -> list[str]:
    return _beginning(_backends(), incomplete)


def _backends() -> Iterable[str]:
    from llenergymeasure.config.engines import backend_names

    return backend_names()


def precisions(incomplete: str) -> list[str]:
    return _choices("precision", incomplete)


def presets(incomplete: str) -> list[str]:
    from llenergymeasure.config.presets import PRESET_VALUES

    return _beginning(PRESET_VALUES, incomplete)


def meters(incomplete: str) -> list[str]:
    return _beginning(_meters(), incomplete)


def _meters() -> Iterable[str]:
    from llenergymeasure.config.models import BUILTIN_METERS
    from llenergymeasure.config.plugins import METERS

    return dict.fromkeys((*BUILTIN_METERS, *sorted(METERS.names())))


def models(incomplete: str) -> list[str]:
    """Aliases and what is in the hub's cache. Shells break words at colons, so that random:<shape> is not
    among them.
    """
    from llenergymeasure.models.hub import cached_ids
    from llenergymeasure.models.resolve import ALIASES

    return _beginning((*ALIASES, *cached_ids()), incomplete)


def assignments(incomplete: str) -> list[str]:
    """Keys of --set, with each value where there are few."""
    from llenergymeasure.config.keys import all_keys, study_keys

    from_outside = {"backend": _backends, "energy.meter": _meters}
    found = []
    for key in (*all_keys(), *(one for one in study_keys() if one.name.startswith("execution."))):
        known = key.values.partition(" or ")[0]
        choices: Iterable[str] = known.split(", ") if ", " in known else [""]
        if named := from_outside.get(key.name):
            choices = named()
        found += [f"{key.name}={choice}" for choice in choices]
    return _beginning(found, incomplete)


def among(*names: str) -> Callable[[str], list[str]]:
    """Of an option that takes one of a few words."""

    def values(incomplete: str) -> list[str]:
        return _beginning(names, incomplete)

    return values


def keys(incomplete: str) -> list[str]:
    from llenergymeasure.config.keys import all_keys, study_keys

    return _beginning([one.name for one in (*all_keys(), *study_keys())], incomplete)


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
    found = [name for name in names if name.startswith(incomplete)]
    return found if _tail is None else [_Rest(name[len(incomplete) - len(_tail) :]) for name in found]


class _Rest(str):
    """What bash puts in the place of the last piece, though Typer looks for the whole word at its start."""

    __slots__ = ()

    def startswith(self, *_: object) -> bool:
        return True
