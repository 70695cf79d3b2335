"""What state were the devices in during the passes, and did it change?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from llenergymeasure.analysis.run_energy import RunEnergy
from llenergymeasure.energy.counter import unwrap
from llenergymeasure.records import Domain, MeasurementWarning, Pass, Series, Trace, WarningCode, Window
from llenergymeasure.results.models import DeviceState

# Time and energy follow the share of throttled time at most one to one; 1 % is half of the default target.
THROTTLED_SHARE = 0.01
# Boost clocks wander by a few steps of 15 MHz (1 % each). Time and power follow the clock, so that a
# twentieth is beyond the default target of 2 % whatever the workload.
CLOCK_CHANGE = 0.05
# Sensors report whole degrees. Leakage adds a few tenths of a per cent of power per degree (an assumption,
# which differs by board), so that less than 5 degrees stays within the default target of 2 %.
TEMPERATURE_CHANGE_C = 5.0
# NVML reports the limit in milliwatts, some drivers rounded to whole watts.
LIMIT_CHANGE_W = 1.5

_LEVELS = {"temperature": "temperature", "sm_clock": "clock", "power_limit": "power limit"}
_THROTTLES: Mapping[str, tuple[WarningCode, str]] = {
    "throttle_thermal": ("thermal_throttle", "slowed down by heat"),
    "throttle_power": ("power_cap_active", "held at its power limit"),
}


@dataclass(frozen=True, slots=True)
class _Seen:
    """The health series of one device (`gpu:<uuid>`), and the passes in which they matter."""

    trace: Trace
    name: str
    passes: Sequence[Pass]

    def series(self, quantity: str) -> Series | None:
        found = self.trace.series.get((self.name, quantity))
        return found if found is not None and found.raw.size else None

    def within(self, quantity: str, window: Window) -> NDArray[np.float64]:
        """The values read in `window`, in order; empty where there is none."""
        series = self.series(quantity)
        if series is None:
            return np.zeros(0)
        inside = (series.t_before_ns >= window.start_ns) & (series.t_after_ns <= window.end_ns)
        return np.asarray(series.raw[inside] * series.quantity.scale, dtype=np.float64)

    def worst(self, quantity: str) -> float | None:
        """The highest value that held at some time in a pass, the last one before it included."""
        series = self.series(quantity)
        if series is None:
            return None
        highest = None
        for one in self.passes:
            first = max(0, int(np.searchsorted(series.t_after_ns, one.window.start_ns, side="right")) - 1)
            last = int(np.searchsorted(series.t_before_ns, one.window.end_ns, side="right"))
            held = series.raw[first:last]
            if held.size:
                highest = max(highest or 0.0, float(held.max()) * series.quantity.scale)
        return highest

    def accrued_s(self, quantity: str) -> float | None:
        """How much a cumulative quantity grew in the passes together; None where it does not span them."""
        series = self.series(quantity)
        if series is None:
            return None
        counts, _ = unwrap(series.raw, series.quantity.wrap)
        middle_ns = series.t_before_ns + (series.t_after_ns - series.t_before_ns) // 2
        grown = 0.0
        for one in self.passes:
            if middle_ns[0] > one.window.start_ns or middle_ns[-1] < one.window.end_ns:
                return None
            edges = np.interp([one.window.start_ns, one.window.end_ns], middle_ns, counts.astype(np.float64))
            grown += float(edges[1] - edges[0]) * series.quantity.scale
        return grown

    def by_pass(self, quantity: str) -> list[float]:
        """The median of each pass, or of each half of a single one; medians shrug a lone flicker off."""
        windows = [one.window for one in self.passes]
        if len(windows) == 1:
            middle_ns = (windows[0].start_ns + windows[0].end_ns) // 2
            windows = [Window(windows[0].start_ns, middle_ns), Window(middle_ns, windows[0].end_ns)]
        read = [self.within(quantity, window) for window in windows]
        return [median(values.tolist()) for values in read if values.size]


def device_warnings(
    trace: Trace, domains: Sequence[Domain], passes: Sequence[Pass]
) -> list[MeasurementWarning]:
    """What the health quantities of the GPUs among `domains` say against the passes."""
    seen = [_Seen(trace, name, passes) for name in _devices(domains)]
    return [warning for one in seen for find in (_throttling, _changes, _others) for warning in find(one)]


def device_states(energies: Sequence[RunEnergy]) -> tuple[DeviceState, ...]:
    """The mean state of each GPU that counts over the passes of all runs; None is unknown."""
    return tuple(
        _state(name, [_Seen(one.measurement.trace, name, one.measurement.passes) for one in energies])
        for name in _devices(energies[0].domains)
    )


def unknown_states(energies: Sequence[RunEnergy]) -> list[str]:
    """One sentence per GPU about what its driver does not report: unknown, which is not the same as none."""
    found = []
    first = energies[0].measurement
    for name in _devices(energies[0].domains):
        seen = _Seen(first.trace, name, first.passes)
        missing = [what for quantity, what in _LEVELS.items() if seen.worst(quantity) is None]
        missing += [
            f"the time {what}" for name, (_, what) in _THROTTLES.items() if seen.accrued_s(name) is None
        ]
        if missing:
            found.append(f"{name}: its driver does not report {', '.join(missing)}: unknown, not none")
    return found


def _devices(domains: Sequence[Domain]) -> Sequence[str]:
    """The GPUs among the domains, each once: a module's state is that of the GPU on it."""
    names = [one.name.replace("module:", "gpu:") for one in domains if one.kind in {"gpu", "module"}]
    return list(dict.fromkeys(names))


