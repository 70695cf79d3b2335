"""What does a person read of a result: which rows, numbers and units, on a screen and in a notebook?

Long because each row says its number, its unit and its note, in the order of the screen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from llenergymeasure.records import Estimate
from llenergymeasure.records.dataset import counted
from llenergymeasure.records.figures import amount, duration, led_by_range, plain, relative, span
from llenergymeasure.results.models import Boundary, Energy, ExperimentResult, Memory, Percentiles, RunPart

WITHIN = "within this process"
MISSING = "–"
# Fewer cores that spin while the model is idle are shown as none.
VISIBLE_CORES = 0.005


@dataclass(frozen=True, slots=True)
class Row:
    """`gap` is why the value, or its interval, is missing."""

    label: str
    value: str
    note: str = ""
    strong: bool = False
    gap: str = ""


def columns(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Rows with their cells aligned; the last cell of a row may have any length."""
    rows = list(rows)
    most = max((len(row) for row in rows), default=0)
    widths = [max((len(row[at]) for row in rows if at < len(row) - 1), default=0) for at in range(most)]
    for row in rows:
        padded = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)]
        yield "  ".join([*padded, row[-1]]).rstrip()


def some(names: Sequence[str], most: int = 5) -> str:
    shown, more = ", ".join(names[:most]), len(names) - most
    return f"{shown} and {more} more" if more > 0 else shown


def as_text(result: ExperimentResult) -> str:
    """The whole summary, without a terminal's width or marks."""
    rows = [row for part in sections(result) for row in part]
    warnings = [f"Warning: {one.message} ({one.code}); {one.remedy}" for one in result.warnings]
    table = columns((row.label, row.value, row.note) for row in rows)
    return "\n".join([heading(result), "", *table, *legend(result.energy), *warnings])


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


def sections(result: ExperimentResult) -> tuple[list[Row], list[Row]]:
    """What it cost, and how fast it was. What is missing takes one line, and a reason that several intervals
    lack for is written once.
    """
    energy = [*_energy_rows(result), *_footprint_rows(result)]
    speed = list(_speed_rows(result))
    often = Counter(row.gap for row in (*energy, *speed) if row.gap and row.value not in {"", MISSING})
    once = {gap for gap, count in often.items() if count > 1}
    for part in (energy, speed):
        part[:] = [replace(row, gap="") if row.gap in once and row.value != MISSING else row for row in part]
    energy += [Row("No interval", "", gap) for gap in once]
    return [_with_gap(row) for row in energy], [_with_gap(row) for row in _folded(speed)]


def _with_gap(row: Row) -> Row:
    return replace(row, note=_listed(row.note, row.gap), gap="")


def _folded(rows: Sequence[Row]) -> Iterator[Row]:
    missing = [row for row in rows if row.value == MISSING]
    yield from (row for row in rows if row.value != MISSING)
    reasons = {row.gap for row in missing}
    names = ", ".join(row.label for row in missing)
    if len(missing) == 1 or (missing and len(reasons) == 1):
        yield Row("Not available", "", f"{names}: {reasons.pop()}")
    elif missing:
        yield Row("Not available", "", f"{names} (--verbose gives the reasons)")


