"""What do the CPU's own energy counters say?"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from llenergymeasure.energy.meters.device import Device, DeviceMeter, Question
from llenergymeasure.exceptions import EnergyError
from llenergymeasure.host.machine import read_cpuinfo
from llenergymeasure.records import Clock, Domain, DomainKind, Quantity

# RAPL counters move about once a millisecond (Intel SDM, volume 3, "RAPL interfaces").
_STEP_NS = 1_000_000
_COUNTER_STATES = 2**32
_LOOKS = 4

# True = gain × read + offset. No vendor states a tolerance; these bounds hold what was published, and are a
# judgement where a paper compares with the wall instead of the rail.
# Intel measures the package since Haswell; readings follow the wall power of the machine to within 3 W or a
# few per cent (Hackenberg et al. 2015, doi:10.1109/IPDPSW.2015.70; Khan et al. 2018, "RAPL in Action").
_INTEL_PACKAGE = (0.95, 1.05)
# AMD models it, so that power which depends on the operands or on memory is missed: up to 8 % of a machine
# (Schöne et al. 2021, arXiv 2108.00808).
_AMD_PACKAGE = (0.90, 1.10)
_PACKAGE_OFFSET_W = (-3.0, 3.0)
# Memory by its voltage regulator: "up to ~30% error" (Intel Power Gadget); it follows use with an offset that
# differs from board to board, worst when idle (Desrochers et al. 2016, doi:10.1145/2989081.2989088; Alt et
# al. 2024, ICPE). The offset has no figure that holds for other boards.
_DRAM = (0.7, 1.3)


@dataclass(frozen=True, slots=True)
class _Zone:
    path: Path
    kind: DomainKind
    package: str
    range_uj: int | None

    @property
    def domain_name(self) -> str:
        return f"{self.kind}:{self.package}"

    def opened(self, stack: ExitStack) -> int:
        """The descriptor of its counter, which can be read."""
        if self.range_uj is None:
            raise EnergyError(f"{self.path}/max_energy_range_uj can't be read")
        path = self.path / "energy_uj"
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, descriptor)
            _read(descriptor)
        except PermissionError as error:
            raise EnergyError(
                f"{path} can be read by root only",
                hint=f"sudo chmod a+r {self.path.parent}/intel-rapl:*/energy_uj  (until the next boot)",
            ) from error
        except (OSError, ValueError) as error:
            raise EnergyError(f"{path} can't be read: {error}") from error
        return descriptor

    def domain(self, *, amd: bool) -> Domain:
        is_package = self.kind == "cpu"
        # The range that the kernel states is that of the highest count; the wrap takes one tick more.
        wrap = round((self.range_uj or 0) * _COUNTER_STATES / (_COUNTER_STATES - 1))
        source = f"rapl.{'package' if is_package else 'dram'}-{self.package}"
        return Domain(
            self.domain_name,
            self.kind,
            (Quantity("energy", source, "J", 1e-6, wrap=wrap, step_ns=_STEP_NS),),
            resolution_j=1e-6,
            systematic_gain=(_AMD_PACKAGE if amd else _INTEL_PACKAGE) if is_package else _DRAM,
            systematic_offset_w=_PACKAGE_OFFSET_W if is_package else (0.0, 0.0),
        )


class RaplMeter(DeviceMeter):
    """Packages and their memory under Linux's powercap tree `root`, for Intel and AMD.

    Neither psys nor cores (both are contained in or contain a package) nor the MMIO mirror of a package is
    read, nor a die that shows the very count of another one. Files stay open, so that a poll is one `pread`
    each; a read that fails is left out, and a zone that fails from the start is `unread`. `cpuinfo` is that
    of this machine, which decides the bounds.
    """

    def __init__(self, root: Path | None = None, *, cpuinfo: str | None = None, clock: Clock = time) -> None:
        super().__init__()
        self._amd = "AuthenticAMD" in (read_cpuinfo() if cpuinfo is None else cpuinfo)
        self._root = root or Path("/sys/class/powercap")
        self._clock = clock

    def _open(self, stack: ExitStack) -> tuple[Sequence[Device], Sequence[Domain]]:
        """Every counter that can be read, together. EnergyError where that is none."""
        found: list[tuple[int, Domain]] = []
        errors: dict[str, EnergyError] = {}
        for zone in _zones(self._root):
            try:
                found.append((zone.opened(stack), zone.domain(amd=self._amd)))
            except EnergyError as error:
                errors[zone.domain_name] = error
        if not found:
            raise next(
                iter(errors.values()),
                EnergyError(
                    f"there is no RAPL package under {self._root} (a VM, a container or another CPU)"
                ),
            )
        self.unread = {
            name: f"{error.message} ({error.hint})" if error.hint else error.message
            for name, error in errors.items()
        }
        self.notes = tuple(f"{name} is not read: {why}" for name, why in self.unread.items())
        counters = Device(
            [
                Question(domain.name, domain.quantities[0], partial(_read, at))
                for at, domain in _without_mirrors(found)
            ],
            errors=(OSError, ValueError),
            silent="no RAPL counter can be read any more",
            clock=self._clock,
        )
        kept = set(counters.domains)
        return [counters], [domain for _, domain in found if domain.name in kept]


def _without_mirrors(opened: Sequence[tuple[int, Domain]]) -> list[tuple[int, Domain]]:
    """Each count once. Counts of up to 10^11 µJ are equal by accident once in 10^9 openings or so.

    A counter may move between the reads of two mirrors, so that one look in several has to find them equal.
    """
    looks = [[_look(descriptor) for descriptor, _ in opened] for _ in range(_LOOKS)]
    kept: list[int] = []
    for number, (_, domain) in enumerate(opened):
        if not any(
            opened[other][1].kind == domain.kind and any(0 < look[number] == look[other] for look in looks)
            for other in kept
        ):
            kept.append(number)
    return [opened[number] for number in kept]


def _look(descriptor: int) -> int:
    """0 where a zone fails now and then."""
    try:
        return _read(descriptor)
    except (OSError, ValueError):
        return 0


def _read(descriptor: int) -> int:
    return int(os.pread(descriptor, 32, 0))


def _zones(root: Path) -> Iterator[_Zone]:
    """Packages, each followed by its memory. The kernel lists both flat: intel-rapl:0 and intel-rapl:0:2."""
    for path in sorted(root.glob("intel-rapl:*"), key=_numbers):
        name = _text(path / "name")
        parent = _text(root / path.name.rsplit(":", 1)[0] / "name")
        wrap = _text(path / "max_energy_range_uj")
        most = int(wrap) if wrap.isdecimal() else None
        if name.startswith("package-"):
            yield _Zone(path, "cpu", name.removeprefix("package-"), most)
        elif name == "dram" and parent.startswith("package-"):
            yield _Zone(path, "dram", parent.removeprefix("package-"), most)


def _numbers(path: Path) -> list[int]:
    return [int(part) if part.isdecimal() else -1 for part in path.name.split(":")[1:]]


def _text(path: Path) -> str:
    """What a zone says of itself; empty where it says nothing, so that the zone is passed over."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
