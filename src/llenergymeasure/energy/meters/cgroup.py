"""Can the kernel account the CPU time of a run's processes by themselves?"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from llenergymeasure.host.cgroups import Hierarchy, hierarchies

_PREFIX = "llem-"
_EMPTY_WITHIN_S = 2.0


@dataclass(frozen=True, slots=True)
class Cgroup:
    """A cgroup that accounts the CPU time of all that ever ran in it, by version 2 or by cpuacct of 1."""

    directory: Path

    def used_s(self) -> float | None:
        """CPU seconds; None once it is gone."""
        try:
            usage = (self.directory / "cpuacct.usage").read_text(encoding="ascii")
            return int(usage) / 1e9
        except FileNotFoundError:
            pass
        except (OSError, ValueError):
            return None
        try:
            lines = (self.directory / "cpu.stat").read_text(encoding="ascii").splitlines()
        except OSError:
            return None
        return next((int(line.split()[1]) / 1e6 for line in lines if line.startswith("usage_usec ")), None)

    def pids(self) -> set[int]:
        """Those in it and below it; empty where one of the lists can't be read."""
        found: set[int] = set()
        try:
            for listing in self.directory.rglob("cgroup.procs"):
                found.update(int(pid) for pid in listing.read_text(encoding="ascii").split())
        except (OSError, ValueError):
            return set()
        return found

    def take_in(self, pid: int) -> bool:
        """Move a process, and with it what it will start, in here; whether that was allowed."""
        try:
            (self.directory / "cgroup.procs").write_text(str(pid), encoding="ascii")
        except OSError:
            return False
        return True

    def remove(self) -> None:
        """Kill whoever is left in it, and take it away."""
        until = time.monotonic() + _EMPTY_WITHIN_S
        while time.monotonic() < until:
            for pid in self.pids():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            try:
                for below in sorted(self.directory.rglob("*/"), reverse=True):
                    below.rmdir()
                self.directory.rmdir()
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(0.01)


@dataclass(frozen=True, slots=True)
class Cgroups:
    """The cgroups that are mounted, as the processes under `proc` see them."""

    proc: Path = Path("/proc")

    def of_their_own(self, roots: Sequence[int], members: Collection[int]) -> Cgroup | None:
        """The cgroup in which all of `roots` are and nobody but `members`; None where there is none."""
        for one in self._accounting():
            places = {one.place(str(pid), self.proc) for pid in roots}
            place = places.pop() if len(places) == 1 else None
            if place is not None and place != one.point and (found := Cgroup(place)).used_s() is not None:
                inside = found.pids()
                if inside and inside <= set(members):
                    return found
        return None

    def make(self) -> Cgroup | None:
        """An empty one below that of this process; None where it may not make any.

        What a killed process has left of its own goes.
        """
        for one in self._accounting():
            place = one.place("self", self.proc)
            if place is None:
                continue
            for stale in place.glob(f"{_PREFIX}*"):
                if not (self.proc / stale.name.split("-")[1]).exists():
                    with suppress(OSError):
                        stale.rmdir()
            made = Cgroup(place / f"{_PREFIX}{os.getpid()}-{os.urandom(3).hex()}")
            try:
                made.directory.mkdir()
            except OSError:
                continue
            if made.used_s() is not None:
                return made
            made.remove()
        return None

    def _accounting(self) -> Iterator[Hierarchy]:
        """The mounted hierarchies that account CPU time."""
        return (one for one in hierarchies(self.proc) if {"", "cpuacct"} & set(one.controllers))
