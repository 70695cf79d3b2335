"""What does a GGUF file hold, and where is it as a directory that transformers loads?

The header is read here in plain Python (format: github.com/ggml-org/ggml, docs/gguf.md, versions 2 and 3),
so that a dry run needs neither numpy nor torch. The conversion runs in a child process, once per content.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Literal

from llenergymeasure.config.extras import install
from llenergymeasure.config.places import cache_dir
from llenergymeasure.exceptions import PreFlightError
from llenergymeasure.models.weights import check_weights, read_json_object

_MAGIC = b"GGUF"
_AGAIN = "fetch the file again; it was probably cut off while copying"
# The letters of `struct` by the number of the type; 8 and 9 are the two below.
_SCALARS = {kind: f"<{letter}" for kind, letter in enumerate("BbHhIif?..Qqd") if letter != "."}
_STRING, _ARRAY = 8, 9
_LENGTH = struct.Struct("<Q")
_MOST_DIMENSIONS = 4
_LONGEST_ARRAY = 4096  # those of a number for each layer are kept, vocabularies are passed over
_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")

# Elements and bytes of a block, by the number of the tensor's type.
# fmt: off
BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292),
    24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 30: (1, 2),
}
# fmt: on


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """`metadata` leaves long arrays out; `tensors` maps names to dimensions, fastest first. `bytes` are those
    of all tensors, `parts` the files that hold them.
    """

    metadata: Mapping[str, object]
    tensors: Mapping[str, tuple[int, ...]]
    bytes: int
    parts: tuple[Path, ...]


class _Cursor:
    """Walks over a mapped file; struct.error past its end."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.at = 0

    def number(self, form: str) -> int | float | bool:
        value: int | float | bool = struct.unpack_from(form, self.data, self.at)[0]
        self.at += struct.calcsize(form)
        return value

    def whole(self, form: str) -> int:
        return int(self.number(form))

    def skip(self, count: int) -> None:
        if count > len(self.data) - self.at:
            raise struct.error("past the end")
        self.at += count

    def text(self) -> str:
        length = self.whole("<Q")
        start = self.at
        self.skip(length)
        return self.data[start : self.at].decode()

    def value(self, kind: int) -> object:
        """A scalar, a string or a short array of scalars; None for another array, which is passed over."""
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            return self.number(_SCALARS[kind])
        inner, count = self.whole("<I"), self.whole("<Q")
        if inner == _STRING:
            # There are hundreds of thousands of them in a vocabulary.
            data, length, at, end = self.data, _LENGTH.unpack_from, self.at, len(self.data)
            for _ in range(count):
                at += 8 + length(data, at)[0]
                if at > end:
                    raise struct.error("past the end")
            self.at = at
        elif inner == _ARRAY:
            for _ in range(count):
                self.value(_ARRAY)
        elif count <= _LONGEST_ARRAY:
            return [self.number(_SCALARS[inner]) for _ in range(count)]
        else:
            self.skip(count * struct.calcsize(_SCALARS[inner]))
        return None


def read_gguf(path: Path) -> GgufHeader:
    """The header of a GGUF, with the tensors of all its parts where it is split.

    PreFlightError when the file is none, can't be read or is cut off, is not the first part, or a part is
    missing.
    """
    first = _read_part(path)
    count, number = (
        first.metadata.get(f"split.{key}", default) for key, default in (("count", 1), ("no", 0))
    )
    if not isinstance(count, int) or not isinstance(number, int) or count < 2:
        return first
    name = _PART.fullmatch(path.name)
    if name is None:
        raise PreFlightError(
            f"{path} is part {number + 1} of a GGUF in {count} parts, and its name does not say so",
            hint="give the parts their names back: <name>-00001-of-00002.gguf",
        )
    files = [path.with_name(f"{name['stem']}-{part:05}-of-{count:05}.gguf") for part in range(1, count + 1)]
    if number != 0:
        raise PreFlightError(
            f"{path} is part {number + 1} of {count}", hint=f"name the first part: {files[0]}"
        )
    if missing := [file.name for file in files if not file.is_file()]:
        raise PreFlightError(
            f"{path} is part 1 of {count}, and its folder lacks {', '.join(missing)}",
            hint=f"fetch the missing parts into {path.parent}",
        )
    headers = [first, *(_read_part(file) for file in files[1:])]
    tensors = {name: dims for header in headers for name, dims in header.tensors.items()}
    return GgufHeader(first.metadata, tensors, sum(header.bytes for header in headers), tuple(files))


def _read_part(path: Path) -> GgufHeader:
    try:
        with path.open("rb") as file:
            if file.read(4) != _MAGIC:
                raise PreFlightError(
                    f"{path} is not a GGUF file: it does not begin with GGUF",
                    hint="is it a Git LFS pointer, an archive or an error page?",
                )
            is_now = os.fstat(file.fileno())
            return _read(path, (is_now.st_ino, is_now.st_size, is_now.st_mtime_ns))
    except OSError as error:
        raise PreFlightError(f"can't read {path}: {error.strerror}") from error
    except struct.error as error:
        raise PreFlightError(f"{path} is cut off within its header", hint=_AGAIN) from error
    except (KeyError, UnicodeDecodeError, RecursionError) as error:
        raise PreFlightError(f"{path} is damaged: its header can't be read", hint=_AGAIN) from error


