"""What do the sensors say that the kernel shows under /sys/class/hwmon?

Long by its table of chips: what each is called, what it measures, and which other meter reads it too.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

from llenergymeasure.energy.meters.calibration import SYSTEMATIC_GAIN, SYSTEMATIC_OFFSET_W
from llenergymeasure.energy.meters.device import Device, DeviceMeter, Question
from llenergymeasure.exceptions import EnergyError
from llenergymeasure.records import Clock, Domain, DomainKind, Quantity

ROOT = Path("/sys/class/hwmon")

_Range: TypeAlias = tuple[float, float]

# What is recorded beside what counts changes the sum of nothing: seldom is enough.
_PART_PERIOD_S = 1.0
# Two channels are one where they agree in so many of these looks (one may move between two reads of a look),
# and not by rounding.
_LOOKS = 4
_EQUAL = 3
_LOOK_S = 0.12
_ROUND_UW = 100_000

# True = gain × read + offset. Where a vendor states nothing the range is a judgement: that of AMD's RAPL.
_UNSTATED: tuple[_Range, _Range] = ((0.9, 1.1), (-3.0, 3.0))
# GPU boards: no vendor but the one of arXiv 2312.02741 was measured; theirs are taken to be no better.
_BOARD = (SYSTEMATIC_GAIN, SYSTEMATIC_OFFSET_W)
# INA3221 (TI, SBOS576B): gain error of shunt and bus 0.25 % each, shunt offset 80 µV (16 mA in 5 mΩ, up to 20
# V), and the shunt resistor's own tolerance, 1 % on common boards.
_INA3221 = ((0.98, 1.02), (-0.35, 0.35))


@dataclass(frozen=True, slots=True)
class _Role:
    """What a channel is. Of those with one name the lowest `rank` counts: the others hold or repeat it."""

    kind: DomainKind
    name: str
    rank: int = 0
    bounds: tuple[_Range, _Range] = _UNSTATED


@dataclass(frozen=True, slots=True)
class _Channel:
    """One sensor of a chip: a counter of µJ, a field of µW, or mV and mA whose product that is."""

    chip: str
    device: str
    label: str
    number: int
    folder: Path
    energy: str | None = None
    power: str | None = None
    factors: tuple[str, str] | None = None
    role: _Role = field(default=_Role("part", ""))

    @property
    def source(self) -> str:
        return f"hwmon.{self.chip}.{_plain(self.label)}"

    @property
    def domain_name(self) -> str:
        return self.role.kind if self.role.kind == "host" else f"{self.role.kind}:{self.role.name}"


class HwmonMeter(DeviceMeter):
    """Every channel of energy and power under `root`, by chip and label.

    Those whose meaning is known count as what they are: Intel's GPUs (xe, i915), AMD's (amdgpu), the rails of
    a Jetson (INA3221), Grace's sockets and modules and other ACPI power meters, sockets of AMD and Ampere.
    All others are `part:…`, recorded and never counted. `others` gives what other meters read already: names
    of domains, and chips (`amdgpu`). A channel that mirrors another one is left out. `gpus` is as for
    NVIDIA's, by PCI address.
    """

    def __init__(
        self,
        root: Path | None = None,
        *,
        gpus: Literal["auto", "all"] | Sequence[str] = "auto",
        others: Callable[[], Collection[str]] = frozenset,
        clock: Clock = time,
    ) -> None:
        super().__init__()
        self._root = root or ROOT
        self._gpus = gpus
        # Asked now: later what this meter sees is itself read already.
        self._others = frozenset(others())
        self._clock = clock

    def _open(self, stack: ExitStack) -> tuple[Sequence[Device], Sequence[Domain]]:
        found = [replace(one, role=_role(one)) for one in channels(self._root)]
        if not found:
            raise EnergyError(f"no sensor of energy or power is under {self._root}")
        opened, silent = [], {}
        for one in _counted_once(found):
            if self._is_anothers(one):
                continue
            try:
                opened.append(_Opened(one, stack))
            except EnergyError as error:
                # What is switched off, or a rail that nothing hangs on, is no fault where it does not count.
                if one.role.kind != "part":
                    silent[one.domain_name] = (
                        f"{error.message} ({error.hint})" if error.hint else error.message
                    )
        self.unread = silent
        if not opened:
            why = "; ".join(silent.values()) or "other meters read what is there already"
            raise EnergyError(f"no sensor under {self._root} can be used: {why}")
        kept, mirrors = _without_mirrors(opened, self._clock)
        self.notes = (
            *(f"{name} is not read: {why}" for name, why in silent.items()),
            *(
                f"{one.channel.source} mirrors {other.channel.source} and is left out"
                for one, other in mirrors
            ),
        )
        counting = [one for one in kept if one.channel.role.kind != "part"]
        parts = [one for one in kept if one.channel.role.kind == "part"]
        devices = [self._device([one]) for one in counting]
        if parts:
            devices.append(self._device(parts))
            devices[-1].period_s = _PART_PERIOD_S
        return devices, [one.domain for one in (*counting, *parts)]

    def _is_anothers(self, one: _Channel) -> bool:
        if one.role.kind == "gpu" and not isinstance(self._gpus, str) and one.role.name not in self._gpus:
            return True
        return one.chip in self._others or one.domain_name in self._others

    def _device(self, opened: Sequence[_Opened]) -> Device:
        return Device(
            [
                Question(one.domain.name, quantity, partial(_positive, one, read))
                for one in opened
                for quantity, read in zip(one.domain.quantities, one.reads, strict=True)
            ],
            errors=(OSError, ValueError, EnergyError),
            silent=f"nothing can be read of {', '.join(one.channel.source for one in opened)}",
            clock=self._clock,
        )


class _Opened:
    """A channel whose files are open and have been read twice."""

    def __init__(self, channel: _Channel, stack: ExitStack) -> None:
        self.channel = channel
        found: list[tuple[Quantity, Callable[[], int]]] = []
        window_ns = _averaging_ns(channel)
        if channel.energy is not None:
            read = _reader(channel.folder / channel.energy, stack)
            found.append((Quantity("energy", channel.source, "J", 1e-6), read))
        if channel.power is not None or channel.factors is not None:
            files = (channel.power,) if channel.power is not None else channel.factors or ()
            name = (
                "power_average" if window_ns or (channel.power or "").endswith("average") else "power_usage"
            )
            read = _product([_reader(channel.folder / file, stack) for file in files])
            found.append((Quantity(name, channel.source, "W", 1e-6, window_ns=window_ns), read))
        least = 1
        try:
            # A rail with a voltage may carry nothing until there is work, as that of a Jetson's GPU.
            if channel.factors is not None and channel.role.kind in {"gpu", "cpu", "dram"}:
                least = 0 if _reader(channel.folder / channel.factors[0], stack)() > 0 else 1
            found = [(quantity, read) for quantity, read in found if read() >= least and read() >= least]
        except (OSError, ValueError) as error:
            raise EnergyError(
                f"{channel.folder}: the sensor {channel.label!r} can't be read: {error}"
            ) from error
        if not found:
            raise EnergyError(f"{channel.folder}: the sensor {channel.label!r} reads 0 or less")
        gain, offset = _stated(channel)
        self.reads = [read for _, read in found]
        self.domain = Domain(
            channel.domain_name,
            channel.role.kind,
            tuple(quantity for quantity, _ in found),
            resolution_j=1e-6 if found[0][0].unit == "J" else None,
            systematic_gain=gain,
            systematic_offset_w=offset,
        )


def has_sensors(root: Path | None = None) -> bool:
    return next(channels(root or ROOT), None) is not None


def channels(root: Path) -> Iterator[_Channel]:
    """Every channel of energy or power, in the order of the kernel's numbers."""
    for chip in sorted(root.glob("hwmon*"), key=lambda path: (len(path.name), path.name)):
        name, device = (
            _text(chip / "name") or chip.name,
            (chip / "device").resolve().name if (chip / "device").exists() else chip.name,
        )
        # ACPI's power meter has its attributes at the device.
        for folder in (chip, chip / "device"):
            files = _names(folder)
            seen = {
                int(m[2]) for one in files if (m := re.fullmatch(r"(power|energy)(\d+)_(input|average)", one))
            }
            for number in sorted(seen):
                energy = f"energy{number}_input"
                power = next(
                    (p for p in (f"power{number}_average", f"power{number}_input") if p in files), None
                )
                # A counter and a field of one number may be different sensors, unless their labels agree.
                labels = [_label(folder, f"{kind}{number}") for kind in ("energy", "power")]
                both = _Channel(name, device, labels[1] or labels[0] or f"{number}", number, folder)
                if energy in files and power and labels[0] == labels[1]:
                    yield replace(both, energy=energy, power=power)
                    continue
                if energy in files:
                    yield replace(both, label=labels[0] or f"{number}", energy=energy)
                if power:
                    yield replace(both, power=power)
            if name.startswith("ina3221"):
                yield from _products(name, device, folder, files, without=seen)