def _energy_rows(result: ExperimentResult) -> Iterator[Row]:
    """What it cost; where that is not valid, first of all why, and every value in brackets without ±."""
    energy = result.energy
    scatter = WITHIN if of_one_process(result) else "between runs"
    for reason in () if energy.valid else energy.reasons:
        yield Row("Energy is not valid", "", reason, strong=True)
    costs = [
        ("Energy per output token", energy.per_output_token),
        ("Prefill, per prompt token", energy.prefill),
        ("Decode, per output token", energy.decode),
    ]
    if result.config.load is not None:
        costs.append(("Energy per request", energy.per_request))
    if energy.per_good_request is not None:
        costs.append(("Energy per good request", energy.per_good_request))
    words = {"modelled": "estimated, not measured", "mixed": "in part estimated, not measured"}
    for label, cost in costs:
        first = cost is energy.per_output_token
        said = words.get(energy.method or "", _alone(energy)) if first and cost.value is not None else None
        yield _cost_row(label, cost, energy, said=said, scatter=scatter, strong=first)
    if energy.per_correct_answer is not None:
        yield _cost_row("Energy per correct answer", energy.per_correct_answer, energy)
    yield _cost_row(f"Energy, net of {energy.net_of} idle", energy.net, energy)
    spinning = energy.idle.spinning
    if spinning is not None and (spinning.value or 0.0) >= VISIBLE_CORES:
        yield Row(
            "  spinning while idle", _joules(spinning, energy), "the engine's waiting threads; not in net"
        )
    sources = ", ".join(sorted({reading.source for reading in energy.readings}))
    by = f"{energy.method} by {sources}" if sources else f"{energy.method}"
    known = energy.total.value is not None
    yield _cost_row(
        "Energy, total", energy.total, energy, said=f"{by}; boundary {energy.boundary}" if known else None
    )
    for part in energy.hosts:
        where = ", ".join(part.hosts)
        label = f"  of it {part.role}" if part.role else f"  of it {where}"
        yield _cost_row(label, part.total, energy, said=where if part.role else None)
    yield from _boundary_rows(energy)
    idle = [
        Row(f"Idle power, {name}", _joules(one, energy), gap=one.reason or "")
        for name, one in (
            ("bare", energy.idle.bare),
            ("loaded", energy.idle.loaded),
            ("after", energy.idle.after),
        )
    ]
    yield from _folded(idle)


def _alone(energy: Energy) -> str | None:
    """What a figure leaves out that is of GPUs alone."""
    is_alone = (energy.boundary or "").partition(" ")[0] == "gpu"
    return "of the GPU alone, without the machine around it" if is_alone else None


def _boundary_rows(energy: Energy) -> Iterator[Row]:
    """The same work within the other boundaries that were read, and how much of it is the GPUs'."""
    for one in energy.boundaries:
        if one.boundary == energy.boundary:
            continue
        cost, ratio = one.per_output_token, one.to_gpu
        value = amount(cost) if one.valid else f"({amount(cost)})" if cost.value is not None else MISSING
        sources = ", ".join(sorted({reading.source for reading in one.readings}))
        compared = None if ratio is None or ratio.value is None else f"{one.boundary} : gpu {amount(ratio)}"
        note = _listed(compared, f"{one.method} by {sources}", _why_not_valid(one))
        yield Row(f"  within {one.boundary}", value, note, gap=cost.reason or "")
    leading = next((one for one in energy.boundaries if one.boundary == energy.boundary), None)
    if leading is not None and leading.to_gpu is not None and leading.to_gpu.value is not None:
        yield Row(f"  {leading.boundary} : gpu", amount(leading.to_gpu))


def _why_not_valid(one: Boundary) -> str | None:
    if one.valid or one.per_output_token.value is None:
        return None
    flags = dict.fromkeys(flag for reading in one.readings for flag in reading.flags)
    return f"not valid: {', '.join(flags)}" if flags else "not valid"


def legend(energy: Energy) -> Iterator[str]:
    """What the brackets hold, where any value has them."""
    shown = [energy.per_output_token, energy.prefill, energy.decode, energy.net, energy.total]
    shown += [] if energy.per_good_request is None else [energy.per_good_request]
    if energy.valid and any(led_by_range(estimate) for estimate in shown):
        source = "a model of power, not a sensor" if is_modelled(energy) else "the sensor's systematic error"
        yield (
            f"(a to b): the true value may lie anywhere in this range, which comes from {source}; "
            "repetition does not narrow it"
        )


def _footprint_rows(result: ExperimentResult) -> Iterator[Row]:
    """What was asked to be derived from the joules, each with its factor and where that comes from."""
    derived, energy, asked = result.footprint, result.energy, result.config.footprint
    if derived is None:
        return
    building = f", PUE {derived.pue:g}" if derived.pue != 1 else ""
    if asked.grid_g_per_kwh is not None or asked.zone is not None:
        grid = "" if derived.grid_g_per_kwh is None else f"{derived.grid_g_per_kwh:g} g/kWh{building}"
        source = f", {derived.grid_source}" if grid else ""
        yield _derived_row("Carbon, total", derived.carbon_g, energy, by=f"{grid}{source}")
        yield _derived_row(
            "  per million output tokens", derived.carbon_per_output_token_g.times(1e6, "g"), energy
        )
    if asked.price_per_kwh is not None:
        price = f"{asked.price_per_kwh:g} {asked.currency}/kWh{building}"
        yield _derived_row("Cost, total", derived.cost, energy, by=price)
        cost = derived.cost_per_output_token.times(1e6, asked.currency)
        yield _derived_row("  per million output tokens", cost, energy)


