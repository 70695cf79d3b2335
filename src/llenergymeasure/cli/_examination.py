"""What does a person read of a machine that was examined?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from llenergymeasure.cli._layout import row_lines
from llenergymeasure.cli._streams import filled
from llenergymeasure.records import Domain, GpuFacts
from llenergymeasure.records.figures import duration, plain
from llenergymeasure.results.summary import Row

if TYPE_CHECKING:
    from llenergymeasure.doctor.characterise import Characterised, FoundSensor
    from llenergymeasure.doctor.examine import Examination, MeterReport, RecorderReport

_KINDS = {
    "gpu": "GPU",
    "module": "module",
    "cpu": "CPU package",
    "dram": "memory",
    "host": "this host",
    "wall": "the wall",
    "part": "recorded, not counted:",
}


def examination_lines(found: Examination) -> Iterator[str]:
    """The machine, what measures on it, what runs on it, and at the end what that comes to."""
    here = found.environment
    yield from filled(
        f"llem {here.llem} on {here.hostname}: {here.os}, kernel {here.kernel}, Python {here.python}"
    )
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
    gpus = [row for gpu in found.gpus for row in _gpu(gpu)]
    yield from _section("GPUs", gpus or [Row("none that NVML shows", "")])
    backends = [Row(one.name, "no" if one.why_not else "yes", one.why_not or "") for one in found.backends]
    yield from _section("Backends", backends)
    yield from _section("Costs and limits", [*_recorder(found.recorder), *_clock(found)])
    disks = [
        Row(one.use, "unknown" if one.free_bytes is None else f"{plain(one.free_bytes, 'B')} free", one.path)
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
            [Row(one.source, "", _sensor(one)) for one in board.sensors],
        )
        yield "  " + ("not saved" if board.kept_in is None else f"saved in {board.kept_in}")


def _section(title: str, rows: Iterable[Row]) -> Iterator[str]:
    yield ""
    yield from filled(title)
    yield from chain(*row_lines(rows))


def _meter(meter: MeterReport) -> Iterator[Row]:
    if meter.why_not is not None:
        yield Row(meter.name, "no", meter.why_not)
        return
    read = "" if meter.read_s is None else f"a read takes {plain(meter.read_s, 's')}"
    yield Row(meter.name, "modelled" if meter.modelled else "yes", read)
    for note in (*meter.notes, *map(_domain, meter.domains)):
        yield Row("", "", note)


def _domain(domain: Domain) -> str:
    if domain.model is not None:
        return f"{_KINDS[domain.kind]}: {domain.model.name}: estimated, not measured"
    calibrated = ", calibrated" if domain.systematic_gain is None and domain.kind == "gpu" else ""
    flags = f" ({', '.join(domain.flags)})" if domain.flags else ""
    names = ", ".join(dict.fromkeys(quantity.source for quantity in domain.quantities))
    what = f"{_KINDS[domain.kind]} {domain.name.partition(':')[2]}".rstrip()
    return f"{what}{flags}: {names}{calibrated}"


def _gpu(gpu: GpuFacts) -> Iterator[Row]:
    yield Row(f"{gpu.index}: {gpu.name or 'unknown'}", gpu.uuid)
    if gpu.fault is not None:
        yield Row("", "", f"can't be read: {gpu.fault}")
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
    yield Row("", "", ", ".join(f"{name} {value or 'unknown'}" for name, value in facts.items()))


def _on(value: bool | None) -> str | None:
    return None if value is None else "on" if value else "off"


def _recorder(recorder: RecorderReport) -> Iterator[Row]:
    if recorder.core_share is None or recorder.values_per_s is None:
        yield Row("recording", "", f"could not be tried: {recorder.why_not}")
        return
    share, values = f"{recorder.core_share:.1%}", f"{recorder.values_per_s:.0f}"
    yield Row("recording", "", f"{share} of one core at {values} values per second, drivers included")


def _clock(found: Examination) -> Iterator[Row]:
    clock = found.clock
    if clock.slept_s is None:
        slept = "suspend cannot be detected on this system"
    else:
        slept = f"suspended for {duration(clock.slept_s)}" if clock.slept_s >= 1 else "not suspended"
        slept += " since boot"
    yield Row("clock", "", f"CLOCK_MONOTONIC resolution {plain(clock.resolution_s, 's')}; {slept}")


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
