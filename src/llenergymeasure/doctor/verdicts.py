"""What of an examined machine is well, what weakens a number, what is missing, and what is the way out?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from llenergymeasure.doctor.examine import Examination, MeterReport
from llenergymeasure.doctor.now import GpuNow
from llenergymeasure.records import Domain, GpuFacts, Quantity
from llenergymeasure.records.figures import duration, plain

# ok: as it should be. limited: a number is to be had, and is weaker. missing: there is none.
State: TypeAlias = Literal["ok", "limited", "missing"]
Topic: TypeAlias = Literal["Meters", "GPUs", "Host", "Backends", "Disk", "Hub"]

_KINDS = {
    "gpu": "GPU",
    "module": "module",
    "cpu": "CPU package",
    "dram": "memory",
    "host": "this host",
    "wall": "the wall",
    "part": "recorded, not counted:",
}
_LOW_DISK_BYTES = 5_000_000_000
_BUSY = 0.2  # load for each processor, of what else runs


@dataclass(frozen=True, slots=True)
class Verdict:
    """One line; `details` are lines below it, `way_out` what to do where it is not ok."""

    topic: Topic
    name: str
    state: State
    value: str
    text: str = ""
    details: tuple[str, ...] = ()
    way_out: str | None = None


def verdicts(found: Examination) -> tuple[Verdict, ...]:
    return (*_meters(found), *_gpus(found), *_host(found), *_backends(found), *_disks(found), *_hub(found))


def _meters(found: Examination) -> Iterator[Verdict]:
    for meter in found.meters:
        if meter.why_not is not None:
            yield Verdict(
                "Meters", meter.name, "missing", "no", meter.why_not, way_out=_access(found, meter.name)
            )
            continue
        read = "" if meter.read_s is None else f"a read takes {plain(meter.read_s, 's')}"
        details = (*meter.notes, *map(_domain, meter.domains))
        state: State = "limited" if meter.modelled or meter.notes else "ok"
        value = "modelled" if meter.modelled else "yes"
        yield Verdict("Meters", meter.name, state, value, read, details, _sensor_way_out(meter))


def _access(found: Examination, meter: str) -> str | None:
    """What would show the devices of a meter to this process, where that is known."""
    container, virtual = found.environment.container, found.environment.virtualization
    if meter == "nvml" and container is not None:
        return "on a host with NVIDIA GPUs: docker run --gpus all, podman run --device nvidia.com/gpu=all"
    if meter == "amd" and container is not None:
        return "on a host with AMD GPUs: docker run --device /dev/kfd --device /dev/dri"
    if meter == "rapl" and virtual is not None:
        return "only the host of a virtual machine has these counters: run there"
    if meter == "rapl" and container is not None:
        return (
            "docker run --security-opt systempaths=unconfined, and on the host: sudo modprobe intel_rapl_msr"
        )
    if meter == "rapl" and not (found.environment.cpu or "").startswith("Apple"):
        return "sudo modprobe intel_rapl_msr; a recent Intel or AMD processor has these counters"
    return None


def _sensor_way_out(meter: MeterReport) -> str | None:
    unknown = any(
        quantity.unit == "W" and quantity.name.startswith("power") and quantity.step_ns is None
        for domain in meter.domains
        if domain.kind == "gpu" and meter.name == "nvml"  # the meter that is read for it
        for quantity in domain.quantities
    )
    return "the timing of its power sensor is unknown: llem doctor --characterise" if unknown else None


def _domain(domain: Domain) -> str:
    if domain.model is not None:
        return f"{_KINDS[domain.kind]}: {domain.model.name}: estimated, not measured"
    calibrated = ", calibrated" if domain.systematic_gain is None and domain.kind == "gpu" else ""
    flags = f" ({', '.join(domain.flags)})" if domain.flags else ""
    names = ", ".join(dict.fromkeys(map(_sensor, domain.quantities)))
    name = f"{_KINDS[domain.kind]} {domain.name.partition(':')[2]}".rstrip()
    return f"{name}{flags}: {names}{calibrated}"


def _sensor(quantity: Quantity) -> str:
    times = {"every": quantity.step_ns, "mean over": quantity.window_ns, "late by": quantity.lag_ns}
    known = ", ".join(f"{what} {plain(ns / 1e9, 's')}" for what, ns in times.items() if ns is not None)
    return f"{quantity.source} ({known})" if known else quantity.source


def _gpus(found: Examination) -> Iterator[Verdict]:
    now = {one.uuid: one for one in found.gpus_now}
    for gpu in found.gpus:
        name = f"{gpu.index}: {gpu.name or 'unknown'}"
        if gpu.fault is not None:
            way = "nvidia-smi -q; dmesg | grep -i xid; a lost GPU needs a reset or a restart"
            yield Verdict("GPUs", name, "missing", gpu.uuid, f"can't be read: {gpu.fault}", way_out=way)
        else:
            yield _gpu(name, gpu, now.get(gpu.uuid))
    if not found.gpus:
        yield Verdict("GPUs", "none that NVML shows", "limited", "")


def _gpu(name: str, gpu: GpuFacts, now: GpuNow | None) -> Verdict:
    most = f" of {now.max_clock_mhz} MHz" if now is not None and now.max_clock_mhz else " MHz"
    users = gpu.foreign_pids if now is None or now.users is None else now.users
    slowed = None if now is None else now.slowed_by
    facts = {
        "driver": gpu.driver,
        "memory": "that of the host"
        if gpu.unified_memory
        else None
        if gpu.memory_bytes is None
        else plain(gpu.memory_bytes, "B"),
        "power limit": None if gpu.power_limit_w is None else plain(gpu.power_limit_w, "W"),
        "power now": None if now is None or now.power_w is None else plain(now.power_w, "W"),
        "clock": None if gpu.sm_clock_mhz is None else f"{gpu.sm_clock_mhz}{most}",
        "temperature": None if gpu.temperature_c is None else f"{gpu.temperature_c} °C",
        "slowed by": None if slowed is None else ", ".join(slowed) or "nothing",
        "ECC": _on(gpu.ecc),
        "MIG": _on(gpu.mig),
        "persistence": _on(gpu.persistence),
        "processes": None if users is None else f"{len(users)} on it now",
    }
    weak = [f"processes on it now: {', '.join(map(str, users))}"] if users else []
    ways = ["end them, or measure when they are done"] if users else []
    if gpu.persistence is False:
        ways.append(f"sudo nvidia-smi -i {gpu.index} -pm 1 keeps the driver loaded between runs")
    if slowed:
        ways.append("improve cooling or raise the power limit; numbers hold for the slowed board")
    if gpu.mig:
        ways.append("MIG shows no energy of one instance: the whole GPU is measured")
    text = ", ".join(f"{what} {value or 'unknown'}" for what, value in facts.items())
    return Verdict(
        "GPUs", name, "limited" if ways else "ok", gpu.uuid, "", (text, *weak), "; ".join(ways) or None
    )


def _on(value: bool | None) -> str | None:
    return None if value is None else "on" if value else "off"


def _host(found: Examination) -> Iterator[Verdict]:
    here, recorder, clock = found.environment, found.recorder, found.clock
    load = here.load_1min
    if load is not None:
        busy = load > _BUSY * here.logical_cpus
        yield Verdict(
            "Host",
            "load",
            "limited" if busy else "ok",
            "",
            f"{load:.2g} of {here.logical_cpus} processors in the last minute",
            way_out="stop other work, whose noise widens intervals: ps -eo pcpu,pid,comm --sort -pcpu | head"
            if busy
            else None,
        )
    if found.governor is not None:
        fixed = found.governor in {"performance", "userspace"}
        yield Verdict(
            "Host",
            "clocks",
            "ok" if fixed else "limited",
            "",
            f"governor {found.governor}",
            way_out=None if fixed else "for steadier times: sudo cpupower frequency-set -g performance",
        )
    if recorder.core_share is None or recorder.values_per_s is None:
        yield Verdict("Host", "recording", "limited", "", f"could not be tried: {recorder.why_not}")
    else:
        share, values = f"{recorder.core_share * 100:.2g} %", f"{recorder.values_per_s:.0f}"
        yield Verdict(
            "Host",
            "recording",
            "ok",
            "",
            f"{share} of one core at {values} values per second, drivers included",
        )
    if clock.slept_s is None:
        slept = "suspend cannot be detected on this system"
    else:
        slept = f"suspended for {duration(clock.slept_s)}" if clock.slept_s >= 1 else "not suspended"
        slept += " since boot"
    yield Verdict(
        "Host", "time", "ok", "", f"CLOCK_MONOTONIC resolution {plain(clock.resolution_s, 's')}; {slept}"
    )


def _backends(found: Examination) -> Iterator[Verdict]:
    for one in found.backends:
        state: State = "ok" if one.why_not is None else "missing"
        yield Verdict("Backends", one.name, state, "no" if one.why_not else "yes", one.why_not or "")


def _disks(found: Examination) -> Iterator[Verdict]:
    for one in found.disks:
        low = one.free_bytes is not None and one.free_bytes < _LOW_DISK_BYTES
        free = "unknown" if one.free_bytes is None else f"{plain(one.free_bytes, 'B')} free"
        way = f"free some, or set {one.variable} to a folder with more room" if low else None
        yield Verdict("Disk", one.use, "limited" if low else "ok", free, one.path, way_out=way)


def _hub(found: Examination) -> Iterator[Verdict]:
    hub = found.hub
    if hub is None:
        return
    cached = f"{len(hub.cached)} models in its cache" if len(hub.cached) != 1 else "1 model in its cache"
    token = "with a token" if hub.has_token else "without a token: no gated models"
    if hub.why_not is None:
        yield Verdict("Hub", hub.endpoint, "ok", "yes", f"{token}; {cached}")
    else:
        way = "models in the cache, directories, GGUF files and random:<shape> need no hub"
        yield Verdict("Hub", hub.endpoint, "limited", "no", f"{hub.why_not}; {cached}", way_out=way)


def conclusion(found: Examination) -> Sequence[str]:
    """What a run here would give."""
    engines = [one.name for one in found.backends if one.why_not is None]
    runs = f"Engines that can run: {', '.join(engines) or 'none'}"
    if found.measured:
        return (runs, f"Energy is measured here: {', '.join(found.measured)}")
    if found.usable:
        return (runs, "Energy is estimated here, not measured; see above for what each meter lacks")
    return (runs, "Energy can be neither measured nor estimated here; time, memory and tokens can")
