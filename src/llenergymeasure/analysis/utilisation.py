"""How much arithmetic was done, and which share of the device's peak arithmetic and bandwidth is that?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llenergymeasure.analysis.estimates import ratio_over_passes
from llenergymeasure.analysis.replicates import replicates, seconds
from llenergymeasure.config.section import Precision
from llenergymeasure.models.formulas import ELEMENT_BYTES, decode_cache_bytes, decode_flops, prefill_flops
from llenergymeasure.records import Architecture, Completion, Estimate, Measurement, Pass
from llenergymeasure.results.models import Flops


@dataclass(frozen=True, slots=True)
class Peak:
    """Dense matrix throughput by precision, without sparsity, and memory bandwidth, of one device."""

    flops: dict[Precision, float]
    bytes_per_second: float
    source: str


def _peak(tera_16_bit: float, tera_32_bit: float, tb_per_s: float, source: str) -> Peak:
    return Peak(
        {"bf16": tera_16_bit * 1e12, "fp16": tera_16_bit * 1e12, "fp32": tera_32_bit * 1e12},
        tb_per_s * 1e12,
        source,
    )


# By words of the driver's product name, the more particular ones first. 32 bit: not TF32, since PyTorch
# computes fp32 in full unless told otherwise.
_PEAKS: tuple[tuple[tuple[str, ...], Peak], ...] = (
    (("H200",), _peak(989.4, 67.0, 4.8, "NVIDIA H200 datasheet, SXM")),
    (("H100", "NVL"), _peak(835.0, 60.0, 3.9, "NVIDIA H100 datasheet, NVL")),
    (("H100", "PCIe"), _peak(756.0, 51.0, 2.0, "NVIDIA H100 datasheet, PCIe")),
    (("H100",), _peak(989.4, 67.0, 3.35, "NVIDIA H100 datasheet, SXM")),
    (("A100", "80GB", "PCIe"), _peak(312.0, 19.5, 1.935, "NVIDIA A100 datasheet, 80 GB PCIe")),
    (("A100", "80GB"), _peak(312.0, 19.5, 2.039, "NVIDIA A100 datasheet, 80 GB SXM")),
    (("A100",), _peak(312.0, 19.5, 1.555, "NVIDIA A100 datasheet, 40 GB")),
    (("L40S",), _peak(362.05, 91.6, 0.864, "NVIDIA L40S datasheet")),
    (("L4",), _peak(121.0, 30.3, 0.3, "NVIDIA L4 datasheet, half of the sparse figures")),
    (("RTX 4090",), _peak(165.2, 82.6, 1.008, "NVIDIA Ada architecture whitepaper, fp32 accumulate")),
    (("RTX 3090",), _peak(71.0, 35.6, 0.936, "NVIDIA GA102 whitepaper, fp32 accumulate")),
)


def peak_of(device: str | None) -> Peak | None:
    """The published peak of a device by its driver's name; None where no figure with a source is known."""
    words = (device or "").upper().replace("-", " ")
    parts = set(words.split())
    for names, peak in _PEAKS:
        if all(_in(name.upper(), words, parts) for name in names):
            return peak
    return None


def _in(name: str, words: str, parts: set[str]) -> bool:
    """Whole words only: an L40 is no L4."""
    return name in parts if " " not in name else f"{name} " in f"{words} "


OVER_EDGES = (
    "requests of a running load reach over the edges of its windows: how much of each fell in is not known"
)
FLOPS_METHOD = "architecture formula: 2 per multiply-add, full square in prefill, padding not counted"
STEPS_UNKNOWN = "continuous batching: how many steps read the weights is not reported"
# The first tokens of a static batch are reported one after another, within this share of its time.
SPREAD = 0.01
NO_SHAPE = "the model's shape is not known"


def flops(measurements: Sequence[Measurement]) -> Flops:
    """Operations of all passes of all runs, prefill and decode apart, from the model's shape and the tokens
    produced.
    """
    measurement = measurements[0]
    shape, more = measurement.architecture, _why_other_work(measurement)
    if shape is None or more is not None:
        return Flops(prefill=None, decode=None, total=None, method=None, reason=more or NO_SHAPE)
    done = [one for run in measurements for each in run.passes for one in each.generation.completions]
    prefill = float(sum(prefill_flops(shape, one.prompt_tokens) for one in done))
    decode = float(sum(decode_flops(shape, one.prompt_tokens, one.output_tokens) for one in done))
    return Flops(prefill=prefill, decode=decode, total=prefill + decode, method=_method(measurement))


