"""Which domains lie within a boundary, so that no sum holds anything twice?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from llenergymeasure.records import Domain, DomainKind

# What may be added to each other, in the order in which a boundary's name has them. `host` and `wall` hold
# all of them, and each other.
PARTS: tuple[DomainKind, ...] = ("gpu", "module", "cpu", "dram")
WHOLES: tuple[DomainKind, ...] = ("host", "wall")
# All that one result may hold, from the inside to the outside.
NESTED = ("gpu", "parts", *WHOLES)


def within(domains: Sequence[Domain], boundary: str = "auto") -> tuple[Domain, ...]:
    """Those of `domains` that `boundary` takes in; none where a part that it names is missing.

    `auto` is the sum of the parts, else the host, else the wall, else what is modelled. A module holds its
    GPU, the CPU and the memory beside it: where a GPU is read the modules are left out, and else the host's
    packages. `parts` is their sum, whichever there are.
    """
    measured = [domain for domain in domains if domain.model is None]
    parts = _parts(measured)
    match boundary:
        case "auto":
            groups: Iterable[tuple[Domain, ...]] = (parts, *(_of(measured, {kind}) for kind in WHOLES))
            modelled = tuple(domain for domain in domains if domain.model is not None)
            return next((group for group in groups if group), modelled)
        case "parts":
            return parts
        case "gpu+cpu+dram":
            return parts if {"gpu", "cpu", "dram"} <= {domain.kind for domain in parts} else ()
        case _:
            return _of(measured, {boundary})


def _parts(measured: Sequence[Domain]) -> tuple[Domain, ...]:
    parts = _of(measured, PARTS)
    kinds = {domain.kind for domain in parts}
    if "module" in kinds:
        return tuple(one for one in parts if (one.kind != "module") == ("gpu" in kinds))
    return parts


def _of(domains: Sequence[Domain], kinds: Iterable[str]) -> tuple[Domain, ...]:
    wanted = set(kinds)
    return tuple(domain for domain in domains if domain.kind in wanted)
