"""What was read of the files in a directory before, so that only those that changed are read again?"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any, Self, TypeAlias

from llenergymeasure.config.places import cache_dir
from llenergymeasure.results.folder import replace_text

Stamp: TypeAlias = tuple[int, int, int]


def stamp_of(path: str) -> Stamp | None:
    """Time of change in ns, size and inode; None where there is no such file."""
    try:
        seen = os.stat(path)  # noqa: PTH116  thousands of them: a Path takes longer than the call
    except OSError:
        return None
    return seen.st_mtime_ns, seen.st_size, seen.st_ino


class Index:
    """Small facts by file, in the user's cache. A context manager: it is written where something is new.

    Only a cache: what can't be read or written there is read from the files each time. What another version
    wrote (`by`) is not used.
    """

    def __init__(self, directory: Path, *, by: str) -> None:
        name = hashlib.sha256(str(directory.absolute()).encode(errors="surrogateescape")).hexdigest()[:24]
        self._file = cache_dir() / "lists" / f"{name}.json"
        self._known: dict[str, tuple[list[int], dict[str, Any]]] = {}
        self._seen: dict[str, tuple[list[int], dict[str, Any]]] = {}
        self._new, self._by = False, by

    def __enter__(self) -> Self:
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
            stored = json.loads(self._file.read_bytes())
            if stored.get("by") == self._by:
                self._known = dict(stored["files"])
        return self

    def __exit__(self, *error: object) -> None:
        if not self._new and len(self._seen) == len(self._known):
            return
        with contextlib.suppress(OSError, ValueError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            replace_text(self._file, json.dumps({"by": self._by, "files": self._seen}))

    def get(self, path: str, stamp: Stamp) -> dict[str, Any] | None:
        """None where the file is new or has changed."""
        found = self._known.get(path)
        if found is None or tuple(found[0]) != stamp:
            return None
        self._seen[path] = found
        return found[1]

    def put(self, path: str, stamp: Stamp, facts: dict[str, Any]) -> None:
        self._seen[path] = (list(stamp), facts)
        self._new = True
