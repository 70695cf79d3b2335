"""How much work did the processes of a run give the CPU, where no sensor tells its energy?"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from llenergymeasure.energy.cgroup import Cgroups, used_s
from llenergymeasure.energy.cpu_power import power_model
from llenergymeasure.records import Clock, Domain, Quantity, Sample

_SOURCE = "cpu-time-model"
# The kernel accounts CPU time in clock ticks (USER_HZ, 100 a second).
_CPU_TIME = Quantity("cpu_time", _SOURCE, "s", 1e-9, step_ns=10_000_000)
_RESIDENT = Quantity("resident", _SOURCE, "bytes", 1.0)

# A look at all processes costs milliseconds; a child that comes and goes between two looks is still counted,
# through the time its parent reaped.
_RESCAN_NS = 1_000_000_000


@dataclass(slots=True)
class _Known:
    """A process of the tree: its own CPU time, what it reaped of its children, and what those were seen with.

    The `_from_s` are what it had used before the meter was opened.
    """

    process: psutil.Process
    parent: int | None
    own_s: float = 0.0
    reaped_s: float = 0.0
    own_from_s: float = 0.0
    reaped_from_s: float = 0.0
    departed_s: float = 0.0

    @property
    def total_s(self) -> float:
        """A child that left counts once, whether or not its parent's figure has it already."""
        return self.own_s - self.own_from_s + max(self.reaped_s - self.reaped_from_s, self.departed_s)

    def read(self) -> tuple[int, int]:
        """Update the times, and return the private and the shared resident bytes."""
        with self.process.oneshot():
            times = self.process.cpu_times()
            memory = self.process.memory_info()
        self.own_s = times.user + times.system
        self.reaped_s = getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
        shared = getattr(memory, "shared", 0)
        return max(0, memory.rss - shared), shared


class EstimateMeter:
    """CPU seconds and resident memory of the process trees rooted at the pids that `processes` returns.

    CPU time is user and system time of every process of the trees, with what exited children had used; it
    never falls, and it leaves out what was used before the meter was opened. Where the trees are alone in a
    cgroup, what the kernel accounts to that counts if it is more. Memory is cheap and
    near: the private pages (resident − shared) of each process, and the largest shared part once, since the
    pages that processes share, such as mapped weights, are mostly the same. Joules are made of both later, by
    the power model of the domain `host`.
    """

    # CPU time changes slowly, and what matters is read at the edges of the work.
    period_s = 0.33

    def __init__(
        self,
        processes: Callable[[], Sequence[int]],
        *,
        cgroups: Cgroups | None = None,
        clock: Clock = time,
    ) -> None:
        self._processes = processes
        self._cgroups = cgroups or Cgroups()
        self._clock = clock
        self._known: dict[int, _Known] = {}
        self._left_s = 0.0
        self._highest_ns = 0
        self._roots: tuple[int, ...] = ()
        self._next_scan_ns = 0
        self._older: frozenset[int] = frozenset()
        self._cgroup: Path | None = None
        self._cgroup_from_s = 0.0

    def why_unavailable(self) -> str | None:
        return None

    def __enter__(self) -> Self:
        # Their start could be compared with the time as well, but that is wall-clock time, which may jump.
        self._older = frozenset(psutil.pids())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._known.clear()
        self._cgroup = None

    def domains(self) -> Sequence[Domain]:
        return [Domain("host", "host", (_CPU_TIME, _RESIDENT), model=power_model(_cpuinfo()))]

    def sample(self) -> Sequence[Sample]:
        before_ns = self._clock.monotonic_ns()
        roots = tuple(self._processes())
        if before_ns >= self._next_scan_ns or roots != self._roots:
            self._scan(roots)
            if roots != self._roots:
                self._find_cgroup(roots)
            self._roots, self._next_scan_ns = roots, before_ns + _RESCAN_NS
        resident = self._read()
        busy_s = self._busy_s()
        self._highest_ns = max(self._highest_ns, round(busy_s * 1e9))
        after_ns = self._clock.monotonic_ns()
        return [
            Sample("host", _CPU_TIME.name, before_ns, after_ns, self._highest_ns),
            Sample("host", _RESIDENT.name, before_ns, after_ns, resident),
        ]

    def _busy_s(self) -> float:
        seen_s = self._left_s + sum(known.total_s for known in self._known.values())
        accounted_s = used_s(self._cgroup) if self._cgroup is not None else None
        return seen_s if accounted_s is None else max(seen_s, accounted_s - self._cgroup_from_s)

    def _find_cgroup(self, roots: Sequence[int]) -> None:
        """From here on a cgroup that holds just these trees counts for them, starting from what they have."""
        self._cgroup = self._cgroups.of_their_own(roots, self._known.keys()) if roots else None
        if self._cgroup is not None:
            self._read()
            seen_s = self._left_s + sum(known.total_s for known in self._known.values())
            self._cgroup_from_s = (used_s(self._cgroup) or 0.0) - seen_s

    def _scan(self, roots: Sequence[int]) -> None:
        """Find processes that joined. One that another parent adopts stays in the tree it was born in."""
        children: dict[int, list[psutil.Process]] = {}
        present: dict[int, psutil.Process] = {}
        for process in psutil.process_iter():
            try:
                children.setdefault(process.ppid(), []).append(process)
            except psutil.Error:
                continue
            present[process.pid] = process
        for root in roots:
            if root in present:
                self._join(present[root], parent=None)
        unvisited = list(self._known)
        while unvisited:
            parent = unvisited.pop()
            joined = [child for child in children.get(parent, ()) if self._join(child, parent=parent)]
            unvisited += [child.pid for child in joined]

    def _join(self, process: psutil.Process, *, parent: int | None) -> bool:
        known = self._known.get(process.pid)
        if known is not None and known.process == process:
            return False
        if known is not None:
            self._leave(known)
        joining = _Known(process, parent)
        try:
            if process.pid in self._older:
                joining.read()
                joining.own_from_s, joining.reaped_from_s = joining.own_s, joining.reaped_s
        except psutil.Error:
            return False
        self._known[process.pid] = joining
        return True

    def _leave(self, known: _Known) -> None:
        del self._known[known.process.pid]
        parent = self._known.get(known.parent) if known.parent is not None else None
        if parent is None:
            self._left_s += known.total_s
        else:
            parent.departed_s += known.total_s
            parent.reaped_from_s += known.own_from_s + known.reaped_from_s

    def _read(self) -> int:
        """Update every known process, parents before their children, and return the resident bytes.

        The order matters: a child reaped between two reads is then missing for a moment, never counted twice.
        """
        private, shared = 0, 0
        for known in list(self._known.values()):
            try:
                own, in_common = known.read()
            except psutil.NoSuchProcess:
                self._leave(known)
                continue
            except psutil.AccessDenied:
                continue
            private += own
            shared = max(shared, in_common)
        return private + shared


def _cpuinfo() -> str:
    """Empty outside Linux."""
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
