"""`llem config`: which keys are there, what is in force and why, and what is wrong with a file?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

import typer
from pydantic import JsonValue, ValidationError

from llenergymeasure.cli._errors import errors, reported, say_filled, validation_lines
from llenergymeasure.cli._layout import row_lines
from llenergymeasure.cli._streams import filled, print_json, print_lines, printable, strong
from llenergymeasure.config import loader
from llenergymeasure.config.flat import leaves
from llenergymeasure.config.keys import Key, all_keys, study_keys
from llenergymeasure.config.models import ENGINES, ExperimentConfig
from llenergymeasure.config.schema import experiment_schema, study_schema
from llenergymeasure.config.study import is_study
from llenergymeasure.config.suggest import nearest, nearest_key
from llenergymeasure.config.yaml import named, read_mapping
from llenergymeasure.exceptions import ConfigError
from llenergymeasure.results.summary import Row

# So many experiments that do not run are listed.
_FEW = 5


def show(path: Path | None, assignments: Sequence[str], *, as_json: bool, verbose: bool) -> None:
    with reported(verbose=verbose):
        if path is not None and is_study(read_mapping(path)):
            raise ConfigError(
                f"{named(path)} is a study, and this shows one experiment",
                hint=f"to see each of its experiments: llem run {path} --dry-run",
            )
        sources = loader.read_sources(path, loader.parse_assignments(assignments))
        # Who asks what is in force may have named no model yet.
        is_named = any("model" in layer for layer in (*sources.shared, sources.file, sources.flags))
        config = loader.resolve(sources, None if is_named else {"model": "none"})
        values, origins = dict(_in_force(config)), config.origins
        if not is_named:
            del values["model"]
        if as_json:
            print_json({key: {"value": value, "origin": origins[key]} for key, value in values.items()})
        else:
            print_lines(chain(*row_lines(_rows(values, origins))))


def validate(paths: Sequence[Path], *, verbose: bool) -> None:
    with reported(verbose=verbose):
        wrong = 0
        for path in paths:
            kind, found = check(path)
            wrong += bool(found)
            if found:
                say_filled("\n".join([f"{named(path)}: {errors(len(found))}", *found]))
            else:
                print_lines(_valid_lines(path, kind))
        if wrong:
            raise typer.Exit(2)


def schema(*, study: bool, result: bool, verbose: bool) -> None:
    with reported(verbose=verbose):
        if study and result:
            raise ConfigError("--study and --result: one schema at a time")
        if result:
            # Results import numpy, which no configuration needs.
            from llenergymeasure.results.schema import result_schema

            print_json(result_schema())
        else:
            print_json(study_schema() if study else experiment_schema())


def keys(word: str | None, *, as_json: bool, verbose: bool) -> None:
    with reported(verbose=verbose):
        known = (*all_keys(), *study_keys())
        found = [key for key in known if word is None or _matches(key, word.lower())]
        if word is not None and not found:
            meant = nearest_key(word) or nearest(word, (key.name for key in known))
            raise ConfigError(
                f"no key is like {word!r}",
                hint=f"did you mean {meant}?" if meant else "llem config keys lists all",
            )
        if as_json:
            print_json([{name: getattr(key, name) for name in Key.__slots__} for key in found])
        else:
            print_lines(chain(*(_key_lines(key) for key in found)))


def _in_force(config: ExperimentConfig) -> Iterator[tuple[str, JsonValue]]:
    """Every value but those of engines that do not run."""
    for key, value in leaves(config.model_dump(mode="json"), empty=True):
        if key.partition(".")[0] not in ENGINES.keys() - {config.backend} and key in config.origins:
            yield key, value


def _rows(values: Mapping[str, JsonValue], origins: Mapping[str, str]) -> Iterator[Row]:
    for key, value in values.items():
        text = value if isinstance(value, str) else json.dumps(value)
        yield Row(key, text, origins[key], strong=origins[key] != "default")


def check(path: Path) -> tuple[str, list[str]]:
    """Whether a file is an experiment or a study, and what is wrong with it, each with its way out."""
    kind = "experiment"
    found: Iterator[ConfigError | ValidationError]
    try:
        if is_study(read_mapping(path)):
            # A study's plan needs what no experiment does.
            from llenergymeasure.study import check as of_study

            kind, found = "study", of_study.problems(path)
        else:
            found = loader.problems(path)
        texts = [text for error in found for text in _texts(error)]
    except ConfigError as error:
        texts = list(_texts(error))
    return kind, list(dict.fromkeys(texts))


def _valid_lines(path: Path, kind: str) -> Iterator[str]:
    yield from filled(f"{named(path)}: valid {kind}")
    if kind == "study":
        from llenergymeasure.study import check as of_study

        left_out = of_study.impossible(path)
        for one in left_out[:_FEW]:
            yield from filled(f"{one.label} is not valid, and does not run: {one.reason}", indent="  ")
        if len(left_out) > _FEW:
            yield from filled(f"and {len(left_out) - _FEW} more: llem run FILE --dry-run", indent="  ")


def _texts(error: ConfigError | ValidationError) -> Iterator[str]:
    if isinstance(error, ValidationError):
        yield from (f"  {line}" for line in validation_lines(error))
    else:
        hint = f"; hint: {error.hint}" if error.hint else ""
        yield f"  {printable(' '.join(f'{error.message}{hint}'.split()))}"


def _matches(key: Key, word: str) -> bool:
    return word in key.name.lower() or word in key.about.lower()


def _key_lines(key: Key) -> Iterator[str]:
    """Its name, what it takes and what it is without it, and below that what it is for."""
    default = "" if key.default is None else f", default {key.default}"
    yield from filled(f"{strong(key.name)}  {key.values}{default}", hang="    ")
    if key.about:
        yield from filled(key.about, indent="    ")