def _speed_rows(result: ExperimentResult) -> Iterator[Row]:
    speed, tokens = result.performance, result.tokens
    yield from _run_rows(result)
    for label, estimate in (
        ("Output throughput", speed.output_tokens_per_second),
        ("Request throughput", speed.requests_per_second),
        ("Goodput", speed.goodput_per_s),
    ):
        if estimate is not None:
            within = WITHIN if estimate.low is not None and of_one_process(result) else None
            asked = _objectives(result) if estimate is speed.goodput_per_s else None
            yield Row(label, amount(estimate), _listed(within, asked), gap=estimate.reason or "")
    for label, times in (
        ("Time to first token", speed.ttft_s),
        ("Time per output token", speed.tpot_s),
        ("Time between tokens", speed.itl_s),
        ("Time between chunks", speed.chunk_s),
        ("End to end", speed.e2e_s),
    ):
        if times is not None:
            yield _latency_row(label, times)
    if result.config.load is not None:
        late = result.overhead.schedule_lag_p99_s
        by = "" if late is None else f"99 % of the requests were sent at most {plain(late, 's')} late"
        yield Row("Load", result.config.load.in_words, by)
    if speed.in_flight_mean is not None:
        most = f"on average, {speed.in_flight_most} at most"
        yield Row("Requests on their way", f"{speed.in_flight_mean:.3g}", most)
    pinned = {True: "lengths pinned", False: "lengths not pinned", None: "natural lengths"}
    yield Row(
        "Tokens",
        f"{tokens.input:,} in, {tokens.output:,} out",
        _listed(
            f"{tokens.requests:,} requests in {duration(result.duration_s)}",
            pinned[tokens.pinned_ok] if tokens.requests else None,
            "counts disputed" if tokens.disputed else None,
            _cut(result),
        ),
    )
    yield from _server_rows(result)
    yield from _quality_rows(result)
    if result.dataset is not None and (notes := list(result.dataset.notes())):
        count = result.dataset.prompts or result.config.n
        yield Row("Prompts", f"{count} of {result.config.prompts_from}", _listed(*notes))
    flops = speed.flops
    if flops.total is None:
        yield Row("Arithmetic", MISSING, gap=flops.reason or "")
    else:
        by = (flops.method or "").removeprefix("architecture formula: ")
        yield Row("Arithmetic", plain(flops.total, "FLOP"), by)
    for label, share in (("FLOP utilisation", speed.mfu), ("Bandwidth utilisation", speed.mbu)):
        yield Row(label, amount(share), gap=share.reason or "")
    yield _memory_row(result.memory)
    yield Row("Steady", "yes" if result.steady else "no", "" if result.steady else "warm-up ended at its cap")


def _server_rows(result: ExperimentResult) -> Iterator[Row]:
    """What the server counted, from the first request to the last."""
    server = result.server
    if server is None:
        return
    mine, others = server.client, server.other_requests
    if server.prompt_tokens is not None and server.output_tokens is not None:
        alike = (server.prompt_tokens, server.output_tokens) == (mine.prompt_tokens, mine.output_tokens)
        told = f"{mine.prompt_tokens:,} in, {mine.output_tokens:,} out"
        yield Row(
            "Server's own count",
            f"{server.prompt_tokens:,} in, {server.output_tokens:,} out",
            _listed(
                "with the warm-up",
                "its answers add up to the same" if alike else f"its answers add up to {told}",
                f"{counted(others, 'request')} of other clients" if others else None,
            ),
        )
    if server.cache_hit_share:
        yield Row("Prefix cache", f"{100 * server.cache_hit_share:.3g} %", "of prompt tokens came from it")
    if server.acceptance_length is not None:
        accepted, drafted = server.accepted_tokens or 0, server.draft_tokens or 0
        share = f"{100 * accepted / drafted:.3g} % of {drafted:,} drafted tokens accepted" if drafted else ""
        yield Row("Speculative decoding", f"{server.acceptance_length:.3g} token/step", share)


