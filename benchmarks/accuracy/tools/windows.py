"""What any tool does around its measurement: wait, begin, wait, end, and say what it saw on which clock.

These scripts run in the environments of other tools: they import nothing but the tool and this module.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

State = TypeVar("State")


@dataclass(frozen=True)
class Seen:
    """One window: the clock just after the tool began and just before it was told to end, and its joules."""

    index: int
    begin_ns: int
    end_ns: int
    joules: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None


def planned() -> list[tuple[int, int, int]]:
    """Number, begin (CLOCK_MONOTONIC) and length in ns of the windows in the plan on the command line."""
    plan = json.loads(Path(sys.argv[1]).read_text())
    return [(index, begin_ns, length_ns) for index, (begin_ns, length_ns, _) in enumerate(plan)]


def between_silences() -> list[bool]:
    """By the number of each window, whether power is constant before it and after it."""
    return [bool(silent) for _, _, silent in json.loads(Path(sys.argv[1]).read_text())]


def timely(windows: list[tuple[int, int, int]]) -> Iterator[tuple[int, int]]:
    """Number and length of those whose begin has not passed, each when it is due to begin."""
    for index, begin_ns, length_ns in windows:
        if time.monotonic_ns() < begin_ns:
            wait_until(begin_ns)
            yield index, length_ns


def wait_until(t_ns: int) -> None:
    time.sleep(max(0, t_ns - time.monotonic_ns()) / 1e9)


def say(seen: Seen) -> None:
    print(json.dumps(asdict(seen)), flush=True)


def measure(begin: Callable[[], State], end: Callable[[State], float]) -> None:
    for index, length_ns in timely(planned()):
        state = begin()
        begin_ns = time.monotonic_ns()
        wait_until(begin_ns + length_ns)
        end_ns = time.monotonic_ns()
        say(Seen(index, begin_ns, end_ns, end(state)))
