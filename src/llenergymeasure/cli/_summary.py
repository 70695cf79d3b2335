"""What does a person read of a result?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llenergymeasure.analysis.estimates import scaled
from llenergymeasure.cli._format import amount, duration, plain, span
from llenergymeasure.records import Estimate
from llenergymeasure.results.models import Energy, ExperimentResult, Memory, Percentiles, Regression


@dataclass(frozen=True, slots=True)
class Row:
    label: str
    value: str
    note: str = ""
    strong: bool = False


def heading(result: ExperimentResult) -> str:
    config, facts = result.config, result.environment
    names = [gpu.name or gpu.uuid for gpu in facts.gpus if gpu.uuid in result.session.gpu_uuids]
    precision = result.session.arguments.get("file_type") or config.precision
    head = f"{config.model} on {config.backend} · {precision}"
    if result.simulated:
        return f"{head} · simulated: no model ran, no sensor was read"
    device = ", ".join(names) or (facts.cpu if result.session.device == "cpu" else None)
    where = f"{result.session.device} ({device})" if device else result.session.device
    return f"{head} · {where}"


def energy_rows(energy: Energy) -> Iterator[Row]:
    """What it cost; where that is not valid, first of all why, and every value in brackets without ±."""
    for reason in () if energy.valid else energy.reasons:
        yield Row("Energy is not valid", "", reason, strong=True)
    yield _energy_row("Energy per output token", energy.per_output_token, energy, strong=energy.valid)
    yield _energy_row("  reading a prompt token", energy.prefill, energy)
    yield _energy_row("  writing one after the first", energy.decode, energy)
    yield _energy_row(f"Energy, net of {energy.net_of} idle", energy.net, energy)
    total = _energy_row("Energy, total", energy.total, energy)
    if energy.total.value is not None:
        sources = ", ".join(sorted({reading.source for reading in energy.readings}))
        by = f"{energy.method} by {sources}" if sources else str(energy.method)
        said = "" if energy.valid else "not valid; "
        total = Row(total.label, total.value, f"{said}{by}; boundary {energy.boundary}")
    yield total
    for name in ("bare", "loaded", "after"):
        idle: Estimate = getattr(energy.idle, name)
        yield Row(f"Idle power, {name}", _joules(idle, energy), idle.reason or "")


def footprint_rows(result: ExperimentResult) -> Iterator[Row]:
    """What was asked to be derived from the joules, each with its factor and where that comes from."""
    derived, energy, asked = result.footprint, result.energy, result.config.footprint
    if derived is None:
        return
    building = f", PUE {derived.pue:g}" if derived.pue != 1 else ""
    if asked.grid_g_per_kwh is not None or asked.zone is not None:
        grid = "" if derived.grid_g_per_kwh is None else f"{derived.grid_g_per_kwh:g} g/kWh{building}"
        source = f", {derived.grid_source}" if grid else ""
        yield _derived_row("Carbon, total", derived.carbon_g, energy, by=f"{grid}{source}")
        yield _derived_row("  per million output tokens", _million(derived.carbon_per_output_token_g), energy)
    if asked.price_per_kwh is not None:
        price = f"{asked.price_per_kwh:g} {asked.currency}/kWh{building}"
        yield _derived_row("Cost, total", derived.cost, energy, by=price)
        yield _derived_row("  per million output tokens", _million(derived.cost_per_output_token), energy)


def speed_rows(result: ExperimentResult) -> Iterator[Row]:
    speed, tokens, passes = result.performance, result.tokens, len(result.window.passes)
    for label, estimate in (
        ("Output throughput", speed.output_tokens_per_second),
        ("Request throughput", speed.requests_per_second),
    ):
        yield Row(label, amount(estimate), estimate.reason or "")
    for label, times in (
        ("Time to first token", speed.ttft_s),
        ("Time per output token", speed.tpot_s),
        ("End to end", speed.e2e_s),
    ):
        yield _latency_row(label, times)
    pinned = {True: "; lengths pinned", False: "; lengths not pinned", None: "; natural lengths"}
    yield Row(
        "Tokens",
        f"{tokens.input:,} in, {tokens.output:,} out",
        f"{tokens.requests:,} requests in {passes} pass{'es' if passes != 1 else ''}, "
        f"{duration(result.window.duration_s)}{pinned[tokens.pinned_ok]}"
        f"{'; counts disputed' if tokens.disputed else ''}{_cut(result)}",
    )
    flops = speed.flops
    if flops.total is None:
        yield Row("Arithmetic", "–", flops.reason or "")
    else:
        yield Row("Arithmetic", plain(flops.total, "FLOP"), flops.method or "")
    for label, share in (("FLOP utilisation", speed.mfu), ("Bandwidth utilisation", speed.mbu)):
        yield Row(label, amount(share), share.reason or "")
    yield _memory_row(result.memory)
    yield Row("Steady", "yes" if result.steady else "no", "" if result.steady else "warm-up ended at its cap")


def _cut(result: ExperimentResult) -> str:
    count, most = result.tokens.cut_prompts, result.config.max_input_tokens
    return f"; {count} prompt{'s' if count != 1 else ''} of {result.config.n} cut to {most}" if count else ""


def explanation(result: ExperimentResult) -> Iterator[str]:
    """What the signs mean and what the sums are made of, for those who ask."""
    energy = result.energy
    yield from _signs(energy, cycles=_cycles(result))
    yield f"times: median and p95 of {result.performance.e2e_s.count} requests, by linear interpolation"
    yield from _cross_check(result.energy)
    for reading in energy.readings:
        flags = f" ({', '.join(reading.flags)})" if reading.flags else ""
        yield f"{reading.domain}: {_joules(reading.energy, energy)} from {reading.source}{flags}"
    origins = {key: origin for key, origin in result.origins.items() if origin != "default"}
    for origin in dict.fromkeys(origins.values()):
        yield f"from {origin}: {', '.join(key for key, whence in origins.items() if whence == origin)}"
    yield from result.notes


def _cycles(result: ExperimentResult) -> int:
    """How many processes ran; those asked for where the passes do not tell."""
    ran = {one.cycle for one in result.window.passes}
    return result.config.cycles if None in ran else len(ran)


def _signs(energy: Energy, *, cycles: int) -> Iterator[str]:
    yield "±  95 % interval of chance and sensor resolution; " + (
        "from passes in one process, and another may differ by more: --set cycles=5 tells"
        if cycles == 1
        else "from cycles, a fresh process each; more of them narrow it"
    )
    if energy.total.systematic is not None:
        yield "a to b  what an uncalibrated sensor or a model of power may hide; more passes don't narrow it"
    if is_modelled(energy):
        yield "≈  from a model of power, not from a sensor"
    yield "–  missing, which is not 0; the reason stands beside it"
    if not energy.valid:
        yield "( )  not valid: wrong by an amount that can't be stated, so that no interval holds"


def _cross_check(energy: Energy) -> Iterator[str]:
    """What a token costs by both ways, or why it can't be told by one of them."""
    found = energy.regression
    if not isinstance(found, Regression):
        return
    ways = (
        ("by the times of the phases", found.phases_prefill, found.phases_decode),
        (f"by regression over {found.batches:,} batches", found.prefill, found.decode),
    )
    for way, prefill, decode in ways:
        why = prefill.reason if prefill.value is None else decode.reason if decode.value is None else None
        told = " and ".join(_joules(one, energy) for one in (prefill, decode))
        yield f"net of {energy.net_of} idle, prompt and output token {way}: {why or told}"


