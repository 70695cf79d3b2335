"""What is wrong with a study file, all of it at once?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import JsonValue, ValidationError

from llenergymeasure.config import yaml
from llenergymeasure.config.loader import read_known, resolve
from llenergymeasure.config.study import OTHER_KEYS, STUDY_KEYS, Point, StudyFile, read_study, study_from
from llenergymeasure.exceptions import ConfigError
from llenergymeasure.study.plan import LeftOut
from llenergymeasure.study.start import plan_of

# Stands for the parts of a study that are not looked at.
_ANY: JsonValue = {"n": 1}


def problems(path: Path) -> Iterator[ConfigError | ValidationError]:
    """What has no meaning in any part of the file, then every value that no experiment allows.

    Combinations of values that an engine does not take are not a mistake: a study leaves them out.
    """
    try:
        content = dict(yaml.read_mapping(path))
        lines, found = yaml.key_lines(path), False
        for at, part in _parts(content):
            try:
                study_from(part, path=path)
            except ConfigError as error:
                found = True
                line = next((lines[name] for name in (at, at.partition(".")[0]) if name in lines), None)
                place = "" if line is None else f" (file {path}, line {line})"
                yield ConfigError(f"{error.message.removeprefix(f'{path}: ')}{place}", hint=error.hint)
                _leave_out(content, at)
        if not found or content.keys() & set(STUDY_KEYS):
            yield from _in_points(study_from(content, path=path), path)
    except (ConfigError, ValidationError) as error:
        yield error


def impossible(path: Path) -> tuple[LeftOut, ...]:
    """The points of a file without problems that do not make a valid configuration."""
    return tuple(one for one in plan_of(read_study(path)).left_out if one.kind == "invalid")


def _leave_out(content: dict[str, JsonValue], at: str) -> None:
    """The part that is wrong, so that the others can be looked at."""
    name, _, key = at.partition(".")
    part = content[name]
    if isinstance(part, dict):
        content[name] = {one: value for one, value in part.items() if one != key}
    elif isinstance(part, list) and key:
        # Its place stays, so that the others keep theirs.
        content[name] = [_ANY if number == int(key) else one for number, one in enumerate(part)]
    if not key or not content[name]:
        del content[name]


def _parts(content: Mapping[str, JsonValue]) -> Iterator[tuple[str, dict[str, JsonValue]]]:
    """Studies that hold one part each, by the key of that part."""
    for name in (*STUDY_KEYS, *OTHER_KEYS):
        part = content.get(name)
        if name not in content:
            continue
        if name == "sweep" and isinstance(part, dict) and part:
            for key, value in part.items():
                yield f"sweep.{key}", {"sweep": {key: value}}
        elif name == "experiments" and isinstance(part, list) and part:
            for number, each in enumerate(part):
                # Its neighbours stay, so that the message counts as the file does.
                yield f"experiments.{number}", {"experiments": [*[_ANY] * number, each]}
        else:
            rest: dict[str, JsonValue] = {} if name in {"sweep", "experiments"} else {"experiments": [_ANY]}
            yield name, {**rest, name: part}


def _in_points(study: StudyFile, path: Path) -> Iterator[ConfigError | ValidationError]:
    lines = yaml.key_lines(path)
    seen: set[object] = set()
    sources, unknown = read_known(path, content=study.base)
    yield from (ConfigError(f"unknown key: {one}") for one in unknown)
    swept = [(point, "sweep.") for point in study.points() if point.swept]
    listed = [(point, f"experiments.{number}.") for number, point in enumerate(study.listed)]
    for point, prefix in (*swept, *listed):
        try:
            resolve(sources, point.settings, swept=point.swept)
        except ValidationError as error:
            known = tuple((one["loc"], str(one["input"])) for one in error.errors() if one["loc"])
            if known and known not in seen:
                seen.add(known)
                yield _placed(error, point, lines, prefix, path)
        except ConfigError:
            continue
    if not seen and not unknown:
        # What is left is that no combination of its values can run.
        plan_of(study)


def _placed(
    error: ValidationError, point: Point, lines: Mapping[str, int], prefix: str, path: Path
) -> ValidationError:
    """With the line of the axis or experiment that sets each value, before what its sources say."""
    for key in point.settings:
        if (line := lines.get(f"{prefix}{key}", lines.get(prefix.rstrip(".")))) is not None:
            error.add_note(f"{key}: file {path}, line {line}")
    return error
