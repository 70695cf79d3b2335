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

from llenergymeasure.exceptions import EnergyError
from llenergymeasure.records import Clock, Domain, DomainKind, Quantity, Sample

# RAPL counters move about once a millisecond (Intel SDM, volume 3, "RAPL interfaces").
_STEP_NS = 1_000_000


@dataclass(frozen=True, slots=True)
class _Zone:
    path: Path
    kind: DomainKind
    package: str
    wrap_uj: int

    def domain(self) -> Domain:
        source = f"rapl.{'package' if self.kind == 'cpu' else 'dram'}-{self.package}"
        energy = Quantity("energy", source, "J", 1e-6, wrap=self.wrap_uj, step_ns=_STEP_NS)
        return Domain(f"{self.kind}:{self.package}", self.kind, (energy,), resolution_j=1e-6)


class RaplMeter:
    """Packages and their memory under Linux's powercap tree `root`, for Intel and AMD.

    Neither psys nor cores (both are contained in or contain a package) nor the MMIO mirror of a package is
    read. Files stay open, so that a poll is one `pread` each; a read that fails is left out.
    """

    def __init__(self, root: Path | None = None, *, clock: Clock = time) -> None:
        self._root = root or Path("/sys/class/powercap")
        self._clock = clock
        self._stack = ExitStack()
        self._open: tuple[tuple[int, Domain], ...] = ()

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
            opened = []
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
                opened.append((descriptor, zone.domain()))
            self._open = tuple(opened)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open = ()
        self._stack.close()

    def domains(self) -> Sequence[Domain]:
        return [domain for _, domain in self._open]

    def sample(self) -> Sequence[Sample]:
        samples = []
        for descriptor, domain in self._open:
            before_ns = self._clock.monotonic_ns()
            try:
                raw = _read(descriptor)
            except (OSError, ValueError):
                continue
            samples.append(Sample(domain.name, "energy", before_ns, self._clock.monotonic_ns(), raw))
        return samples


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
