"""Which experiments does a study consist of, and what was left out and why?"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from pydantic import JsonValue, ValidationError

from llenergymeasure.config.flat import leaves
from llenergymeasure.config.load import SloConfig
from llenergymeasure.config.models import ENGINES, ExperimentConfig, config_hash
from llenergymeasure.config.study import Execution, Point, Search, StudyFile, holds
from llenergymeasure.exceptions import ConfigError

# What a point is called that sets nothing.
_BASE = "base"
# The configuration that a point gives.
Resolve: TypeAlias = Callable[[Point], ExperimentConfig]


@dataclass(frozen=True, slots=True)
class Experiment:
    """One experiment of a study. `label` is what differs from the others; `names` are all that it stands for,
    where several points are the same experiment. `sought` is the search that may try it, by what differs from
    the other searches, and its value there.
    """

    config: ExperimentConfig
    hash: str
    label: str
    names: tuple[str, ...]
    sought: tuple[str, float] | None = None


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A point that does not run."""

    label: str
    kind: Literal["excluded", "invalid"]
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What a study runs. `identity` depends on its experiments alone: not on paths, names or times."""

    name: str | None
    experiments: tuple[Experiment, ...]
    left_out: tuple[LeftOut, ...]
    execution: Execution
    search: Search | None = None

    @property
    def searches(self) -> dict[str, list[Experiment]]:
        """What each search may try, in rising order."""
        found: dict[str, list[Experiment]] = {}
        for one in self.experiments:
            if one.sought is not None:
                found.setdefault(one.sought[0], []).append(one)
        return found

    @property
    def identity(self) -> str:
        parts = [(one.hash, one.config.repeats.model_dump(mode="json")) for one in self.experiments]
        canonical = json.dumps(sorted(parts, key=lambda part: part[0]), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()


def make_plan(
    study: StudyFile,
    resolve: Resolve,
    *,
    adjust: Callable[[ExperimentConfig], ExperimentConfig],
    describe: Callable[[Exception], str],
) -> Plan:
    """Every point of the study, each validated; equal ones are one experiment.

    `adjust` changes how an experiment is run, not its identity. `describe` says in one line why a point is
    not valid. ConfigError where none is left.
    """
    values = dict(leaves(ExperimentConfig(model="any").model_dump(mode="json")))
    values |= dict(leaves(dict(study.base)))
    found: dict[str, Experiment] = {}
    left_out: list[LeftOut] = []
    invalid: dict[str, list[LeftOut]] = {}
    label = _labels(study)
    for point in study.points():
        point = _in_force(point, study, values)  # noqa: PLW2901  the point without what does not apply
        name = label(point) or _BASE
        rule = next((one for one in study.exclude if holds(one, values | point.settings)), None)
        if rule is not None:
            left_out.append(LeftOut(name, "excluded", f"exclude {_rule(rule)}"))
            continue
        try:
            config = resolve(point)
        except (ConfigError, ValidationError) as error:
            sought = _sought(study.search, point, label)
            of = name if sought is None else f"search {sought[0]}"
            invalid.setdefault(of, []).append(LeftOut(name, "invalid", describe(error)))
            continue
        name = label(_of_engine(point, config.backend)) or _BASE
        key = config_hash(config)
        before = found.get(key)
        names = (name,) if before is None else tuple(dict.fromkeys((*before.names, name)))
        first = before or Experiment(adjust(config), key, name, (), _sought(study.search, point, label))
        if first.sought is not None and config.slo == SloConfig():
            raise ConfigError(
                "a search needs objectives that answers have to meet, and slo is empty",
                hint="such as slo: {ttft: 0.5, tpot: 0.05}, in seconds",
            )
        found[key] = replace(first, names=names)
    for gap, *more in invalid.values():
        text = f"{gap.label} and {len(more)} more values" if more else gap.label
        left_out.append(replace(gap, label=text))
    if not found:
        reasons = "\n  ".join(f"{one.label}: {one.reason}" for one in left_out[:5])
        raise ConfigError(f"no experiment of the study can run:\n  {reasons}")
    if not left_out:
        _refuse_without_engine(study, {one.config.backend for one in found.values()})
    return Plan(
        study.name, tuple(found.values()), tuple(dict.fromkeys(left_out)), study.execution, study.search
    )


def _sought(search: Search | None, point: Point, label: Callable[[Point], str]) -> tuple[str, float] | None:
    if search is None or not point.swept or search.over not in point.settings:
        return None
    kept = {key: value for key, value in point.settings.items() if key != search.over}
    return label(replace(point, settings=kept)), float(str(point.settings[search.over]))


def _in_force(point: Point, study: StudyFile, values: Mapping[str, JsonValue]) -> Point:
    """Without the axes that `when` rules out for this point."""
    if not point.swept:
        return point
    known = {**values, **point.settings}
    kept = {
        key: value
        for key, value in point.settings.items()
        if key not in study.when or holds(study.when[key], known)
    }
    return replace(point, settings=kept)


def _of_engine(point: Point, backend: str) -> Point:
    """Without the swept options of engines that do not run there."""
    others = ENGINES.keys() - {backend} if point.swept else ()
    kept = {key: value for key, value in point.settings.items() if key.partition(".")[0] not in others}
    return replace(point, settings=kept)


def _refuse_without_engine(study: StudyFile, backends: set[str]) -> None:
    """ConfigError for an axis that changes nothing, as no experiment runs on its engine."""
    for key in (key for axis in study.axes for choice in axis.choices for key in choice):
        engine = key.partition(".")[0]
        if engine in ENGINES and engine not in backends:
            raise ConfigError(
                f"sweep: {key} changes nothing: no experiment runs on {engine}",
                hint=f"backend: {engine}, or another axis; those here run on {', '.join(sorted(backends))}",
            )


def _labels(study: StudyFile) -> Callable[[Point], str]:
    """`batch_size=4 precision=fp32`: the last word of each key, or as many as tell it apart."""
    keys = dict.fromkeys(key for axis in study.axes for choice in axis.choices for key in choice)
    keys |= dict.fromkeys(key for point in study.listed for key in point.settings)
    short = {key: _short(key, keys) for key in keys}

    def label(point: Point) -> str:
        if point.name is not None:
            return point.name
        return " ".join(f"{short[key]}={_value(value)}" for key, value in point.settings.items())

    return label


def _short(key: str, keys: Mapping[str, None]) -> str:
    parts = key.split(".")
    for count in range(1, len(parts)):
        tail = ".".join(parts[-count:])
        if sum(other == tail or other.endswith(f".{tail}") for other in keys) == 1:
            return tail
    return key


def _value(value: JsonValue) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _rule(condition: Mapping[str, Sequence[JsonValue]]) -> str:
    return ", ".join(f"{key}={'|'.join(map(_value, wanted))}" for key, wanted in condition.items())
