"""The energy part of a result: which domains count, what they sum to, and what it cost per token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from llenergymeasure.analysis.codes import INVALIDATING
from llenergymeasure.analysis.estimates import half_width, ratio_over_passes, scaled, total
from llenergymeasure.analysis.health import device_warnings
from llenergymeasure.analysis.net import idle_level, net_of_idle
from llenergymeasure.analysis.phases import Phases, prefill_and_decode
from llenergymeasure.analysis.regression import no_token_costs, token_costs
from llenergymeasure.analysis.replicates import (
    output_tokens,
    per_replicate,
    requests,
    seconds,
    total_tokens,
)
from llenergymeasure.analysis.statistics import relative_half_width
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.energy.idle import idle_power
from llenergymeasure.energy.integrate import SHORTEST_S, boundary, energy_of, summed
from llenergymeasure.records import (
    Domain,
    EnergyReading,
    Estimate,
    Measurement,
    Pass,
    SessionFacts,
    Trace,
    Window,
)
from llenergymeasure.results.models import Energy, IdlePower, Regression

NO_SOURCE = "no meter on this machine reads energy and no model of power was allowed"


def counted_domains(
    domains: Sequence[Domain], config: ExperimentConfig, facts: SessionFacts
) -> tuple[Domain, ...]:
    """The domains that make up the run's energy: GPUs that the session used, or those asked for; packages
    and memory of this host; a model of power only where nothing is measured, since the two never mix. A
    module holds its GPU, the CPU and the memory beside it: it counts where its GPU is not read, and then
    the host's packages do not.
    """
    used = {f"gpu:{uuid}" for uuid in facts.gpu_uuids}
    asked = config.energy.gpus != "auto"
    counted = [
        domain for domain in domains if domain.kind not in {"gpu", "module"} or asked or domain.name in used
    ]
    measured = tuple(domain for domain in counted if domain.model is None)
    kinds = {domain.kind for domain in measured}
    if "module" in kinds:
        measured = tuple(one for one in measured if (one.kind != "module") == ("gpu" in kinds))
    return measured or tuple(counted)


def why_no_source(measurement: Measurement, domains: Sequence[Domain]) -> str:
    """Why no energy can be known where the `domains` that count are none."""
    config = measurement.config.energy
    left = [domain.name for domain in measurement.trace.domains]
    if domains or not left:
        return NO_SOURCE
    refused = ", though energy.require_measured is true" if config.require_measured else ""
    others = (
        "where the CPU can't be read, allow a model of it: --set energy.require_measured=false"
        if config.meter == "auto"
        else "read the CPU as well: --meter auto"
    )
    return (
        f"nothing was measured{refused}: energy.gpus is auto, and the engine used none of the GPUs that were "
        f"read ({', '.join(left)}); to count them all the same: --set energy.gpus=all; or {others}"
    )


def pass_joules(trace: Trace, domains: Sequence[Domain], passes: Sequence[Pass]) -> list[float] | None:
    """Joules of each pass over `domains`, or None when one of them is unknown."""
    joules = [
        total(
            [energy_of(trace, [one.window], domain.name).energy for domain in domains],
            unit="J",
            why_none=NO_SOURCE,
        ).value
        for one in passes
    ]
    known = [value for value in joules if value is not None]
    return known if len(known) == len(passes) else None


def costs_per_output_token(trace: Trace, domains: Sequence[Domain], passes: Sequence[Pass]) -> list[float]:
    """What the stopping rule looks at: joules per output token of each pass (of each cycle where there are
    several), or seconds per output token where no energy can be known.
    """
    spent = per_replicate(passes, pass_joules(trace, domains, passes) or seconds(passes))
    tokens = per_replicate(passes, output_tokens(passes))
    return [cost / max(count, 1) for cost, count in zip(spent, tokens, strict=True)]


def idle_watts(trace: Trace, window: Window) -> float | None:
    """Mean power of all domains that are measured; None where there is none or one can't be told."""
    parts = [idle_power(trace, window, domain.name) for domain in trace.domains if domain.model is None]
    return total(parts, unit="W", why_none=NO_SOURCE).value