def _products(
    chip: str, device: str, folder: Path, files: Collection[str], *, without: Collection[int]
) -> Iterator[_Channel]:
    """Rails that show volts and amperes only, as the INA3221's do."""
    for number in (1, 2, 3):
        volts, amperes = f"in{number}_input", f"curr{number}_input"
        if number not in without and volts in files and amperes in files:
            label = _label(folder, f"in{number}") or f"{number}"
            yield _Channel(chip, device, label, number, folder, factors=(volts, amperes))


# Driver, pattern of the label, kind, and name: of the first row that fits.
_ROLES: tuple[tuple[str, str, DomainKind, str, int, tuple[_Range, _Range]], ...] = (
    # The card holds its package; older boards count the package alone.
    ("xe", "card", "gpu", "{device}", 0, _BOARD),
    ("xe", ".*", "gpu", "{device}", 1, _BOARD),
    ("i915", ".*", "gpu", "{device}", 0, _BOARD),
    ("amdgpu", ".*", "gpu", "{device}", 0, _BOARD),
    ("amd_energy", r"Esocket0*(\d+)", "cpu", "{0}", 0, _UNSTATED),
    ("power_meter", r"Module Power Socket (\d+)", "module", "{0}", 0, _UNSTATED),
    ("power_meter", r"(?:Grace|Total) Power Socket (\d+)", "cpu", "{0}", 0, _UNSTATED),
    # Those lie within the socket's.
    ("power_meter", r"\w+ Power Socket \d+", "part", "", 0, _UNSTATED),
    ("power_meter", ".*", "host", "", 0, _UNSTATED),
    ("macsmc_hwmon", "Total System Power", "host", "", 0, _UNSTATED),
    ("smpro_hwmon", r".*\b(CORE|SoC)\b.*", "cpu", "{device}-{0}", 0, _UNSTATED),
    ("smpro_hwmon", r".*\b(DIMM VRD\d?)", "dram", "{device}-{0}", 0, _UNSTATED),
    ("xgene_hwmon", "CPU power", "cpu", "{device}", 0, _UNSTATED),
    ("ina3221", "VDD_IN|POM_5V_IN", "host", "", 0, _INA3221),
    ("ina3221", "((?:VDD_|POM_5V_|VDD_SYS_)?GPU)", "gpu", "{0}", 0, _INA3221),
    ("ina3221", "((?:VDD_|POM_5V_|VDD_SYS_)?CPU)", "cpu", "{0}", 0, _INA3221),
    ("ina3221", "(VDDQ.*|VDDRQ|VDD_SYS_DDR)", "dram", "{0}", 0, _INA3221),
    ("ina3221", ".*", "part", "", 0, _INA3221),
)


