"""What does a study file ask for: a base, what varies, what is left out, and how it is run?

Long by its descriptions, which are the reference that users read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field, JsonValue, ValidationError

from llenergymeasure.config import yaml
from llenergymeasure.config.axes import Axis, Settings, axes, check_key, is_range, points, settings, size
from llenergymeasure.config.section import AboveZero, NotNegative, Positive, PositiveSeconds, Section
from llenergymeasure.config.suggest import keys_beside, nearest, section_of
from llenergymeasure.exceptions import ConfigError

# Keys of a study file that are no keys of an experiment. One of the first makes a file a study.
STUDY_KEYS = ("sweep", "experiments", "search")
OTHER_KEYS = ("base", "name", "exclude", "when", "execution")
MAX_POINTS = 10_000

Condition = Mapping[str, Sequence[JsonValue]]
_Section = TypeVar("_Section", bound=Section)


class SlurmConfig(Section):
    """What each run asks of Slurm; a run has its node for itself."""

    partition: str | None = Field(default=None, description="where its jobs run; Slurm's own when absent")
    gpus: int = Field(default=0, ge=0, description="GPUs of one run")
    cpus: Positive | None = Field(
        default=None, description="processors of a run; all of its node when absent"
    )
    minutes: Positive = Field(default=60, description="time limit of one run")
    at_once: Positive | None = Field(default=None, description="runs at once; what Slurm gives when absent")
    setup: tuple[str, ...] = Field(
        default=(), description="shell lines before a run, such as module load cuda"
    )
    options: dict[str, JsonValue] = Field(
        default_factory=dict, description="further options of sbatch, by their long names"
    )


class RayConfig(Section):
    """What each run asks of a Ray cluster."""

    address: str = Field(default="auto", description="of the cluster")
    gpus: NotNegative = Field(default=0.0, description="GPUs of one run")
    cpus: NotNegative = Field(default=1.0, description="processors of one run")
    resources: dict[str, float] = Field(default_factory=dict, description="further resources of one run")
    retries: int = Field(default=3, ge=0, description="of a run whose node was lost")


class Execution(Section):
    """How a study is run. None of it changes what its experiments are."""

    order: Literal["sequential", "interleaved", "shuffled", "balanced"] = Field(
        default="interleaved",
        description="sequential: all repeats of one experiment, then the next; interleaved: one repeat of "
        "each in turn; shuffled: turns in random order; balanced: each experiment comes first equally often",
    )
    gaps: NotNegative = Field(default=0.0, description="seconds of rest before each run")
    cooling: NotNegative = Field(
        default=0.0,
        le=3600,
        description="seconds at most until power and temperature are back at idle before a run",
    )
    timeout: PositiveSeconds | None = Field(
        default=None, description="seconds of a run; timeout_s of each when absent"
    )
    retries: int = Field(default=1, ge=0, description="of a run that crashed, hung or failed")
    stop_after_failures: Positive | None = Field(
        default=10, description="failed runs in a row, of any experiment, after which the study stops"
    )
    executor: Literal["local", "slurm", "ray"] = Field(
        default="local",
        description="local: runs are on this host; slurm, ray: each is on a node of a cluster",
    )
    parallel: Literal["none", "per-gpu"] = Field(
        default="none", description="per-gpu: runs side by side, one on each GPU; neighbours share a chassis"
    )
    max_points: Positive = Field(default=MAX_POINTS, description="more points than this are refused")
    slurm: SlurmConfig = Field(default_factory=SlurmConfig)
    ray: RayConfig = Field(default_factory=RayConfig)


class Search(Section):
    """For the highest load at which answers still meet the objectives of `slo`, by halving."""

    over: str = Field(description="key of the load, such as load.rate")
    min: AboveZero = Field(description="the lowest value that is tried, and the first")
    max: AboveZero = Field(description="the highest one, and the second")
    share: float = Field(
        default=0.99, gt=0, le=1, description="of the requests of every repeat that meet all objectives"
    )
    tolerance: float = Field(
        default=0.05, ge=0.001, lt=1, description="between the highest value that meets and the next, at most"
    )

    def values(self) -> list[JsonValue]:
        """The values that may be tried, in rising order: equally spaced on a log scale, whole where the key
        wants whole ones.
        """
        whole = _is_whole(self.over)
        steps = math.ceil(math.log(self.max / self.min) / math.log1p(self.tolerance))
        spaced = [self.min * (self.max / self.min) ** (at / max(1, steps)) for at in range(steps + 1)]
        if whole:
            return list(dict.fromkeys(round(one) for one in spaced))
        return list(dict.fromkeys(float(f"{one:.4g}") for one in spaced))


def _is_whole(key: str) -> bool:
    field = keys_beside(key.partition(".")[0]).get(key)
    return field is not None and field.annotation is int


def most_probes(count: int) -> int:
    """Of a search among so many values."""
    return min(count, 2 + math.ceil(math.log2(max(1, count - 1))))


@dataclass(frozen=True, slots=True)
class Point:
    """Keys that one experiment sets on top of the base. `swept` ones leave out what their engine does not
    take; `name` is what its file calls it.
    """

    settings: Settings
    swept: bool
    name: str | None = None


@dataclass(frozen=True, slots=True)
class StudyFile:
    """A study file as it stands, before any experiment is validated. A search is the last of the axes."""

    path: Path | None
    name: str | None
    base: Mapping[str, JsonValue]
    axes: tuple[Axis, ...]
    listed: tuple[Point, ...]
    exclude: tuple[Condition, ...]
    when: Mapping[str, Condition]
    execution: Execution
    search: Search | None = None

    @property
    def size(self) -> int:
        return (size(self.axes) if self.axes else 0) + len(self.listed)

    def points(self) -> Iterator[Point]:
        """The grid in the order of its axes, then the listed experiments."""
        yield from (Point(each, swept=True) for each in points(self.axes) if self.axes)
        yield from self.listed


def is_study(content: Mapping[str, JsonValue]) -> bool:
    return any(key in content for key in STUDY_KEYS)


def read_study(path: Path, *, execution: Mapping[str, JsonValue] | None = None) -> StudyFile:
    """The study in a file, with the dotted keys of `execution` on top of its section of that name.

    Its `base` is looked for beside it, and it is named after its file where it has no `name`. ConfigError
    says what has no meaning.
    """
    content = {"name": path.stem, **yaml.read_mapping(path)}
    return study_from(with_execution(content, execution or {}), path=path)


def with_execution(
    content: Mapping[str, JsonValue], execution: Mapping[str, JsonValue]
) -> dict[str, JsonValue]:
    given = content.get("execution") or {}
    if not execution or not isinstance(given, dict):
        return dict(content)
    merged = {**given}
    for key, value in execution.items():
        section, _, name = key.rpartition(".")
        below = merged.get(section) or {}
        if section and isinstance(below, dict):
            merged[section] = {**below, name: value}
        else:
            merged[key] = value
    return {**content, "execution": merged}


def study_from(content: Mapping[str, JsonValue], *, path: Path | None = None) -> StudyFile:
    """A study from what its file holds."""
    where = str(path) if path is not None else "the study"
    own = {key: content[key] for key in (*STUDY_KEYS, *OTHER_KEYS) if key in content}
    execution = _execution(own.get("execution"), where)
    sweep = own.get("sweep")
    if "sweep" in own and not isinstance(sweep, dict):
        raise ConfigError(f"{where}: sweep is not a mapping", hint="such as sweep: {precision: [bf16, fp32]}")
    name = own.get("name")
    if name is not None and not isinstance(name, str):
        raise ConfigError(f"{where}: name is not a text: {name!r}")
    search = _search(own.get("search"), where)
    found = axes(sweep, where=f"{where}: sweep") if isinstance(sweep, dict) else ()
    if search is not None:
        if any(search.over in choice for axis in found for choice in axis.choices):
            raise ConfigError(f"{where}: {search.over} is swept, and searched for")
        values = tuple({search.over: value} for value in search.values())
        found = (*found, Axis(f"search over {search.over}", values))
    study = StudyFile(
        path=path,
        name=name,
        base=_base(own.get("base"), path, {key: content[key] for key in content if key not in own}),
        axes=found,
        listed=tuple(_listed(own.get("experiments"), where)),
        exclude=tuple(_conditions(own.get("exclude"), where=f"{where}: exclude")),
        when=_when(own.get("when"), where=f"{where}: when"),
        execution=execution,
        search=search,
    )
    if not study.size:
        raise ConfigError(
            f"{where} has no experiment", hint="give axes under sweep, or a list of experiments"
        )
    if study.size > execution.max_points:
        raise ConfigError(
            f"{where} has {study.size:,} points, and {execution.max_points:,} are allowed",
            hint=f"fewer values, or execution.max_points: {study.size}",
        )
    return study


def several(
    given: Mapping[str, JsonValue], error: ValidationError | None = None
) -> dict[str, JsonValue] | None:
    """The axes that are meant where `given` keys hold several values, such as `1,4,8` or `1-64*2`: names with
    a comma in them, and what failed for that reason; None where something failed for another one.
    """
    found: dict[str, JsonValue] = {}
    for key in ("model", "backend", "dataset"):
        value = given.get(key)
        if isinstance(value, str) and len(parts := _parts(value)) > 1 and not Path(value).exists():
            found[key] = list(parts)
    for one in [] if error is None else error.errors(include_url=False):
        path = ".".join(str(part) for part in one["loc"])
        key = next((key for key in given if path == key or path.startswith(f"{key}.")), "")
        value = given.get(key)
        if isinstance(value, str) and "," in value:
            value = [yaml.parse(part, where=key) for part in _parts(value)]
        if not (len(value) > 1 if isinstance(value, list) else isinstance(value, str) and is_range(value)):
            return None
        found[key] = value
    return found


def _parts(text: str) -> list[str]:
    return [part for part in text.split(",") if part.strip()]


def study_text(path: Path | None, given: Mapping[str, JsonValue], axes: Mapping[str, JsonValue]) -> str:
    """The study file that sweeps those axes, over a file and what else was given."""
    base: dict[str, JsonValue] = {} if path is None else {"base": str(path)}
    base |= {key: value for key, value in given.items() if key not in axes and key != "output_dir"}
    lines = [f"{key}: {json.dumps(value)}" for key, value in base.items()]
    return "\n".join([*lines, "sweep:", *(f"  {key}: {json.dumps(values)}" for key, values in axes.items())])


def holds(condition: Condition, values: Mapping[str, JsonValue]) -> bool:
    """Whether each key of the condition has one of its values."""
    return all(values.get(key) in wanted for key, wanted in condition.items())


def _base(name: JsonValue, path: Path | None, inline: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """What the file says itself, on top of the file that it names."""
    if name is None:
        return inline
    if not isinstance(name, str) or not name:
        raise ConfigError(f"base is {name!r}", hint="give the path of an experiment file, beside this one")
    file = (path.parent if path is not None else Path()) / Path(name).expanduser()
    below = yaml.read_mapping(file)
    if is_study(below):
        raise ConfigError(f"{file} is a study, and the base of a study is one experiment")
    return {**_flat(below, str(file)), **_flat(inline, str(path))}


def _flat(content: dict[str, JsonValue], where: str) -> Settings:
    return settings(content, where=where) if content else {}


def _search(given: JsonValue, where: str) -> Search | None:
    if given is None:
        return None
    search = _section(Search, "search", given, where=where, example="{over: load.rate, min: 1, max: 64}")
    check_key(search.over, where=f"{where}: search")
    if search.min >= search.max:
        raise ConfigError(f"{where}: search.min {search.min:g} is not below search.max {search.max:g}")
    return search


def _execution(given: JsonValue, where: str) -> Execution:
    if given is None:
        return Execution()
    execution = _section(Execution, "execution", given, where=where, example="{order: shuffled}")
    if execution.parallel == "per-gpu" and execution.executor != "local":
        raise ConfigError(
            f"{where}: execution.parallel is for the local executor; {execution.executor} places runs"
        )
    return execution


def _section(kind: type[_Section], name: str, given: JsonValue, *, where: str, example: str) -> _Section:
    """What the file holds under that name. ConfigError says what is wrong with its first wrong value."""
    if not isinstance(given, dict):
        raise ConfigError(f"{where}: {name} is not a mapping", hint=f"such as {name}: {example}")
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        *above, last = map(str, first["loc"])
        key = ".".join([name, *above, last])
        if first["type"] == "missing":
            raise ConfigError(f"{where}: {key} is missing", hint=f"such as {name}: {example}") from error
        if first["type"] != "extra_forbidden":
            said = first["msg"].removeprefix("Input ")
            raise ConfigError(f"{where}: {key}: {said}, got {first['input']!r}") from error
        known: type[Section] = kind
        for part in above:
            known = section_of(known.model_fields[part]) or known
        meant = nearest(last, known.model_fields)
        raise ConfigError(
            f"{where}: unknown key {key}",
            hint=f"did you mean {meant}?" if meant else f"llem config keys {name}",
        ) from error


def _listed(given: JsonValue, where: str) -> Iterator[Point]:
    if given is None:
        return
    if not isinstance(given, list):
        raise ConfigError(
            f"{where}: experiments is not a list", hint="such as experiments: [{backend: vllm}]"
        )
    names: set[str] = set()
    for number, each in enumerate(given, 1):
        spot = f"{where}: experiments, number {number}"
        found = settings(each, where=spot)
        name = found.pop("name", None)
        if name is not None and not isinstance(name, str):
            raise ConfigError(f"{spot}: name is not a text: {name!r}")
        if name in names:
            raise ConfigError(f"{spot}: another experiment is named {name!r}", hint="give each its own name")
        names |= set() if name is None else {name}
        for key in found:
            check_key(key, where=spot)
        yield Point(found, swept=False, name=name)


def _conditions(given: JsonValue, *, where: str) -> Iterator[Condition]:
    for each in given if isinstance(given, list) else [] if given is None else [given]:
        found = settings(each, where=where)
        for key in found:
            check_key(key, where=where)
        yield {key: value if isinstance(value, list) else [value] for key, value in found.items()}


def _when(given: JsonValue, *, where: str) -> dict[str, Condition]:
    """For each key of an axis the condition under which it is set."""
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise ConfigError(
            f"{where} is not a mapping", hint="such as when: {pytorch.compile: {precision: bf16}}"
        )
    found: dict[str, Condition] = {}
    for key, condition in given.items():
        check_key(key, where=where)
        found[key] = next(_conditions(condition, where=f"{where}.{key}"), {})
    return found
