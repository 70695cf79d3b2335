"""What would a benchmark that others run say of a result, and where does the run part from its rules?"""

from __future__ import annotations

from collections.abc import Iterator

from llenergymeasure.records import Estimate
from llenergymeasure.results.models import ExperimentResult, Percentiles
from llenergymeasure.results.rows import ENDS, Row

# AI Energy Score: watt-hours of the GPUs for 1,000 queries.
QUERIES = 1000
_WH = 3600.0
# MLPerf Inference, offline scenario, with power: at least that long, and that many samples.
LEAST_S, LEAST_SAMPLES = 600.0, 24_576
_RULE = "=" * 48


def score_row(result: ExperimentResult) -> Row:
    """A row for AI Energy Score's text generation. Its stars are by rank among models, which a row lacks."""
    energy = gpu_energy(result)
    apart = list(_score_deviations(result))
    ends = (energy.low, energy.high, *(energy.systematic or (None, None)))
    gpus = [gpu.name or gpu.uuid for gpu in result.environment.gpus if gpu.uuid in result.session.gpu_uuids]
    return {
        "date": result.started_at.utc[:10],
        "model": result.config.model,
        "task": "text_generation",
        "gpu_energy_wh_per_1000_queries": energy.value,
        **{f"gpu_energy_wh_{end}": value for end, value in zip(ENDS, ends, strict=True)},
        "gpus": ", ".join(gpus),
        "precision": result.config.precision,
        "queries": result.tokens.requests,
        "output_tokens": result.tokens.output,
        "follows_protocol": not apart,
        "deviations": "; ".join(apart),
    }


def gpu_energy(result: ExperimentResult) -> Estimate:
    """Watt-hours of the GPUs alone for 1,000 requests; of their part of the joules where others count too."""
    energy, unit = result.energy, "Wh"
    of_gpus = [one.energy.value for one in energy.readings if one.domain.startswith("gpu:")]
    known = [value for value in of_gpus if value is not None]
    if not known or len(known) < len(of_gpus) or not energy.valid:
        return Estimate.missing(unit, "; ".join(energy.reasons) or "no GPU's energy was read")
    if energy.per_request.value is None or not energy.total.value:
        return Estimate.missing(unit, energy.per_request.reason or "the energy is 0")
    share = sum(known) / energy.total.value
    if share <= 0:
        return Estimate.missing(unit, "the energy is not above 0")
    return energy.per_request.times(share * QUERIES / _WH, unit)


def _score_deviations(result: ExperimentResult) -> Iterator[str]:
    config, energy = result.config, result.energy
    if result.simulated:
        yield "simulated: no model ran"
    asked = {"n": (config.n, QUERIES), "max_output_tokens": (config.max_output_tokens, 10)}
    asked["batch size"] = (config.batch_size, 1)
    yield from (f"{name} is {own}, not {due}" for name, (own, due) in asked.items() if own != due)
    if (
        result.dataset is None
        or result.dataset.remark is not None
        or config.dataset.name != "ai-energy-score"
    ):
        yield "the prompts are not those of AI Energy Score"
    if config.precision != "bf16":
        yield f"the precision is {config.precision}, not bf16"
    if energy.method in {"modelled", "mixed"}:
        yield "energy is estimated by a model of power, not measured"
    if not energy.valid:
        yield f"energy is not valid: {'; '.join(energy.reasons)}"
    elif (why := gpu_energy(result)).value is None:
        yield str(why.reason)


def summary_lines(result: ExperimentResult) -> Iterator[str]:
    """In the layout of LoadGen's summary, so that its readers find their keys. It says that it is no MLPerf
    result: LoadGen did not send the requests.
    """
    speed, energy, tokens = result.performance, result.energy, result.tokens
    runs = [run.window.duration_s for run in result.measured if run.window is not None]
    each = tokens.requests // len(runs) if runs else 0
    checks = {
        "Min duration satisfied": min(runs, default=0.0) >= LEAST_S,
        "Min queries satisfied": each >= LEAST_SAMPLES,
        "Energy measured": energy.valid and energy.method in {"counter", "sampled"} and not result.simulated,
        "All requests answered": tokens.failed == 0,
    }
    yield _RULE
    yield "llem Results Summary (in the layout of MLPerf Inference; not an MLPerf result)"
    yield _RULE
    yield f"SUT name : {result.config.model} on {result.config.backend}, {result.session.device}"
    yield f"Scenario : {'Offline' if result.config.load is None else 'Server'}"
    yield "Mode     : PerformanceOnly"
    yield from _figure("Samples per second", speed.requests_per_second)
    yield from _figure("Tokens per second", speed.output_tokens_per_second)
    yield f"Result is : {'VALID' if all(checks.values()) else 'INVALID'}"
    yield from (f"  {name} : {'Yes' if good else 'No'}" for name, good in checks.items())
    yield from ("", _RULE, "Energy", _RULE)
    joules, seconds = energy.total.value, result.duration_s
    power = None if joules is None or not seconds else joules / seconds
    yield f"Boundary : {energy.boundary or 'none'} ({energy.method or 'not measured'})"
    yield from _figure("Energy (J)", energy.total)
    yield f"Average power (W) : {'n/a' if power is None else f'{power:.6g}'}"
    yield from _figure("Energy per sample (J)", energy.per_request)
    yield from _figure("Energy per token (J)", energy.per_output_token)
    yield from ("", _RULE, "Additional Stats", _RULE)
    yield from _latency_lines("latency", speed.e2e_s)
    yield from _latency_lines("first token latency", speed.ttft_s)
    yield from _latency_lines("time per output token", speed.tpot_s)
    yield from ("", _RULE, "Test Parameters Used", _RULE)
    yield f"min_duration (ms): {LEAST_S * 1000:.0f}"
    yield f"min_query_count : {LEAST_SAMPLES}"
    yield f"samples_per_run : {each}"
    yield f"runs : {len(runs)}"
    yield f"qsl_rng_seed : {result.config.random_seed}"
    yield ""


def _latency_lines(what: str, times: Percentiles) -> Iterator[str]:
    named = {"Mean": times.mean, "50.00 percentile": times.p50, "90.00 percentile": times.p90}
    named |= {"95.00 percentile": times.p95, "99.00 percentile": times.p99}
    for name, one in named.items():
        value = "n/a" if one.value is None else f"{one.value * 1e9:.0f}"
        yield f"{f'{name} {what} (ns)':<48}: {value}"


def _figure(name: str, one: Estimate) -> Iterator[str]:
    """The bare number after its key, as LoadGen's readers want it, and its interval in a line of its own."""
    yield f"{name}: {f'n/a ({one.reason})' if one.value is None else f'{one.value:.6g}'}"
    if one.low is not None and one.high is not None:
        yield f"{name}, 95 % interval: {one.low:.6g} to {one.high:.6g}"
    if one.systematic is not None:
        yield f"{name}, systematic range: {one.systematic[0]:.6g} to {one.systematic[1]:.6g}"
