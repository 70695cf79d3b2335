"""What does a whole, plausible result look like? Shared by the tests that need one."""

from __future__ import annotations

from typing import Literal

from llenergymeasure.config.models import ExperimentConfig, config_hash
from llenergymeasure.records import (
    EnergyReading,
    Environment,
    Estimate,
    GpuFacts,
    MeasurementWarning,
    Method,
    SessionFacts,
    Start,
    Window,
)
from llenergymeasure.results.models import (
    Closure,
    Energy,
    ExperimentResult,
    Flops,
    IdlePower,
    Memory,
    OverheadPart,
    PassWindow,
    Percentiles,
    Performance,
    Replicates,
    RunEnergyPart,
    RunFigures,
    RunPart,
    RunWindow,
    Term,
    Tokens,
    Uncertainty,
)

EnergyKind = Literal["modelled", "measured", "missing"]

SECOND_NS = 1_000_000_000
START_NS = 5_000 * SECOND_NS
RUNS = 3
PASSES = 5
PASS_S = 5.0
RUN_S = 60.0
REQUESTS = 120
PROMPT_TOKENS = 60 * REQUESTS
OUTPUT_TOKENS = 32 * REQUESTS
GPU = "GPU-6f1c2d3e-0000-4a5b-8c9d-0123456789ab"
NO_SENSOR = "no meter could be read on this machine"


def example_result(
    *,
    energy: EnergyKind = "modelled",
    experiment_id: str = "smollm2-135m_3f9a1c",
    notes: tuple[str, ...] = ("2 of 8 prompts were cut to 512 tokens",),
) -> ExperimentResult:
    """Three runs of five passes of 5 s over 8 requests. `energy`: modelled on a CPU, measured on a GPU, or
    missing.
    """
    config = ExperimentConfig(model="smollm2-135m", n=8, max_output_tokens=32)
    gpu = energy == "measured"
    return ExperimentResult(
        experiment_id=experiment_id,
        simulated=False,
        config=config,
        config_hash=config_hash(config),
        origins={"model": "flag --model", "n": "examples/quickstart.yaml", "max_output_tokens": "default"},
        started_at=Start("2025-11-24T10:00:00Z", START_NS - 20 * SECOND_NS, "0c4f9c2e-boot"),
        environment=_environment(gpu=gpu),
        session=SessionFacts(
            device="cuda:0" if gpu else "cpu",
            arguments={"dtype": "bfloat16", "attn_implementation": "sdpa", "batch_size": 1, "layers": [0, 1]},
            versions={"torch": "2.13.0", "transformers": "5.24.0"},
            gpu_uuids=(GPU,) if gpu else (),
            parameters=134_515_008,
            weights_bytes=269_030_016,
            peak_bytes=512_000_000,
            memory_source="resident size of the worker's tree",
        ),
        steady=True,
        runs=tuple(_run(number, energy) for number in range(1, RUNS + 1)),
        tokens=_tokens(1),
        energy=_energy(energy),
        performance=_performance(),
        memory=Memory(
            peak_bytes=512_000_000,
            weights_bytes=269_030_016,
            kv_cache_bytes=None,
            source="resident size of the worker's tree",
            reason="the engine does not tell the size of its cache",
        ),
        warnings=_warnings(energy),
        overhead=OverheadPart(
            recorder_cpu_s=0.12, recorder_samples=1800, setup_s=4.2, load_s=1.4, warmup_s=3.5
        ),
        notes=notes,
    )


def _environment(*, gpu: bool) -> Environment:
    return Environment(
        hostname="bench-1",
        os="Debian GNU/Linux 12",
        kernel="6.1.0-25-amd64",
        python="3.11.9",
        llem="0.8.0",
        cpu="AMD EPYC 7B13",
        logical_cpus=2,
        memory_bytes=8_000_000_000,
        virtualization=None if gpu else "kvm",
        container=None,
        swap_used_bytes=0,
        load_1min=0.4,
        git_commit=None,
        gpus=(GpuFacts(GPU, 0, "NVIDIA A100-SXM4-80GB", 85_899_345_920, "550.54", 400.0),) if gpu else (),
        versions={"python": "3.11.9", "torch": "2.13.0"},
    )


