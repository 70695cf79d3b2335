"""What do the CPU's own energy counters say?"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from llenergymeasure.energy import Part
from llenergymeasure.energy.meters.cpu_power import read_cpuinfo
from llenergymeasure.exceptions import EnergyError
from llenergymeasure.records import Clock, Domain, DomainKind, Quantity, Sample

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
    range_uj: int

    @property
    def wrap_uj(self) -> int:
        """The range that the kernel states is that of the highest count; the wrap takes one tick more."""
        return round(self.range_uj * _COUNTER_STATES / (_COUNTER_STATES - 1))

    def domain(self, *, amd: bool) -> Domain:
        source = f"rapl.{'package' if self.kind == 'cpu' else 'dram'}-{self.package}"
        energy = Quantity("energy", source, "J", 1e-6, wrap=self.wrap_uj, step_ns=_STEP_NS)
        package = self.kind == "cpu"
        return Domain(
            f"{self.kind}:{self.package}",
            self.kind,
            (energy,),
            resolution_j=1e-6,
            systematic_gain=(_AMD_PACKAGE if amd else _INTEL_PACKAGE) if package else _DRAM,
            systematic_offset_w=_PACKAGE_OFFSET_W if package else (0.0, 0.0),
        )


class _Counters:
    """Open counters, which are read together: the one `Part` of the meter."""

    period_s: float | None = None

    def __init__(self, opened: Sequence[tuple[int, Domain]], *, clock: Clock) -> None:
        self.domains = tuple(domain.name for _, domain in opened)
        self.driver_cpu_ns = 0
        self._opened = tuple(opened)
        self._clock = clock

    def sample(self) -> Sequence[Sample]:
        """Each counter that can be read. EnergyError with the reason where none can."""
        samples = []
        failure: Exception | None = None
        cpu_ns = time.thread_time_ns()
        for descriptor, domain in self._opened:
            before_ns = self._clock.monotonic_ns()
            try:
                raw = _read(descriptor)
            except (OSError, ValueError) as error:
                failure = error
                continue
            samples.append(Sample(domain.name, "energy", before_ns, self._clock.monotonic_ns(), raw))
        self.driver_cpu_ns += time.thread_time_ns() - cpu_ns
        if failure is not None and not samples:
            raise EnergyError(f"no RAPL counter can be read any more: {failure}")
        return samples


class RaplMeter:
    """Packages and their memory under Linux's powercap tree `root`, for Intel and AMD.

    Neither psys nor cores (both are contained in or contain a package) nor the MMIO mirror of a package is
    read, nor a die that shows the very count of another one. Files stay open, so that a poll is one `pread`
    each; a read that fails is left out. `cpuinfo` is that of this machine: it tells whose counters they are.
    """

    def __init__(self, root: Path | None = None, *, cpuinfo: str | None = None, clock: Clock = time) -> None:
        self._amd = "AuthenticAMD" in (read_cpuinfo() if cpuinfo is None else cpuinfo)
        self._root = root or Path("/sys/class/powercap")
        self._clock = clock
        self._stack = ExitStack()
        self._domains: tuple[Domain, ...] = ()
        self._counters = _Counters((), clock=clock)

    def why_unavailable(self) -> str | None:
        try:
            with self:
                return None
        except EnergyError as error:
            return f"{error.message}; {error.hint}" if error.hint else error.message

    def __enter__(self) -> Self:
        """Open every counter. EnergyError where there is none, or one can't be read."""
        zones = tuple(_zones(self._root))
        if not zones:
            raise EnergyError(
                f"there is no RAPL package under {self._root} (a VM, a container or another CPU)"
            )
        with ExitStack() as stack:
            opened: list[tuple[int, Domain]] = []
            for zone in zones:
                try:
                    descriptor = os.open(zone.path / "energy_uj", os.O_RDONLY | os.O_CLOEXEC)
                    stack.callback(os.close, descriptor)
                    _read(descriptor)
                except PermissionError as error:
                    raise EnergyError(
                        f"{zone.path / 'energy_uj'} can be read by root only",
                        hint=f"sudo chmod a+r {self._root}/intel-rapl:*/energy_uj  (until the next boot)",
                    ) from error
                except (OSError, ValueError) as error:
                    raise EnergyError(f"{zone.path / 'energy_uj'} can't be read: {error}") from error
                opened.append((descriptor, zone.domain(amd=self._amd)))
            try:
                opened = _without_mirrors(opened)
            except (OSError, ValueError) as error:
                raise EnergyError(f"a counter under {self._root} can't be read: {error}") from error
            self._domains = tuple(domain for _, domain in opened)
            self._counters = _Counters(opened, clock=self._clock)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._domains = ()
        self._counters = _Counters((), clock=self._clock)
        self._stack.close()

    def domains(self) -> Sequence[Domain]:
        return self._domains

    def parts(self) -> Sequence[Part]:
        return [self._counters]

    def sample(self) -> Sequence[Sample]:
        try:
            return self._counters.sample()
        except EnergyError:
            # All are left out; by its part the recorder is told why.
            return []


def _without_mirrors(opened: Sequence[tuple[int, Domain]]) -> list[tuple[int, Domain]]:
    """Each count once. Counts of up to 10^11 µJ are equal by chance once in 10^9 openings or so.

    A counter may move between the reads of two mirrors, so that one look in several has to find them equal.
    """
    looks = [[_read(descriptor) for descriptor, _ in opened] for _ in range(_LOOKS)]
    kept: list[int] = []
    for number, (_, domain) in enumerate(opened):
        if not any(
            opened[other][1].kind == domain.kind and any(0 < look[number] == look[other] for look in looks)
            for other in kept
        ):
            kept.append(number)
    return [opened[number] for number in kept]


def _read(descriptor: int) -> int:
    return int(os.pread(descriptor, 32, 0))


def _zones(root: Path) -> Iterator[_Zone]:
    """Packages, each followed by its memory. The kernel lists both flat: intel-rapl:0 and intel-rapl:0:2."""
    for path in sorted(root.glob("intel-rapl:*"), key=_numbers):
        name = _text(path / "name")
        parent = _text(root / path.name.rsplit(":", 1)[0] / "name")
        wrap = _text(path / "max_energy_range_uj")
        if not wrap.isdecimal():
            continue
        if name.startswith("package-"):
            yield _Zone(path, "cpu", name.removeprefix("package-"), int(wrap))
        elif name == "dram" and parent.startswith("package-"):
            yield _Zone(path, "dram", parent.removeprefix("package-"), int(wrap))


def _numbers(path: Path) -> list[int]:
    return [int(part) if part.isdecimal() else -1 for part in path.name.split(":")[1:]]


def _text(path: Path) -> str:
    """What a zone says of itself; empty where it says nothing, so that the zone is passed over."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
