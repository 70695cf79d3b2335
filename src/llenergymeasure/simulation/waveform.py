"""How much power does a device really draw, and how much energy is that exactly?"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from dataclasses import dataclass

from llenergymeasure.records import Window


@dataclass(frozen=True, slots=True)
class _Piece:
    """`watts` + `watts_per_s` · s − `rise_w` · exp(−s / `tau_s`), s seconds after its start."""

    start_ns: int
    joules_before: float
    watts: float
    watts_per_s: float = 0.0
    rise_w: float = 0.0
    tau_s: float = 1.0

    def power_w(self, t_ns: int) -> float:
        seconds = (t_ns - self.start_ns) * 1e-9
        watts = self.watts + self.watts_per_s * seconds
        return watts - self.rise_w * math.exp(-seconds / self.tau_s) if self.rise_w else watts

    def energy_j(self, t_ns: int) -> float:
        seconds = (t_ns - self.start_ns) * 1e-9
        joules = self.joules_before + seconds * (self.watts + 0.5 * self.watts_per_s * seconds)
        if self.rise_w:
            joules += self.rise_w * self.tau_s * math.expm1(-seconds / self.tau_s)
        return joules


@dataclass(frozen=True, slots=True)
class Serving:
    """What a GPU draws for one batch after another: a prefill, then `steps` decode steps.

    The length of a step is drawn from `step_s` for each batch, and each step scatters 5 % around it. The
    first `duty` of a step draws `high_w`, its rest `low_w`.
    """

    prefill_w: float = 600.0
    prefill_s: float = 0.2
    high_w: float = 450.0
    low_w: float = 200.0
    duty: float = 0.6
    step_s: tuple[float, float] = (0.010, 0.060)
    steps: int = 40


@dataclass(frozen=True, slots=True)
class Batch:
    prefill: Window
    decode: Window


class Waveform:
    """Power over time in pieces, extended as time goes; its integral is closed, not summed.

    It holds `watts` since ever until the first change. One thread may extend it while others read. Reading
    it anywhere costs O(log n). What starts where something later has been set raises ValueError. Whatever
    has an `until_ns` and is not a ramp leaves the power as it was before.
    """

    def __init__(self, watts: float) -> None:
        self._pieces = [_Piece(0, 0.0, watts)]
        self._starts_ns = [0]
        self._added: tuple[Waveform, ...] = ()

    def set(self, t_ns: int, watts: float) -> None:
        """From `t_ns` on the power is `watts`."""
        self._append(t_ns, watts)

    def cut(self, t_ns: int) -> None:
        """Forget what was set for later than `t_ns`; the power stays as it is then."""
        kept = bisect_right(self._starts_ns, t_ns)
        if kept < len(self._pieces):
            watts = self._own_w(t_ns)
            del self._starts_ns[kept:]
            del self._pieces[kept:]
            self._append(t_ns, watts)

    def ramp(self, t_ns: int, watts: float, *, until_ns: int) -> None:
        """From `t_ns` on the power moves in a straight line to `watts` at `until_ns`, and stays there."""
        start_w, seconds = self._own_w(t_ns), _seconds(t_ns, until_ns)
        self._append(t_ns, start_w, watts_per_s=(watts - start_w) / seconds)
        self._append(until_ns, watts)

    def drift(self, t_ns: int, watts: float, *, tau_s: float) -> None:
        """From `t_ns` on the power approaches `watts` exponentially, as a board does that warms up."""
        if tau_s <= 0:
            raise ValueError(f"a time constant must be positive, got {tau_s}")
        self._append(t_ns, watts, rise_w=watts - self._own_w(t_ns), tau_s=tau_s)

    def burst(self, t_ns: int, watts: float, *, until_ns: int) -> None:
        before_w, _ = self._own_w(t_ns), _seconds(t_ns, until_ns)
        self._append(t_ns, watts)
        self._append(until_ns, before_w)

    def square(
        self, t_ns: int, levels_w: tuple[float, float], *, until_ns: int, period_s: float, duty: float = 0.5
    ) -> None:
        """Periods that draw the first of `levels_w` for their first `duty`, the second for their rest."""
        if period_s <= 0 or not 0 < duty < 1:
            raise ValueError(f"a period must be positive and its duty in (0, 1), got {period_s} and {duty}")
        before_w, seconds = self._own_w(t_ns), _seconds(t_ns, until_ns)
        for number in range(math.ceil(seconds / period_s)):
            start_ns = t_ns + round(number * period_s * 1e9)
            self._step(start_ns, start_ns + round(duty * period_s * 1e9), levels_w, until_ns=until_ns)
        self._append(until_ns, before_w)

    def serve(self, t_ns: int, serving: Serving, *, until_ns: int, seed: int = 0) -> tuple[Batch, ...]:
        """Batches of prefill and decode, drawn by `seed`; the last one is cut off at `until_ns`."""
        before_w, _ = self._own_w(t_ns), _seconds(t_ns, until_ns)
        draw = random.Random(seed)  # noqa: S311  a simulation, not a secret
        batches = []
        while t_ns < until_ns:
            start_ns, t_ns = t_ns, t_ns + round(serving.prefill_s * 1e9)
            self._append(start_ns, serving.prefill_w)
            decode_ns = min(t_ns, until_ns)
            step_s = draw.uniform(*serving.step_s)
            for _ in range(serving.steps):
                length_ns = max(1, round(draw.uniform(0.95, 1.05) * step_s * 1e9))
                self._step(
                    t_ns,
                    t_ns + round(serving.duty * length_ns),
                    (serving.high_w, serving.low_w),
                    until_ns=until_ns,
                )
                t_ns += length_ns
            batches.append(Batch(Window(start_ns, decode_ns), Window(decode_ns, min(t_ns, until_ns))))
        self._append(until_ns, before_w)
        return tuple(batches)

    def walk(self, t_ns: int, sd_w: float, *, until_ns: int, step_s: float, seed: int = 0) -> None:
        """From its present level the power moves every `step_s` by a normal draw, reflected at 0."""
        if step_s <= 0:
            raise ValueError(f"a step must be positive, got {step_s}")
        before_w, seconds = self._own_w(t_ns), _seconds(t_ns, until_ns)
        draw = random.Random(seed)  # noqa: S311  a simulation, not a secret
        watts = before_w
        for number in range(math.ceil(seconds / step_s)):
            watts = abs(watts + draw.gauss(0.0, sd_w))
            self._append(t_ns + round(number * step_s * 1e9), watts)
        self._append(until_ns, before_w)

    def add(self, other: Waveform) -> None:
        """Let `other`'s power also be drawn, always: a drift on top of bursts."""
        self._added = (*self._added, other)

    def power_w(self, t_ns: int) -> float:
        return self._own_w(t_ns) + sum(other.power_w(t_ns) for other in self._added)

    def energy_j(self, t0_ns: int, t1_ns: int) -> float:
        """The integral of the power from `t0_ns` to `t1_ns`, in joules."""
        own_j = self._at(t1_ns).energy_j(t1_ns) - self._at(t0_ns).energy_j(t0_ns)
        return own_j + sum(other.energy_j(t0_ns, t1_ns) for other in self._added)

    def _step(self, start_ns: int, fall_ns: int, levels_w: tuple[float, float], *, until_ns: int) -> None:
        high_w, low_w = levels_w
        if start_ns < until_ns:
            self._append(start_ns, high_w)
        if fall_ns < until_ns:
            self._append(fall_ns, low_w)

    def _append(
        self, t_ns: int, watts: float, *, watts_per_s: float = 0.0, rise_w: float = 0.0, tau_s: float = 1.0
    ) -> None:
        last = self._pieces[-1]
        if t_ns < last.start_ns:
            raise ValueError(f"power is already set from {last.start_ns} ns on, can't set it at {t_ns} ns")
        self._pieces.append(_Piece(t_ns, last.energy_j(t_ns), watts, watts_per_s, rise_w, tau_s))
        # last, so that a reader in another thread finds a piece for every start
        self._starts_ns.append(t_ns)

    def _at(self, t_ns: int) -> _Piece:
        return self._pieces[max(0, bisect_right(self._starts_ns, t_ns) - 1)]

    def _own_w(self, t_ns: int) -> float:
        return self._at(t_ns).power_w(t_ns)


def _seconds(t_ns: int, until_ns: int) -> float:
    if until_ns <= t_ns:
        raise ValueError(f"a change must take time, got {t_ns} to {until_ns}")
    return (until_ns - t_ns) * 1e-9
