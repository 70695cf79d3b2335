"""What would a controller say of a machine whose power is a known function of its GPU and its processor?"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from llenergymeasure.energy.meters.device import Device, DeviceMeter, Question
from llenergymeasure.records import Clock, Domain, Quantity, Window
from llenergymeasure.simulation.waveform import Waveform


@dataclass(frozen=True, slots=True)
class HostPower:
    """(GPU + processor + fans and the rest) / the power supply's efficiency."""

    gpu: Waveform
    cpu: Waveform = field(default_factory=lambda: Waveform(40.0))
    rest_w: float = 55.0
    efficiency: float = 0.92

    def energy_j(self, window: Window) -> float:
        parts = sum(one.energy_j(window.start_ns, window.end_ns) for one in (self.gpu, self.cpu))
        return (parts + self.rest_w * window.duration_s) / self.efficiency


class SimulatedHostMeter(DeviceMeter):
    """The domain `host`: every `step_s`, at `phase_s`, the mean power of the last `window_s`,
    `lag_s` late and in whole watts.
    """

    def __init__(
        self, power: HostPower, *, step_s: float, window_s: float, phase_s: float, lag_s: float, clock: Clock
    ) -> None:
        super().__init__()
        self._power, self._clock = power, clock
        self._step_ns, self._window_ns = round(step_s * 1e9), round(window_s * 1e9)
        self._phase_ns, self._lag_ns = round(phase_s * 1e9), round(lag_s * 1e9)

    def _open(self, stack: ExitStack) -> tuple[Sequence[Device], Sequence[Domain]]:  # noqa: ARG002  nothing to close
        power = Quantity(
            "power_average", "simulated.host", "W", 1.0, step_ns=self._step_ns, window_ns=self._window_ns
        )
        device = Device([Question("host", power, self._watts)], errors=(), silent="", clock=self._clock)
        device.period_s = 0.5
        return [device], [Domain("host", "host", (power,), systematic_gain=(0.95, 1.05))]

    def _watts(self) -> int:
        now_ns = self._clock.monotonic_ns() - self._phase_ns
        end_ns = now_ns - now_ns % self._step_ns + self._phase_ns - self._lag_ns
        window = Window(end_ns - self._window_ns, end_ns)
        return round(self._power.energy_j(window) / window.duration_s)