def _tokens(parts: int) -> Tokens:
    """Of one of so many equal parts of the whole."""
    return Tokens(
        input=PROMPT_TOKENS // parts,
        output=OUTPUT_TOKENS // parts,
        total=(PROMPT_TOKENS + OUTPUT_TOKENS) // parts,
        requests=REQUESTS // parts,
        pinned_ok=True,
        disputed=False,
    )


def _run(number: int, kind: EnergyKind) -> RunPart:
    """The second of three runs costs what all of them do on average, the others 0.8 % more or less."""
    off = 1 + 0.008 * (number - 2)
    energy = _energy(kind)
    cost = energy.per_output_token.value
    window = _window(number)
    return RunPart(
        index=number,
        outcome="measured",
        started_at=Start("2025-11-24T10:00:00Z", window.start_ns - 20 * SECOND_NS, "0c4f9c2e-boot"),
        window=window,
        steady=True,
        tokens=_tokens(RUNS),
        energy=RunEnergyPart(
            total=_scaled(energy.total, off / RUNS),
            prefill=energy.prefill,
            decode=energy.decode,
            idle=energy.idle,
        ),
        figures=RunFigures(
            energy_per_output_token_j=None if cost is None else cost * off,
            output_tokens_per_second=OUTPUT_TOKENS / (RUNS * PASSES * PASS_S) / off,
            ttft_p50_s=0.08 * off,
            tpot_p50_s=0.017 * off,
            e2e_p50_s=0.62 * off,
        ),
        overhead=OverheadPart(
            recorder_cpu_s=0.04, recorder_samples=600, setup_s=1.4, load_s=0.5, warmup_s=1.2
        ),
    )


def _window(run: int) -> RunWindow:
    first_ns = START_NS + int((run - 1) * RUN_S * SECOND_NS)
    starts = [first_ns + int(k * PASS_S * SECOND_NS) for k in range(PASSES)]
    passes = tuple(PassWindow(start_ns=at, end_ns=at + int(PASS_S * SECOND_NS)) for at in starts)
    return RunWindow(
        start_ns=passes[0].start_ns,
        end_ns=passes[-1].end_ns,
        duration_s=PASSES * PASS_S,
        passes=passes,
    )


def _energy(kind: EnergyKind) -> Energy:
    if kind == "missing":
        joules, watts = Estimate.missing("J", NO_SENSOR), Estimate.missing("W", NO_SENSOR)
        return Energy(
            boundary=None,
            method=None,
            valid=False,
            reasons=(NO_SENSOR,),
            total=joules,
            net=joules,
            net_of="loaded",
            per_output_token=Estimate.missing("J/token", NO_SENSOR),
            per_total_token=Estimate.missing("J/token", NO_SENSOR),
            per_request=Estimate.missing("J/request", NO_SENSOR),
            prefill=Estimate.missing("J/token", NO_SENSOR),
            decode=Estimate.missing("J/token", NO_SENSOR),
            idle=IdlePower(bare=watts, loaded=watts, after=watts),
            load=joules,
            readings=(),
        )
    modelled = kind == "modelled"
    method: Method = "modelled" if modelled else "counter"
    watts_mean = 6.0 if modelled else 300.0
    total_j = watts_mean * RUNS * PASSES * PASS_S
    width = 0.4 if modelled else 0.05
    no_prefill = "no prefill passes were asked for: passes.prefill is 0"
    return Energy(
        boundary="modelled" if modelled else "gpu",
        method=method,
        valid=True,
        reasons=(),
        total=_around(total_j, "J", systematic=width),
        net=_around(total_j * 0.7, "J", systematic=width),
        net_of="loaded",
        per_output_token=_around(total_j / OUTPUT_TOKENS, "J/token", systematic=width),
        per_total_token=_around(total_j / (OUTPUT_TOKENS + PROMPT_TOKENS), "J/token", systematic=width),
        per_request=_around(total_j / REQUESTS, "J/request", systematic=width),
        prefill=Estimate.missing("J/token", no_prefill),
        decode=Estimate.missing("J/token", no_prefill),
        idle=IdlePower(
            bare=_around(watts_mean * 0.2, "W", systematic=width),
            loaded=_around(watts_mean * 0.3, "W", systematic=width),
            after=_around(watts_mean * 0.31, "W", systematic=width),
        ),
        load=Estimate(watts_mean * 1.4, "J", reason="one load has no interval from chance"),
        readings=(
            EnergyReading(
                domain="host" if modelled else f"gpu:{GPU}",
                source="cpu-time-model" if modelled else "nvml.total_energy",
                method=method,
                window=Window(START_NS, START_NS + int((RUNS - 1) * RUN_S + PASSES * PASS_S) * SECOND_NS),
                energy=_around(total_j, "J", systematic=width),
                resolution_j=None if modelled else 0.001,
                flags=("energy_modelled",) if modelled else (),
            ),
        ),
        replicates=Replicates(unit="run", count=RUNS),
        repeats_for_2_percent=5,
        uncertainty=_uncertainty(total_j, width),
    )


