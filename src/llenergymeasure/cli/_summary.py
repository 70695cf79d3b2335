"""What does a person read of a result?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llenergymeasure.cli._format import amount, duration, plain, span
from llenergymeasure.records import Estimate
from llenergymeasure.results.models import Energy, ExperimentResult, Memory, Percentiles


@dataclass(frozen=True, slots=True)
class Row:
    label: str
    value: str
    note: str = ""
    strong: bool = False


def heading(result: ExperimentResult) -> str:
    config, facts = result.config, result.environment
    names = [gpu.name or gpu.uuid for gpu in facts.gpus if gpu.uuid in result.session.gpu_uuids]
    device = ", ".join(names) or (facts.cpu if result.session.device == "cpu" else None)
    where = f"{result.session.device} ({device})" if device else result.session.device
    simulated = " · simulated: no model ran, no sensor was read" if result.simulated else ""
    return f"{config.model} on {config.backend} · {config.precision} · {where}{simulated}"


def energy_rows(energy: Energy) -> Iterator[Row]:
    yield _energy_row("Energy per output token", energy.per_output_token, energy, strong=True)
    yield _energy_row("  reading a prompt token", energy.prefill, energy)
    yield _energy_row("  writing one after the first", energy.decode, energy)
    yield _energy_row(f"Energy, net of {energy.net_of} idle", energy.net, energy)
    total = _energy_row("Energy, total", energy.total, energy)
    if energy.total.value is not None:
        sources = ", ".join(sorted({reading.source for reading in energy.readings}))
        by = f"{energy.method} by {sources}" if sources else str(energy.method)
        total = Row(total.label, total.value, f"{by}; boundary {energy.boundary}")
    yield total
    modelled = is_modelled(energy)
    for name in ("bare", "loaded", "after"):
        idle: Estimate = getattr(energy.idle, name)
        yield Row(f"Idle power, {name}", amount(idle, modelled=modelled), _why(idle))
    for reason in () if energy.valid else energy.reasons:
        yield Row("Energy is not valid", "", reason, strong=True)


def speed_rows(result: ExperimentResult) -> Iterator[Row]:
    speed, tokens, passes = result.performance, result.tokens, len(result.window.passes)
    for label, estimate in (
        ("Output throughput", speed.output_tokens_per_second),
        ("Request throughput", speed.requests_per_second),
    ):
        yield Row(label, amount(estimate), _why(estimate))
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
        f"{duration(result.window.duration_s)}{pinned[tokens.pinned_ok]}",
    )
    flops = speed.flops
    if flops.total is None:
        yield Row("Arithmetic", "–", flops.reason or "")
    else:
        yield Row("Arithmetic", plain(flops.total, "FLOP"), flops.method or "")
    for label, share in (("FLOP utilisation", speed.mfu), ("Bandwidth utilisation", speed.mbu)):
        yield Row(label, amount(share), _why(share))
    yield _memory_row(result.memory)
    yield Row("Steady", "yes" if result.steady else "no", "" if result.steady else "warm-up ended at its cap")


def explanation(result: ExperimentResult) -> Iterator[str]:
    """What the signs mean and what the sums are made of, for those who ask."""
    yield "±  95 % interval of chance and sensor resolution; more passes narrow it"
    yield "≈  from a model of power, not from a sensor; its range is what the model may be off by"
    for reading in result.energy.readings:
        flags = f" ({', '.join(reading.flags)})" if reading.flags else ""
        shown = amount(reading.energy, modelled=reading.method == "modelled")
        yield f"{reading.domain}: {shown} from {reading.source}{flags}"
    for key, origin in result.origins.items():
        if origin != "default":
            yield f"{key} comes from {origin}"
    yield from result.notes


def is_modelled(energy: Energy) -> bool:
    return energy.method in {"modelled", "mixed"}


def _energy_row(label: str, estimate: Estimate, energy: Energy, *, strong: bool = False) -> Row:
    value = amount(estimate, modelled=is_modelled(energy))
    if estimate.value is None:
        return Row(label, value, _why(estimate), strong)
    words = {"modelled": "estimated, not measured", "mixed": "in part estimated, not measured"}
    said = words.get(energy.method or "")
    if (limits := span(estimate)) is not None:
        said = f"{limits}: {said}" if said else f"{limits} with the sensor's own error"
    return Row(label, value, "; ".join(part for part in (said, _why(estimate)) if part), strong)


def _latency_row(label: str, times: Percentiles) -> Row:
    if times.p50.value is None:
        return Row(label, "–", times.p50.reason or "")
    tail = times.p95
    return Row(
        label, amount(times.p50), f"p95 {amount(tail)}" if tail.value is not None else tail.reason or ""
    )


def _memory_row(memory: Memory) -> Row:
    if memory.peak_bytes is None:
        return Row("Peak memory", "–", memory.reason or "")
    parts = (("weights", memory.weights_bytes), ("cache", memory.kv_cache_bytes))
    known = [f"{name} {plain(size, 'B')}" for name, size in parts if size is not None]
    source = f"({memory.source})" if memory.source else ""
    return Row("Peak memory", plain(memory.peak_bytes, "B"), " ".join([", ".join(known), source]).strip())


def _why(estimate: Estimate) -> str:
    """Why the value is missing, or its interval."""
    return "" if estimate.value is not None and estimate.low is not None else estimate.reason or ""