def _objectives(result: ExperimentResult) -> str:
    stated = result.config.slo.model_dump(exclude_none=True)
    return ", ".join(f"{name} ≤ {duration(limit)}" for name, limit in stated.items())


def _quality_rows(result: ExperimentResult) -> Iterator[Row]:
    found = result.quality
    if found is None:
        return
    by = ", ".join(f"{one.correct} of {one.judged} by {one.matcher}" for one in found.matchers)
    cut = "answers cut or padded: output_length is exact" if found.cut_or_padded else ""
    one = found.accuracy
    if one.value is None or one.low is None or one.high is None:
        yield Row("Accuracy", MISSING, gap=one.reason or "")
        return
    ends = f"{100 * one.low:.3g} to {100 * one.high:.3g} % (Wilson, {counted(found.prompts, 'prompt')})"
    yield Row("Accuracy", f"{100 * one.value:.3g} %", _listed(ends, by, cut))


def failures(result: ExperimentResult) -> list[str]:
    """Which runs of how many failed, each with its reason."""
    failed = [run for run in result.runs if run.outcome != "measured"]
    if not failed:
        return []
    asked = max(len(result.runs), result.config.repeats.count)
    return [
        f"run {run.index} of {asked} {run.outcome}: {run.reason or 'no reason was recorded'}"
        for run in failed
    ]


def _run_rows(result: ExperimentResult) -> Iterator[Row]:
    """How often it was measured, what failed, and how many repeats a narrower interval would take."""
    measured, energy = result.measured, result.energy
    passes = sorted({len(run.window.passes) for run in measured if run.window is not None}) or [0]
    each = f"{passes[0]}" if passes[0] == passes[-1] else f"{passes[0]} to {passes[-1]}"
    one, several = ("window", "windows") if result.config.is_stream else ("pass", "passes")
    of = f"of {each} {one if passes == [1] else several}"
    runs = f"{len(measured)} runs {of}" if len(measured) != 1 else f"1 run {of}"
    wanted = energy.repeats_for_2_percent
    more = f"± 2 % would take about {wanted:,} repeats" if (wanted or 0) > len(measured) else None
    yield Row("Runs", runs, _listed("each a fresh process" if len(measured) > 1 else "one process", more))
    for said in failures(result):
        yield Row("", "", said, strong=True)


def _cut(result: ExperimentResult) -> str:
    count, most = result.tokens.cut_prompts, result.config.max_input_tokens
    return f"{count} prompt{'s' if count != 1 else ''} of {result.config.n} cut to {most}" if count else ""


def explanation(result: ExperimentResult) -> Iterator[str]:
    """What the signs mean and what the sums are made of, for those who ask."""
    energy = result.energy
    yield from _signs(energy, single=of_one_process(result))
    yield f"times: median and p95 of {result.performance.e2e_s.count} requests, by linear interpolation"
    if len(result.runs) > 1:
        yield from columns(_run_table(result.runs))
    for label, reason in _missing(result):
        yield f"{MISSING}  {label}: {reason}"
    for reading in energy.readings:
        flags = f" ({', '.join(reading.flags)})" if reading.flags else ""
        yield f"{reading.domain}: {_joules(reading.energy, energy)} from {reading.source}{flags}"
    origins = {key: origin for key, origin in result.origins.items() if origin != "default"}
    for origin in dict.fromkeys(origins.values()):
        yield f"from {origin}: {', '.join(key for key, source in origins.items() if source == origin)}"
    yield from result.notes


def _missing(result: ExperimentResult) -> Iterator[tuple[str, str | None]]:
    """What the summary names in one line, each with its reason."""
    idle, speed, memory = result.energy.idle, result.performance, result.memory
    for label, one in (
        ("Idle power, bare", idle.bare),
        ("Idle power, loaded", idle.loaded),
        ("Idle power, after", idle.after),
        ("Time to first token", speed.ttft_s.p50),
        ("Time per output token", speed.tpot_s.p50),
        ("FLOP utilisation", speed.mfu),
        ("Bandwidth utilisation", speed.mbu),
    ):
        if one.value is None:
            yield label, one.reason
    if speed.flops.total is None:
        yield "Arithmetic", speed.flops.reason
    if memory.peak_bytes is None:
        yield "Peak memory", memory.reason
    if result.server is not None and result.server.reason is not None:
        yield "Server's own count", result.server.reason


