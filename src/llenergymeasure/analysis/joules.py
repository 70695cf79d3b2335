"""The energy part of a result: what all runs sum to, what that is per token, and how well it is known."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Literal

from llenergymeasure.analysis.codes import INVALIDATING
from llenergymeasure.analysis.estimates import ratio_over_passes
from llenergymeasure.analysis.health import device_warnings
from llenergymeasure.analysis.latency import good_requests, why_no_goodput
from llenergymeasure.analysis.lead_in import leads_in
from llenergymeasure.analysis.net import net_of_idle
from llenergymeasure.analysis.phases import prefill_and_decode
from llenergymeasure.analysis.replicates import (
    Groups,
    joules,
    output_tokens,
    replicates,
    requests,
    seconds,
    total_tokens,
)
from llenergymeasure.analysis.run_energy import NO_SOURCE, RunEnergy, of_boundary
from llenergymeasure.analysis.server import server_part, server_warnings
from llenergymeasure.analysis.statistics import stein_count, t_half_width
from llenergymeasure.analysis.uncertainty import uncertainty
from llenergymeasure.config.load import SloConfig
from llenergymeasure.energy.boundary import NESTED
from llenergymeasure.energy.joules.amid import window_energy
from llenergymeasure.energy.joules.pool import added, boundary, estimate, reading
from llenergymeasure.records import Domain, EnergyReading, Estimate, Window
from llenergymeasure.results.models import Boundary, Energy, HostEnergy, IdlePower, Lack, Replicates

# What the result says one would take where no target was asked for.
USUAL_TARGET = 0.02
# The host that llem runs on, where there are others.
HERE = "here"


def energy(energies: Sequence[RunEnergy]) -> Energy:
    """Over all runs that were measured. Every run reads the same domains."""
    measurements = [one.measurement for one in energies]
    config, leads = measurements[0].config, lead_in(energies)
    readings = _readings(energies)
    gross = total_joules(energies)
    groups = replicates(measurements, leads=leads)
    spent = joules(energies, leads=leads)
    phases = prefill_and_decode(energies)
    reasons = _reasons(energies, readings, gross)
    per_token = _per(energies, gross, spent, output_tokens(groups), unit="J/token")
    return Energy(
        boundary=_boundary(readings, energies[0].domains, energies[0].lacks),
        method=_method(readings),
        valid=not reasons,
        reasons=reasons,
        total=gross,
        net=net_of_idle(gross, energies, config.baseline.net),
        net_of=config.baseline.net,
        per_output_token=per_token,
        per_total_token=_per(energies, gross, spent, total_tokens(groups), unit="J/token"),
        per_request=_per(energies, gross, spent, requests(groups), unit="J/request"),
        per_good_request=_per_good_request(energies, gross, spent, groups),
        prefill=phases.prefill,
        decode=phases.decode,
        idle=_idle(energies),
        load=_mean([_load(one) for one in energies]),
        readings=readings,
        hosts=tuple(_by_host(energies)),
        lacks=tuple(Lack(domain=name, reason=why) for name, why in energies[0].lacks.items()),
        boundaries=_boundaries(energies, leads=leads),
        replicates=Replicates(unit="run" if len(energies) > 1 else "pass", count=len(groups)),
        repeats_for_2_percent=_repeats_for(USUAL_TARGET, spent, groups, runs=len(energies)),
        uncertainty=uncertainty(
            energies, gross, per_token, _costs(spent, groups), first_stage=_first_stage(energies)
        ),
    )


def _readings(energies: Sequence[RunEnergy]) -> tuple[EnergyReading, ...]:
    blocks = [block for one in energies for block in one.of("full")]
    span = Window(blocks[0].block.window.start_ns, blocks[-1].block.window.end_ns)
    return tuple(
        reading(domain.name, span, [block.spent[domain.name] for block in blocks])
        for domain in energies[0].domains
    )


def _boundaries(energies: Sequence[RunEnergy], *, leads: int) -> tuple[Boundary, ...]:
    """Each boundary that every run has read, from the inside out; nothing where that is only one."""
    found: dict[frozenset[str], list[RunEnergy]] = {}
    for name in NESTED:
        runs = [of_boundary(one, name) for one in energies]
        (domains, *others) = {frozenset(domain.name for domain in one.domains) for one in runs}
        if domains and not others:
            found.setdefault(domains, runs)
    if len(found) < 2:
        return ()
    gpus = next((runs for runs in found.values() if {one.kind for one in runs[0].domains} == {"gpu"}), None)
    return tuple(_within(runs, None if runs is gpus else gpus, leads=leads) for runs in found.values())


def _within(runs: Sequence[RunEnergy], gpus: Sequence[RunEnergy] | None, *, leads: int) -> Boundary:
    readings, gross, spent = _readings(runs), total_joules(runs), joules(runs, leads=leads)
    counts = output_tokens(replicates([one.measurement for one in runs], leads=leads))
    return Boundary(
        boundary=_boundary(readings, runs[0].domains, runs[0].lacks) or "",
        method=_method(readings),
        valid=gross.value is not None
        and not any(flag in INVALIDATING for part in readings for flag in part.flags),
        total=gross,
        per_output_token=_per(runs, gross, spent, counts, unit="J/token"),
        to_gpu=None if gpus is None else _ratio(runs, gpus),
        readings=readings,
    )


def _ratio(runs: Sequence[RunEnergy], gpus: Sequence[RunEnergy]) -> Estimate:
    """Energy within one boundary over that of the GPUs, of the same windows.

    What both sensors leave open is independent, but for what errs the same way in every window; the scatter
    between three runs or more is another run's, of which the larger counts. Their gains do not cancel.
    """
    whole, inner = total_joules(runs), total_joules(gpus)
    if whole.value is None or inner.value is None:
        return Estimate.missing("×", (whole.reason if whole.value is None else inner.reason) or "")
    if inner.value <= 0:
        return Estimate.missing("×", "the GPUs took no energy")
    ratio = whole.value / inner.value
    (own, own_common), (theirs, theirs_common) = (
        _left_open(runs, whole.value),
        _left_open(gpus, inner.value),
    )
    parts = [(one.joules or 0.0, other.joules or 0.0) for one, other in zip(runs, gpus, strict=True)]
    chance = 0.0
    if len(parts) >= 3 and all(other > 0 for _, other in parts):
        chance = t_half_width([one / other for one, other in parts]) / ratio if ratio else 0.0
    half = abs(ratio) * (max(chance, math.hypot(own, theirs)) + own_common + theirs_common)
    bounds, inner_bounds = whole.systematic, inner.systematic or (inner.value, inner.value)
    systematic = None
    if (bounds or inner.systematic) and inner_bounds[0] > 0:
        low, high = bounds or (whole.value, whole.value)
        systematic = low / inner_bounds[1], high / inner_bounds[0]
    return Estimate.around(ratio, "×", half, systematic)


def _boundary(
    readings: Sequence[EnergyReading], domains: Sequence[Domain], lacks: Mapping[str, str]
) -> str | None:
    """Of a kind of which only a part is read, the boundary names the other part, and so it does of hosts."""
    whole = boundary(readings)
    kinds = (whole or "").split("+")
    missing = [name for name in lacks if name.partition(":")[0] in kinds or "/" in name]
    hosts = dict.fromkeys(domain.host or HERE for domain in domains)
    where = f" of {', '.join(hosts)}" if any(domain.host for domain in domains) else ""
    return f"{whole}{where} without {', '.join(missing)}" if missing else f"{whole}{where}" if whole else None


def _by_host(energies: Sequence[RunEnergy]) -> Iterator[HostEnergy]:
    """What each role took, or each host that has none; nothing where there is one host."""
    domains = energies[0].domains
    if not any(domain.host for domain in domains):
        return
    groups: dict[tuple[str | None, str], list[Domain]] = {}
    for domain in domains:
        name = domain.host or HERE
        groups.setdefault((domain.role, domain.role or name), []).append(domain)
    for (role, _), mine in groups.items():
        spent = [block.spent[domain.name] for one in energies for block in one.of("full") for domain in mine]
        hosts = tuple(dict.fromkeys(domain.host or HERE for domain in mine))
        yield HostEnergy(role=role, hosts=hosts, total=estimate(added(spent)))


def lead_in(energies: Sequence[RunEnergy]) -> int:
    """How many passes at the start of each run only lead in to the others: 0 or 1. Before the first window of
    a running load there was no silence that could have changed anything.
    """
    if energies[0].measurement.config.is_stream:
        return 0
    unsure = max((one.ends_apart for one in energies), default=0.0)
    return int(leads_in([one.costs for one in energies], at_least=unsure))


def total_joules(energies: Sequence[RunEnergy]) -> Estimate:
    """Of all full passes of these runs."""
    spent = [part for one in energies for part in one.spent("full")]
    return estimate(added(spent)) if spent else Estimate.missing("J", energies[0].why_none)


def _costs(spent: Sequence[float] | None, groups: Groups) -> list[float] | None:
    """Joules per output token of each unit of replication."""
    tokens = output_tokens(groups)
    if spent is None or not tokens or min(tokens) == 0:
        return None
    return [cost / count for cost, count in zip(spent, tokens, strict=True)]


def _repeats_for(target: float, spent: Sequence[float] | None, groups: Groups, *, runs: int) -> int | None:
    """How many runs the scatter of these asks for; None where there are too few to know it."""
    costs = _costs(spent or seconds(groups), groups)
    if costs is None or runs < 3:
        return None
    return stein_count(costs, target=target, minimum=1)


def _per(
    energies: Sequence[RunEnergy],
    gross: Estimate,
    spent: Sequence[float] | None,
    counts: Sequence[int],
    *,
    unit: str,
) -> Estimate:
    """Energy per thing: chance over runs (or passes), at least the sensor's resolution, and what errs the
    same way in all of them; systematic as in the total.
    """
    if gross.value is None or spent is None:
        return Estimate.missing(unit, gross.reason or "the energy of a single pass is unknown")
    if sum(counts) == 0:
        return Estimate.missing(unit, "nothing was produced")
    independent, common = _left_open(energies, gross.value)
    ratio = ratio_over_passes(
        spent,
        counts,
        unit=unit,
        first_stage=_first_stage(energies),
        resolution=independent,
        common=common,
    )
    if ratio.value is None or gross.systematic is None or not gross.value:
        return ratio
    low, high = (ratio.value * end / gross.value for end in gross.systematic)
    return Estimate(ratio.value, unit, ratio.low, ratio.high, (min(low, high), max(low, high)), ratio.reason)


def _per_good_request(
    energies: Sequence[RunEnergy], gross: Estimate, spent: Sequence[float] | None, groups: Groups
) -> Estimate | None:
    """All joules, those of the other requests among them, per request that kept the objectives."""
    config = energies[0].measurement.config
    if config.slo == SloConfig():
        return None
    good = good_requests(groups, config)
    if why := why_no_goodput(groups, config) or (None if any(good) else "no request kept every objective"):
        return Estimate.missing("J/request", why)
    return _per(energies, gross, spent, good, unit="J/request")


def _first_stage(energies: Sequence[RunEnergy]) -> int | None:
    """How many runs (or passes of a single one) fixed their number by Stein's rule; None without a target."""
    config = energies[0].measurement.config
    asked = config.repeats if len(energies) > 1 else config.passes
    return None if asked.target is None else asked.count


