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
    packages. `parts` is their sum, whichever there are. Where several hosts are read, each is taken by
    itself; what every host has (packages, memory, itself, the wall) none of them may be missing.
    """
    measured = [domain for domain in domains if domain.model is None and domain.kind in {*PARTS, *WHOLES}]
    modelled = [domain for domain in domains if domain.model is not None]
    hosts = [
        [one for one in measured if one.host == host] for host in dict.fromkeys(d.host for d in measured)
    ]
    parts = [_parts(mine) for mine in hosts]
    match boundary:
        case "auto":
            return _in_order(measured, map(_leading, hosts)) or tuple(modelled)
        case "parts":
            return _in_order(measured, parts)
        case "gpu+cpu+dram":
            kinds = [{domain.kind for domain in mine} for mine in parts]
            has_all = "gpu" in set().union(*kinds) and all({"cpu", "dram"} <= mine for mine in kinds)
            return _in_order(measured, parts) if has_all else ()
        case "gpu":
            return _of(measured, {"gpu"})
        case _:
            wholes = [_of(mine, {boundary}) for mine in hosts]
            return _in_order(measured, wholes) if all(wholes) else ()


def _leading(measured: Sequence[Domain]) -> tuple[Domain, ...]:
    """Of one host."""
    groups = (_parts(measured), *(_of(measured, {kind}) for kind in WHOLES))
    return next((group for group in groups if group), ())


def _parts(measured: Sequence[Domain]) -> tuple[Domain, ...]:
    parts = _of(measured, PARTS)
    kinds = {domain.kind for domain in parts}
    if "module" in kinds:
        return tuple(one for one in parts if (one.kind != "module") == ("gpu" in kinds))
    return parts


def _in_order(domains: Sequence[Domain], groups: Iterable[Sequence[Domain]]) -> tuple[Domain, ...]:
    taken = {domain.name for group in groups for domain in group}
    return tuple(domain for domain in domains if domain.name in taken)


def _of(domains: Sequence[Domain], kinds: Iterable[str]) -> tuple[Domain, ...]:
    wanted = set(kinds)
    return tuple(domain for domain in domains if domain.kind in wanted)
