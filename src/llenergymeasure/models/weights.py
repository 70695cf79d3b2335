"""Are a model's weights all there, as far as their headers and sizes tell?"""

from __future__ import annotations

import json
import math
import re
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path

from llenergymeasure.exceptions import PreFlightError

_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_SINGLE = ("model.safetensors", "pytorch_model.bin")
_SHARD = re.compile(r"^(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})(?P<suffix>\.safetensors|\.bin)$")
_LARGEST_HEADER_BYTES = 100_000_000  # the limit of the safetensors format
_AGAIN = "fetch the file again; it was probably cut off while copying"


def read_json_object(path: Path) -> dict[str, object]:
    """The object in a JSON file; PreFlightError names the file when it can't be read or is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PreFlightError(f"can't read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise PreFlightError(f"{path} is not JSON: {error}", hint=_AGAIN) from error
    if not isinstance(value, dict):
        raise PreFlightError(f"{path} must hold a JSON object, not a {type(value).__name__}")
    return value


@dataclass(frozen=True, slots=True)
class StoredWeights:
    """What the files of a checkpoint hold: bytes of their tensors, and how many numbers.

    `numbers` is None where a quantised checkpoint packs them, or a format has no header that says so.
    """

    bytes: int
    numbers: int | None


def check_weights(directory: Path) -> StoredWeights:
    """The whole weights in `directory` that transformers would load.

    Only headers and sizes are read. PreFlightError names the file that is missing, cut off or no weights.
    """
    found = [check_weights_file(path) for path in _weight_files(directory)]
    counts = [one.numbers for one in found if one.numbers is not None]
    return StoredWeights(sum(one.bytes for one in found), sum(counts) if len(counts) == len(found) else None)


def check_weights_file(path: Path) -> StoredWeights:
    """What a .safetensors or .bin file holds that is as long as it says; PreFlightError otherwise."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(64)
            if head.startswith(b"version https://git-lfs"):
                raise PreFlightError(
                    f"{path} is a Git LFS pointer, not weights", hint="run `git lfs pull` in that directory"
                )
            if size == 0:
                raise PreFlightError(f"{path} is empty", hint=_AGAIN)
            if path.suffix == ".safetensors":
                file.seek(0)
                return _safetensors(
                    path, size, file.read(8 + min(_header_length(head), _LARGEST_HEADER_BYTES))
                )
    except OSError as error:
        raise PreFlightError(f"can't read {path}: {error.strerror}") from error
    if path.suffix == ".bin" and head.startswith(b"PK") and not zipfile.is_zipfile(path):
        raise PreFlightError(f"{path} is cut off: its archive has no end", hint=_AGAIN)
    return StoredWeights(size, None)


def _weight_files(directory: Path) -> list[Path]:
    for index in _INDEXES:
        if (directory / index).is_file():
            return _indexed(directory / index)
    for single in _SINGLE:
        if (directory / single).is_file():
            return [directory / single]
    found = sorted(path for path in directory.glob("*") if path.suffix in {".safetensors", ".bin"})
    shards = [match for path in found if (match := _SHARD.match(path.name))]
    if shards:
        raise PreFlightError(
            f"{directory} holds {len(shards)} of {int(shards[0]['count'])} shards and no index file",
            hint=f"fetch {_INDEXES[0]} and the missing shards",
        )
    gguf = sorted(directory.glob("*.gguf"))
    hint = (
        f"name the GGUF file itself: {gguf[0]}" if gguf else f"expected {' or '.join(_SINGLE)}, or an index"
    )
    raise PreFlightError(f"{directory} holds no weights", hint=hint)


def _indexed(index: Path) -> list[Path]:
    files = read_json_object(index).get("weight_map")
    if not isinstance(files, dict) or not files:
        raise PreFlightError(f"{index} has no weight_map", hint=_AGAIN)
    names = sorted({str(name) for name in files.values()})
    foreign = [name for name in names if Path(name).name != name]
    if foreign:
        raise PreFlightError(f"{index} names a file outside its directory: {foreign[0]}")
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise PreFlightError(
            f"{index.parent} lacks {len(missing)} of {len(names)} shards: {', '.join(missing[:5])}",
            hint="fetch the missing files",
        )
    return [index.parent / name for name in names]


def _header_length(head: bytes) -> int:
    return int(struct.unpack("<Q", head[:8])[0]) if len(head) >= 8 else 0


def _safetensors(path: Path, size: int, start: bytes) -> StoredWeights:
    length = _header_length(start)
    if not 2 <= length <= _LARGEST_HEADER_BYTES or start[8:9] != b"{":
        raise PreFlightError(f"{path} is not a safetensors file: its header is invalid", hint=_AGAIN)
    if size < 8 + length:
        raise PreFlightError(f"{path} is cut off within its header, at {size:,} bytes", hint=_AGAIN)
    try:
        header = json.loads(start[8 : 8 + length])
        entries = [entry for name, entry in header.items() if name != "__metadata__"]
        stored = int(max((entry["data_offsets"][1] for entry in entries), default=0))
        numbers = sum(math.prod(map(int, entry["shape"])) for entry in entries)
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise PreFlightError(
            f"{path} is not a safetensors file: its header can't be read", hint=_AGAIN
        ) from error
    expected = 8 + length + stored
    if size != expected:
        raise PreFlightError(
            f"{path} has {size:,} bytes where its header needs {expected:,}: it is cut off or damaged",
            hint=_AGAIN,
        )
    return StoredWeights(stored, numbers)
