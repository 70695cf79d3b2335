"""How much power does a device really draw, and how much energy is that exactly?"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class _Piece:
    start_ns: int
    watts: float
    watts_per_s: float
    joules_before: float

    def power_w(self, t_ns: int) -> float:
        return self.watts + self.watts_per_s * (t_ns - self.start_ns) * 1e-9

    def energy_j(self, t_ns: int) -> float:
        seconds = (t_ns - self.start_ns) * 1e-9
        return self.joules_before + seconds * (self.watts + 0.5 * self.watts_per_s * seconds)


def _start_ns(piece: _Piece) -> int:
    return piece.start_ns


class Waveform:
    """Power over time in linear pieces, extended as time goes; its integral is closed, not summed.

    It holds `watts` since ever until the first `set`. One thread may extend it while others read.
    """

    def __init__(self, watts: float) -> None:
        self._pieces = [_Piece(0, watts, 0.0, 0.0)]

    def set(self, t_ns: int, watts: float) -> None:
        """From `t_ns` on the power is `watts`. ValueError where something later has been set already."""
        self._append(t_ns, watts, 0.0)

    def ramp(self, t_ns: int, watts: float, *, until_ns: int) -> None:
        """From `t_ns` on the power moves in a straight line to `watts` at `until_ns`, and stays there."""
        if until_ns <= t_ns:
            raise ValueError(f"a ramp must take time, got {t_ns} to {until_ns}")
        start_w = self.power_w(t_ns)
        self._append(t_ns, start_w, (watts - start_w) / ((until_ns - t_ns) * 1e-9))
        self._append(until_ns, watts, 0.0)

    def _append(self, t_ns: int, watts: float, watts_per_s: float) -> None:
        last = self._pieces[-1]
        if t_ns < last.start_ns:
            raise ValueError(f"power is already set from {last.start_ns} ns on, can't set it at {t_ns} ns")
        self._pieces.append(_Piece(t_ns, watts, watts_per_s, last.energy_j(t_ns)))

    def _at(self, t_ns: int) -> _Piece:
        return self._pieces[max(0, bisect_right(self._pieces, t_ns, key=_start_ns) - 1)]

    def power_w(self, t_ns: int) -> float:
        return self._at(t_ns).power_w(t_ns)

    def energy_j(self, t0_ns: int, t1_ns: int) -> float:
        """The integral of the power from `t0_ns` to `t1_ns`, in joules."""
        return self._at(t1_ns).energy_j(t1_ns) - self._at(t0_ns).energy_j(t0_ns)