@lru_cache(maxsize=8)
def _read(path: Path, _version: tuple[int, ...]) -> GgufHeader:
    """Once for each version of a file: whoever asks something of a model asks for its header."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _parse(path, _Cursor(data))


def _parse(path: Path, cursor: _Cursor) -> GgufHeader:
    cursor.skip(4)
    version = cursor.whole("<I")
    if version not in {2, 3}:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        what = "a big-endian GGUF" if swapped in {1, 2, 3} else f"a GGUF of version {version}"
        raise PreFlightError(
            f"{path} is {what}; little-endian ones of versions 2 and 3 can be read",
            hint="convert it again with llama.cpp's convert_hf_to_gguf.py, or fetch a current file",
        )
    tensor_count, value_count = cursor.whole("<Q"), cursor.whole("<Q")
    metadata: dict[str, object] = {}
    for _ in range(value_count):
        key = cursor.text()
        value = cursor.value(cursor.whole("<I"))
        if value is not None:
            metadata[key] = value
    tensors: dict[str, tuple[int, ...]] = {}
    end = 0
    for _ in range(tensor_count):
        tensor = cursor.text()
        dims = tuple(cursor.whole("<Q") for _ in range(min(cursor.whole("<I"), _MOST_DIMENSIONS)))
        elements, size = BLOCKS.get(cursor.whole("<I"), (1, 0))
        tensors[tensor] = dims
        end = max(end, cursor.whole("<Q") + prod(dims) // elements * size)
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise PreFlightError(f"{path} is damaged: its alignment is {alignment!r}", hint=_AGAIN)
    start = -(-cursor.at // alignment) * alignment
    expected = start + end
    if len(cursor.data) < expected:
        raise PreFlightError(
            f"{path} has {len(cursor.data):,} bytes where its header needs {expected:,}: it is cut off",
            hint=_AGAIN,
        )
    return GgufHeader(metadata, tensors, len(cursor.data) - start, (path,))


def is_converted(path: Path) -> bool:
    """Whether `converted` has its result already."""
    try:
        return _is_whole(_target(path))
    except OSError:
        return False


def _target(path: Path) -> Path:
    return cache_dir() / "gguf" / f"{path.stem}-{digest(path)[:16]}"


def converted(path: Path, *, only: Literal["tokenizer"] | None = None) -> Path:
    """The directory with the GGUF's weights in bf16, its configuration and its tokenizer.

    Converted once per content into the user's cache (`LLEM_CACHE_DIR` overrides where) by a child process;
    runs that start at once wait for one of them, and a conversion that was killed leaves nothing behind that
    could be taken for whole. Takes seconds to minutes the first time. With `only` the tokenizer the rest is
    left out where it is not there yet, which takes neither torch nor its time. PreFlightError when it fails.
    """
    if len(read_gguf(path).parts) > 1:
        raise PreFlightError(
            f"{path} is split, and transformers reads a GGUF from one file",
            hint="merge the parts with llama.cpp's llama-gguf-split --merge, or take the llamacpp backend",
        )
    try:
        whole = target = _target(path)
        if _is_whole(whole):
            return whole
        if only is not None:
            target = whole.with_name(f"{whole.name}-{only}")
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.with_name(target.name + ".lock")):
            if not _is_whole(target, only):
                shutil.rmtree(target, ignore_errors=True)
                _convert(path, target, only)
    except OSError as error:
        raise PreFlightError(
            f"can't convert {path} into {cache_dir()}: {error.strerror or error}",
            hint="free some space there, or set LLEM_CACHE_DIR to a directory that can be written",
        ) from error
    return target


def _is_whole(target: Path, only: str | None = None) -> bool:
    """A conversion that was damaged afterwards, by a full disk or a stray hand, is made again."""
    if not target.is_dir():
        return False
    try:
        if only == "tokenizer":
            return bool(read_json_object(target / "tokenizer.json"))
        check_weights(target)
    except PreFlightError:
        return False
    return True


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _convert(source: Path, target: Path, only: str | None) -> None:
    for left in target.parent.glob(f"{target.name}.partial-*"):
        shutil.rmtree(left, ignore_errors=True)  # of a conversion that was killed: the lock is ours
    aside = Path(tempfile.mkdtemp(prefix=f"{target.name}.partial-", dir=target.parent))
    command = [sys.executable, "-P", "-m", "llenergymeasure.models.dequantize", str(source), str(aside)]
    command += [] if only is None else [only]
    try:
        with tempfile.TemporaryFile() as log:
            # The child ends when this end of its stdin closes, so that it can't outlive us.
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log) as child:
                try:
                    status = child.wait()
                except BaseException:
                    child.kill()
                    raise
            if status != 0:
                log.seek(0)
                last = (log.read().decode(errors="replace").strip().splitlines() or ["no message"])[-1]
                lacking = last.startswith(("ImportError", "ModuleNotFoundError"))
                raise PreFlightError(
                    f"converting {source} failed (exit {status}): {last}",
                    hint=install("pytorch")
                    if lacking
                    else "convert it to a directory of safetensors yourself and name that",
                )
        aside.rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def digest(path: Path) -> str:
    """SHA-256 (hex) of the file, remembered in the user's cache by its path, size and time of change."""
    cache = cache_dir()
    facts = path.stat()
    key = f"{path.resolve()}|{facts.st_size}|{facts.st_mtime_ns}|{facts.st_ino}"
    remembered = cache / "digests" / hashlib.sha256(key.encode()).hexdigest()
    if remembered.is_file():
        return remembered.read_text(encoding="ascii")
    with path.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    remembered.parent.mkdir(parents=True, exist_ok=True)
    aside = remembered.with_name(f"{remembered.name}.{os.getpid()}")
    aside.write_text(content, encoding="ascii")
    aside.replace(remembered)
    return content
