"""Which meters read the energy of a run on this machine?"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast, get_args

from llenergymeasure.config import plugins
from llenergymeasure.energy import METERS, Meter
from llenergymeasure.energy.boundary import within
from llenergymeasure.energy.bounded import bounded
from llenergymeasure.energy.meters import bmc
from llenergymeasure.energy.meters.battery import has_battery
from llenergymeasure.energy.meters.hwmon import has_sensors
from llenergymeasure.exceptions import ConfigError, EnergyError, LLEMError
from llenergymeasure.records import BoundaryName, Clock, Domain, MeterChoice

if TYPE_CHECKING:
    from llenergymeasure.config.models import EnergyConfig

    Wanted: TypeAlias = EnergyConfig | MeterChoice

_MODELLED = "estimate"
GPU_METERS = ("nvml", "amd")
_ANSWER_S = 20.0


@dataclass(frozen=True, slots=True)
class Selection:
    """The meters to record, what their best figure is, which were not taken: (name, why), what could not be
    determined of those that were, what they saw when they were tried, and the domains that could not be read
    though they were asked for: (name, why).
    """

    meters: tuple[Meter, ...]
    method: Literal["measured", "modelled"]
    refused: tuple[tuple[str, str], ...]
    notes: tuple[str, ...] = ()
    domains: tuple[Domain, ...] = ()
    unread: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)
class _Taken:
    unread: dict[str, str] = field(default_factory=dict)
    meters: dict[str, Meter] = field(default_factory=dict)
    domains: dict[str, tuple[Domain, str]] = field(default_factory=dict)
    refused: list[tuple[str, str]] = field(default_factory=list)

    def read_already(self) -> set[str]:
        """Names of domains, and of the kernel's driver of GPUs that another meter reads by another name."""
        return {*self.domains, *({"amdgpu"} if "amd" in self.meters else ())}

    def try_out(self, name: str, make: Callable[[], Meter]) -> None:
        """Refused where it can't be used, models energy, or sees what is seen already: a sum would hold that
        twice.
        """
        try:
            meter = make()
        # Two packages with one name are a mistake in what is asked for; another meter may still do.
        except (EnergyError, ConfigError) as error:
            self.refused.append((name, _whole(error)))
            return
        try:
            domains = _seen(name, meter)
        except EnergyError as error:
            self.refused.append((name, _whole(error)))
            return
        finally:
            self.unread |= _unread(meter)
        if any(domain.model is not None for domain in domains):
            self.refused.append((name, f"it models energy; to use it: --meter {name}"))
        elif twice := [domain.name for domain in domains if domain.name in self.domains]:
            other = self.domains[twice[0]][1]
            self.refused.append((name, f"{twice[0]} is read by {other} already (name it to prefer it)"))
        else:
            self.meters[name] = meter
            self.domains |= {domain.name: (domain, name) for domain in domains}


def choose_meters(
    energy: Wanted,
    *,
    processes: Callable[[], Sequence[int]],
    nvml: Any = None,
    amdsmi: Any = None,
    rapl_root: Path | None = None,
    sys_class: Path = Path("/sys/class"),
    clock: Clock = time,
) -> Selection:
    """The meters that `energy` asks for. `processes` gives the root pids of the run, for the model of power.

    `auto` takes everything that measures, what is built in first, then installed plug-ins for what is left.
    Where the CPU is not among that, the model of power is recorded beside it, for a run that turns out to use
    no GPU; it is never added to what was measured. EnergyError where a named meter, a named GPU, the
    boundary asked for or (`require_measured`) any measurement is not to be had. `sys_class` is where the
    kernel shows hwmon and batteries.
    """
    taken = _Taken()
    hwmon, supplies = sys_class / "hwmon", sys_class / "power_supply"
    arguments: dict[str, dict[str, object]] = {
        "nvml": {"nvml": nvml, "gpus": energy.gpus, "processes": processes, "clock": clock},
        "amd": {"amdsmi": amdsmi, "gpus": energy.gpus, "clock": clock},
        "rapl": {"root": rapl_root, "clock": clock},
        "apple": {},
        "hwmon": {"root": hwmon, "gpus": energy.gpus, "others": taken.read_already, "clock": clock},
        "battery": {"root": supplies, "clock": clock},
        "ipmi": {"clock": clock},
        "redfish": {"clock": clock},
        _MODELLED: {"processes": processes, "clock": clock},
    }
    if energy.meter != "auto":
        return _within(_named(energy, arguments), energy)
    for name in _measuring(amdsmi, hwmon=hwmon, supplies=supplies):
        taken.try_out(name, partial(_built_in, name, arguments))
    _require_gpus(energy, taken)
    for name in sorted(plugins.METERS.names() - METERS.keys()):
        taken.try_out(name, partial(_plug_in, name))
    if not taken.meters and energy.require_measured:
        raise EnergyError(
            "energy can't be measured here, and energy.require_measured forbids a model: "
            + "; ".join(f"{name}: {why}" for name, why in taken.refused),
            hint="run where one of them can be read, or allow a model: --set energy.require_measured=false "
            "(of a Monitor: require_measured=False)",
        )
    method: Literal["measured", "modelled"] = "measured" if taken.meters else "modelled"
    if not energy.require_measured and not any(
        domain.kind in {"cpu", "host"} for domain, _ in taken.domains.values()
    ):
        taken.meters[_MODELLED] = _built_in(_MODELLED, arguments)
    meters = tuple(taken.meters.values())
    seen = tuple(domain for domain, _ in taken.domains.values())
    selection = Selection(
        meters, method, tuple(taken.refused), tuple(_notes(meters)), seen, tuple(taken.unread.items())
    )
    return _within(selection, energy)


