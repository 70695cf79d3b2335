"""What would Linux's powercap tree say of processors whose power is known exactly?"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from llenergymeasure.records import Clock
from llenergymeasure.simulation.waveform import Waveform

# Nanojoules per tick, rounded as the kernel rounds them: clients and packages, server memory, AMD.
PACKAGE_NJ, SERVER_DRAM_NJ, AMD_NJ = 61_035, 15_300, 15_258
# As wide as the longest counter, so that a read beside a write never sees half of each.
_WIDTH = 20


@dataclass(frozen=True, slots=True)
class Zone:
    """One zone of the tree: its directory, the kernel's name for it, and what it draws.

    Its counter has `bits` bits of `tick_nj` each and stood at `start_ticks` when the tree was made. Two zones
    that share a waveform and a start show the same counter, as mirrored dies do.
    """

    directory: str
    name: str
    power: Waveform
    tick_nj: int = PACKAGE_NJ
    bits: int = 32
    start_ticks: int = 0
    mode: int = 0o444

    @property
    def max_energy_range_uj(self) -> int:
        return ((1 << self.bits) - 1) * self.tick_nj // 1000


class SimulatedRapl:
    """A powercap tree under `root`, for a meter that is handed this directory.

    Counters do not move until `tick`, which brings them to `clock`'s time. A zone whose directory is in
    `failing` has no number to read from the next tick on.
    """

    def __init__(self, clock: Clock, root: Path, zones: Sequence[Zone]) -> None:
        self.zones = tuple(zones)
        self.failing: set[str] = set()
        self._clock = clock
        self._start_ns = clock.monotonic_ns()
        self._files = [_made(root, zone) for zone in self.zones]
        self.tick()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for file in self._files:
            os.close(file)
        self._files = []

    def energy_uj(self, zone: Zone) -> int:
        """What the counter shows now: whole ticks since it wrapped."""
        joules = zone.power.energy_j(self._start_ns, self._clock.monotonic_ns())
        ticks = (zone.start_ticks + int(joules * 1e9 / zone.tick_nj)) % (1 << zone.bits)
        return ticks * zone.tick_nj // 1000

    def tick(self) -> None:
        for zone, file in zip(self.zones, self._files, strict=True):
            shown = "" if zone.directory in self.failing else str(self.energy_uj(zone))
            os.pwrite(file, f"{shown:<{_WIDTH}}\n".encode("ascii"), 0)


def intel_zones(
    packages: Sequence[Waveform], *, dram: Sequence[Waveform] = (), psys: bool = False, mmio: bool = False
) -> tuple[Zone, ...]:
    """The zones of an Intel machine: packages, each with its memory; the whole platform; the mirrors."""
    zones = []
    for number, power in enumerate(packages):
        zones.append(Zone(f"intel-rapl:{number}", f"package-{number}", power))
        zones.append(Zone(f"intel-rapl:{number}:0", "core", power))
        if mmio:
            zones.append(Zone(f"intel-rapl-mmio:{number}", f"package-{number}", power))
        if dram:
            zones.append(Zone(f"intel-rapl:{number}:1", "dram", dram[number], tick_nj=SERVER_DRAM_NJ))
    if psys:
        whole = Waveform(0)
        for power in (*packages, *dram):
            whole.add(power)
        zones.append(Zone(f"intel-rapl:{len(packages)}", "psys", whole))
    return tuple(zones)


def amd_zones(packages: Sequence[Waveform], cores: Sequence[Waveform]) -> tuple[Zone, ...]:
    """The zones of an AMD machine, which has the same names, finer ticks and nothing of its memory."""
    zones = []
    for number, (package, core) in enumerate(zip(packages, cores, strict=True)):
        zones.append(Zone(f"intel-rapl:{number}", f"package-{number}", package, tick_nj=AMD_NJ))
        zones.append(Zone(f"intel-rapl:{number}:0", "core", core, tick_nj=AMD_NJ))
    return tuple(zones)


def _made(root: Path, zone: Zone) -> int:
    """The open counter of a zone that now exists."""
    directory = root / zone.directory
    directory.mkdir(parents=True)
    (directory / "name").write_text(f"{zone.name}\n", encoding="ascii")
    (directory / "max_energy_range_uj").write_text(f"{zone.max_energy_range_uj}\n", encoding="ascii")
    file = os.open(directory / "energy_uj", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.fchmod(file, zone.mode)
    return file
