"""How much work did the processes of a run give the CPU, where no sensor measures its energy?"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

import psutil

from llenergymeasure.energy.meters.cgroup import Cgroup, Cgroups
from llenergymeasure.energy.meters.cpu_power import power_model
from llenergymeasure.host.machine import read_cpuinfo
from llenergymeasure.records import Clock, Domain, Quantity, Sample

_SOURCE = "cpu-time-model"
# The kernel accounts CPU time in clock ticks (USER_HZ, 100 a second).
_CPU_TIME = Quantity("cpu_time", _SOURCE, "s", 1e-9, step_ns=10_000_000)
_RESIDENT = Quantity("resident", _SOURCE, "bytes", 1.0)

# A child that comes and goes between two looks for new processes is still counted, through the time that its
# parent reaped.
_RESCAN_NS = 1_000_000_000
_NOT_SEEN = (
    "no cgroup can be made here, so that CPU time of processes that end within a second is not counted where "
    "their parent ignores SIGCHLD"
)


@dataclass(slots=True)
class _Known:
    """A process of the tree: its own CPU time, what it reaped of its children, and what those were seen with.

    The `_from_s` are what it had used before the meter was opened.
    """

    process: psutil.Process
    parent: int
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
    """CPU seconds and resident memory of the process trees rooted at the pids that `processes` returns,
    without this very process where it is in one of them and no root: reading is not the work.

    CPU time is user and system time of every process of the trees, with what exited children had used; it
    never falls, and it leaves out what was used before the meter was opened. A process that lost its parent
    is found where a root adopts it (the worker is a subreaper) and in the session that a root leads. Where
    the trees are alone in a cgroup, what the kernel accounts to that counts, whoever reaped whom.

    Memory is cheap and near: the private pages (resident − shared) of each process, and the largest shared
    part once, since the pages that processes share, such as mapped weights, are mostly the same. Joules are
    made of both later, by the power model of the domain `host`.
    """

    # CPU time changes slowly, and what matters is read at the edges of the work.
    period_s = 0.33

    def __init__(
        self, processes: Callable[[], Sequence[int]], *, cgroups: Cgroups | None = None, clock: Clock = time
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
        self._seen: frozenset[int] = frozenset()
        self._resident = 0
        self._cgroup: Cgroup | None = None
        self._cgroup_from_s = 0.0

    def why_unavailable(self) -> str | None:
        return None

    @property
    def notes(self) -> tuple[str, ...]:
        """What is not seen on this machine."""
        made = self._cgroups.make()
        if made is None:
            return (_NOT_SEEN,)
        made.remove()
        return ()

    def __enter__(self) -> Self:
        # Their start could also be compared with the time, but that is wall-clock time, which may jump.
        self._older = frozenset(psutil.pids())
        return self

    def __exit__(self, *error: object) -> None:
        self._known.clear()
        self._cgroup = None

    def domains(self) -> Sequence[Domain]:
        return [Domain("host", "host", (_CPU_TIME, _RESIDENT), model=power_model(read_cpuinfo()))]

    def sample(self) -> Sequence[Sample]:
        before_ns = self._clock.monotonic_ns()
        roots = tuple(self._processes())
        if moved := roots != self._roots:
            self._roots, self._cgroup, self._seen = roots, None, frozenset()
        if scan := before_ns >= self._next_scan_ns or moved:
            self._next_scan_ns = before_ns + _RESCAN_NS
            self._scan()
        if scan or self._cgroup is None:
            self._resident = self._read()
        if moved and roots:
            self._find_cgroup()
        self._highest_ns = max(self._highest_ns, round(self._busy_s() * 1e9))
        after_ns = self._clock.monotonic_ns()
        return [
            Sample("host", _CPU_TIME.name, before_ns, after_ns, self._highest_ns),
            Sample("host", _RESIDENT.name, before_ns, after_ns, self._resident),
        ]

    def _busy_s(self) -> float:
        seen_s = self._left_s + sum(known.total_s for known in self._known.values())
        accounted_s = None if self._cgroup is None else self._cgroup.used_s()
        return seen_s if accounted_s is None else max(seen_s, accounted_s - self._cgroup_from_s)

    def _find_cgroup(self) -> None:
        """From here on a cgroup that holds just these trees counts for them, starting from what they have."""
        found = self._cgroups.of_their_own(self._roots, self._known.keys())
        if found is not None:
            had_s = max(self._busy_s(), self._highest_ns / 1e9)
            self._cgroup, self._cgroup_from_s = found, (found.used_s() or 0.0) - had_s

    def _scan(self) -> None:
        """Find processes that joined: a new one whose parent is known or whose session a root leads."""
        for known in self._known.values():
            with suppress(psutil.Error):
                # Another one once its parent is gone: who adopted it reaps it.
                known.parent = known.process.ppid()
        for root in self._roots:
            self._join(root)
        present = frozenset(psutil.pids())
        new, self._seen = present - self._seen, present
        while joined := {pid for pid in new if self._belongs(pid) and self._join(pid)}:
            new -= joined

    def _belongs(self, pid: int) -> bool:
        if pid == os.getpid():
            return False
        with suppress(OSError, psutil.Error):
            return psutil.Process(pid).ppid() in self._known or os.getsid(pid) in self._roots
        return False

    def _join(self, pid: int) -> bool:
        try:
            process = psutil.Process(pid)
            known = self._known.get(pid)
            if known is not None and known.process == process:
                return False
            joining = _Known(process, process.ppid())
            joining.read()
        except psutil.Error:
            return False
        if known is not None:
            self._leave(known)
        if pid in self._older:
            joining.own_from_s, joining.reaped_from_s = joining.own_s, joining.reaped_s
        self._known[pid] = joining
        return True

    def _leave(self, known: _Known) -> None:
        del self._known[known.process.pid]
        parent = self._known.get(known.parent)
        if parent is None:
            self._left_s += known.total_s
        else:
            parent.departed_s += known.total_s
            parent.reaped_from_s += known.own_from_s + known.reaped_from_s

    def _read(self) -> int:
        """Update every known process, parents before their children, and return the resident bytes.

        The order matters: a child reaped between two reads is then missing, never counted twice. It is in
        its parent's figure by then, so that all are read again.
        """
        count, resident = len(self._known), self._read_once()
        while len(self._known) < count:
            count, resident = len(self._known), self._read_once()
        return resident

    def _read_once(self) -> int:
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
