"""By how much is another host's clock off, and how surely is that known?

A question leaves here, is answered there, and its answer arrives here: both readings of this host's clock
bound the moment of the answer, whatever the way was like. Drift joins the bounds of one moment to those of
another: at first by the most that a kernel ever slews a clock, then by what the exchange itself shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from llenergymeasure.records import HostClock, RoundTrip

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.float64]
    Integers: TypeAlias = NDArray[np.int64]

# Of all round trips of this long the quickest is kept: the others say no more.
WINDOW_NS = 1_000_000_000
# A kernel slews a clock by 500 ppm at the most (adjtimex), and a crystal is off by less than 100.
_MOST_DRIFT = 600e-6
# What a drift that was seen may change by, as with temperature.
_WANDER = 5e-6
_DRIFT_AFTER_NS = 20_000_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Offset:
    """What has to be added to the other host's times, near each of `x_ns` (in its own time).

    Surely from `low` to `high` there, and further away by `drift` ± `wander` ns for each ns. `part` numbers
    the stretches between jumps of the clock.
    """

    x_ns: Integers
    low: Floats
    high: Floats
    drift: Floats
    wander: Floats
    part: Integers

    def at(self, t_ns: Integers) -> tuple[Floats, Floats]:
        """The offset at those moments, and by how much it may be off, in ns."""
        import numpy as np

        last = self.x_ns.size - 1
        left = np.clip(np.searchsorted(self.x_ns, t_ns, side="right") - 1, 0, last)
        right = np.minimum(left + 1, last)
        # Across a jump only the nearer stretch counts.
        apart = self.part[left] != self.part[right]
        nearer = np.where(t_ns - self.x_ns[left] < self.x_ns[right] - t_ns, left, right)
        left, right = np.where(apart, nearer, left), np.where(apart, nearer, right)
        sides = []
        for knot in (left, right):
            away = (t_ns - self.x_ns[knot]).astype(np.float64)
            moved, unsure = self.drift[knot] * away, self.wander[knot] * np.abs(away)
            sides.append((self.low[knot] + moved - unsure, self.high[knot] + moved + unsure))
        low = np.maximum(sides[0][0], sides[1][0])
        high = np.maximum(low, np.minimum(sides[0][1], sides[1][1]))
        return (low + high) / 2, (high - low) / 2

    @property
    def jumps(self) -> list[tuple[int, int]]:
        """Between which moments the clock jumped."""
        import numpy as np

        found = np.flatnonzero(np.diff(self.part))
        return [(int(self.x_ns[at]), int(self.x_ns[at + 1])) for at in found]

    @property
    def clock(self) -> HostClock:
        """How surely this host's time of what was read there is known, by this host's time."""
        import numpy as np

        offset, half = self.at(self.x_ns)
        here = self.x_ns + np.rint(offset).astype(np.int64)
        return HostClock(tuple(here.tolist()), tuple(half.tolist()), tuple(self.wander.tolist()))


def quickest(trips: Sequence[RoundTrip]) -> list[RoundTrip]:
    """Of each second the round trip that took the least time."""
    best: dict[int, RoundTrip] = {}
    for one in trips:
        number = one.there_ns // WINDOW_NS
        if number not in best or one.took_ns < best[number].took_ns:
            best[number] = one
    return [best[number] for number in sorted(best)]


def offset(trips: Sequence[RoundTrip]) -> Offset:
    """From the round trips with one host, one at least."""
    import numpy as np

    kept = quickest(trips)
    x_ns = np.array([one.there_ns for one in kept], dtype=np.int64)
    low = np.array([one.sent_ns - one.there_ns for one in kept], dtype=np.float64)
    high = np.array([one.received_ns - one.there_ns for one in kept], dtype=np.float64)
    part = _stretches(x_ns, low, high)
    drift, wander = np.zeros(x_ns.size), np.full(x_ns.size, _MOST_DRIFT)
    for number in range(int(part[-1]) + 1):
        mine = part == number
        rate, unsure = _drift(x_ns[mine], low[mine], high[mine])
        bounds = _narrowed(x_ns[mine], low[mine], high[mine], rate, unsure)
        if bounds is None:
            # The drift changed on the way, as when NTP begins to slew.
            rate, unsure = 0.0, _MOST_DRIFT
            bounds = _narrowed(x_ns[mine], low[mine], high[mine], rate, unsure) or (low[mine], high[mine])
        low[mine], high[mine] = bounds
        drift[mine], wander[mine] = rate, unsure
    return Offset(x_ns, low, high, drift, wander, part)


def _stretches(x_ns: Integers, low: Floats, high: Floats) -> Integers:
    """A new one begins where no clock that merely drifts could have got to from where it was."""
    import numpy as np

    part = np.zeros(x_ns.size, dtype=np.int64)
    least, most = low[0], high[0]
    for at in range(1, x_ns.size):
        slack = _MOST_DRIFT * (x_ns[at] - x_ns[at - 1])
        least, most = max(least - slack, low[at]), min(most + slack, high[at])
        part[at] = part[at - 1]
        if least > most:
            part[at] += 1
            least, most = low[at], high[at]
    return part


def _drift(x_ns: Integers, low: Floats, high: Floats) -> tuple[float, float]:
    """From the best moment of the first third to that of the last, and what both leave open."""
    import numpy as np

    if x_ns[-1] - x_ns[0] < _DRIFT_AFTER_NS:
        return 0.0, _MOST_DRIFT
    third = max(1, x_ns.size // 3)
    width = high - low
    first = int(np.argmin(width[:third]))
    last = x_ns.size - third + int(np.argmin(width[-third:]))
    apart = float(x_ns[last] - x_ns[first])
    rate = float((low[last] + high[last]) - (low[first] + high[first])) / 2 / apart
    unsure = float(width[first] + width[last]) / 2 / apart + _WANDER
    return (rate, unsure) if unsure + abs(rate) < _MOST_DRIFT else (0.0, _MOST_DRIFT)


def _narrowed(
    x_ns: Integers, low: Floats, high: Floats, rate: float, unsure: float
) -> tuple[Floats, Floats] | None:
    """The bounds of each moment by those of all others; None where they contradict each other."""
    import numpy as np

    low, high = low.copy(), high.copy()
    steps = np.diff(x_ns).astype(np.float64)
    for at in range(1, x_ns.size):
        least, most = (rate - unsure) * steps[at - 1], (rate + unsure) * steps[at - 1]
        low[at] = max(low[at], low[at - 1] + least)
        high[at] = min(high[at], high[at - 1] + most)
    for at in range(x_ns.size - 2, -1, -1):
        least, most = (rate - unsure) * steps[at], (rate + unsure) * steps[at]
        low[at] = max(low[at], low[at + 1] - most)
        high[at] = min(high[at], high[at + 1] - least)
    return None if np.any(low > high) else (low, high)
