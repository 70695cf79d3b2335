"""From a measurement to its result: a pure function, so that numbers can be computed again years later."""

from __future__ import annotations

from collections.abc import Sequence

from llenergymeasure.analysis.estimates import ratio_over_passes
from llenergymeasure.analysis.footprint import footprint
from llenergymeasure.analysis.health import device_states, unknown_states
from llenergymeasure.analysis.hidden_work import guesses_ahead
from llenergymeasure.analysis.joules import counted_domains, energy
from llenergymeasure.analysis.latency import e2e_s, missing_percentiles, percentiles, tpot_s, ttft_s
from llenergymeasure.analysis.replicates import (
    output_tokens,
    per_replicate,
    requests,
    seconds,
    total_tokens,
)
from llenergymeasure.analysis.tokens import tokens
from llenergymeasure.analysis.utilisation import flops, mbu, mfu
from llenergymeasure.analysis.validity import warnings
from llenergymeasure.config.models import config_hash
from llenergymeasure.records import Domain, Estimate, Measurement, Pass
from llenergymeasure.results.models import (
    ExperimentResult,
    Memory,
    OverheadPart,
    PassWindow,
    Performance,
    RunWindow,
)

NO_FIRST = "no first-token times"
BUNDLED = "bundled: a step brings several tokens at once where they are guessed ahead"
SINGLE_UNKNOWN = "single token times are not kept by this backend; TPOT is their mean"


def metrics(measurement: Measurement) -> ExperimentResult:
    """What the run cost. The same measurement gives the same numbers, bit for bit."""
    counted_tokens = tokens(measurement)
    joules = energy(measurement)
    facts = measurement.facts
    counted = counted_domains(measurement.trace.domains, measurement.config, facts)
    return ExperimentResult(
        experiment_id=measurement.experiment_id,
        simulated=measurement.simulated,
        config=measurement.config,
        config_hash=config_hash(measurement.config),
        origins=dict(measurement.origins),
        started_at=measurement.started,
        environment=measurement.environment,
        session=facts,
        steady=measurement.warm_up.steady,
        window=_window(measurement.passes),
        tokens=counted_tokens,
        energy=joules,
        performance=_performance(measurement),
        memory=Memory(
            peak_bytes=facts.peak_bytes,
            weights_bytes=facts.weights_bytes,
            kv_cache_bytes=facts.kv_cache_bytes,
            source=facts.memory_source,
            reason=None if facts.peak_bytes is not None else f"{facts.device} reports no peak memory",
        ),
        devices=device_states(measurement.trace, counted, measurement.passes),
        workload_hash=measurement.workload_hash,
        footprint=footprint(measurement.config.footprint, joules),
        warnings=warnings(measurement, joules, counted_tokens),
        overhead=OverheadPart(
            recorder_cpu_s=measurement.overhead.recorder_cpu_s,
            recorder_samples=measurement.overhead.recorder_samples,
            setup_s=measurement.overhead.setup_s,
            load_s=measurement.load.duration_s,
            warmup_s=measurement.warm_up.window.duration_s,
        ),
        notes=(*measurement.notes, *_observed(measurement, counted)),
    )


def _observed(measurement: Measurement, counted: Sequence[Domain]) -> list[str]:
    trace = measurement.trace
    left_out = [
        f"{domain.name} was seen and not counted" for domain in trace.domains if domain not in counted
    ]
    return [*left_out, *unknown_states(trace, counted, measurement.passes)]


def _window(passes: Sequence[Pass]) -> RunWindow:
    return RunWindow(
        start_ns=passes[0].window.start_ns,
        end_ns=passes[-1].window.end_ns,
        duration_s=sum(one.window.duration_s for one in passes),
        passes=tuple(
            PassWindow(start_ns=one.window.start_ns, end_ns=one.window.end_ns, cycle=one.cycle)
            for one in passes
        ),
    )


def _performance(measurement: Measurement) -> Performance:
    passes = measurement.passes
    told = any(one.t_first_ns is not None for each in passes for one in each.generation.completions)

    def rate(counts: Sequence[int], unit: str) -> Estimate:
        return ratio_over_passes(
            per_replicate(passes, counts), per_replicate(passes, seconds(passes)), unit=unit
        )

    return Performance(
        output_tokens_per_second=rate(output_tokens(passes), "token/s"),
        total_tokens_per_second=rate(total_tokens(passes), "token/s"),
        requests_per_second=rate(requests(passes), "request/s"),
        ttft_s=percentiles(passes, ttft_s, NO_FIRST),
        tpot_s=percentiles(passes, tpot_s, "no request produced two tokens" if told else NO_FIRST),
        itl_s=missing_percentiles(BUNDLED if guesses_ahead(measurement.config) else SINGLE_UNKNOWN),
        e2e_s=percentiles(passes, e2e_s, "no request ended"),
        flops=flops(measurement),
        mfu=mfu(measurement),
        mbu=mbu(measurement),
    )
