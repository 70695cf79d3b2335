"""Between which two readings of the one clock did something happen?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Clock(Protocol):
    """The one clock of a run. The `time` module is one; the simulation's virtual clock is another."""

    def monotonic_ns(self) -> int: ...

    def sleep(self, seconds: float, /) -> None: ...


@dataclass(frozen=True, slots=True)
class Window:
    start_ns: int
    end_ns: int

    def __post_init__(self) -> None:
        if self.end_ns < self.start_ns:
            raise ValueError(f"a window can't end before it starts: {self.start_ns} > {self.end_ns}")

    @property
    def duration_s(self) -> float:
        return (self.end_ns - self.start_ns) / 1e9
