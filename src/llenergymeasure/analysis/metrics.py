"""From the measured runs to their result: a pure function, so that numbers can be computed years later."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial, reduce
from typing import Any

from llenergymeasure.analysis.estimates import ratio_over_passes
from llenergymeasure.analysis.footprint import footprint
from llenergymeasure.analysis.health import device_states, unknown_states
from llenergymeasure.analysis.joules import energy, lead_in, total_joules
from llenergymeasure.analysis.latency import (
    TOGETHER,
    at_once,
    chunk_gaps,
    cut_off,
    e2e_s,
    goodput,
    has_due_times,
    none,
    percentiles,
    schedule_lags_s,
    tpot,
    ttft_s,
)
from llenergymeasure.analysis.phases import prefill_and_decode, regimes
from llenergymeasure.analysis.quality import per_correct_answer, quality
from llenergymeasure.analysis.replicates import (
    Groups,
    output_tokens,
    replicates,
    requests,
    seconds,
    total_tokens,
)
from llenergymeasure.analysis.run_energy import RunEnergy, alike, run_energy
from llenergymeasure.analysis.server import server_part
from llenergymeasure.analysis.tokens import tokens
from llenergymeasure.analysis.utilisation import flops, mbu, mfu
from llenergymeasure.analysis.validity import warnings
from llenergymeasure.config.models import config_hash
from llenergymeasure.records import Estimate, FailedRun, Measurement, Throttling
from llenergymeasure.results.models import (
    Energy,
    ExperimentResult,
    IdlePower,
    Memory,
    OverheadPart,
    PassWindow,
    Performance,
    RunEnergyPart,
    RunFigures,
    RunPart,
    RunWindow,
)

NO_FIRST = "no first-token times"
# Some characters take two tokens, whose first comes without text.
UNLIKE = 0.02


def metrics(measurements: Sequence[Measurement], *, failed: Sequence[FailedRun] = ()) -> ExperimentResult:
    """What the experiment cost, over all its measured runs. The same measurements give the same numbers, bit
    for bit.
    """
    return experiment_result([run_energy(one) for one in measurements], failed=failed)


def experiment_result(energies: Sequence[RunEnergy], *, failed: Sequence[FailedRun] = ()) -> ExperimentResult:
    """The same from runs whose energy is known."""
    energies = alike(energies)
    measurements = [one.measurement for one in energies]
    first = measurements[0]
    leads = lead_in(energies)
    counted_tokens, joules, judged = tokens(measurements), energy(energies), quality(measurements)
    if judged is not None:
        cost = per_correct_answer(joules.per_request, judged.accuracy)
        joules = joules.model_copy(update={"per_correct_answer": cost})
    runs = [_run(one, leads=leads) for one in energies]
    runs += [RunPart(index=one.index, outcome=one.outcome, reason=one.message) for one in failed]
    return ExperimentResult(
        experiment_id=first.experiment_id,
        simulated=first.simulated,
        config=first.config,
        config_hash=config_hash(first.config),
        origins=dict(first.origins),
        started_at=first.started,
        environment=first.environment,
        session=first.facts,
        steady=all(one.warm_up.steady for one in measurements),
        runs=tuple(sorted(runs, key=lambda run: run.index)),
        tokens=counted_tokens,
        energy=joules,
        performance=_performance(measurements, leads=leads),
        memory=_memory(measurements),
        server=server_part(measurements),
        quality=judged,
        devices=device_states(energies),
        throttling=_throttling(measurements),
        dataset=first.dataset,
        workload_hash=first.workload_hash,
        footprint=footprint(first.config.footprint, joules),
        warnings=warnings(energies, joules, counted_tokens, leads=leads, failed=failed),
        overhead=_overhead(measurements),
        notes=tuple(dict.fromkeys(_notes(energies, joules, leads=leads))),
    )


def _notes(energies: Sequence[RunEnergy], joules: Energy, *, leads: int) -> Iterator[str]:
    for one in energies:
        yield from one.measurement.notes
    first = energies[0]
    if first.measurement.dataset is not None:
        yield from (f"prompts: {note}" for note in first.measurement.dataset.notes())
    if (date := first.measurement.facts.chat_template_date) is not None:
        yield f"the chat template uses the date, which is fixed at {date}"
    shown = {part.domain for one in joules.boundaries for part in one.readings}
    for domain in first.measurement.trace.domains:
        if domain not in first.domains and domain.name not in {*first.lacks, *shown}:
            yield f"{domain.name} was recorded and not counted"
    yield from unknown_states(energies)
    if first.measurement.config.is_stream:
        yield (
            "passes are windows of a running load, with no silence around them: joules are read between the "
            "steps of each sensor, and the interval holds what may hide at both ends"
        )
    if leads:
        yield "the first pass of each run differs from the others: it is left out of the figures per token"
    if said := regimes(energies):
        yield said


def _throttling(measurements: Sequence[Measurement]) -> Throttling | None:
    """Sums over the runs; None where a quota did not hold for one of them."""
    found = [one.throttling for one in measurements if one.throttling is not None]
    return reduce(Throttling.plus, found) if found and len(found) == len(measurements) else None


def _overhead(measurements: Sequence[Measurement]) -> OverheadPart:
    """Sums over the runs."""
    served = [(each.served, each.window) for one in measurements for each in one.passes]
    used_s = [one.client_cpu_s for one, _ in served if one is not None]
    lags = schedule_lags_s(measurements) if has_due_times(measurements[0].config) else None
    return OverheadPart(
        recorder_cpu_s=sum(one.overhead.recorder_cpu_s for one in measurements),
        recorder_samples=sum(one.overhead.recorder_samples for one in measurements),
        setup_s=sum(one.overhead.setup_s for one in measurements),
        load_s=sum(one.load.duration_s for one in measurements),
        warmup_s=sum(one.warm_up.window.duration_s for one in measurements),
        client_cpu_share=sum(used_s) / sum(window.duration_s for _, window in served) if used_s else None,
        schedule_lag_p50_s=None if lags is None else lags[0],
        schedule_lag_p99_s=None if lags is None else lags[1],
    )


def _memory(measurements: Sequence[Measurement]) -> Memory:
    """The largest peak of all runs."""
    facts = measurements[0].facts
    peaks = [one.facts.peak_bytes for one in measurements if one.facts.peak_bytes is not None]
    return Memory(
        peak_bytes=max(peaks) if peaks else None,
        weights_bytes=facts.weights_bytes,
        kv_cache_bytes=facts.kv_cache_bytes,
        source=facts.memory_source,
        reason=None if peaks else f"{facts.device} reports no peak memory",
    )


def _run(one: RunEnergy, *, leads: int) -> RunPart:
    """What one run gave by itself."""
    seen = one.measurement
    phases = prefill_and_decode([one])
    return RunPart(
        index=seen.index,
        outcome="measured",
        started_at=seen.started,
        place=one.place,
        server=seen.facts.server,
        window=_window(seen, leads=leads),
        steady=seen.warm_up.steady,
        tokens=tokens([seen]),
        energy=RunEnergyPart(
            total=total_joules([one]),
            prefill=phases.prefill,
            decode=phases.decode,
            idle=IdlePower(bare=one.bare, loaded=one.loaded, after=one.after),
        ),
        figures=_figures(one, leads=leads),
        overhead=_overhead([seen]),
    )


def _figures(one: RunEnergy, *, leads: int) -> RunFigures:
    group: Groups = [one.measurement.passes[leads:]]
    (written,), (lasted_s,) = output_tokens(group), seconds(group)
    shares = one.shares
    cost = sum(shares[leads:]) / written if shares is not None and written else None
    from_due = has_due_times(one.measurement.config)
    return RunFigures(
        energy_per_output_token_j=cost,
        output_tokens_per_second=written / lasted_s if written and lasted_s > 0 else None,
        ttft_p50_s=percentiles(group, partial(ttft_s, from_due=from_due), NO_FIRST).p50.value,
        tpot_p50_s=tpot(group, NO_FIRST).p50.value,
        e2e_p50_s=percentiles(group, partial(e2e_s, from_due=from_due), NO_FIRST).p50.value,
    )


def _window(seen: Measurement, *, leads: int) -> RunWindow:
    passes = seen.passes
    return RunWindow(
        start_ns=passes[0].window.start_ns,
        end_ns=passes[-1].window.end_ns,
        duration_s=sum(one.window.duration_s for one in passes),
        passes=tuple(
            PassWindow(start_ns=one.window.start_ns, end_ns=one.window.end_ns, lead_in=number < leads)
            for number, one in enumerate(passes)
        ),
    )


def _performance(measurements: Sequence[Measurement], *, leads: int) -> Performance:
    groups = replicates(measurements, leads=leads)
    done = (one for group in groups for each in group for one in each.generation.completions)
    from_due = has_due_times(measurements[0].config)
    has_first = any(one.t_first_ns is not None for one in done)

    is_stream, runs = measurements[0].config.is_stream, len(measurements)

    def rate(counts: Sequence[int], unit: str) -> Estimate:
        cut = cut_off(counts, runs) if is_stream else 0.0
        return ratio_over_passes(counts, seconds(groups), unit=unit, resolution=cut)

    return Performance(
        output_tokens_per_second=rate(output_tokens(groups), "token/s"),
        total_tokens_per_second=rate(total_tokens(groups), "token/s"),
        requests_per_second=rate(requests(groups), "request/s"),
        goodput_per_s=goodput(groups, measurements[0].config, runs=runs),
        throughput_window="steady" if is_stream else "full",
        latencies_from="due" if from_due else "sent",
        ttft_s=percentiles(groups, partial(ttft_s, from_due=from_due), NO_FIRST),
        tpot_s=tpot(groups, "no request produced two tokens" if has_first else NO_FIRST),
        e2e_s=percentiles(groups, partial(e2e_s, from_due=from_due), "no request ended"),
        **_amid_load(groups),
        flops=flops(measurements),
        mfu=mfu(measurements),
        mbu=mbu(measurements),
    )


def _amid_load(groups: Groups) -> dict[str, Any]:
    """What only a running load shows. The time between tokens is that between chunks where each carries one:
    the last token of an answer may be the end of the sequence, which has no text.
    """
    passes = [one for group in groups for one in group if one.served is not None]
    served = [one.served for one in passes if one.served is not None]
    if not served:
        return {}
    gaps = chunk_gaps(groups)
    chunks, ended = sum(one.chunks for one in served), sum(len(one.generation.completions) for one in passes)
    tokens = sum(one.output_tokens for one in served)
    is_bundled = chunks < (1 - UNLIKE) * (tokens - ended)
    itl = none(f"bundled: {tokens:,} tokens came in {chunks:,} chunks") if is_bundled else gaps
    lasted_s = sum(one.window.duration_s for one in passes)
    waited_s = sum(
        one.window.duration_s * load.in_flight_mean for one, load in zip(passes, served, strict=True)
    )
    return {
        "itl_s": none(TOGETHER) if at_once(gaps) else itl,
        "chunk_s": gaps if is_bundled and not at_once(gaps) else None,
        "in_flight_mean": waited_s / lasted_s,
        "in_flight_most": max(one.in_flight_most for one in served),
    }
