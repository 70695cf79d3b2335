"""What can this machine measure, and what would it take to measure more?"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from pydantic import ValidationError

from llenergymeasure.backends import why_not
from llenergymeasure.config import plugins
from llenergymeasure.config.engines import BACKENDS, backend_names, brought_options
from llenergymeasure.config.models import EnergyConfig
from llenergymeasure.config.places import cache_dir
from llenergymeasure.doctor.now import GpuNow, HubReport, governor, gpus_now, hub_now
from llenergymeasure.energy import METERS, Meter
from llenergymeasure.energy.bounded import bounded
from llenergymeasure.energy.meters.selection import choose_meters, meter_names
from llenergymeasure.energy.recording.recorder import Recorder
from llenergymeasure.exceptions import LLEMError
from llenergymeasure.measure.environment import environment, suspended_ns
from llenergymeasure.measure.gpus import ANSWER_S, gpu_facts
from llenergymeasure.models.hub import hub_cache
from llenergymeasure.records import Clock, Domain, Environment, GpuFacts
from llenergymeasure.simulation.device import SimulatedNvml

READS = 20
_READING_S = 1.0
RECORDED_S = 0.3
# A network that answers does so in less; a longer wait would be most of what this takes.
HUB_S = 0.5


@dataclass(frozen=True, slots=True)
class BackendReport:
    """`why_not` is None where the backend can run."""

    name: str
    why_not: str | None


@dataclass(frozen=True, slots=True)
class MeterReport:
    """What one meter sees, or why it sees nothing and the way out. `read_s` is the median of its reads."""

    name: str
    why_not: str | None
    domains: tuple[Domain, ...] = ()
    read_s: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def modelled(self) -> bool:
        return any(domain.model is not None for domain in self.domains)


@dataclass(frozen=True, slots=True)
class ClockReport:
    """`slept_s` is how long the machine has slept since boot, None where the kernel keeps no count."""

    resolution_s: float
    slept_s: float | None


@dataclass(frozen=True, slots=True)
class RecorderReport:
    """A close look of 0.3 s with every meter: its share of one core, and values read a second.

    Both are None where `why_not` says why it could not be tried.
    """

    core_share: float | None
    values_per_s: float | None
    why_not: str | None = None


@dataclass(frozen=True, slots=True)
class DiskReport:
    """A folder that llem uses, and the room where it is or would be made; None is unknown. `variable` of the
    environment moves it.
    """

    use: str
    path: str
    free_bytes: int | None
    variable: str = ""


@dataclass(frozen=True, slots=True)
class Examination:
    environment: Environment
    gpus: tuple[GpuFacts, ...]
    backends: tuple[BackendReport, ...]
    meters: tuple[MeterReport, ...]
    recorder: RecorderReport
    clock: ClockReport
    disks: tuple[DiskReport, ...]
    gpus_now: tuple[GpuNow, ...] = ()
    governor: str | None = None
    hub: HubReport | None = None

    @property
    def measured(self) -> tuple[str, ...]:
        """The domains whose energy is measured here."""
        return tuple(domain.name for meter in self.meters for domain in meter.domains if domain.model is None)

    @property
    def usable(self) -> bool:
        """Whether a run here would have an energy, be it a modelled one."""
        return any(meter.why_not is None for meter in self.meters)


def examine(*, nvml: Any = None, rapl_root: Path | None = None, clock: Clock = time) -> Examination:
    """Try everything that a run would use, without loading a model.

    `nvml` and `rapl_root` replace the driver's binding and the kernel's powercap tree.
    """
    # The hub may take its time while all else is looked at.
    with ThreadPoolExecutor(max_workers=1) as aside:
        hub = aside.submit(hub_now, within_s=HUB_S)
        gpus = gpu_facts(nvml)
        found = _examined(gpus, nvml=nvml, rapl_root=rapl_root, clock=clock)
        return replace(found, hub=hub.result(), gpus_now=gpus_now(nvml), governor=governor())


def _examined(gpus: tuple[GpuFacts, ...], *, nvml: Any, rapl_root: Path | None, clock: Clock) -> Examination:
    reports: list[MeterReport] = []
    usable: list[tuple[MeterReport, Meter]] = []
    for name in meter_names():
        report, meter = _meter(name, nvml=nvml, rapl_root=rapl_root, clock=clock)
        # A run would record only the first of two that see the same, such as the host.
        names = {domain.name for domain in report.domains}
        if meter is not None and not names & {domain.name for one in reports for domain in one.domains}:
            usable.append((report, meter))
        reports.append(report)
    return Examination(
        environment=environment(gpus),
        gpus=gpus,
        backends=tuple(BackendReport(*one) for one in _backends()),
        meters=(*reports, *(MeterReport(*one) for one in plugins.METERS.hidden_by(METERS).items())),
        recorder=_recorder(usable),
        # The two clocks are read one after the other, so that an awake machine may seem a moment ahead.
        clock=ClockReport(
            resolution_s=time.get_clock_info("monotonic").resolution,
            slept_s=None if (slept_ns := suspended_ns()) is None else max(0.0, slept_ns / 1e9),
        ),
        disks=tuple(_disks()),
    )


def simulated_driver() -> SimulatedNvml:
    """A stand-in for the NVIDIA driver, on this machine's own clock."""
    return SimulatedNvml(time, idle_w=60.0)