def _left_open(energies: Sequence[RunEnergy], joules_: float) -> tuple[float, float]:
    """Independent and common half-widths of the total, relative to it."""
    if joules_ <= 0:
        return 0.0, 0.0
    spent = [part for one in energies for part in one.spent("full")]
    independent = math.hypot(*(part.independent_j for part in spent))
    return independent / joules_, math.fsum(part.common_j for part in spent) / joules_


def _idle(energies: Sequence[RunEnergy]) -> IdlePower:
    spinning = [one.measurement.spinning_cores for one in energies]
    known = [cores for cores in spinning if cores is not None]
    return IdlePower(
        bare=_mean([one.bare for one in energies]),
        loaded=_mean([one.loaded for one in energies]),
        after=_mean([one.after for one in energies]),
        spinning=Estimate(fmean(known), "cores", reason="a fact of the engine, without an interval")
        if known
        else None,
    )


def _mean(parts: Sequence[Estimate]) -> Estimate:
    """The mean over runs: their scatter makes the interval where there are three, at least their own."""
    values = [part.value for part in parts if part.value is not None]
    if len(values) < len(parts):
        return next(part for part in parts if part.value is None)
    value, unit, count = fmean(values), parts[0].unit, len(values)
    widths = [part.half_width for part in parts if part.half_width is not None]
    ranges = [part.systematic for part in parts if part.systematic is not None]
    systematic = None
    if len(ranges) == count:
        systematic = fmean(low for low, _ in ranges), fmean(high for _, high in ranges)
    chance = t_half_width(values) if count >= 3 else 0.0
    if len(widths) < count:
        return Estimate(value, unit, systematic=systematic, reason=parts[0].reason)
    half = max(chance, math.hypot(*widths) / count)
    return Estimate.around(value, unit, half, systematic)


