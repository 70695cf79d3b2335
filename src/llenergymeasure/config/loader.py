"""How do a file, flags, the environment and defaults become one configuration with the origin of each value?

Flags win over the file, the file over the environment (`LLEM_…`), that over the user's own configuration,
that over the preset, and the preset over the defaults.

Long because each source of values has its own errors, and all have one order.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path

from platformdirs import user_config_path
from pydantic import JsonValue, ValidationError
from pydantic.fields import FieldInfo

from llenergymeasure.config import yaml
from llenergymeasure.config.engines import backend_names, brought_section, why_absent
from llenergymeasure.config.flat import leaves
from llenergymeasure.config.models import ENGINES, ExperimentConfig, why_not_in_force
from llenergymeasure.config.presets import PRESET_VALUES
from llenergymeasure.config.secrets import is_secret, way_out
from llenergymeasure.config.suggest import (
    RENAMED,
    is_free,
    keys_beside,
    nearest,
    nearest_key,
    peer_key,
    section_of,
)
from llenergymeasure.exceptions import ConfigError, LLEMError

PREFIX = "LLEM_"
# variables of that prefix that steer llem itself and describe no experiment
# Where meters find their devices, and credentials that no configuration may hold; plug-ins add their own.
OF_METERS = "LLEM_METER_"
RESERVED = frozenset({"LLEM_CACHE_DIR", "LLEM_LOCK_DIR", "LLEM_POWER_RECORDINGS", "LLEM_SIMULATED_NVML"})
MAX_DOTS = 8
BATCH_SIZE = "--batch-size"  # an override whose key depends on the backend
_FREE: FieldInfo = FieldInfo(annotation=dict, default_factory=dict)
STUDY_KEYS = frozenset({"sweep", "experiments", "search"})


@dataclass(frozen=True, slots=True)
class _Leaf:
    value: JsonValue
    origin: str


@dataclass(frozen=True, slots=True)
class _Unknown:
    """A key that does not exist, and the environment variable that gave it, if one did."""

    key: str
    origin: str
    variable: str | None = None

    def __str__(self) -> str:
        name, meant = self.variable or self.key, RENAMED.get(self.key) or nearest_key(self.key)
        if is_secret(self.key):
            return f"{name} ({self.origin}) looks like a secret and is not a setting; {way_out(self.key)}"
        if self.variable:
            steering = {variable.removeprefix(PREFIX): variable for variable in RESERVED}
            setting = meant and PREFIX + meant.upper().replace(".", "__")
            near = nearest(name.removeprefix(PREFIX), steering)
            meant = steering[near] if near else setting
        if not name.isprintable() or not name.strip():
            name = repr(name)
        if self.key in RENAMED:
            return f"{name} is now {meant} ({self.origin})"
        last = (meant or "").rpartition(".")[2]
        if "." not in self.key and sum(last in section.model_fields for section in ENGINES.values()) > 1:
            meant = f"{meant}, or that of another engine"
        return f"{name} ({self.origin})" + (f"; did you mean {meant}?" if meant else "")


_Layer = dict[str, _Leaf]


def load_experiment_config(
    path: str | Path | None = None,
    cli_overrides: Mapping[str, JsonValue] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    user_config: Path | None = None,
) -> ExperimentConfig:
    """One experiment from all of these sources, with `origins`: flag, file …, environment LLEM_…,
    user config …, preset …, or default.

    `cli_overrides` maps dotted keys to values; BATCH_SIZE goes to the section of the backend in force.
    `environ` is the process's environment and `user_config` the platform's place for it, when None.
    ConfigError when something can't be read or has no meaning, pydantic's ValidationError when a value is
    not allowed.
    """
    sources = read_sources(path, cli_overrides, environ=environ, user_config=user_config)
    if not any("model" in layer for layer in (*sources.shared, sources.file, sources.flags)):
        raise _no_model(path)
    return resolve(sources)


@dataclass(frozen=True, slots=True)
class Sources:
    """What each source says: the user's configuration and the environment, the file, and the flags."""

    shared: tuple[_Layer, _Layer]
    file: _Layer
    flags: _Layer
    batch_size: JsonValue = None
    path: Path | None = None