def _uncertainty(total_j: float, width: float) -> Uncertainty:
    def terms(value: float) -> tuple[Term, ...]:
        return (
            _term("resolution", "B", value * 0.001, within_chance=True),
            _term("lag", "B", value * 0.0005, common=True),
            _term("random", "A", value * 0.0195, degrees=RUNS - 1),
            Term(
                name="gain and offset",
                kind="B",
                low=value * (1 - width),
                high=value * (1 + width),
                common=True,
                cancels_in_ratio=True,
            ),
        )

    return Uncertainty(
        total=terms(total_j),
        per_output_token=terms(total_j / OUTPUT_TOKENS),
        closures=(Closure(name="idle + net against total", parts_j=total_j, whole_j=total_j, apart=0.0),),
    )


def _term(
    name: str,
    kind: Literal["A", "B"],
    half_width: float,
    *,
    degrees: float | None = None,
    common: bool = False,
    within_chance: bool = False,
) -> Term:
    return Term(
        name=name,
        kind=kind,
        half_width=half_width,
        degrees=degrees,
        common=common,
        cancels_in_ratio=False,
        within_chance=within_chance,
    )


def _scaled(estimate: Estimate, factor: float) -> Estimate:
    if estimate.value is None:
        return estimate
    return _around(estimate.value * factor, estimate.unit, systematic=0.05)


def _performance() -> Performance:
    duration_s = RUNS * PASSES * PASS_S
    no_peak = "no peak figure is known for this device"
    operations = 2.0 * 134_515_008 * (PROMPT_TOKENS + OUTPUT_TOKENS)
    return Performance(
        output_tokens_per_second=_around(OUTPUT_TOKENS / duration_s, "token/s"),
        total_tokens_per_second=_around((OUTPUT_TOKENS + PROMPT_TOKENS) / duration_s, "token/s"),
        requests_per_second=_around(REQUESTS / duration_s, "request/s"),
        ttft_s=_percentiles(0.08),
        tpot_s=_percentiles(0.017),
        e2e_s=_percentiles(0.62),
        flops=Flops(
            prefill=operations * PROMPT_TOKENS / (PROMPT_TOKENS + OUTPUT_TOKENS),
            decode=operations * OUTPUT_TOKENS / (PROMPT_TOKENS + OUTPUT_TOKENS),
            total=operations,
            method="architecture",
        ),
        mfu=Estimate.missing("1", no_peak),
        mbu=Estimate.missing("1", no_peak),
    )


def _percentiles(middle_s: float) -> Percentiles:
    return Percentiles(
        mean=_around(middle_s * 1.05, "s"),
        p50=_around(middle_s, "s"),
        p90=_around(middle_s * 1.3, "s"),
        p95=_around(middle_s * 1.4, "s"),
        p99=Estimate.missing("s", f"p99 needs 100 requests, there were {REQUESTS}"),
        count=REQUESTS,
    )


def _warnings(kind: EnergyKind) -> tuple[MeasurementWarning, ...]:
    if kind == "modelled":
        return (
            MeasurementWarning(
                "energy_modelled",
                "energy is estimated from CPU time, not measured",
                "run on a machine whose counters can be read, or set energy.require_measured",
            ),
        )
    if kind == "missing":
        return (MeasurementWarning("no_energy_source", NO_SENSOR, "llem doctor says what each meter lacks"),)
    return ()


def _around(value: float, unit: str, *, systematic: float | None = None) -> Estimate:
    """± 2 % from chance, ± `systematic` (relative) from what repetition can't narrow."""
    spread = None if systematic is None else (value * (1 - systematic), value * (1 + systematic))
    return Estimate(value, unit, value * 0.98, value * 1.02, spread)
