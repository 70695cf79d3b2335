"""How much did a counter count between two readings: one step, a wrap, or did it start again?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from llenergymeasure.records import DomainKind

if TYPE_CHECKING:
    from llenergymeasure.records import Integers

Floats: TypeAlias = NDArray[np.float64]

# What a read adds to the time that a counter may have counted: its own steps, and how long a read takes.
_LATE_S = 0.1

# What no domain of a kind draws. Sockets: twice the highest thermal design power that there is, 500 W (Intel
# ARK, Xeon 6980P; AMD, EPYC 9965). Boards: twice 1.4 kW (NVIDIA, B300), modules: twice 2.7 kW (GB200).
# CPU time (`host`): what this many processors use. A machine and its socket: a server of eight such boards.
MOST_W: Mapping[DomainKind, float] = {
    "cpu": 1_000.0,
    "dram": 1_000.0,
    "gpu": 3_000.0,
    "module": 6_000.0,
    "host": 30_000.0,
    "wall": 30_000.0,
    "part": 6_000.0,
}


def unwrap(
    raw: Integers, wrap: int | None, *, seconds: Floats | None = None, most_per_s: float | None = None
) -> tuple[Integers, NDArray[np.bool_]]:
    """Counts since the first reading, and where (between reading i and i + 1) the counter was reset.

    A fall is one wrap if that makes a step of at most half the range, which polling at a quarter of the wrap
    time guarantees, and one that is possible: at most `most_per_s` counts for each second between the two
    readings, which were made at `seconds`. Any other fall is a reset, across which nothing is counted, and so
    is a rise that is more than possible since the counter last moved.
    """
    steps = np.diff(raw)
    fell = steps < 0
    if wrap is not None:
        most = np.full(steps.size, wrap // 2, dtype=np.float64)
        if seconds is not None and most_per_s is not None:
            most = np.minimum(most, most_per_s * (np.diff(seconds) + _LATE_S))
        around = fell & (steps + wrap >= 0) & (steps + wrap <= most)
        steps = np.where(around, steps + wrap, steps)
        fell = fell & ~around
    if seconds is not None and most_per_s is not None:
        jumped = steps > most_per_s * (_since_it_moved(steps, seconds) + _LATE_S)
        # Where most do so it is the unit that is wrong, which a field of power tells.
        if 2 * np.count_nonzero(jumped) < np.count_nonzero(steps > 0):
            fell = fell | jumped
    steps = np.where(fell, 0, steps)
    return np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(steps, dtype=np.int64))), fell


def _since_it_moved(steps: Integers, seconds: Floats) -> Floats:
    """Of each step the time from the reading that first showed the count before it; of the first unknown."""
    moved = np.where(steps != 0, np.arange(1, steps.size + 1), 0)
    before = np.concatenate((np.zeros(1, dtype=np.int64), np.maximum.accumulate(moved)))[:-1]
    return np.where(before > 0, seconds[1:] - seconds[before], np.inf)
