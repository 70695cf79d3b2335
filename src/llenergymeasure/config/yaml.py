"""How is YAML read so that a file can neither surprise, exhaust nor run anything?

Scalars follow the core schema of YAML 1.2, so that `off` is a word and `1e-5` a number. No tag makes an
object, no key is repeated, and what anchors expand to is counted before anything is built.
"""

from __future__ import annotations

import json
import math
import re
import stat
import sys
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import JsonValue

from llenergymeasure.exceptions import ConfigError

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_VALUES = 20_000
STDIN = Path("-")


def _refused(problem: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


class _CoreLoader(yaml.SafeLoader):
    """Safe, with the core schema's scalars and without repeated keys."""

    # the parent's resolvers are those of YAML 1.1: sexagesimal numbers, dates, yes and no
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  as the base has it

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: ARG002  as the base has it
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag not in {_STR, _MERGE}:
                raise _refused("a key must be a word", key.start_mark)
            if key.value in seen:
                raise _refused(f"duplicate key {key.value!r}", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep=True)

    def core_int(self, node: yaml.ScalarNode) -> int:
        text = node.value
        base = {"0x": 16, "0o": 8}.get(text[:2].lower(), 10)
        try:
            return int(text, base)
        except ValueError as error:
            raise _refused(f"{text[:20]}… is not a usable number", node.start_mark) from error

    def core_float(self, node: yaml.ScalarNode) -> float:
        text = node.value.lower().replace(".inf", "inf").replace(".nan", "nan")
        if not math.isfinite(value := float(text)):
            raise _refused(f"{node.value} is not a finite number", node.start_mark)
        return value


_STR = "tag:yaml.org,2002:str"
_MERGE = "tag:yaml.org,2002:merge"
_SCALARS = (
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+0123456789.",
    ),
    ("merge", r"<<", "<"),
)
for _name, _pattern, _first in _SCALARS:
    _CoreLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_name}",
        re.compile(rf"^(?:{_pattern})$"),
        ["" if character == "\0" else character for character in _first],
    )
_CoreLoader.add_constructor("tag:yaml.org,2002:int", _CoreLoader.core_int)
_CoreLoader.add_constructor("tag:yaml.org,2002:float", _CoreLoader.core_float)


def parse(text: str, *, where: str) -> JsonValue:
    """The value that `text` stands for; ConfigError, which begins with `where`, when it can't be one."""
    try:
        _measure(text)
        return cast("JsonValue", yaml.load(text, Loader=_CoreLoader))  # noqa: S506  the loader is a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        if "'\\t'" in (error.problem or ""):
            raise ConfigError(f"{where}{line}: a tab can't indent", hint="use spaces") from error
        raise ConfigError(f"{where}{line}: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: {str(error).splitlines()[0]}") from error


def read_mapping(path: Path) -> dict[str, JsonValue]:
    """The mapping that the file holds, {} when it holds nothing; ConfigError says what is wrong with it."""
    text = _read_text(path)
    if path.suffix == ".json":
        _require_json(text, named(path))
    value = parse(text, where=named(path))
    if value is None:
        return {}
    if not isinstance(value, dict):
        found = "a list" if isinstance(value, list) else f"the single value {str(value)[:40]!r}"
        raise ConfigError(
            f"{named(path)} holds {found}, not a mapping of keys to values",
            hint="write it as `key: value` lines, such as `model: gpt2`",
        )
    return value


def _require_json(text: str, name: str) -> None:
    """YAML would let more pass, such as a comma too many, that no other reader of JSON takes."""
    try:
        json.loads(text)
    except ValueError as error:
        line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        what = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise ConfigError(f"{name}{line}: not JSON: {what}", hint="YAML goes by the name .yaml") from error


def key_lines(path: Path) -> dict[str, int]:
    """The line of each dotted key in a file that `read_mapping` reads; items of a list go by their index."""
    root = yaml.compose(_read_text(path), Loader=_CoreLoader)
    return dict(_lines(root, "")) if root is not None else {}