def _throttling(seen: _Seen) -> Iterator[MeasurementWarning]:
    total_s = sum(one.window.duration_s for one in seen.passes)
    name = seen.name
    for quantity, (code, what) in _THROTTLES.items():
        throttled_s = seen.accrued_s(quantity)
        if throttled_s is not None and throttled_s > THROTTLED_SHARE * total_s:
            message = f"{name}: {what} for {throttled_s:.1f} of {total_s:.1f} s of the passes"
            yield MeasurementWarning.of(code, message)
    limits = seen.series("power_limit")
    if limits is not None:
        watts = limits.raw * limits.quantity.scale
        if watts.max() - watts.min() > LIMIT_CHANGE_W:
            message = (
                f"{name}: its power limit was changed in the run, from {watts[0]:.0f} W to "
                f"{watts[np.argmax(np.abs(watts - watts[0]))]:.0f} W"
            )
            yield MeasurementWarning.of("power_cap_active", message)


def _changes(seen: _Seen) -> Iterator[MeasurementWarning]:
    clocks, degrees = seen.by_pass("sm_clock"), seen.by_pass("temperature")
    if len(clocks) > 1 and max(clocks) - min(clocks) > CLOCK_CHANGE * max(clocks):
        low, high = min(clocks) / 1e6, max(clocks) / 1e6
        yield MeasurementWarning.of(
            "clock_changed", f"{seen.name}: between {low:.0f} and {high:.0f} MHz in the passes"
        )
    if len(degrees) > 1 and max(degrees) - min(degrees) > TEMPERATURE_CHANGE_C:
        yield MeasurementWarning.of(
            "temperature_drift",
            f"{seen.name}: from {degrees[0]:.0f} to {degrees[-1]:.0f} °C over the passes "
            f"({min(degrees):.0f} to {max(degrees):.0f} °C)",
        )


def _others(seen: _Seen) -> Iterator[MeasurementWarning]:
    foreign, hidden = seen.worst("foreign_processes"), seen.worst("hidden_processes")
    name = seen.name
    if foreign:
        yield MeasurementWarning.of(
            "foreign_gpu_process", f"{name}: {_processes(foreign)} of others in the passes"
        )
    if foreign is None:
        yield MeasurementWarning.of(
            "cannot_exclude_foreign_processes", f"{name}: its list of processes could not be read"
        )
    elif hidden:
        yield MeasurementWarning.of(
            "cannot_exclude_foreign_processes", f"{name}: {_processes(hidden)} that this host does not show"
        )


def _processes(count: float) -> str:
    return "1 process" if round(count) == 1 else f"{count:.0f} processes"


def _state(name: str, seen: Sequence[_Seen]) -> DeviceState:
    def mean(quantity: str) -> float | None:
        read = np.concatenate(
            [run.within(quantity, one.window) for run in seen for one in run.passes] or [np.zeros(0)]
        )
        return float(read.mean()) if read.size else None

    def accrued(quantity: str) -> float | None:
        parts = [run.accrued_s(quantity) for run in seen]
        known = [part for part in parts if part is not None]
        return sum(known) if len(known) == len(parts) else None

    foreign = [worst for run in seen if (worst := run.worst("foreign_processes")) is not None]
    return DeviceState(
        domain=name,
        sm_clock_hz=mean("sm_clock"),
        temperature_c=mean("temperature"),
        power_limit_w=mean("power_limit"),
        throttled_thermal_s=accrued("throttle_thermal"),
        throttled_power_s=accrued("throttle_power"),
        foreign_processes=round(max(foreign)) if foreign else None,
    )