def _load(one: RunEnergy) -> Estimate:
    """Joules that bringing the model into memory took."""
    trace, window = one.measurement.trace, one.measurement.load
    parts = [window_energy(trace, domain.name, window) for domain in one.domains]
    return estimate(added(parts)) if parts else Estimate.missing("J", one.why_none)


def _method(readings: Sequence[EnergyReading]) -> Literal["counter", "sampled", "modelled", "mixed"] | None:
    methods = {part.method for part in readings}
    if not methods:
        return None
    return methods.pop() if len(methods) == 1 else "mixed"


def _reasons(
    energies: Sequence[RunEnergy], readings: Sequence[EnergyReading], gross: Estimate
) -> tuple[str, ...]:
    """Why the energy must not be relied on; empty when it may be."""
    reasons = [] if gross.value is not None else [gross.reason or NO_SOURCE]
    for part in readings:
        reasons += [f"{part.domain}: {flag}" for flag in part.flags if flag in INVALIDATING]
    for one in energies:
        seen = one.measurement
        found = (*seen.warnings, *device_warnings(seen.trace, one.domains, seen.passes))
        reasons += [f"{warning.code}: {warning.message}" for warning in found if warning.code in INVALIDATING]
    measurements = [one.measurement for one in energies]
    asked = server_warnings(server_part(measurements), measurements)
    reasons += [f"{warning.code}: {warning.message}" for warning in asked if warning.code in INVALIDATING]
    return tuple(dict.fromkeys(reasons))