def read_sources(
    path: str | Path | None = None,
    cli_overrides: Mapping[str, JsonValue] | None = None,
    *,
    content: Mapping[str, JsonValue] | None = None,
    origin: str = "study",
    environ: Mapping[str, str] | None = None,
    user_config: Path | None = None,
) -> Sources:
    """All that is said, once; `content` stands for what the file at `path` holds, or is from `origin`.

    ConfigError names every key that does not exist.
    """
    sources, unknown = read_known(
        path, cli_overrides, content=content, origin=origin, environ=environ, user_config=user_config
    )
    if unknown:
        head = "unknown key: " if len(unknown) == 1 else f"{len(unknown)} unknown keys:\n  "
        raise ConfigError(head + "\n  ".join(unknown))
    return sources


def problems(path: Path) -> Iterator[ConfigError | ValidationError]:
    """Everything that is wrong with an experiment file, beside what the environment and the user's own
    configuration say: what can't be read, every unknown key, every value that is not allowed.
    """
    try:
        sources, unknown = read_known(path)
        yield from (ConfigError(f"unknown key: {one}") for one in unknown)
        try:
            resolve(sources)
        except ValidationError as error:
            yield error
            # What values together make wrong comes to light only once each of them is allowed.
            backend = _chosen(sources.file, "backend")
            if backend in backend_names() and all(details["loc"] for details in error.errors()):
                _refuse_other_engines(_without_untouched(sources.file, str(backend)), str(backend), path)
    except ConfigError as error:
        yield error


def read_known(
    path: str | Path | None,
    cli_overrides: Mapping[str, JsonValue] | None = None,
    *,
    content: Mapping[str, JsonValue] | None = None,
    origin: str = "study",
    environ: Mapping[str, str] | None = None,
    user_config: Path | None = None,
) -> tuple[Sources, tuple[str, ...]]:
    """The sources without the keys that do not exist, and what to say of each of those."""
    unknown: list[_Unknown] = []
    user = user_config or user_config_path("llenergymeasure") / "config.yaml"
    flags = dict(cli_overrides or {})
    batch_size = flags.pop(BATCH_SIZE, None)
    of_user = _layer(yaml.read_mapping(user), f"user config {user}", unknown) if user.exists() else {}
    of_environment = _from_environment(os.environ if environ is None else environ, unknown)
    if content is not None and path is None:
        file = _layer(content, origin, unknown)
    else:
        file = {} if path is None else _from_file(Path(path), unknown, content)
    sources = Sources(
        (of_user, of_environment),
        file,
        _layer(flags, "flag", unknown),
        batch_size,
        None if path is None else Path(path),
    )
    return sources, tuple(map(str, unknown))


def resolve(
    sources: Sources, point: Mapping[str, JsonValue] | None = None, *, swept: bool = False
) -> ExperimentConfig:
    """One experiment of the sources, with its origins; of a study the one with the keys of `point`.

    What is said of engines that do not run there applies to others, where it is the user's configuration, the
    environment, or a study that says it; a point's own settings must fit, unless it is `swept`.
    """
    unknown: list[_Unknown] = []
    own = _layer(point or {}, "study", unknown)
    layers = [*sources.shared, sources.file, own, sources.flags]
    said = _overlay(layers)
    preset, backend = (_chosen(said, key) for key in ("preset", "backend"))
    layers[2] = _without_untouched(layers[2], str(backend))
    values = PRESET_VALUES.get(preset, {}) if isinstance(preset, str) else {}
    base = {
        f"{backend}.{key}" if key == "batch_size" else key: _Leaf(value, f"preset {preset}")
        for key, value in values.items()
        if key != "batch_size" or _field(f"{backend}.{key}") is not None
    }
    if sources.batch_size is not None:
        layers[-1] = _with_batch_size(layers[-1], sources.batch_size, str(backend))
    for at in (0, 1) if point is None else (0, 1, 2, *((3,) if swept else ()), 4):
        layers[at] = {
            key: leaf for key, leaf in layers[at].items() if not _of_other_engine(key, str(backend))
        }
    said = _overlay([base, *layers])
    try:
        config = ExperimentConfig.model_validate(_unflatten({key: leaf.value for key, leaf in said.items()}))
    except ValidationError as error:
        for key, origin in _places(error, said, sources.path):
            error.add_note(f"{key}: {origin}")
        raise
    _refuse_other_engines(said, config.backend, sources.path)
    return config.with_origins(_origins(said, config.backend))


