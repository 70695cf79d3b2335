"""Which published models are known by name without a download, and how does transformers build one?

`published.json` holds for each name the fields of the published `config.json` that decide arithmetic and
bytes, and the hub ids where that file is. Weights are those of the unquantised model. The tests compare every
parameter count with the model that transformers builds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files

from pydantic import JsonValue

from llenergymeasure.models.architecture import from_config
from llenergymeasure.records import Architecture

_PUBLISHED = json.loads(
    files("llenergymeasure.models").joinpath("published.json").read_text(encoding="utf-8")
)

CONFIGS: Mapping[str, Mapping[str, JsonValue]] = {name: one["config"] for name, one in _PUBLISHED.items()}


class _Shapes(Mapping[str, Architecture]):
    """Shapes by the names that lead to those of `CONFIGS`, each made when it is asked for."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names

    def __getitem__(self, key: str) -> Architecture:
        return _shape(self._names[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@cache
def _shape(name: str) -> Architecture:
    return from_config(CONFIGS[name], name=name, source="built-in table")


SHAPES = _Shapes({name: name for name in CONFIGS})
HUB_SHAPES = _Shapes({hub_id.lower(): name for name, one in _PUBLISHED.items() for hub_id in one["hub"]})
"""By lower-case hub id, so that a dry run of a well-known model needs no network."""


def hf_config(a: Architecture) -> dict[str, JsonValue]:
    """The dictionary from which transformers' `AutoConfig.for_model` builds this published shape."""
    return dict(CONFIGS[a.name])
