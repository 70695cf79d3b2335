"""Which JSON values does a file of prompts hold, and where in it does each stand?"""

from __future__ import annotations

import codecs
import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from itertools import chain
from pathlib import Path
from typing import IO, Any, Literal

from llenergymeasure.exceptions import ConfigError
from llenergymeasure.workload.foreign import JSON_FORMATS, not_json, not_utf8, refuse_binary

MAX_FILE_BYTES = 2**30
MAX_RECORD_BYTES = 2**23
_CHUNK = 2**20
_GZIP = b"\x1f\x8b"
# Where a single object keeps the records of a whole file.
_INSIDE = ("data", "prompts", "examples", "items", "records", "samples", "requests")


@dataclass(frozen=True, slots=True)
class Records:
    """The values of a file with the number of the line or the place that each has, both from 1."""

    numbered_by: Literal["line", "record"]
    values: Iterator[tuple[int, object]]


@contextmanager
def opened(path: Path) -> Iterator[Records]:
    """The records of a file, read as they are asked for.

    JSON lines, an array, objects one after the other, or one object that holds an array; gzip by its content,
    whatever the file is called. ConfigError names the file, the place in it, and the way out.
    """
    try:
        _check_ordinary(path)
        with path.open("rb") as file:
            if file.peek(2)[:2] == _GZIP:
                with gzip.GzipFile(fileobj=file) as unpacked, BufferedReader(unpacked) as stream:
                    yield _records(stream, str(path))
            else:
                yield _records(file, str(path))
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ConfigError(
            f"dataset {path} is damaged or cut short gzip: {error}", hint="download or pack it again"
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"dataset {path} can't be read: {error}", hint="check its path and mode") from error


def _check_ordinary(path: Path) -> None:
    if not path.exists():
        raise ConfigError(f"there is no dataset file {path}", hint="check the path; it is taken from here")
    if not path.is_file():
        what = "a directory" if path.is_dir() else "not a regular file"
        raise ConfigError(
            f"dataset {path} is {what}",
            hint="name a file; write what comes from a pipe into one first, since every run reads it again",
        )
    if (size := path.stat().st_size) > MAX_FILE_BYTES:
        raise _too_large(path, f"has {size / 1e9:.1f} GB")


def _too_large(path: Path | str, what: str) -> ConfigError:
    return ConfigError(
        f"dataset {path} {what}; at most {MAX_FILE_BYTES / 1e9:.1f} GB are read",
        hint=f"take a part of it, such as: head -n 10000 {path} > part.jsonl",
    )


def _records(stream: BufferedReader[Any], name: str) -> Records:
    head = stream.peek(4096)[:4096].removeprefix(codecs.BOM_UTF8)
    refuse_binary(name, head)
    start = head.lstrip()[:1]
    if not head.strip():
        return Records("line", _lines(stream, name))
    begins_null = head.split(maxsplit=1)[0] == b"null"  # a record without a prompt
    if start not in b'[{"' and not begins_null:
        raise not_json(name, head.decode("utf-8", "replace"))
    line = stream.readline(MAX_RECORD_BYTES).removeprefix(codecs.BOM_UTF8)
    while not line.strip():
        line = stream.readline(MAX_RECORD_BYTES)
    is_lines = _holds_a_record(line, start, is_last=not stream.peek(1))
    stream.seek(0)
    if is_lines or begins_null:
        return Records("line", _lines(stream, name))
    if start == b'"':
        if _holds_a_record(line.decode("latin-1").encode(), start, is_last=False):
            raise not_utf8(name, f"dataset {name}, its first text,")
        raise not_json(name, head.decode("utf-8", "replace"))
    return Records("record", _unwrapped(_documents(stream, name)))


def _holds_a_record(line: bytes, start: bytes, *, is_last: bool) -> bool:
    """Whether a file is one of lines, by its first that is not blank, which begins so: that is whole."""
    try:
        first = json.loads(line)
    except (ValueError, RecursionError):
        return False
    if start == b"{":
        return not (is_last and _inside(first))
    return start == b'"' or not is_last


def _inside(document: object) -> list[object] | None:
    """The records in an object that only holds them."""
    found = [document.get(name) for name in _INSIDE] if isinstance(document, dict) else []
    return next(
        (one for one in found if isinstance(one, list) and one and isinstance(one[0], dict | str)), None
    )