def by_section(path: str | Path | None, overrides: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """The overrides with BATCH_SIZE in the section of the backend in force, or of each of several."""
    if (size := overrides.get(BATCH_SIZE)) is None:
        return dict(overrides)
    sources = read_sources(path, overrides)
    backend = _chosen(_overlay([*sources.shared, sources.file, sources.flags]), "backend")
    rest = {key: value for key, value in overrides.items() if key != BATCH_SIZE}
    return {**rest, **{f"{one}.batch_size": size for one in str(backend).split(",")}}


def _chosen(said: _Layer, key: str) -> JsonValue:
    found: JsonValue = said[key].value if key in said else ExperimentConfig.model_fields[key].default
    return found


def parse_assignments(pairs: Sequence[str]) -> dict[str, JsonValue]:
    """`KEY=VALUE` pairs as dotted overrides; values are YAML."""
    values: dict[str, JsonValue] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        key = key.strip()
        if not equals or not key:
            raise ConfigError(
                f"--set {pair!r} is not KEY=VALUE", hint="such as --set decoder.temperature=0.7"
            )
        if key in values:
            raise ConfigError(f"--set {key} is given twice")
        values[key] = yaml.parse(text, where=f"--set {key}")
    return values


def _from_file(path: Path, unknown: list[_Unknown], content: Mapping[str, JsonValue] | None = None) -> _Layer:
    """What the file says, or `content`, which is what a study makes of it."""
    name = yaml.named(path)
    if content is None:
        content = _experiment_in(path, name)
    known = len(unknown)
    layer = _layer(content, _file_origin(path), unknown)
    if len(unknown) > known:
        lines = yaml.key_lines(path)
        unknown[known:] = [
            replace(one, origin=_with_line(one.key, one.origin, lines)) for one in unknown[known:]
        ]
    return layer


def _experiment_in(path: Path, name: str) -> Mapping[str, JsonValue]:
    content = yaml.read_mapping(path)
    if not content:
        raise ConfigError(
            f"{name} is empty", hint="the least that it can hold is a line such as `model: gpt2`"
        )
    if {"schema_version", "experiment_id"} <= content.keys():
        raise ConfigError(
            f"{name} is a result, not a configuration",
            hint="what it was measured with is under `config` in it; to see the result: llem show",
        )
    if study := STUDY_KEYS & content.keys():
        raise ConfigError(
            f"{name} describes a study ({', '.join(sorted(study))}); "
            "this version runs single experiments only",
            hint="give one experiment per file, with `model:` at its top level",
        )
    return content


def _file_origin(path: Path) -> str:
    return yaml.named(path) if path == yaml.STDIN else f"file {path}"


def _with_line(key: str, origin: str, lines: Mapping[str, int]) -> str:
    line = next((lines[name] for name in (key, *_parents(key)) if name in lines), None)
    return origin if line is None else f"{origin}, line {line}"


def _places(error: ValidationError, said: _Layer, path: str | Path | None) -> Iterator[tuple[str, str]]:
    """The key of each value that is not allowed, and where it comes from, to the line of the file."""
    of_file = None if path is None else _file_origin(Path(path))
    lines = {} if path is None else yaml.key_lines(Path(path))
    for details in error.errors(include_url=False, include_context=False):
        key = ".".join(map(str, details["loc"]))
        # What two values together make wrong has no place of its own; the message begins with one of them.
        meant = key or details["msg"].removeprefix("Value error, ").partition(" ")[0]
        near = (
            meant,
            f"{meant}.name",
            *_parents(meant),
            *(one for one in said if one.startswith(f"{meant}.")),
        )
        leaf = next((said[name] for name in near if name in said), None)
        if leaf is not None:
            yield key, _with_line(meant, leaf.origin, lines if leaf.origin == of_file else {})


def _from_environment(environ: Mapping[str, str], unknown: list[_Unknown]) -> _Layer:
    layer: _Layer = {}
    for name in sorted(environ):
        # an empty variable counts as unset, as everywhere
        if not name.startswith(PREFIX) or name in RESERVED or not environ[name]:
            continue
        if name.startswith(OF_METERS):
            continue
        key = name.removeprefix(PREFIX).lower().replace("__", ".")
        if first_unknown(key) is not None:
            unknown.append(_Unknown(key, "environment", variable=name))
            continue
        value = yaml.parse(environ[name], where=f"environment variable {name}")
        layer = _overlay([layer, _layer({key: value}, f"environment {name}", unknown)])
    return layer


def _layer(values: Mapping[str, JsonValue], origin: str, unknown: list[_Unknown]) -> _Layer:
    named = {
        "dataset.name" if key == "dataset" and isinstance(value, str) else key: value
        for key, value in values.items()
    }
    layer: _Layer = {}
    stray: set[str] = set()
    for key, value in leaves(_unflatten(named, where=origin), empty=True):
        if (first := first_unknown(key)) is not None:
            stray.add(first if peer_key(key) is None else key)
        elif not _says_nothing(key, value):
            layer[key] = _Leaf(value, origin)
    unknown.extend(_Unknown(key, origin) for key in sorted(stray))
    return layer


def _origins(said: _Layer, backend: str) -> dict[str, str]:
    """Where each value comes from, by dotted key."""
    given = {key: leaf.origin for key, leaf in said.items()}
    absent = [prefix for prefix in _optional(backend) if not any(key.startswith(prefix) for key in given)]
    hidden = {parent for key in given for parent in _parents(key)}
    return {
        key: origin
        for key, origin in (_defaults(backend) | given).items()
        if key not in hidden and not (absent and key.startswith(tuple(absent)))
    }


@cache
def _defaults(backend: str) -> dict[str, str]:
    """Every single value, and the sections that are absent by default."""
    return {
        key: "default"
        for key, field in keys_beside(backend).items()
        if section_of(field) is None or field.default is None
    }


@cache
def _optional(backend: str) -> tuple[str, ...]:
    """The beginnings of keys in sections that are absent by default; they exist once one of them is given."""
    return tuple(
        f"{key}."
        for key, field in keys_beside(backend).items()
        if section_of(field) and field.default is None
    )


def _overlay(layers: Iterable[_Layer]) -> _Layer:
    """The layers on top of each other, weakest first; a value hides those above and below its key."""
    merged: _Layer = {}
    for layer in layers:
        for key, leaf in layer.items():
            for other in [other for other in merged if other.startswith(f"{key}.")]:
                del merged[other]
            for parent in _parents(key):
                merged.pop(parent, None)
            merged[key] = leaf
    return merged


def _of_other_engine(key: str, backend: str) -> bool:
    section = key.partition(".")[0]
    return section != backend and (section in ENGINES or section not in ExperimentConfig.model_fields)


def _without_untouched(file: _Layer, backend: str) -> _Layer:
    """Without sections of other engines that are there as a whole and ask for nothing: the configuration that
    a result holds has one for each engine, and is a file to run again.
    """
    for name in ENGINES.keys() - {backend}:
        at_defaults = _layer({name: ENGINES[name]().model_dump(mode="json")}, "default", [])
        if all(key in file and file[key].value == leaf.value for key, leaf in at_defaults.items()):
            file = {key: leaf for key, leaf in file.items() if key not in at_defaults}
    return file


def _with_batch_size(flags: _Layer, size: JsonValue, backend: str) -> _Layer:
    """With the size in the section of the backend in force."""
    section = ENGINES.get(backend) or brought_section(backend)
    if section is not None and (why := section().traits.why_no_batch_size):
        raise ConfigError(why[0], hint=why[1])
    target = f"{backend}.batch_size"
    if target in flags:
        raise ConfigError(f"the batch size is given twice: by {BATCH_SIZE} and as {target}")
    return {**flags, target: _Leaf(size, "flag")}


def _refuse_other_engines(said: _Layer, backend: str, path: Path | None) -> None:
    """ConfigError for an option of an engine that does not run, though it be that engine's default."""
    for key, leaf in said.items():
        if _of_other_engine(key, backend):
            lines = yaml.key_lines(path) if path is not None and leaf.origin == _file_origin(path) else {}
            place = f" ({_with_line(key, leaf.origin, lines)})"
            raise ConfigError(why_not_in_force(key.partition(".")[0], backend) + place)


def _unflatten(values: Mapping[str, JsonValue], where: str = "configuration") -> dict[str, JsonValue]:
    """Nested mappings from dotted keys, at any depth; ConfigError where two keys claim one place."""
    nested: dict[str, JsonValue] = {}
    for key, value in values.items():
        *parents, last = str(key).split(".")
        if len(parents) > MAX_DOTS:
            raise ConfigError(f"the key {key[:40]}… ({where}) has more than {MAX_DOTS} dots")
        place = nested
        for parent in parents:
            inner = place.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"{key} is given twice ({where}): as a whole and in part")
            place = inner
        new = _unflatten(value, where) if isinstance(value, dict) else value
        old = place.get(last)
        if isinstance(old, dict) and isinstance(new, dict) and not old.keys() & new.keys():
            old.update(new)
        elif last in place:
            raise ConfigError(f"{key} is given twice ({where})")
        else:
            place[last] = new
    return nested


