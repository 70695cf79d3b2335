"""What is known of another host's clock?"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """A question that left here at `sent_ns`, was answered on `host` when its clock showed `there_ns`, and
    came back at `received_ns`.
    """

    host: str
    sent_ns: int
    there_ns: int
    received_ns: int

    @property
    def took_ns(self) -> int:
        return self.received_ns - self.sent_ns


@dataclass(frozen=True, slots=True)
class HostClock:
    """What was read there at each of `t_ns` (this host's time) was read so within ± `half_ns`, and further
    away within `wander` ns more for each ns.
    """

    t_ns: tuple[int, ...]
    half_ns: tuple[float, ...]
    wander: tuple[float, ...]

    def half_s(self, t_ns: int) -> float:
        """How surely a moment is known on this host's clock, in seconds."""
        right = bisect_right(self.t_ns, t_ns)
        near = {max(0, right - 1), min(right, len(self.t_ns) - 1)}
        return min(self.half_ns[at] + self.wander[at] * abs(t_ns - self.t_ns[at]) for at in near) * 1e-9