def _meter(name: str, *, nvml: Any, rapl_root: Path | None, clock: Clock) -> tuple[MeterReport, Meter | None]:
    """A meter as a run would open it by its name."""

    def tried() -> tuple[MeterReport, Meter]:
        selection = choose_meters(
            EnergyConfig(meter=name, gpus="all"),
            processes=lambda: (os.getpid(),),
            nvml=nvml,
            rapl_root=rapl_root,
            clock=clock,
        )
        (meter,) = selection.meters
        with meter:
            times = [_timed(meter)]
            while len(times) < READS and sum(times) < _READING_S:
                times.append(_timed(meter))
            return MeterReport(name, None, tuple(meter.domains()), median(times), selection.notes), meter

    try:
        return bounded(tried, ANSWER_S, what=f"the meter {name!r}")
    except LLEMError as error:
        prefix = f"the meter {name!r} can't be used: "
        return MeterReport(name, error.message.removeprefix(prefix)), None
    except Exception as error:  # noqa: BLE001  whatever a driver raises, the others are still to be looked at
        return MeterReport(name, f"it broke: {type(error).__name__}: {error}"), None


def _timed(meter: Meter) -> float:
    start = time.perf_counter()
    meter.sample()
    return time.perf_counter() - start


def _backends() -> Iterator[tuple[str, str | None]]:
    for name in backend_names():
        yield name, _why_not(name)
    yield from plugins.BACKENDS.hidden_by(BACKENDS).items()


def _why_not(name: str) -> str | None:
    try:
        why = why_not(name)
        if why is None and name not in BACKENDS:
            # An option without a default is not the section's fault.
            with suppress(ValidationError):
                brought_options(name, {})
    except LLEMError as error:
        return error.message
    return None if why is None else str(why)


def _recorder(usable: Sequence[tuple[MeterReport, Meter]]) -> RecorderReport:
    """What recording costs here beside a model that runs, found out by recording; what is read less often
    than that lasts is known by its period.
    """
    if not usable:
        return RecorderReport(None, None, "no meter can be read")
    share, values, quick = 0.0, 0.0, []
    for report, meter in usable:
        period_s = getattr(meter, "period_s", None) or 0.0
        if period_s < RECORDED_S:
            quick.append(meter)
        else:
            share += (report.read_s or 0.0) / period_s
            values += sum(len(domain.quantities) for domain in report.domains) / period_s
    if not quick:
        return RecorderReport(share, values)
    try:
        with Recorder(quick, clock=time, directory=None) as recorder:
            before_s, before, start = recorder.cpu_s, recorder.samples, time.monotonic()
            time.sleep(RECORDED_S)
            spent_s, read = recorder.cpu_s - before_s, recorder.samples - before
            seconds = time.monotonic() - start
    except LLEMError as error:
        return RecorderReport(None, None, error.message)
    return RecorderReport(share + spent_s / seconds, values + read / seconds)


def _disks() -> Iterator[DiskReport]:
    for use, variable, folder in (
        # tempfile would find it out by writing there.
        ("temporary files of runs", "TMPDIR", Path(os.environ.get("TMPDIR") or "/tmp")),  # noqa: S108  only looked at
        ("models of the hub", "HF_HOME", hub_cache()),
        ("converted models", "LLEM_CACHE_DIR", cache_dir()),
    ):
        yield DiskReport(use, str(folder), _free_bytes(folder), variable)


def _free_bytes(folder: Path) -> int | None:
    for at in (folder, *folder.parents):
        try:
            return shutil.disk_usage(at).free
        except FileNotFoundError:
            continue
        except OSError:
            return None
    return None
