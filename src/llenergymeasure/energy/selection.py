"""Which meters read the energy of a run on this machine?"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Literal, cast

from llenergymeasure.config.models import EnergyConfig
from llenergymeasure.energy import METERS, Meter
from llenergymeasure.exceptions import EnergyError
from llenergymeasure.records import Clock

_MODELLED = "estimate"
_GROUP = "llenergymeasure.meters"


@dataclass(frozen=True, slots=True)
class Selection:
    """The meters to record, what their best figure is, and which were not taken: (name, why)."""

    meters: tuple[Meter, ...]
    method: Literal["measured", "modelled"]
    refused: tuple[tuple[str, str], ...]


def choose_meters(
    energy: EnergyConfig,
    *,
    processes: Callable[[], Sequence[int]],
    nvml: Any = None,
    rapl_root: Path | None = None,
    clock: Clock = time,
) -> Selection:
    """The meters that `energy` asks for. `processes` gives the root pids of the run, for the model of power.

    `auto` takes everything that measures. Where the CPU is not among that, the model of power is recorded
    beside it, for a run that turns out to use no GPU; it is never added to what was measured. EnergyError
    where a named meter, a named GPU or (`require_measured`) any measurement is not to be had.
    """
    arguments: dict[str, dict[str, object]] = {
        "nvml": {"nvml": nvml, "gpus": energy.gpus, "clock": clock},
        "rapl": {"root": rapl_root, "clock": clock},
        _MODELLED: {"processes": processes, "clock": clock},
    }
    if energy.meter != "auto":
        return _named(energy, arguments)
    refused: list[tuple[str, str]] = []
    taken: dict[str, Meter] = {}
    for name in ("nvml", "rapl"):
        meter = _built_in(name, arguments)
        why = meter.why_unavailable()
        if why is None:
            taken[name] = meter
        elif name == "nvml" and not isinstance(energy.gpus, str):
            raise EnergyError(f"the GPUs in energy.gpus can't be read: {why}")
        else:
            refused.append((name, why))
    if not taken and energy.require_measured:
        raise EnergyError(
            "energy can't be measured here, and energy.require_measured forbids a model: "
            + "; ".join(f"{name}: {why}" for name, why in refused),
            hint="grant access as said above, or allow a model: --set energy.require_measured=false",
        )
    method: Literal["measured", "modelled"] = "measured" if taken else "modelled"
    if "rapl" not in taken and not energy.require_measured:
        taken[_MODELLED] = _built_in(_MODELLED, arguments)
    return Selection(tuple(taken.values()), method, tuple(refused))


def _named(energy: EnergyConfig, arguments: dict[str, dict[str, object]]) -> Selection:
    name = energy.meter
    if name == _MODELLED and energy.require_measured:
        raise EnergyError(
            "the meter 'estimate' models energy, and energy.require_measured forbids that",
            hint="choose another meter, or --set energy.require_measured=false",
        )
    meter = _built_in(name, arguments) if name in METERS else _plug_in(name)
    why = meter.why_unavailable()
    if why is not None:
        raise EnergyError(f"the meter {name!r} can't be used: {why}", hint="--meter auto takes what there is")
    return Selection((meter,), "modelled" if name == _MODELLED else "measured", ())


def _built_in(name: str, arguments: dict[str, dict[str, object]]) -> Meter:
    module, attribute = METERS[name].split(":")
    return cast("Meter", getattr(import_module(module), attribute)(**arguments[name]))


def _plug_in(name: str) -> Meter:
    points = entry_points(group=_GROUP)
    for point in points:
        if point.name == name:
            return _loaded(point)
    names = sorted({*METERS, *(point.name for point in points)})
    raise EnergyError(f"no meter is named {name!r}", hint=f"one of: auto, {', '.join(names)}")


def _loaded(point: EntryPoint) -> Meter:
    try:
        return cast("Meter", point.load()())
    except Exception as error:  # a plug-in is other people's code: whatever it raises, this says whose it is
        raise EnergyError(f"the meter {point.name!r} ({point.value}) can't be loaded: {error}") from error
