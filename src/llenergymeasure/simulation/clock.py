"""How does time pass when nobody wants to wait for it?"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(order=True)
class _Tick:
    due_ns: int
    order: int
    period_ns: int = field(compare=False)
    callback: Callable[[], object] = field(compare=False)
    cancelled: bool = field(default=False, compare=False)


class VirtualClock:
    """A `Clock` whose time moves only while somebody sleeps; one thread.

    What is registered with `every` runs at its due times inside `sleep`, as other threads would. A callback
    may sleep itself (a driver call that takes a while): time then moves on, and no callback is nested.
    """

    def __init__(self, start_ns: int = 1_000_000_000) -> None:
        self._now_ns = start_ns
        self._ticks: list[_Tick] = []
        self._order = itertools.count()
        self._in_callback = False

    def monotonic_ns(self) -> int:
        return self._now_ns

    def sleep(self, seconds: float, /) -> None:
        """Move time on by `seconds`, or further where a callback slept past that. ValueError if negative."""
        if seconds < 0:
            raise ValueError(f"sleep length must be non-negative, got {seconds}")
        self.sleep_until(self._now_ns + round(seconds * 1e9))

    def sleep_until(self, t_ns: int) -> None:
        """Move time on to `t_ns`; at once where that has passed."""
        while not self._in_callback and self._ticks and self._ticks[0].due_ns <= t_ns:
            self._fire(heapq.heappop(self._ticks))
        self._now_ns = max(self._now_ns, t_ns)

    def _fire(self, tick: _Tick) -> None:
        if tick.cancelled:
            return
        self._now_ns = max(self._now_ns, tick.due_ns)
        self._in_callback = True
        try:
            tick.callback()
        finally:
            self._in_callback = False
        missed = max(0, self._now_ns - tick.due_ns) // tick.period_ns
        tick.due_ns += (missed + 1) * tick.period_ns
        heapq.heappush(self._ticks, tick)

    @contextmanager
    def every(self, period_s: float, callback: Callable[[], object]) -> Iterator[None]:
        """Within the context run `callback` every `period_s`, first after one; late ticks are skipped."""
        period_ns = round(period_s * 1e9)
        if period_ns <= 0:
            raise ValueError(f"a period must be positive, got {period_s}")
        tick = _Tick(self._now_ns + period_ns, next(self._order), period_ns, callback)
        heapq.heappush(self._ticks, tick)
        try:
            yield
        finally:
            tick.cancelled = True
