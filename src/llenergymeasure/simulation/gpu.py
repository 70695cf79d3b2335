"""What is true of one board, and what does its driver make of that?"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

from llenergymeasure.records import Clock, Window
from llenergymeasure.simulation.nvml_names import (
    MODULE_SCOPE,
    Code,
    Memory,
    SimulatedNvmlError,
    SimulatedProcess,
)
from llenergymeasure.simulation.sensor import AVERAGE, COUNTER, INSTANT, SimulatedSensor
from llenergymeasure.simulation.waveform import Waveform

_TOTAL_BYTES = 80 * 2**30
_MIG_SLICES = 7


class SimulatedMig:
    """An instance of a board that is shared out: it has memory and processes, and no watts of its own."""

    def __init__(self, parent: SimulatedGpu, uuid: str, *, gpu_instance: int) -> None:
        self.parent = parent
        self.uuid = uuid
        self.gpu_instance = gpu_instance


class SimulatedGpu:
    """One board: a true power that is set from outside, and what its sensor makes of it.

    A script may change every public attribute. `power` is what the GPU draws, `cpu_power` what the rest of
    its module does (None: it has no module scope). `temperature_c`, `sm_clock_mhz` and `power_limit_w` are
    functions of time and `violations` seconds throttled per second, by policy; what is None or lacks is
    NotSupported. `hidden_memory_bytes` is used by processes that the driver does not show.

    `fails` gives a function's name or a field's number the code that it fails with, `fails_with` all that
    are asked of the board; from `lost_from_ns` on the board is gone.
    """

    def __init__(self, clock: Clock, uuid: str, *, idle_w: float, sensor: SimulatedSensor) -> None:
        self.uuid = uuid
        self.name = "Simulated GPU"
        self.sensor = sensor
        self.power = Waveform(idle_w)
        self.cpu_power: Waveform | None = None
        self.temperature_c: Waveform | None = None
        self.sm_clock_mhz: Waveform | None = None
        self.power_limit_w: Waveform | None = None
        self.violations: dict[int, Waveform] = {}
        self.processes: list[SimulatedProcess] = []
        self.hidden_memory_bytes = 0
        self.fails_with: int | None = None
        self.fails: dict[str | int, int] = {}
        self.lost_from_ns: int | None = None
        self.mig: bool | None = None
        self.instances: tuple[SimulatedMig, ...] = ()
        self.clock = clock
        self._calls = itertools.count()
        self._counter_from_ns = clock.monotonic_ns() - 3_600_000_000_000
        self._stuck_ns = clock.monotonic_ns() if sensor.counter_stuck else None

    def offer_health(
        self, *, temperature_c: float = 40, sm_clock_mhz: float = 1410, power_limit_w: float = 400
    ) -> None:
        """The driver shows temperature, clock, power limit and violations by power and heat: none so far."""
        self.temperature_c = Waveform(temperature_c)
        self.sm_clock_mhz = Waveform(sm_clock_mhz)
        self.power_limit_w = Waveform(power_limit_w)
        self.violations = {0: Waveform(0), 1: Waveform(0)}

    def throttle(self, policy: int, window: Window) -> None:
        """The clock is held back by `policy` within `window`, and the violation counter runs."""
        running = self.violations.setdefault(policy, Waveform(0))
        running.burst(window.start_ns, 1.0, until_ns=window.end_ns)

    def share_out(self, *uuids: str) -> None:
        """MIG mode is on, and the board is shared out to instances of these UUIDs."""
        self.mig = True
        self.instances = tuple(
            SimulatedMig(self, uuid, gpu_instance=number) for number, uuid in enumerate(uuids, start=1)
        )

    def reset_counter(self) -> None:
        """The counter starts again at 0, as when the driver is loaded anew."""
        self._counter_from_ns = self.clock.monotonic_ns()

    def stick_counter(self) -> None:
        """From now on the counter shows what it shows now."""
        self._stuck_ns = self.clock.monotonic_ns()

    def memory(self, *, instance: SimulatedMig | None = None) -> Memory:
        """`used` is what processes hold; the driver's own part is `reserved`."""
        total = _TOTAL_BYTES if instance is None else _TOTAL_BYTES // _MIG_SLICES
        held = sum(process.usedGpuMemory or 0 for process in self.processes_of(instance))
        used = held + (self.hidden_memory_bytes if instance is None else 0)
        reserved = total // 160
        return Memory(total=total, free=total - used - reserved, used=used, reserved=reserved)

    def processes_of(self, instance: SimulatedMig | None) -> list[SimulatedProcess]:
        if instance is None:
            return list(self.processes)
        return [one for one in self.processes if one.gpuInstanceId == instance.gpu_instance]

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A call of the driver takes its time before it looks, and after."""
        before_ns, after_ns = self.sensor.latency_ns(next(self._calls))
        if before_ns:
            self.clock.sleep(before_ns / 1e9)
        yield
        if after_ns:
            self.clock.sleep(after_ns / 1e9)

    @contextmanager
    def call(self, name: str) -> Iterator[None]:
        """A call of the driver's function `name`, which fails where a script wants it to."""
        with self.waiting():
            self._fail_if_asked(name)
            yield

    def _fail_if_asked(self, name: str) -> None:
        if self.lost_from_ns is not None and self.clock.monotonic_ns() >= self.lost_from_ns:
            raise SimulatedNvmlError(Code.GPU_IS_LOST)
        code = self.fails_with if self.fails_with is not None else self.fails.get(name)
        if code is not None:
            raise SimulatedNvmlError(code)

    def read(self, field: int) -> int:
        """As `shown`, in a call of its own with its latency."""
        with self.call("read"):
            return self.shown(field)

    def shown(self, field: int, scope: int = 0) -> int:
        """Millijoules or milliwatts as of the last step. SimulatedNvmlError when it can't be read."""
        if field in self.fails:
            raise SimulatedNvmlError(self.fails[field])
        if field not in self.sensor.fields:
            raise SimulatedNvmlError(Code.NOT_SUPPORTED)
        return self._as_shown(field, scope)

    def _as_shown(self, field: int, scope: int = 0) -> int:
        if field == COUNTER:
            if scope:
                raise SimulatedNvmlError(Code.NOT_SUPPORTED)
            return round(1000 * self.counter_j())
        if scope and (self.cpu_power is None or scope != MODULE_SCOPE):
            raise SimulatedNvmlError(Code.NOT_SUPPORTED)
        window_s = self.sensor.window_s if field == INSTANT else self.sensor.average_window_s
        return round(1000 * self.mean_w(window_s, module=bool(scope)))

    def shown_usage(self) -> int:
        """What the plain power function shows, in milliwatts."""
        usage = self.sensor.usage
        return self.shown(AVERAGE) if usage is None else self._as_shown(usage)

    def counter_j(self) -> float:
        """The counter as of the last step."""
        now_ns = self.clock.monotonic_ns()
        now_ns = now_ns if self._stuck_ns is None else min(now_ns, self._stuck_ns)
        since_ns = self._counter_from_ns
        return max(0.0, self.sensor.counted_j(self.power, since_ns, self.sensor.last_step_ns(now_ns)))

    def mean_w(self, window_s: float, *, module: bool = False) -> float:
        """The power over the `window_s` before the last step, of the whole module or of the GPU alone."""
        step_ns = self.sensor.last_step_ns(self.clock.monotonic_ns())
        watts = self.sensor.mean_w(self.power, window_s, step_ns)
        if module and self.cpu_power is not None:
            t_ns = step_ns - self.sensor.lag_ns(counter=False)
            watts += self.cpu_power.energy_j(t_ns - round(window_s * 1e9), t_ns) / window_s
        return max(0.0, watts)
