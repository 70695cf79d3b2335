"""How do a file, flags, the environment and defaults become one configuration with the origin of each value?

Flags win over the file, the file over the environment (`LLEM_…`), that over the user's own configuration,
that over the preset, and the preset over the defaults.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from platformdirs import user_config_path
from pydantic import JsonValue, ValidationError

from llenergymeasure.config import yaml
from llenergymeasure.config.flat import leaves
from llenergymeasure.config.models import ENGINES, ExperimentConfig, why_not_in_force
from llenergymeasure.config.presets import PRESET_VALUES
from llenergymeasure.config.suggest import RENAMED, is_free, known_keys, nearest_key, peer_key, section_of
from llenergymeasure.exceptions import ConfigError

PREFIX = "LLEM_"
# variables of that prefix that steer llem itself and describe no experiment
RESERVED = frozenset({"LLEM_CACHE_DIR", "LLEM_LOCK_DIR", "LLEM_POWER_RECORDINGS", "LLEM_SIMULATED_NVML"})
MAX_DOTS = 8
BATCH_SIZE = "--batch-size"  # an override whose key depends on the backend
STUDY_KEYS = frozenset({"sweep", "experiments"})


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
        if meant and self.variable:
            meant = PREFIX + meant.upper().replace(".", "__")
        if self.key in RENAMED:
            return f"{name} is now {meant} ({self.origin})"
        return f"{name} ({self.origin})" + (f"; did you mean {meant}?" if meant else "")


_Layer = dict[str, _Leaf]


def load_experiment_config(
    path: str | Path | None = None,
    cli_overrides: Mapping[str, JsonValue] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    user_config: Path | None = None,
) -> ExperimentConfig:
    """One experiment from all of these sources.

    `cli_overrides` maps dotted keys to values; BATCH_SIZE goes to the section of the backend in force.
    `environ` is the process's environment and `user_config` the platform's place for it, when None.
    ConfigError when something can't be read or has no meaning, pydantic's ValidationError when a value is
    not allowed.
    """
    unknown: list[_Unknown] = []
    said = _resolve(path, cli_overrides, environ, user_config, unknown)
    if unknown:
        head = "unknown key: " if len(unknown) == 1 else f"{len(unknown)} unknown keys:\n  "
        raise ConfigError(head + "\n  ".join(map(str, unknown)))
    if "model" not in said:
        raise _no_model(path)
    try:
        config = ExperimentConfig.model_validate(_unflatten({key: leaf.value for key, leaf in said.items()}))
    except ValidationError as error:
        for key, origin in _places(error, said, path):
            error.add_note(f"{key}: {origin}")
        raise
    _refuse_other_engines(said, config.backend)
    return config


def resolve_origins(
    path: str | Path | None = None,
    cli_overrides: Mapping[str, JsonValue] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    user_config: Path | None = None,
) -> dict[str, str]:
    """Where each value that `load_experiment_config` gives for the same arguments comes from, by dotted key:
    flag, file …, environment LLEM_…, user config …, preset …, or default.

    A file that was deleted since it was loaded is left out: origins are a record, and must not end a run.
    """
    there = path if path is not None and (Path(path) == yaml.STDIN or Path(path).is_file()) else None
    said = _resolve(there, cli_overrides, environ, user_config, [])
    defaults = {
        key: "default"
        for key, field in known_keys().items()
        if section_of(field) is None or field.default is None
    }
    given = {key: leaf.origin for key, leaf in said.items()}
    hidden = {parent for key in given for parent in _parents(key)}
    return {
        key: origin for key, origin in (defaults | given).items() if key not in hidden and _shown(key, given)
    }


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


def _resolve(
    path: str | Path | None,
    cli_overrides: Mapping[str, JsonValue] | None,
    environ: Mapping[str, str] | None,
    user_config: Path | None,
    unknown: list[_Unknown],
) -> _Layer:
    user = user_config or user_config_path("llenergymeasure") / "config.yaml"
    flags = dict(cli_overrides or {})
    batch_size = flags.pop(BATCH_SIZE, None)
    layers = [
        _layer(yaml.read_mapping(user), f"user config {user}", unknown) if user.exists() else {},
        _from_environment(os.environ if environ is None else environ, unknown),
        _from_file(Path(path), unknown) if path is not None else {},
        _layer(flags, "flag", unknown),
    ]
    said = _overlay(layers)
    preset = said["preset"].value if "preset" in said else ExperimentConfig.model_fields["preset"].default
    values = PRESET_VALUES.get(preset, {}) if isinstance(preset, str) else {}
    base = {key: _Leaf(value, f"preset {preset}") for key, value in values.items()}
    backend = said["backend"].value if "backend" in said else ExperimentConfig.model_fields["backend"].default
    if batch_size is not None:
        layers[-1] = _with_batch_size(layers[-1], batch_size, str(backend))
    # What the user configuration and the environment say of other engines is for runs of those.
    others = _other_engines(str(backend))
    of_all_runs = [
        {key: leaf for key, leaf in layer.items() if key.partition(".")[0] not in others}
        for layer in layers[:2]
    ]
    return _overlay([base, *of_all_runs, *layers[2:]])


def _from_file(path: Path, unknown: list[_Unknown]) -> _Layer:
    content, name = yaml.read_mapping(path), yaml.named(path)
    if not content:
        raise ConfigError(
            f"{name} is empty", hint="the least that it can hold is a line such as `model: gpt2`"
        )
    if study := STUDY_KEYS & content.keys():
        raise ConfigError(
            f"{name} describes a study ({', '.join(sorted(study))}); "
            "this version runs single experiments only",
            hint="give one experiment per file, with `model:` at its top level",
        )
    known = len(unknown)
    layer = _layer(content, _file_origin(path), unknown)
    if len(unknown) > known:
        lines = yaml.key_lines(path)
        unknown[known:] = [
            replace(one, origin=_with_line(one.key, one.origin, lines)) for one in unknown[known:]
        ]
    return layer


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
        leaf = next((said[name] for name in (key, f"{key}.name", *_parents(key)) if name in said), None)
        if leaf is not None:
            yield key, _with_line(key, leaf.origin, lines if leaf.origin == of_file else {})


def _from_environment(environ: Mapping[str, str], unknown: list[_Unknown]) -> _Layer:
    layer: _Layer = {}
    for name in sorted(environ):
        # an empty variable counts as unset, as everywhere
        if not name.startswith(PREFIX) or name in RESERVED or not environ[name]:
            continue
        key = name.removeprefix(PREFIX).lower().replace("__", ".")
        if _first_unknown(key) is not None:
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
        if (first := _first_unknown(key)) is not None:
            stray.add(first if peer_key(key) is None else key)
        elif not _says_nothing(key, value):
            layer[key] = _Leaf(value, origin)
    unknown.extend(_Unknown(key, origin) for key in sorted(stray))
    return layer


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


def _own_section(backend: str) -> str:
    return backend if backend in ENGINES else "options"


def _other_engines(backend: str) -> set[str]:
    return {*ENGINES, "options"} - {_own_section(backend)}


def _with_batch_size(flags: _Layer, size: JsonValue, backend: str) -> _Layer:
    """With the size in the section of the backend in force."""
    if backend in ENGINES and (why := ENGINES[backend]().traits.why_no_batch_size):
        raise ConfigError(why[0], hint=why[1])
    target = f"{_own_section(backend)}.batch_size"
    if target in flags:
        raise ConfigError(f"the batch size is given twice: by {BATCH_SIZE} and as {target}")
    return {**flags, target: _Leaf(size, "flag")}


def _refuse_other_engines(said: _Layer, backend: str) -> None:
    """ConfigError for an option of an engine that does not run, though it be that engine's default."""
    for key, leaf in said.items():
        section = key.partition(".")[0]
        if section in _other_engines(backend) and not leaf.origin.startswith("preset "):
            raise ConfigError(why_not_in_force(section, backend))


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


def _first_unknown(key: str) -> str | None:
    for name in (*reversed(_parents(key)), key):
        field = known_keys().get(name)
        if field is None:
            return name
        if is_free(field):
            return None
    return None


def _parents(key: str) -> list[str]:
    """`a.b.c` gives `a.b` and `a`."""
    parts = key.split(".")
    return [".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1)]


def _says_nothing(key: str, value: JsonValue) -> bool:
    """Whether the value is an empty section, such as one whose lines are all commented out."""
    field = known_keys().get(key)
    if field is None or section_of(field) is None:
        return False
    return value == {} or (value is None and field.default is not None)


def _shown(key: str, given: Mapping[str, str]) -> bool:
    """Whether a value exists: the fields of a section that is absent by default exist once one is given."""
    for parent in _parents(key):
        field = known_keys().get(parent)
        if field is not None and field.default is None:
            return any(name.startswith(f"{parent}.") for name in given)
    return True


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
