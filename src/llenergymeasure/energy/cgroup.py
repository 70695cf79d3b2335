"""Does the kernel account the CPU time of a run's processes by themselves?"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Cgroups:
    """The tree of cgroup v2 that is mounted at `root`, and the processes under `proc`."""

    root: Path = Path("/sys/fs/cgroup")
    proc: Path = Path("/proc")

    def of_their_own(self, roots: Sequence[int], members: Collection[int]) -> Path | None:
        """The cgroup in which all of `roots` are and nobody but `members`; None where there is none."""
        places = {self._place(str(pid)) for pid in roots}
        if len(places) != 1 or None in places:
            return None
        directory = self.root / str(places.pop()).lstrip("/")
        if directory == self.root or not (directory / "cpu.stat").is_file():
            return None
        inside = _processes(directory)
        return directory if inside and inside <= set(members) else None

    def _place(self, pid: str) -> str | None:
        try:
            lines = (self.proc / pid / "cgroup").read_text(encoding="utf-8").splitlines()
        except OSError:
            return None
        return next((line.removeprefix("0::") for line in lines if line.startswith("0::")), None)


def used_s(cgroup: Path) -> float | None:
    """CPU seconds of all that ever ran in it; None once it is gone."""
    try:
        lines = (cgroup / "cpu.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    fields = dict(line.split(maxsplit=1) for line in lines if " " in line)
    return int(fields["usage_usec"]) / 1e6 if "usage_usec" in fields else None


def _processes(directory: Path) -> set[int]:
    """The pids in it and below it; empty where one of the lists can't be read."""
    found: set[int] = set()
    try:
        for listing in directory.rglob("cgroup.procs"):
            found.update(int(pid) for pid in listing.read_text(encoding="ascii").split())
    except (OSError, ValueError):
        return set()
    return found
