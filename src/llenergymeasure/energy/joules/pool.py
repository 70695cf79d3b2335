"""What is the energy of several blocks, runs or domains together?"""

from __future__ import annotations

import math
from collections.abc import Sequence

from llenergymeasure.energy.boundary import PARTS, WHOLES
from llenergymeasure.energy.joules.spent import Spent, combined
from llenergymeasure.records import EnergyReading, Estimate, Window


def added(parts: Sequence[Spent]) -> Spent:
    """Blocks or runs of one domain together, or several domains; one that is unknown makes the sum unknown.

    Random errors add in quadrature, what errs the same way in all of them linearly, and systematic
    bounds as they are. A sum of counted and sampled energy is no better than sampled.
    """
    if not parts:
        raise ValueError("the sum of no energy at all was asked for")
    source = "+".join(dict.fromkeys(part.source for part in parts))
    method = max((part.method for part in parts), key=("counter", "sampled", "modelled").index)
    flags = tuple(dict.fromkeys(flag for part in parts for flag in part.flags))
    reasons = [part.reason or "" for part in parts if part.joules is None]
    if reasons:
        return Spent(source, method, None, flags=flags, reason=reasons[0])
    systematic = None
    if any(part.systematic is not None for part in parts):
        bounds = [part.systematic or (part.joules or 0.0, part.joules or 0.0) for part in parts]
        systematic = math.fsum(low for low, _ in bounds), math.fsum(high for _, high in bounds)
    return Spent(
        source,
        method,
        math.fsum(part.joules or 0.0 for part in parts),
        combined([part.terms for part in parts]),
        systematic=systematic,
        flags=flags,
    )


def estimate(spent: Spent) -> Estimate:
    """The energy with its 95 % interval, in joules."""
    if spent.joules is None:
        return Estimate.missing("J", spent.reason or "the energy is unknown")
    half = spent.half_width_j
    return Estimate(spent.joules, "J", spent.joules - half, spent.joules + half, spent.systematic)


def reading(domain: str, window: Window, parts: Sequence[Spent]) -> EnergyReading:
    """The energy of `parts` (blocks or runs of `domain`), which lie in `window`."""
    spent = added(parts)
    half = None if spent.joules is None else spent.half_width_j
    return EnergyReading(
        domain, spent.source, spent.method, window, estimate(spent), resolution_j=half, flags=spent.flags
    )


def summed(readings: Sequence[EnergyReading]) -> tuple[EnergyReading, ...]:
    """Those that may be added to each other without counting anything twice.

    What is measured goes before what is modelled. A module (GPU, CPU and memory on one board) is left out
    where its GPU is read; where it is not, it stands and the host's packages are left out instead. The host
    holds all of these, and the wall the host: each counts only where nothing within it is read. Each host is
    taken by itself.
    """
    measured = [reading for reading in readings if reading.method != "modelled"]
    if not measured:
        return tuple(readings)
    hosts = dict.fromkeys(map(_host, measured))
    taken = [one for host in hosts for one in _of_host([x for x in measured if _host(x) == host])]
    return tuple(reading for reading in measured if reading in taken)


def _of_host(measured: Sequence[EnergyReading]) -> tuple[EnergyReading, ...]:
    kinds = {_kind(reading) for reading in measured}
    if not kinds & {*PARTS}:
        first = next((whole for whole in WHOLES if whole in kinds), None)
        return tuple(reading for reading in measured if _kind(reading) == first)
    measured = [reading for reading in measured if _kind(reading) in PARTS]
    if "gpu" in kinds:
        return tuple(reading for reading in measured if _kind(reading) != "module")
    if "module" in kinds:
        return tuple(reading for reading in measured if _kind(reading) == "module")
    return tuple(measured)


def boundary(readings: Sequence[EnergyReading]) -> str | None:
    """What the sum over `summed(readings)` takes in, such as `gpu+cpu+dram` or `modelled`."""
    parts = summed(readings)
    if any(reading.method == "modelled" for reading in parts):
        return "modelled"
    kinds = {_kind(reading) for reading in parts}
    return "+".join(kind for kind in (*PARTS, *WHOLES) if kind in kinds) or None


def _host(reading: EnergyReading) -> str:
    """The name of another host, or nothing."""
    return reading.domain.partition(":")[0].rpartition("/")[0]


def _kind(reading: EnergyReading) -> str:
    """Without the name of another host before it."""
    return reading.domain.partition(":")[0].rpartition("/")[2]
