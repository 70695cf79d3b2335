"""Which processes descend from which? Without the boot time, which psutil needs and some containers hide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

import psutil


def trees(roots: Sequence[int]) -> set[int]:
    """Those of `roots` that live, and all that live below them."""
    parents: dict[int, int] = {}
    for pid in psutil.pids():
        with suppress(psutil.Error):
            parents[pid] = psutil.Process(pid).ppid()
    found = parents.keys() & set(roots)
    while below := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= below
    return found


def lineage(pid: int) -> Iterator[int]:
    """`pid`, its parent, and so on; psutil.Error where one is gone."""
    while pid:
        yield pid
        pid = psutil.Process(pid).ppid()
