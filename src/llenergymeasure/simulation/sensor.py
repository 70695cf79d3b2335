"""How does a board's sensor look at its power, and when?"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

from llenergymeasure.simulation.waveform import Waveform

COUNTER, AVERAGE, INSTANT = 83, 185, 186
_NORMAL = NormalDist()
_MASK = 2**64 - 1
_JITTER, _LATENCY, _LATCH = 1, 2, 3
# Less than half a step, so that no step overtakes another.
_WIDEST_JITTER = 0.45


@dataclass(frozen=True, slots=True)
class SimulatedSensor:
    """How a board's sensor looks at its power.

    Counter and power move every `step_s`, offset by `phase_s`, each step `step_jitter_s` (sd, drawn by
    `seed` and cut at 0.45 steps) early or late. The instant field is the mean of `window_s` before a step,
    the average field that of `average_window_s`; they show what was true `lag_s` ago, the counter
    `counter_lag_s` ago. Shown = `gain` × true + `offset_w`; the counter's own lag, gain and offset are the
    power fields' where None. A field outside `fields` is NotSupported, as the counter is on a vGPU.
    The plain power function shows the field `usage`, offered or not; where None, the average field, if
    offered. `latency_s` is what a call takes, or a range to draw it from.
    """

    step_s: float = 0.1
    phase_s: float = 0.0
    window_s: float = 0.1
    average_window_s: float = 1.0
    gain: float = 1.0
    offset_w: float = 0.0
    fields: frozenset[int] = frozenset({COUNTER, AVERAGE, INSTANT})
    usage: int | None = None
    step_jitter_s: float = 0.0
    lag_s: float = 0.0
    counter_gain: float | None = None
    counter_offset_w: float | None = None
    counter_lag_s: float | None = None
    counter_stuck: bool = False
    latency_s: float | tuple[float, float] = 0.0
    seed: int = 0

    def step_at_ns(self, index: int) -> int:
        """When the step number `index` happens."""
        late_s = 0.0
        if self.step_jitter_s:
            widest_s = _WIDEST_JITTER * self.step_s
            drawn_s = self.step_jitter_s * _NORMAL.inv_cdf(_uniform(self.seed, _JITTER, index))
            late_s = min(max(drawn_s, -widest_s), widest_s)
        return round(self.phase_s * 1e9) + index * round(self.step_s * 1e9) + round(late_s * 1e9)

    def last_step_ns(self, t_ns: int) -> int:
        """When the last step not after `t_ns` happened."""
        index = (t_ns - round(self.phase_s * 1e9)) // round(self.step_s * 1e9)
        return next(at for near in (1, 0, -1) if (at := self.step_at_ns(index + near)) <= t_ns)

    def latency_ns(self, call: int) -> tuple[int, int]:
        """How long the `call`-th call takes before it looks, and after."""
        low_s, high_s = self.latency_s if isinstance(self.latency_s, tuple) else (self.latency_s,) * 2
        whole_ns = round((low_s + (high_s - low_s) * _uniform(self.seed, _LATENCY, call)) * 1e9)
        before_ns = round(whole_ns * _uniform(self.seed, _LATCH, call))
        return before_ns, whole_ns - before_ns

    def counted_j(self, power: Waveform, since_ns: int, step_ns: int) -> float:
        """The counter after its step at `step_ns`, if it began at `since_ns`."""
        t_ns = max(step_ns - self.lag_ns(counter=True), since_ns)
        gain = self.gain if self.counter_gain is None else self.counter_gain
        offset_w = self.offset_w if self.counter_offset_w is None else self.counter_offset_w
        return gain * power.energy_j(since_ns, t_ns) + offset_w * (t_ns - since_ns) * 1e-9

    def mean_w(self, power: Waveform, window_s: float, step_ns: int) -> float:
        """A power field after its step at `step_ns`."""
        t_ns = step_ns - self.lag_ns(counter=False)
        return self.gain * power.energy_j(t_ns - round(window_s * 1e9), t_ns) / window_s + self.offset_w

    def lag_ns(self, *, counter: bool) -> int:
        lag_s = self.lag_s if not counter or self.counter_lag_s is None else self.counter_lag_s
        return round(lag_s * 1e9)


def _uniform(seed: int, stream: int, index: int) -> float:
    """In (0, 1), by SplitMix64's finaliser: a pure function, where a generator would have to be replayed."""
    bits = (seed * 0x9E3779B97F4A7C15 + stream * 0xD1B54A32D192ED03 + index * 0x8CB92BA72F3D8DD7) & _MASK
    for _ in range(2):
        bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & _MASK
        bits ^= bits >> 31
    return ((bits >> 12) + 0.5) / 2**52