def _lines(stream: IO[bytes], name: str) -> Iterator[tuple[int, object]]:
    number = total = 0
    while line := stream.readline(MAX_RECORD_BYTES + 1):
        number += 1
        total += len(line)
        where = f"dataset {name}, line {number}"
        if len(line) > MAX_RECORD_BYTES:
            raise ConfigError(f"{where} is longer than {MAX_RECORD_BYTES} bytes", hint=JSON_FORMATS)
        if total > MAX_FILE_BYTES:
            raise _too_large(name, "is larger than that once unpacked")
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if line.strip():
            yield number, _parsed(line, name, number)


def _parsed(line: bytes, name: str, number: int) -> object:
    where = f"dataset {name}, line {number}"
    try:
        return json.loads(line.decode().rstrip())
    except UnicodeDecodeError as error:
        raise not_utf8(name, where) from error
    except json.JSONDecodeError as error:
        raise _broken(f"{where}, column {error.colno}", error.msg) from error
    except (ValueError, RecursionError) as error:
        raise _broken(where, str(error)) from error


def _broken(where: str, why: str) -> ConfigError:
    return ConfigError(f"{where} is not valid JSON: {why}", hint=JSON_FORMATS)


def _unwrapped(documents: Iterator[object]) -> Iterator[tuple[int, object]]:
    """The values numbered; those inside of an object that only holds them."""
    first = next(documents, None)
    inside = _inside(first)
    yield from enumerate(chain([first] if inside is None else inside, documents), start=1)


def _documents(stream: IO[bytes], name: str) -> Iterator[object]:
    """The elements of an array, or values one after the other, with no more in memory than one of them."""
    text = _Text(stream, name)
    is_array = text.next_character() == "["
    if is_array:
        text.position += 1
    while (character := text.next_character()) not in {"", "]"}:
        yield text.value()
        if is_array and (character := text.next_character()) == ",":
            text.position += 1
        elif is_array and character != "]":
            raise _broken(text.where(text.position), "Expecting ',' or ']'")
    if is_array and character == "":
        raise ConfigError(f"dataset {name} ends within its array: it is cut short", hint="fetch it again")


class _Text:
    """A decoded file of which `buffer` holds a part, and where in it reading is."""

    def __init__(self, stream: IO[bytes], name: str) -> None:
        self._stream, self._name = stream, name
        self._decode = codecs.getincrementaldecoder("utf-8-sig")()
        self._line, self._column, self._total, self._ended = 1, 1, 0, False
        self.buffer, self.position = "", 0

    def next_character(self) -> str:
        """The next one that is not white space, "" at the end."""
        while True:
            while self.position < len(self.buffer) and self.buffer[self.position] in " \t\r\n":
                self.position += 1
            if self.position < len(self.buffer) or not self._more(_CHUNK):
                return self.buffer[self.position : self.position + 1]

    def value(self) -> object:
        decoder = json.JSONDecoder()
        while True:
            where = self.where(self.position)
            try:
                value, end = decoder.raw_decode(self.buffer, self.position)
            except json.JSONDecodeError as error:
                where = self.where(error.pos)
                # What ends with the buffer may only be cut by it.
                is_whole = error.pos < len(self.buffer) - 8 and not error.msg.startswith("Unterminated")
                if is_whole or len(self.buffer) - self.position > MAX_RECORD_BYTES:
                    raise _broken(where, error.msg) from error
                # Each time as much again as there is: what is tried once more stays in proportion.
                if not self._more(max(_CHUNK, len(self.buffer) - self.position)):
                    raise _broken(where, error.msg) from error
            except (ValueError, RecursionError) as error:
                raise _broken(where, str(error)) from error
            else:
                # A number at the very end may go on.
                if end < len(self.buffer) or self._ended:
                    self.position = end
                    return value
                self._more(_CHUNK)

    def where(self, at: int) -> str:
        line = self._line + self.buffer.count("\n", 0, at)
        last = self.buffer.rfind("\n", 0, at)
        column = at - last if last >= 0 else self._column + at
        return f"dataset {self._name}, line {line}, column {column}"

    def _more(self, size: int) -> bool:
        """Let go what was read and take in up to that many bytes; False at the end of the file."""
        if self._ended:
            return False
        data = self._stream.read(size)
        self._total += len(data)
        if self._total > MAX_FILE_BYTES:
            raise _too_large(self._name, "is larger than that once unpacked")
        self._ended = not data
        last = self.buffer.rfind("\n", 0, self.position)
        self._column = self.position - last if last >= 0 else self._column + self.position
        self._line += self.buffer.count("\n", 0, self.position)
        try:
            self.buffer = self.buffer[self.position :] + self._decode.decode(data, final=self._ended)
        except UnicodeDecodeError as error:
            raise not_utf8(self._name, f"dataset {self._name}, from line {self._line} on,") from error
        self.position = 0
        return bool(data)