def _field(key: str) -> FieldInfo | None:
    """The field of that key, None where there is none. The options of an engine whose section can't be had
    here are free: a run of that engine says why, and any other goes on.
    """
    name = key.partition(".")[0]
    try:
        found = keys_beside(name).get(key)
    except LLEMError:
        found = _FREE
    return _FREE if found is None and why_absent(name) else found


def first_unknown(key: str) -> str | None:
    """The first part of a dotted key that does not exist; None where all do, or an engine checks the rest."""
    for name in (*reversed(_parents(key)), key):
        field = _field(name)
        if field is None:
            return name
        if is_free(field):
            return None
    return None


@lru_cache(maxsize=4096)
def _parents(key: str) -> list[str]:
    """`a.b.c` gives `a.b` and `a`."""
    parts = key.split(".")
    return [".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1)]


def _says_nothing(key: str, value: JsonValue) -> bool:
    """Whether the value is an empty section, such as one whose lines are all commented out."""
    field = _field(key)
    if field is None or (section_of(field) is None and field is not _FREE):
        return False
    return value == {} or (value is None and field.default is not None)


def _no_model(path: str | Path | None) -> ConfigError:
    if path is not None:
        return ConfigError(
            f"{path} names no model", hint="add a line such as `model: gpt2`, or pass --model gpt2"
        )
    return ConfigError(
        "there is nothing to measure: give a configuration file or a model, such as\n"
        "  llem run experiment.yaml\n"
        "  llem run --model smollm2-135m --backend pytorch"
    )