def _within(selection: Selection, energy: Wanted) -> Selection:
    """The same. EnergyError where a boundary was asked for that nothing here reads."""
    boundary = energy.boundary
    if boundary not in get_args(BoundaryName):
        raise ConfigError(
            f"there is no boundary {boundary!r}", hint=f"one of: {', '.join(get_args(BoundaryName))}"
        )
    if boundary != "auto" and not within(selection.domains, boundary):
        seen = ", ".join(domain.name for domain in selection.domains) or "nothing"
        left = [f"{name}: {why}" for name, why in (*selection.refused, *selection.unread)]
        raise EnergyError(
            f"energy.boundary is {boundary}, which no meter reads here ({seen} is read"
            + "".join(f"; {one}" for one in left)
            + ")",
            hint="llem doctor shows what each meter needs; or leave energy.boundary at auto",
        )
    return selection


def _measuring(amdsmi: Any, *, hwmon: Path, supplies: Path) -> Iterator[str]:
    """The built-in meters worth asking. One that belongs to other hardware would only be refused by name."""
    yield "nvml"
    if amdsmi is not None or Path("/dev/kfd").exists():
        yield "amd"
    yield "rapl"
    if sys.platform == "darwin":
        yield "apple"
    if has_sensors(hwmon):
        yield "hwmon"
    if has_battery(supplies):
        yield "battery"
    if bmc.has_controller() or f"{bmc.IPMI}_HOST" in os.environ:
        yield "ipmi"
    if f"{bmc.REDFISH}_URL" in os.environ:
        yield "redfish"


def _require_gpus(energy: Wanted, taken: _Taken) -> None:
    if isinstance(energy.gpus, str) or any(domain.kind == "gpu" for domain, _ in taken.domains.values()):
        return
    reasons = "; ".join(why for name, why in taken.refused if name in GPU_METERS)
    raise EnergyError(f"the GPUs in energy.gpus can't be read: {reasons}")


def _named(energy: Wanted, arguments: dict[str, dict[str, object]]) -> Selection:
    name = energy.meter
    meter = _built_in(name, arguments) if name in METERS else _plug_in(name)
    try:
        domains = _seen(name, meter)
    except EnergyError as error:
        raise EnergyError(
            f"the meter {name!r} can't be used: {_whole(error)}", hint="--meter auto uses what is available"
        ) from error
    modelled = any(domain.model is not None for domain in domains)
    if modelled and energy.require_measured:
        raise EnergyError(
            f"the meter {name!r} models energy, and energy.require_measured forbids that",
            hint="choose another meter, or --set energy.require_measured=false",
        )
    method: Literal["measured", "modelled"] = "modelled" if modelled else "measured"
    unread = tuple(_unread(meter).items())
    return Selection((meter,), method, (), tuple(_notes([meter])), domains, unread)


def _seen(name: str, meter: Meter) -> tuple[Domain, ...]:
    """What the meter sees, found out by opening it for a moment. EnergyError where it can't be used."""

    def look() -> tuple[Domain, ...]:
        why = meter.why_unavailable()
        if why is not None:
            raise EnergyError(why)
        with meter:
            return tuple(meter.domains())

    what = f"the meter {name!r}"
    if name not in METERS:
        with plugins.METERS.blamed(name, "broke when it was opened"):
            return bounded(look, _ANSWER_S, what=what)
    try:
        return bounded(look, _ANSWER_S, what=what)
    except EnergyError:
        raise
    except Exception as error:
        # A driver's binding is other people's code: this says whose it is.
        raise EnergyError(f"{what} broke when it was opened: {type(error).__name__}: {error}") from error


def _unread(meter: Meter) -> dict[str, str]:
    return dict(getattr(meter, "unread", {}))


def _notes(meters: Sequence[Meter]) -> Iterator[str]:
    for meter in meters:
        yield from getattr(meter, "notes", ())


def _built_in(name: str, arguments: dict[str, dict[str, object]]) -> Meter:
    module, attribute = METERS[name].split(":")
    return cast("Meter", getattr(import_module(module), attribute)(**arguments[name]))


def meter_names() -> list[str]:
    """Those that are built in, and those that are installed besides."""
    return [*METERS, *sorted(plugins.METERS.names() - METERS.keys())]


def _plug_in(name: str) -> Meter:
    if (meter := plugins.METERS.load(name)) is None:
        raise EnergyError(
            f"no meter is named {name!r}", hint=f"one of: auto, {', '.join(sorted(meter_names()))}"
        )
    with plugins.METERS.blamed(name, "can't be loaded"):
        return cast("Meter", meter())


def _whole(error: LLEMError) -> str:
    return f"{error.message} ({error.hint})" if error.hint else error.message
