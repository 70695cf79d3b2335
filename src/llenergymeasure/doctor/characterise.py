"""What kind of sensor does each GPU here have?"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from llenergymeasure.doctor.load import Load, MatrixLoad, SimulatedLoad
from llenergymeasure.energy.meters.calibration import Characteristics, SensorFiles, recall, remember
from llenergymeasure.energy.meters.nvml import NvmlMeter
from llenergymeasure.energy.sensor import NO_STEP, characterise
from llenergymeasure.exceptions import EnergyError
from llenergymeasure.measure.gpus import gpu_facts
from llenergymeasure.records import Clock, GpuFacts, Progress, Series
from llenergymeasure.simulation.clock import VirtualClock
from llenergymeasure.simulation.device import SimulatedNvml
from llenergymeasure.simulation.sensor import SimulatedSensor

# Domain and readings of each power field.
Seen: TypeAlias = Sequence[tuple[str, Series]]

# A step of power shows a sensor's window and lag once; several, each in another phase of its period, show
# them well. A level lasts well beyond the running mean of 1 s of the slowest sensors (arXiv 2312.02741).
STEPS = 8
LEVEL_S = 3.0
PHASE_S = 0.037
# The quickest known sensors are updated every 20 ms (the same source).
READ_S = 0.004


@dataclass(frozen=True, slots=True)
class FoundSensor:
    """What a power field turned out to be; `characteristics` is None where `reason` says why."""

    domain: str
    quantity: str
    source: str
    characteristics: Characteristics | None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Characterised:
    """All power fields of one board, and the file in which they are kept; None where nothing was."""

    gpu: GpuFacts
    sensors: tuple[FoundSensor, ...]
    kept_in: str | None


def characterise_gpus(progress: Progress, *, files: SensorFiles | None = None) -> tuple[Characterised, ...]:
    """Every GPU that NVML shows, one after the other, under a load of its own.

    EnergyError where there is none to read, or no load can be run.
    """
    if why := NvmlMeter(gpus="all").why_unavailable():
        raise EnergyError(
            f"there is no power sensor to characterise: {why}",
            hint="RAPL and the model of power need no characterisation; --simulated shows an example",
        )
    found = []
    for gpu in gpu_facts():
        progress(f"{gpu.name or gpu.uuid}: idle and load in turn", total=(2 * STEPS + 1) * LEVEL_S)
        seen, edges_ns = watch(NvmlMeter(gpus=(gpu.uuid,)), MatrixLoad(gpu.uuid), time)
        found.append(kept(gpu, tuple(_sensors(seen, edges_ns)), files=files))
    return tuple(found)


def characterise_simulated(sensor: SimulatedSensor | None = None) -> tuple[Characterised, ...]:
    """The simulated board in virtual time, by the same way: for a look at what this does. Keeps nothing."""
    clock = VirtualClock()
    nvml = SimulatedNvml(clock, idle_w=60.0, sensor=sensor)
    load = SimulatedLoad(nvml, idle_w=60.0, active_w=400.0)
    with clock.every(READ_S, load.waver):
        seen, edges_ns = watch(NvmlMeter(nvml, gpus="all", clock=clock), load, clock)
    (gpu,) = gpu_facts(nvml)
    return (Characterised(gpu, tuple(_sensors(seen, edges_ns)), None),)


def watch(meter: NvmlMeter, load: Load, clock: Clock) -> tuple[Seen, tuple[int, ...]]:
    """Idle and load in turn, read as fast as the quickest sensors need it; and when power stepped."""
    rows: dict[tuple[str, str], list[tuple[int, int, int]]] = defaultdict(list)
    edges: list[int] = []

    def read_for(seconds: float) -> None:
        end_ns = clock.monotonic_ns() + round(seconds * 1e9)
        while clock.monotonic_ns() < end_ns:
            for one in (sample for part in parts for sample in part.sample()):
                rows[one.domain, one.quantity].append((one.t_before_ns, one.t_after_ns, one.raw))
            clock.sleep(READ_S)

    with meter, load:
        domains = meter.domains()
        parts = [part for part in meter.parts() if part.period_s is None]
        read_for(LEVEL_S)
        for step in range(STEPS):
            for switch in (load.start, load.stop):
                switch()
                edges.append(clock.monotonic_ns())
                read_for(LEVEL_S + step * PHASE_S)
    seen = [
        (domain.name, Series(quantity, *np.array(rows[domain.name, quantity.name], dtype=np.int64).T))
        for domain in domains
        for quantity in domain.quantities
        if quantity.unit == "W" and (domain.name, quantity.name) in rows
    ]
    return seen, tuple(edges)


def kept(
    gpu: GpuFacts, sensors: tuple[FoundSensor, ...], *, files: SensorFiles | None = None
) -> Characterised:
    """What was found is remembered for that board under that driver, so that later runs know it."""
    found = {one.quantity: one.characteristics for one in sensors if one.characteristics is not None}
    if not found or gpu.driver is None:
        return Characterised(gpu, sensors, None)
    # What was found of the counter stays.
    known = {**recall(gpu.uuid, gpu.driver, files=files), **found}
    return Characterised(gpu, sensors, str(remember(gpu.uuid, gpu.driver, known, files=files)))


def _sensors(seen: Seen, edges_ns: Sequence[int]) -> Iterator[FoundSensor]:
    for domain, series in seen:
        field, sensor = series.quantity, characterise(series, edges_ns)
        if sensor is None:
            yield FoundSensor(domain, field.name, field.source, None, NO_STEP)
        else:
            times = Characteristics(sensor.step_ns, sensor.window_ns, sensor.lag_ns)
            yield FoundSensor(domain, field.name, field.source, times)