def _signs(energy: Energy, *, single: bool) -> Iterator[str]:
    yield "±  95 % interval of random error and sensor resolution; " + (
        "from passes in one process, and another may differ by more: --set repeats.count=3"
        if single
        else "from runs in a fresh process each; more of them narrow it"
    )
    if energy.total.systematic is not None:
        yield "(a to b)  systematic error of the sensor or of a model of power; repetition does not narrow it"
    if is_modelled(energy):
        yield "≈  from a model of power, not from a sensor"
    yield "–  missing, which is not 0"
    if not energy.valid:
        yield "( )  not valid: wrong by an unknown amount, so that no interval holds"


def _run_table(runs: Sequence[RunPart]) -> Iterator[Sequence[str]]:
    """What each run alone gave."""
    units = ("J/token", "token/s", "s", "s", "s")
    yield "run", "energy", "throughput", "TTFT", "TPOT", "end to end", ""
    for run in runs:
        found = [None] * len(units) if run.figures is None else [value for _, value in run.figures]
        cells = ["–" if one is None else plain(one, unit) for one, unit in zip(found, units, strict=True)]
        remark = (
            run.reason or "" if run.outcome != "measured" else "not steady" if run.steady is False else ""
        )
        yield f"{run.index}", *cells, remark


def of_one_process(result: ExperimentResult) -> bool:
    """Whether the intervals come from passes of one process, and do not cover another one."""
    replicates = result.energy.replicates
    return len(result.measured) == 1 if replicates is None else replicates.unit == "pass"


def is_modelled(energy: Energy) -> bool:
    return energy.method in {"modelled", "mixed"}


def _cost_row(
    label: str,
    estimate: Estimate,
    energy: Energy,
    *,
    said: str | None = None,
    scatter: str = "",
    strong: bool = False,
) -> Row:
    """`scatter` says where the ± of a cost comes from; that of a sum is the resolution of its windows."""
    value = _joules(estimate, energy)
    if estimate.value is None:
        return Row(label, value, "", strong, estimate.reason or "")
    if not energy.valid:
        return Row(label, value, _listed("not valid", said), strong)
    if led_by_range(estimate):
        share = relative(estimate)
        parts = [f"{share} {scatter}".rstrip() if share else None]
    else:
        limits = span(estimate)
        within = scatter if scatter == WITHIN and estimate.low is not None else None
        parts = [within, f"{limits} systematic" if limits else None]
    return Row(label, value, _listed(said, *parts), strong, estimate.reason or "")


def _derived_row(label: str, estimate: Estimate, energy: Energy, *, by: str = "") -> Row:
    row = _cost_row(label, estimate, energy)
    return replace(row, note=_listed(by, row.note))


def _joules(estimate: Estimate, energy: Energy) -> str:
    """A value of the energy part, in brackets and without its interval where it is not valid."""
    if energy.valid or estimate.value is None:
        return amount(estimate, modelled=is_modelled(energy))
    bare = Estimate(estimate.value, estimate.unit, reason="not valid")
    return f"({amount(bare, modelled=is_modelled(energy))})"


def _latency_row(label: str, times: Percentiles) -> Row:
    if times.p50.value is None:
        return Row(label, MISSING, gap=times.p50.reason or "")
    tail = f"p95 {amount(times.p95)}" if times.p95.value is not None else times.p95.reason
    return Row(label, amount(times.p50), f"median, {tail}", gap=times.p50.reason or "")


def _memory_row(memory: Memory) -> Row:
    if memory.peak_bytes is None:
        return Row("Peak memory", MISSING, gap=memory.reason or "")
    parts = (("weights", memory.weights_bytes), ("cache", memory.kv_cache_bytes))
    known = [f"{name} {plain(size, 'B')}" for name, size in parts if size is not None]
    source = f"({memory.source})" if memory.source else ""
    return Row("Peak memory", plain(memory.peak_bytes, "B"), " ".join([", ".join(known), source]).strip())


def _listed(*parts: str | None) -> str:
    return "; ".join(part for part in parts if part)