def mfu(measurements: Sequence[Measurement]) -> Estimate:
    """Operations done over those that the devices could have done at most in the passes' time."""
    measurement = measurements[0]
    shape, peaks = measurement.architecture, _peaks(measurement)
    if more := _why_other_work(measurement):
        return Estimate.missing("1", more)
    if shape is None or not peaks:
        return Estimate.missing("1", NO_SHAPE if shape is None else _no_peak(measurement))
    # Weights of 8 and 4 bits are multiplied in 16 bits.
    precision = measurement.config.precision if measurement.config.precision in {"fp32", "fp16"} else "bf16"
    at_most = sum(peak.flops[precision] for peak in peaks)
    groups = replicates(measurements)
    return ratio_over_passes(
        [sum(_flops_of(shape, one) for p in group for one in p.generation.completions) for group in groups],
        [each_s * at_most for each_s in seconds(groups)],
        unit="1",
    )


def mbu(measurements: Sequence[Measurement]) -> Estimate:
    """Bytes that decoding must read (all weights and the cache, once a step) over what the memory could
    deliver meanwhile. A mixture of experts has none: which experts a batch touches is not known. Nor has
    continuous batching: how many steps there were is not known.
    """
    measurement, groups = measurements[0], replicates(measurements)
    shape, peaks = measurement.architecture, _peaks(measurement)
    weights = measurement.facts.weights_bytes
    if more := _why_other_work(measurement):
        return Estimate.missing("1", more)
    if shape is None or weights is None or shape.is_mixture:
        reason = "which experts a batch reads is not known" if shape and shape.is_mixture else NO_SHAPE
        return Estimate.missing("1", reason)
    if not peaks:
        return Estimate.missing("1", _no_peak(measurement))
    if _is_continuous([batch for one in measurement.passes for batch in _batches(one)]):
        return Estimate.missing("1", STEPS_UNKNOWN)
    # Batches that run side by side each read a model of their own, with the bandwidth of one device.
    models = measurement.engine.replicas
    at_most, weights = sum(peak.bytes_per_second for peak in peaks) / models, weights // models
    element = ELEMENT_BYTES[measurement.config.precision]
    moved, could = [], []
    for group in groups:
        members = [batch for passed in group for batch in _batches(passed)]
        moved.append(sum(_decode_bytes(shape, batch, weights=weights, element=element) for batch in members))
        could.append(sum(_decode_s(batch) for batch in members) * at_most)
    if not any(moved):
        return Estimate.missing("1", "no token was generated in decode")
    return ratio_over_passes(moved, could, unit="1")


def _why_other_work(measurement: Measurement) -> str | None:
    return OVER_EDGES if measurement.config.is_stream else measurement.engine.why_other_work


def _method(measurement: Measurement) -> str:
    adapter = measurement.config.lora
    return (
        FLOPS_METHOD if adapter is None or adapter.merged else f"{FLOPS_METHOD}, nor the adapter's products"
    )


def _flops_of(shape: Architecture, one: Completion) -> float:
    return prefill_flops(shape, one.prompt_tokens) + decode_flops(shape, one.prompt_tokens, one.output_tokens)


def _batches(passed: Pass) -> list[list[Completion]]:
    batches: dict[tuple[int, int], list[Completion]] = defaultdict(list)
    for one in passed.generation.completions:
        batches[one.walk, one.batch].append(one)
    return list(batches.values())


def _is_continuous(batches: Sequence[Sequence[Completion]]) -> bool:
    """Whether requests of one batch get their first tokens one after another: the engine forms its own."""
    spread_ns = total_ns = 0
    for batch in batches:
        firsts = [one.t_first_ns for one in batch if one.t_first_ns is not None]
        if len(firsts) == len(batch):
            spread_ns += max(firsts) - min(firsts)
            total_ns += max(one.t_end_ns for one in batch) - min(one.t_sent_ns for one in batch)
    return spread_ns > SPREAD * total_ns


def _decode_s(batch: Sequence[Completion]) -> float:
    """From the first token to the last one of a static batch."""
    firsts = [one.t_first_ns for one in batch if one.t_first_ns is not None]
    return (max(one.t_end_ns for one in batch) - min(firsts)) / 1e9 if firsts else 0.0


def _decode_bytes(shape: Architecture, batch: Sequence[Completion], *, weights: int, element: int) -> float:
    steps = max(max(one.output_tokens - 1, 0) for one in batch)
    cache = (decode_cache_bytes(shape, one.prompt_tokens, one.output_tokens, element) for one in batch)
    return steps * weights + sum(cache)


def _used(measurement: Measurement) -> Iterable[str | None]:
    used = set(measurement.facts.gpu_uuids)
    return (gpu.name for gpu in measurement.environment.gpus if gpu.uuid in used)


def _peaks(measurement: Measurement) -> list[Peak]:
    """The peaks of all GPUs that were used; empty where one of them is not known."""
    peaks = [peak_of(name) for name in _used(measurement)]
    known = [peak for peak in peaks if peak is not None]
    return known if len(known) == len(peaks) else []


def _no_peak(measurement: Measurement) -> str:
    names = ", ".join(name or "an unnamed GPU" for name in _used(measurement)) or measurement.facts.device
    return f"no published peak of {names} is known"