def _role(one: _Channel) -> _Role:
    """What the channel is, by driver and label; a part where that is not known."""
    # An APU's figure holds the processor, which RAPL reads; only they have a voltage of the north bridge.
    is_apu = one.chip == "amdgpu" and (one.folder / "in1_input").exists()
    for chip, pattern, kind, name, rank, bounds in _ROLES if not is_apu else ():
        if chip == one.chip and (found := re.fullmatch(pattern, one.label)) is not None:
            return _Role(kind, name.format(*map(_plain, found.groups()), device=one.device), rank, bounds)
    return _Role("part", "")


def _counted_once(found: Sequence[_Channel]) -> Iterator[_Channel]:
    """Of channels with one name the first by rank that can be read, a counter before power; the others become
    parts.
    """
    best: dict[str, _Channel] = {}
    counting = [one for one in found if one.role.kind != "part"]
    for one in sorted(counting, key=lambda one: (one.role.rank, one.energy is None)):
        if one.domain_name not in best and _reads(one):
            best[one.domain_name] = one
    names: set[str] = set()
    for one in found:
        # Where none can be read the first says why.
        if one.role.kind != "part" and best.setdefault(one.domain_name, one) is one:
            yield one
            continue
        name = f"{one.chip}-{one.device}-{_plain(one.label)}"
        while name in names:
            name += "'"
        names.add(name)
        yield replace(one, role=replace(one.role, kind="part", name=name))