def is_modelled(energy: Energy) -> bool:
    return energy.method in {"modelled", "mixed"}


def _energy_row(label: str, estimate: Estimate, energy: Energy, *, strong: bool = False) -> Row:
    value = _joules(estimate, energy)
    if estimate.value is None:
        return Row(label, value, estimate.reason or "", strong)
    if not energy.valid:
        return Row(label, value, "not valid", strong)
    words = {"modelled": "estimated, not measured", "mixed": "in part estimated, not measured"}
    said = words.get(energy.method or "")
    if (limits := span(estimate)) is not None:
        said = f"{limits}: {said}" if said else f"{limits} with the sensor's own error"
    return Row(label, value, _listed(said, estimate.reason), strong)


def _derived_row(label: str, estimate: Estimate, energy: Energy, *, by: str = "") -> Row:
    why = estimate.reason if energy.valid or estimate.value is None else "not valid"
    return Row(label, _joules(estimate, energy), _listed(span(estimate) if energy.valid else None, by, why))


def _million(per_token: Estimate) -> Estimate:
    """What a million tokens cost: a single one costs too little to be read."""
    return scaled(per_token, 1e6, per_token.unit.removesuffix("/token"))


def _joules(estimate: Estimate, energy: Energy) -> str:
    """A value of the energy part, in brackets and without its interval where it is not valid."""
    if energy.valid or estimate.value is None:
        return amount(estimate, modelled=is_modelled(energy))
    bare = Estimate(estimate.value, estimate.unit, reason="not valid")
    return f"({amount(bare, modelled=is_modelled(energy))})"


def _latency_row(label: str, times: Percentiles) -> Row:
    if times.p50.value is None:
        return Row(label, "–", times.p50.reason or "")
    tail = f"p95 {amount(times.p95)}" if times.p95.value is not None else times.p95.reason
    return Row(label, amount(times.p50), _listed(f"median, {tail}", times.p50.reason))


def _memory_row(memory: Memory) -> Row:
    if memory.peak_bytes is None:
        return Row("Peak memory", "–", memory.reason or "")
    parts = (("weights", memory.weights_bytes), ("cache", memory.kv_cache_bytes))
    known = [f"{name} {plain(size, 'B')}" for name, size in parts if size is not None]
    source = f"({memory.source})" if memory.source else ""
    return Row("Peak memory", plain(memory.peak_bytes, "B"), " ".join([", ".join(known), source]).strip())


def _listed(*parts: str | None) -> str:
    return "; ".join(part for part in parts if part)