def energy(measurement: Measurement) -> Energy:
    trace, passes = measurement.trace, measurement.passes
    domains = counted_domains(trace.domains, measurement.config, measurement.facts)
    why_none = why_no_source(measurement, domains)
    windows = [one.window for one in passes]
    readings = summed([energy_of(trace, windows, domain.name) for domain in domains])
    gross = total([reading.energy for reading in readings], unit="J", why_none=why_none)
    idle = _idle(measurement, domains)
    loaded = measurement.config.baseline.net == "loaded"
    chosen, window = (idle.loaded, measurement.idle.loaded) if loaded else (idle.bare, measurement.idle.bare)
    level = idle_level(trace, domains, window, chosen)
    spent = pass_joules(trace, domains, passes)
    phases = prefill_and_decode(
        trace, domains, passes, idle=level, chance=_chance(measurement, spent), why_none=why_none
    )
    reasons = _reasons(measurement, domains, readings, gross=gross)
    return Energy(
        boundary=boundary(readings),
        method=_method(readings),
        valid=not reasons,
        reasons=reasons,
        total=gross,
        net=net_of_idle(gross, level, sum(one.duration_s for one in windows), readings=readings),
        net_of=measurement.config.baseline.net,
        per_output_token=_per(measurement, gross, spent, output_tokens(passes), unit="J/token"),
        per_total_token=_per(measurement, gross, spent, total_tokens(passes), unit="J/token"),
        per_request=_per(measurement, gross, spent, requests(passes), unit="J/request"),
        prefill=phases.prefill,
        decode=phases.decode,
        idle=idle,
        load=total(
            [energy_of(trace, [measurement.load], domain.name).energy for domain in domains],
            unit="J",
            why_none=why_none,
        ),
        readings=readings,
        regression=_regression(measurement, domains, idle=chosen, phases=phases),
    )


def _regression(
    measurement: Measurement, domains: Sequence[Domain], *, idle: Estimate, phases: Phases
) -> Regression:
    window = measurement.idle.loaded if measurement.config.baseline.net == "loaded" else measurement.idle.bare
    why_none = why_no_source(measurement, domains)
    if window is None or idle.value is None:
        costs = no_token_costs(idle.reason or why_none)
    else:
        costs = token_costs(measurement.trace, domains, measurement.passes, idle=window, why_none=why_none)
    return Regression(
        prefill=costs.prefill,
        decode=costs.decode,
        batches=costs.batches,
        phases_prefill=phases.net_prefill,
        phases_decode=phases.net_decode,
    )


def _chance(measurement: Measurement, spent: Sequence[float] | None) -> float | None:
    """The relative half-width that the scatter of passes (or cycles) leaves on joules per token."""
    tokens = per_replicate(measurement.passes, total_tokens(measurement.passes))
    if spent is None or min(tokens) == 0:
        return None
    joules = per_replicate(measurement.passes, spent)
    return relative_half_width([cost / count for cost, count in zip(joules, tokens, strict=True)])


def _per(
    measurement: Measurement,
    gross: Estimate,
    spent: Sequence[float] | None,
    counts: Sequence[int],
    *,
    unit: str,
) -> Estimate:
    """Energy per thing: chance over passes, at least the sensor's resolution; systematic as in the total."""
    if gross.value is None or spent is None:
        return Estimate.missing(unit, gross.reason or "the energy of a single pass is unknown")
    if sum(counts) == 0:
        return Estimate.missing(unit, "nothing was produced")
    width = half_width(gross)
    config, passes = measurement.config, measurement.passes
    ratio = ratio_over_passes(
        per_replicate(passes, spent),
        per_replicate(passes, counts),
        unit=unit,
        first_stage=config.passes.minimum if config.cycles == 1 else config.cycles,
        resolution=width / gross.value if width and gross.value > 0 else 0.0,
    )
    if ratio.value is None:
        return ratio
    systematic = scaled(gross, 1 / sum(counts), unit).systematic
    return Estimate(ratio.value, unit, ratio.low, ratio.high, systematic, ratio.reason)


def _idle(measurement: Measurement, domains: Sequence[Domain]) -> IdlePower:
    def mean_power(window: Window | None) -> Estimate:
        if window is None:
            return Estimate.missing("W", "idle power was not measured: baseline.seconds is 0")
        parts = [idle_power(measurement.trace, window, domain.name) for domain in domains]
        power = total(parts, unit="W", why_none=why_no_source(measurement, domains))
        if power.value is None and window.duration_s < SHORTEST_S:
            return Estimate.missing("W", f"{power.reason}: lengthen baseline.seconds")
        return power

    idle = measurement.idle
    bare = mean_power(idle.bare)
    if any(domain.model is not None for domain in domains) and idle.bare is not None:
        bare = Estimate.missing(
            "W", "modelled energy counts the run's own processes, and before it there are none"
        )
    return IdlePower(bare=bare, loaded=mean_power(idle.loaded), after=mean_power(idle.after))


def _method(readings: Sequence[EnergyReading]) -> Literal["counter", "sampled", "modelled", "mixed"] | None:
    methods = {reading.method for reading in readings}
    if not methods:
        return None
    return methods.pop() if len(methods) == 1 else "mixed"


def _reasons(
    measurement: Measurement, domains: Sequence[Domain], readings: Sequence[EnergyReading], *, gross: Estimate
) -> tuple[str, ...]:
    """Why the energy must not be relied on; empty when it may be."""
    reasons = [] if gross.value is not None else [gross.reason or NO_SOURCE]
    for reading in readings:
        reasons += [f"{reading.domain}: {flag}" for flag in reading.flags if flag in INVALIDATING]
    seen = (*measurement.warnings, *device_warnings(measurement.trace, domains, measurement.passes))
    reasons += [f"{found.code}: {found.message}" for found in seen if found.code in INVALIDATING]
    return tuple(dict.fromkeys(reasons))
