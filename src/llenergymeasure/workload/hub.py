"""Which rows does a dataset of the Hugging Face hub hold?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from llenergymeasure.config.extras import install
from llenergymeasure.exceptions import ConfigError, PreFlightError

PREFIX = "hf:"
MAX_ROWS = 2_000_000
_FORM = (
    "hf:<name>[:<config>][:<split>][:<column>], such as hf:openai/gsm8k:main:test:question; "
    "a part may be empty: hf:<name>::train"
)


@dataclass(frozen=True, slots=True)
class HubName:
    """What comes between the colons of `hf:…`; what is left out, or empty, is None."""

    name: str
    config: str | None = None
    split: str | None = None
    column: str | None = None


def parse_name(text: str) -> HubName:
    """ConfigError where `text`, which begins with `hf:`, has another form. A split may hold a slice."""
    # A colon within brackets belongs to a slice, as in train[:1000].
    name, *others = re.split(r":(?![^\[]*\])", text.removeprefix(PREFIX))
    if not name or len(others) > 3:
        raise ConfigError(f"dataset {text} does not have the form of a hub dataset", hint=_FORM)
    return HubName(name, *(part or None for part in others))


def rows(asked: HubName) -> tuple[str, Iterator[dict[str, Any]]]:
    """Which split of what was read, and its rows; without one named the test, validation or first split.

    PreFlightError where the hub can't be asked or `datasets` is not installed; ConfigError where the name,
    the configuration or the split does not exist.
    """
    if find_spec("datasets") is None:
        raise PreFlightError(
            f"dataset {PREFIX}{asked.name} needs the package datasets",
            hint=install("datasets"),
        )
    import datasets
    from datasets import exceptions

    datasets.disable_progress_bars()
    try:
        if asked.split is None:
            splits = datasets.get_dataset_split_names(asked.name, asked.config)
            split = next((name for name in ("test", "validation") if name in splits), splits[0])
        else:
            split = asked.split
        found = datasets.load_dataset(asked.name, asked.config, split=split)
    except exceptions.DatasetNotFoundError as error:
        raise ConfigError(f"{_first(error)}", hint=f"check its name: {_FORM}") from error
    except ValueError as error:
        raise ConfigError(f"dataset {PREFIX}{asked.name}: {_first(error)}", hint=_FORM) from error
    except (OSError, RuntimeError, exceptions.DatasetsError) as error:
        raise PreFlightError(
            f"dataset {PREFIX}{asked.name} can't be fetched: {_first(error)}",
            hint="check the network; a gated one needs HF_TOKEN, and one that is here HF_HUB_OFFLINE=1",
        ) from error
    if len(found) > MAX_ROWS:
        raise ConfigError(
            f"dataset {PREFIX}{asked.name} has {len(found):,} rows in {split}; at most {MAX_ROWS:,} are read",
            hint=f"take a slice: {PREFIX}{asked.name}:{asked.config or ''}:{split}[:100000]",
        )
    return f"{asked.name}, {split} ({found.config_name or 'default'})", iter(found)


def _first(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