def _lines(node: yaml.Node, prefix: str) -> Iterator[tuple[str, int]]:
    if isinstance(node, yaml.MappingNode):
        named = [(str(key.value), key, value) for key, value in node.value]
    else:
        items = node.value if isinstance(node, yaml.SequenceNode) else ()
        named = [(str(number), item, item) for number, item in enumerate(items)]
    for name, at, value in named:
        yield f"{prefix}{name}", at.start_mark.line + 1
        yield from _lines(value, f"{prefix}{name}.")


def named(path: Path) -> str:
    return "standard input" if path == STDIN else str(path)


@cache
def _standard_input() -> bytes:
    """Read once: a configuration is looked at more often than that."""
    return sys.stdin.buffer.read(MAX_BYTES + 1) if sys.stdin is not None else b""


def _read_text(path: Path) -> str:
    if path == STDIN:
        return _decoded(_standard_input(), path)
    try:
        # a pipe could be read only once, and a device might never end
        if not stat.S_ISREG(path.stat().st_mode):
            what = "a directory" if path.is_dir() else "not a regular file"
            raise ConfigError(f"{path} is {what}; a configuration is a YAML file", hint=_as_model(path))
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise ConfigError(f"there is no configuration file {path}", hint=_as_model(path)) from error
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}") from error
    return _decoded(data, path)


def _decoded(data: bytes, path: Path) -> str:
    if b"\0" in data:
        if path == STDIN:
            raise ConfigError("standard input is binary, not YAML")
        raise ConfigError(f"{path} is a binary file, not YAML", hint=_as_model(path))
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{named(path)} is larger than {MAX_BYTES:,} bytes, too large for a configuration")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{named(path)} is not UTF-8 text (byte {data[error.start]:#04x} at offset {error.start})",
            hint="save it as UTF-8",
        ) from error


def _as_model(path: Path) -> str:
    if path.suffix in {".yaml", ".yml"}:
        return "check the path; a model alone needs no file: llem run --model gpt2"
    return f"if {path} is the model: llem run --model {path}"


@dataclass
class _Open:
    anchor: str | None
    before: int
    deepest: int = 0


@dataclass
class _Extent:
    """How many values a document expands to, and how deep they nest, counted event by event."""

    values: int = 0
    open_nodes: list[_Open] = field(default_factory=list)
    anchored: dict[str, tuple[int, int]] = field(default_factory=dict)

    def add(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and event.tag:
            raise _refused(f"the tag {event.tag} is not allowed in a configuration", event.start_mark)
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchored:
                raise _refused(f"*{event.anchor} is unknown or refers to itself", event.start_mark)
            values, height = self.anchored[event.anchor]
            self._grow(event, values, len(self.open_nodes) + height)
        elif isinstance(event, yaml.ScalarEvent):
            if event.anchor:
                self.anchored[event.anchor] = (1, 0)
            self._grow(event, 1, len(self.open_nodes))
        elif isinstance(event, yaml.CollectionStartEvent):
            self.open_nodes.append(_Open(event.anchor, self.values))
            self._grow(event, 1, len(self.open_nodes))
        elif isinstance(event, yaml.CollectionEndEvent):
            done = self.open_nodes.pop()
            if done.anchor:
                height = done.deepest - len(self.open_nodes)
                self.anchored[done.anchor] = (self.values - done.before, height)
            self._grow(event, 0, done.deepest)

    def _grow(self, event: yaml.Event, values: int, depth: int) -> None:
        self.values += values
        if self.open_nodes:
            self.open_nodes[-1].deepest = max(self.open_nodes[-1].deepest, depth)
        if depth > MAX_DEPTH:
            raise _refused(f"nested more than {MAX_DEPTH} deep", event.start_mark)
        if self.values > MAX_VALUES:
            raise _refused(f"more than {MAX_VALUES:,} values, anchors expanded", event.start_mark)


def _measure(text: str) -> None:
    """Refuse what is too deep, too large once anchors are expanded, or refers to itself.

    It works on events, which PyYAML makes without recursion, before anything is composed.
    """
    extent, documents = _Extent(), 0
    for event in yaml.parse(text, Loader=_CoreLoader):
        documents += isinstance(event, yaml.DocumentStartEvent)
        if documents > 1:
            raise _refused("another document begins here; a file holds one experiment", event.start_mark)
        extent.add(event)