def _reads(one: _Channel) -> bool:
    with ExitStack() as stack:
        try:
            _Opened(one, stack)
        except EnergyError:
            return False
    return True


def _without_mirrors(
    opened: Sequence[_Opened], clock: Clock
) -> tuple[list[_Opened], list[tuple[_Opened, _Opened]]]:
    """Each sensor once, and (mirror, what it mirrors).

    Counts and readings are equal by accident only where they are round, and rounded ones only as long as
    they do not move. Rails of volts and amperes are each a shunt of its own, and often equal: 8 mA is their
    step.
    """
    first = [_look(one) for one in opened]
    if len({look for look in first if look}) == sum(map(bool, first)):
        return list(opened), []
    looks = [first]
    for _ in range(_LOOKS - 1):
        clock.sleep(_LOOK_S)
        looks.append([_look(one) for one in opened])
    kept: list[int] = []
    mirrors = []
    for number, one in enumerate(opened):
        mine = [look[number] for look in looks]
        is_telling = one.channel.factors is None and (len(set(mine)) > 1 or mine[0] % _ROUND_UW != 0)
        same = [
            other
            for other in kept
            if is_telling and sum(0 < look[number] == look[other] for look in looks) >= _EQUAL
        ]
        if same:
            mirrors.append((one, opened[same[0]]))
        else:
            kept.append(number)
    return [opened[number] for number in kept], mirrors


def _look(one: _Opened) -> int:
    try:
        return one.reads[0]()
    except (OSError, ValueError):
        return 0


def _positive(one: _Opened, read: Callable[[], int]) -> int:
    """A rail may draw nothing for a moment; a whole machine does not, and nothing draws less."""
    value = read()
    if value < 0 or (value == 0 and one.channel.role.kind == "host"):
        raise EnergyError(f"{one.channel.source} reads {value}")
    return value


def _reader(path: Path, stack: ExitStack) -> Callable[[], int]:
    """Reads the number in `path`, which stays open. EnergyError where there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, descriptor)
        int(os.pread(descriptor, 32, 0))
    except PermissionError as error:
        raise EnergyError(
            f"{path} can be read by root only", hint=f"sudo chmod a+r {path}  (until the next boot)"
        ) from error
    except (OSError, ValueError) as error:
        raise EnergyError(f"{path} can't be read: {error}") from error
    return lambda: int(os.pread(descriptor, 32, 0))


def _product(reads: Sequence[Callable[[], int]]) -> Callable[[], int]:
    """One reading, or millivolts times milliamperes, which are microwatts."""
    if len(reads) == 1:
        return reads[0]
    return lambda: reads[0]() * reads[1]()


def _averaging_ns(one: _Channel) -> int | None:
    """What ACPI's power meter says that it averages over; of others nothing is known."""
    said = _text(one.folder / f"power{one.number}_average_interval")
    return int(said) * 1_000_000 if one.power is not None and said.isdecimal() and int(said) else None


def _stated(one: _Channel) -> tuple[_Range, _Range]:
    """By the accuracy that the firmware states (ACPI 6.5, 10.4.1: `_PMC`), else the bounds of its role."""
    said = _text(one.folder / f"power{one.number}_accuracy").removesuffix("%")
    try:
        off = 1 - float(said) / 100
    except ValueError:
        return one.role.bounds
    # 100 % is what firmware states that does not know, and 1 what counts in other units.
    return ((1 - off, 1 + off), (0.0, 0.0)) if 0 < off < 0.5 else one.role.bounds


def _label(folder: Path, channel: str) -> str:
    return _text(folder / f"{channel}_label") or _text(folder / f"{channel}_oem_info")


def _plain(label: str) -> str:
    """A label as part of a name."""
    return re.sub(r"[\s:,/]+", "-", label.strip())


def _text(path: Path) -> str:
    """What is written there, in UTF-8 or else Latin-1; empty where nothing can be read."""
    try:
        written = path.read_bytes()
    except OSError:
        return ""
    try:
        return written.decode().strip()
    except UnicodeDecodeError:
        return written.decode("latin-1").strip()


def _names(folder: Path) -> set[str]:
    try:
        return {one.name for one in folder.iterdir()}
    except OSError:
        return set()
