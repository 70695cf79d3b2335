"""What processors and memory has this machine, and how much of them may this process use?"""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Collection
from pathlib import Path

import psutil

from llenergymeasure.host.cgroups import cpu_quota, memory_left_bytes
from llenergymeasure.host.files import PROC, numbers, text

# Server cores of Arm's own design by "CPU part" (Arm's technical reference manuals, MIDR_EL1).
_ARM_CORES = {
    "0xd0c": "Neoverse N1",
    "0xd40": "Neoverse V1",
    "0xd49": "Neoverse N2",
    "0xd4f": "Neoverse V2",
    "0xd84": "Neoverse V3",
    "0xd8e": "Neoverse N3",
}
_ARM = "0x41"


def read_cpuinfo(proc: Path = PROC) -> str:
    """What Linux says of the processors; empty where it says nothing."""
    return text(proc / "cpuinfo")


def cpuinfo_field(cpuinfo: str, name: str) -> str:
    """Of the first processor; empty where it is not said, or said to be unknown."""
    match = re.search(rf"^{name}[ \t]*:[ \t]*(.*)$", cpuinfo, re.MULTILINE)
    found = match.group(1).strip() if match else ""
    return "" if found == "unknown" else found


def cpu_name(cpuinfo: str) -> str | None:
    """As the processor calls itself, else by its numbers; None where it says neither."""

    def said(name: str) -> str:
        return cpuinfo_field(cpuinfo, name)

    for name in ("model name", "uarch", "cpu model", "cpu"):
        if said(name):
            return said(name)
    if vendor := said("vendor_id"):
        return " ".join([vendor, *(f"{name} {said(of)}" for name, of in _X86_NUMBERS.items() if said(of))])
    if (maker := said("CPU implementer")) and (part := said("CPU part")):
        core = _ARM_CORES.get(part, "") if maker == _ARM else ""
        return f"Arm {core} (implementer {maker}, part {part})".replace("  ", " ")
    return f"RISC-V {said('isa')}" if said("isa") else None


_X86_NUMBERS = {"family": "cpu family", "model": "model", "stepping": "stepping"}


def processors(*, proc: Path = PROC, allowed: Collection[int] | None = None) -> float:
    """How many this process may use at once: those `allowed` to it (by its affinity), within its quota."""
    quota = cpu_quota(proc=proc)
    count = float(len(allowed_cpus() if allowed is None else allowed))
    return count if quota is None else min(count, quota.processors)


def threads(*, proc: Path = PROC, allowed: Collection[int] | None = None) -> int:
    """As many as can run at once; one more would be held back together with all others."""
    return max(1, int(processors(proc=proc, allowed=allowed)))


def allowed_cpus() -> Collection[int]:
    """The numbers of the processors on which this process may run."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return range(os.cpu_count() or 1)


def processors_s(*, proc: Path = PROC, allowed: Collection[int] | None = None) -> tuple[float, float] | None:
    """Busy and total seconds of the processors that this process may use, since boot; None where the kernel
    keeps that to itself, as in some containers.
    """
    if not proc.joinpath("self").exists():
        times = psutil.cpu_times()
        return sum(times) - times.idle, sum(times)
    names = {f"cpu{number}" for number in (allowed_cpus() if allowed is None else allowed)}
    busy = total = 0
    for line in text(proc / "stat").splitlines():
        name, *ticks = line.split() or [""]
        if name in names:
            # user, nice, system, idle, iowait, irq, softirq, steal; time of guests is part of user's
            spent = [int(each) for each in ticks[:8]]
            total += sum(spent)
            busy += sum(spent) - sum(spent[3:5])
    ticks_per_s = os.sysconf("SC_CLK_TCK")
    return (busy / ticks_per_s, total / ticks_per_s) if total else None


def memory_available_bytes(*, proc: Path = PROC) -> int | None:
    """What a process of ours could still take, by the machine and by its limits (`ulimit -v` is one); None
    where that is unknown.
    """
    if proc.joinpath("self").exists():
        kib = numbers(proc / "meminfo").get("MemAvailable")
        free = None if kib is None else kib * 1024
    else:
        free = int(psutil.virtual_memory().available)
    known = (free, memory_left_bytes(proc=proc), address_space_bytes())
    return min((each for each in known if each is not None), default=None)


def address_space_bytes() -> int | None:
    """What `ulimit -v` leaves each process; None without a limit."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY else limit


def memory_total_bytes(*, proc: Path = PROC) -> int | None:
    """Of the whole machine; None where it is unknown."""
    if proc.joinpath("self").exists():
        kib = numbers(proc / "meminfo").get("MemTotal")
        return None if kib is None else kib * 1024
    return int(psutil.virtual_memory().total)
