"""Which cgroups is a process in, and what do they leave it of the processors and the memory?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llenergymeasure.host.files import PROC, number, numbers, text
from llenergymeasure.records import Throttling

# Version 1 writes the highest whole number of pages instead of none.
_NO_LIMIT = 2**62


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """A mounted tree of cgroups: its controllers ("" alone is version 2), where it is mounted, and which of
    its cgroups that is.
    """

    controllers: tuple[str, ...]
    point: Path
    top: str

    def place(self, pid: str, proc: Path) -> Path | None:
        """The directory of the cgroup in which `pid` is; None where it can't be seen from here."""
        for line in text(proc / pid / "cgroup").splitlines():
            _, controllers, path = line.split(":", maxsplit=2)
            if set(controllers.split(",")) & set(self.controllers) and Path(path).is_relative_to(self.top):
                inside = Path(path).relative_to(self.top)
                return None if ".." in inside.parts else self.point / inside
        return None


def hierarchies(proc: Path = PROC) -> list[Hierarchy]:
    """Version 2 first."""
    found = []
    for line in text(proc / "self" / "mountinfo").splitlines():
        mount, _, system = line.partition(" - ")
        kind, _, options = system.split(maxsplit=2)
        top, point = (part.replace(r"\040", " ") for part in mount.split()[3:5])
        if kind == "cgroup2":
            found.append(Hierarchy(("",), Path(point), top))
        elif kind == "cgroup":
            found.append(Hierarchy(tuple(options.split(",")), Path(point), top))
    return sorted(found, key=lambda one: one.controllers)


def levels(controller: str, *, pid: str = "self", proc: Path = PROC) -> Iterator[Path]:
    """The directories whose limits hold for a process: that of its cgroup and of all that contain it."""
    for one in hierarchies(proc):
        if set(one.controllers) & {"", controller}:
            # An outer path that a container does not show: the nearest that it does.
            at = one.place(pid, proc) or one.point
            yield from (level for level in (at, *at.parents) if level.is_relative_to(one.point))


@dataclass(frozen=True, slots=True)
class Quota:
    """So many processors at most for all in the cgroup `directory`."""

    processors: float
    directory: Path

    def used_s(self) -> float | None:
        """Processor seconds that all in it have used; None where it does not say."""
        used_us = numbers(self.directory / "cpu.stat").get("usage_usec")
        if used_us is not None:
            return used_us / 1e6
        used_ns = number(self.directory / "cpuacct.usage")
        return None if used_ns is None else used_ns / 1e9


def cpu_quota(*, pid: str = "self", proc: Path = PROC) -> Quota | None:
    """The tightest that holds for a process; None without any."""
    found = [Quota(each, at) for at in levels("cpu", pid=pid, proc=proc) if (each := _quota(at)) is not None]
    return min(found, key=lambda one: one.processors, default=None)


def _quota(directory: Path) -> float | None:
    limit, _, period = text(directory / "cpu.max").strip().partition(" ")
    if limit.isdecimal() and period.isdecimal():
        return int(limit) / int(period)
    quota_us, period_us = (number(directory / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    return quota_us / period_us if quota_us and period_us and quota_us > 0 else None


def throttling(*, pid: str = "self", proc: Path = PROC) -> Throttling | None:
    """How often quotas have held a process back since its cgroups exist; None where it has no quota."""
    found = [numbers(at / "cpu.stat") for at in levels("cpu", pid=pid, proc=proc) if _quota(at) is not None]
    if not found:
        return None
    return Throttling(
        sum(one.get("nr_periods", 0) for one in found),
        sum(one.get("nr_throttled", 0) for one in found),
        sum(one.get("throttled_usec", 0) / 1e6 + one.get("throttled_time", 0) / 1e9 for one in found),
    )


def memory_limit_bytes(*, total: int | None, proc: Path = PROC) -> int | None:
    """The tightest that holds for this process; None where none is below the machine's `total`, if known."""
    limits = [limit for at in levels("memory", proc=proc) for limit in _memory_limits(at)]
    return min((limit for limit in limits if limit < (total or _NO_LIMIT)), default=None)


def memory_left_bytes(*, proc: Path = PROC) -> int | None:
    """What the memory limits leave this process, pages of files that can be dropped included."""
    left = []
    for at in levels("memory", proc=proc):
        used = number(at / "memory.current")
        used = number(at / "memory.usage_in_bytes") if used is None else used
        if (limits := _memory_limits(at)) and used is not None:
            stat = numbers(at / "memory.stat")
            of_files = (
                stat.get(f"total_{name}", stat.get(name, 0)) for name in ("active_file", "inactive_file")
            )
            left.append(max(0, min(limits) - used + sum(of_files)))
    return min(left, default=None)


def _memory_limits(directory: Path) -> list[int]:
    read = (number(directory / name) for name in ("memory.max", "memory.high", "memory.limit_in_bytes"))
    return [limit for limit in read if limit is not None]
