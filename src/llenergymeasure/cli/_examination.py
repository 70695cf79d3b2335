"""What does a person read of a machine that was examined?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from llenergymeasure.cli._display import filled, hanging
from llenergymeasure.records import Domain, GpuFacts
from llenergymeasure.records.figures import duration, plain

if TYPE_CHECKING:
    from llenergymeasure.doctor.characterise import Characterised, FoundSensor
    from llenergymeasure.doctor.examine import Examination, MeterReport, RecorderReport

_KINDS = {"gpu": "GPU", "module": "module", "cpu": "CPU package", "dram": "memory", "host": "this host"}


def examination_lines(found: Examination) -> Iterator[str]:
    """The machine, what measures on it, what runs on it, and at the end what that comes to."""
    here = found.environment
    system = f"{here.os}, kernel {here.kernel}, Python {here.python}"
    yield from filled(f"llem {here.llem} on {here.hostname}: {system}")
    cpus = f"{here.logical_cpus} processors"
    memory = "unknown memory" if here.memory_bytes is None else plain(here.memory_bytes, "B")
    if here.usable_cpus is not None and here.usable_cpus < here.logical_cpus:
        cpus += f" ({here.usable_cpus:.3g} for this process)"
    if here.memory_limit_bytes is not None:
        memory += f" ({plain(here.memory_limit_bytes, 'B')} for this process)"
    machine = [here.cpu or "unknown CPU", cpus, memory]
    if here.virtualization:
        machine.append(f"in a virtual machine ({here.virtualization})")
    if here.container:
        machine.append(f"in a container ({here.container})")
    yield from filled(", ".join(machine))
    yield from _section("Meters", [row for meter in found.meters for row in _meter(meter)])
    yield from _section(
        "GPUs", [row for gpu in found.gpus for row in _gpu(gpu)] or [("none that NVML shows",)]
    )
    backends = [(one.name, "no" if one.why_not else "yes", one.why_not or "") for one in found.backends]
    yield from _section("Backends", backends)
    yield from _section("Costs and limits", [*_recorder(found.recorder), *_clock(found)])
    disks = [
        (one.use, "unknown" if one.free_bytes is None else f"{plain(one.free_bytes, 'B')} free", one.path)
        for one in found.disks
    ]
    yield from _section("Disk", disks)
    yield ""
    yield from filled(_conclusion(found))


def sensor_lines(boards: Sequence[Characterised]) -> Iterator[str]:
    """Each power field with what it turned out to be, and where that is kept."""
    for board in boards:
        yield from _section(
            f"Sensors of {board.gpu.name or board.gpu.uuid} ({board.gpu.uuid}), driver {board.gpu.driver}",
            [(one.source, _sensor(one)) for one in board.sensors],
        )
        yield "  " + ("nothing was kept" if board.kept_in is None else f"kept in {board.kept_in}")


def _section(title: str, rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield ""
    yield from filled(title)
    yield from hanging(rows)


def _meter(meter: MeterReport) -> Iterator[Sequence[str]]:
    if meter.why_not is not None:
        yield meter.name, "no", meter.why_not
        return
    read = "" if meter.read_s is None else f"a read takes {plain(meter.read_s, 's')}"
    yield meter.name, "modelled" if meter.modelled else "yes", read
    for note in meter.notes:
        yield "", "", note
    for domain in meter.domains:
        yield "", "", _domain(domain)


def _domain(domain: Domain) -> str:
    if domain.model is not None:
        return f"{_KINDS[domain.kind]}: {domain.model.name}: estimated, not measured"
    calibrated = ", calibrated" if domain.systematic_gain is None and domain.kind == "gpu" else ""
    flags = f" ({', '.join(domain.flags)})" if domain.flags else ""
    names = ", ".join(dict.fromkeys(quantity.source for quantity in domain.quantities))
    return f"{_KINDS[domain.kind]} {domain.name.partition(':')[2]}{flags}: {names}{calibrated}"


def _gpu(gpu: GpuFacts) -> Iterator[Sequence[str]]:
    yield f"{gpu.index}: {gpu.name or 'unknown'}", gpu.uuid
    if gpu.fault is not None:
        yield "", f"can't be read: {gpu.fault}"
        return
    facts = {
        "driver": gpu.driver,
        "memory": "that of the host"
        if gpu.unified_memory
        else None
        if gpu.memory_bytes is None
        else plain(gpu.memory_bytes, "B"),
        "power limit": None if gpu.power_limit_w is None else plain(gpu.power_limit_w, "W"),
        "clock": None if gpu.sm_clock_mhz is None else f"{gpu.sm_clock_mhz} MHz",
        "temperature": None if gpu.temperature_c is None else f"{gpu.temperature_c} °C",
        "ECC": _on(gpu.ecc),
        "MIG": _on(gpu.mig),
        "persistence": _on(gpu.persistence),
        "processes": None if gpu.foreign_pids is None else f"{len(gpu.foreign_pids)} on it now",
    }
    yield "", ", ".join(f"{name} {value or 'unknown'}" for name, value in facts.items())


def _on(value: bool | None) -> str | None:
    return None if value is None else "on" if value else "off"


def _recorder(recorder: RecorderReport) -> Iterator[Sequence[str]]:
    if recorder.core_share is None or recorder.values_per_s is None:
        yield "recording", f"could not be tried: {recorder.why_not}"
        return
    share, values = f"{recorder.core_share:.1%}", f"{recorder.values_per_s:.0f}"
    yield "recording", f"{share} of one core at {values} values a second, the drivers' part included"


def _clock(found: Examination) -> Iterator[Sequence[str]]:
    clock = found.clock
    if clock.slept_s is None:
        slept = "sleep cannot be noticed on this system"
    else:
        slept = f"has slept {duration(clock.slept_s)}" if clock.slept_s >= 1 else "not slept"
        slept += " since boot"
    yield "clock", f"CLOCK_MONOTONIC counts {plain(clock.resolution_s, 's')}; {slept}"


def _conclusion(found: Examination) -> str:
    if found.measured:
        return f"Energy is measured here: {', '.join(found.measured)}"
    if found.usable:
        return "Energy is estimated here, not measured; see above for what each meter lacks"
    return "Energy can be neither measured nor estimated here; time, memory and tokens can"


def _sensor(one: FoundSensor) -> str:
    times = one.characteristics
    if times is None:
        return f"unknown: {one.reason}"
    parts = {"updates every": times.step_ns, "averages over": times.window_ns, "is late by": times.lag_ns}
    return ", ".join(
        f"{what} {'an unknown time' if ns is None else plain(ns / 1e9, 's')}" for what, ns in parts.items()
    )
