"""How much memory will an experiment need, and how does that come about?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llenergymeasure.config.engines import FileMemory, Traits
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.models.activations import Prefill, most_held
from llenergymeasure.models.formulas import (
    ELEMENT_BYTES,
    active_parameters,
    kv_cache_bytes,
    parameters,
    state_bytes,
    text_parameters,
    weight_bytes,
)
from llenergymeasure.models.resolve import ResolvedModel, fetch_shape, resolve
from llenergymeasure.records import Architecture, Attention

_UNSIZED = "the size of its weights is not known: their files are not on this disk"
CUDA_CONTEXT_BYTES = 500_000_000  # context, kernels and cuBLAS workspace; 0.3 to 0.7 GB by GPU and driver
# Resident size of a worker with torch 2.13 and transformers 5.24 after a first token, less weights and cache:
# 405 MB with GPT-2 and with SmolLM2 of random weights, 405 to 435 MB with SmolLM2's own.
CPU_RUNTIME_BYTES = 410_000_000

# The same of a worker with llama-cpp-python 0.3.36, which imports no torch.
FILED_RUNTIME_BYTES = 60_000_000

_FORMULA = "weights + KV cache + activations + runtime"

_WEIGHTS = {
    "int8": "layers' matrices × 1 byte + a 4-byte scale per row, the rest × 2 bytes",
    "int4": "layers' matrices × 0.5 byte + a 4-byte scale per 64, the rest × 2 bytes",
}
_LEAST_WEIGHT_BYTES = {"int8": 1.0, "int4": 0.5}  # of one number


@dataclass(frozen=True, slots=True)
class VramPart:
    """One term of the sum, with the numbers that went into it."""

    name: str
    bytes: int
    formula: str


@dataclass(frozen=True, slots=True)
class Figures:
    """What a model is in numbers; None where its family is not known.

    `parameters` are all of them, `text_parameters` leave a vision tower out, `active_parameters` are those
    that a token of text meets. The cache is that of one token of text before any window is full, the state
    that of one request at any length, both in the precision that is computed in.
    """

    family: str | None
    context: int | None
    parameters: int | None
    text_parameters: int | None = None
    active_parameters: int | None = None
    kv_bytes_per_token: int | None = None
    kv_layers: str | None = None
    state_bytes: int | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class VramEstimate:
    """The sum of `parts`, or None for the `reason`; `source` says where the model's shape was read."""

    total_bytes: int | None
    parts: tuple[VramPart, ...]
    formula: str
    source: str
    reason: str | None
    model: Figures | None = None


@dataclass(frozen=True, slots=True)
class _Work:
    """The largest batch of an experiment: every prompt as long as allowed."""

    batch: int
    prompt: int
    output: int
    element: int


def estimate_vram(config: ExperimentConfig, *, least: bool = False) -> VramEstimate:
    """The peak memory of the experiment on its device, from the model's shape alone; the `least` is that with
    one request at once, where the engine forms its own batches.

    An estimate from above: every prompt fills `max_input_tokens`. Of a family that is not known the weights
    are those of its files, and the cache is as large as it can be. The network is asked once, for a few
    seconds at most, and only for a hub id whose shape is neither cached nor built in. PreFlightError where
    the model itself can't be there.
    """
    own = config.engine
    if own.is_simulated:
        return VramEstimate(None, (), _FORMULA, "none", f"the {config.backend} backend loads no model")
    resolved = fetch_shape(resolve(config.model, revision=own.revision))
    shape = resolved.architecture
    figures = _figures(resolved, ELEMENT_BYTES[config.precision])
    weights = _weights(config, resolved)
    if weights is None:
        return VramEstimate(None, (), _FORMULA, "none", resolved.reason or _UNSIZED, figures)
    if own.filed is not None and resolved.kind == "gguf":
        parts = _as_filed(config, own.filed, resolved)
    else:
        at_once = 1 if least and own.forms_batches else min(config.batch_size, config.n)
        parts = _as_computed(config, own, resolved, weights, at_once=at_once)
    formula = " + ".join(part.name for part in parts)
    source = "the headers of its files" if shape is None else shape.source
    return VramEstimate(sum(part.bytes for part in parts), parts, formula, source, None, figures)


def _figures(resolved: ResolvedModel, element: int) -> Figures:
    a = resolved.architecture
    if a is None:
        numbers = None if resolved.stored is None else resolved.stored.numbers
        return Figures(None, resolved.context, numbers, reason=resolved.reason)
    return Figures(
        a.family,
        a.context,
        None if a.tower is None else parameters(a),
        text_parameters(a),
        active_parameters(a),
        kv_cache_bytes(a, batch=1, tokens=1, bytes_per_element=element),
        _layers(a) or "none of its layers attends",
        state_bytes(a, batch=1, bytes_per_element=element),
        "the parameters of its vision tower are not known" if a.tower is None else None,
    )


def _weights(config: ExperimentConfig, resolved: ResolvedModel) -> VramPart | None:
    """A quantised checkpoint, and what is not known by its shape, as the files are; else by the shape."""
    a, stored, precision = resolved.architecture, resolved.stored, config.precision
    each = _LEAST_WEIGHT_BYTES.get(precision, ELEMENT_BYTES[precision])
    if stored is not None and (a is None or a.tower is None or a.quantisation is not None):
        if stored.numbers is None:
            return VramPart("weights", stored.bytes, "the tensors' bytes in its files")
        return VramPart(
            "weights",
            round(stored.numbers * each),
            f"{stored.numbers:,} numbers in its files × {each:g} bytes",
        )
    size = None if a is None or a.tower is None else weight_bytes(a, precision)
    if a is None or size is None:
        return None
    how = _WEIGHTS.get(precision, f"× {each} bytes")
    if a.quantisation is not None:
        scope = "experts'" if a.quantisation.scope == "experts" else "layers'"
        how = f"{scope} matrices as {a.quantisation.method} packs them, the rest × 2 bytes"
    joint = ": " if how[0] != "×" else " "
    return VramPart("weights", size, f"{parameters(a):,} parameters{joint}{how}")


def _as_computed(
    config: ExperimentConfig, own: Traits, resolved: ResolvedModel, weights: VramPart, *, at_once: int
) -> tuple[VramPart, ...]:
    """Weights in the precision asked for, and what the largest batch takes beside them."""
    shape = resolved.architecture
    work = _Work(
        batch=at_once // own.replicas * own.beams,
        prompt=config.max_input_tokens,
        output=config.max_output_tokens,
        element=ELEMENT_BYTES[config.precision],
    )
    on_gpus = Path("/dev/nvidiactl").exists() if own.uses_gpus is None else own.uses_gpus
    if shape is None:
        held = _at_most(resolved, work)
    else:
        beyond = () if own.forms_batches else _beyond_windows(shape, work)
        activations = _activations(shape, work, eager=own.is_eager, fused=on_gpus)
        held = (*_cache(shape, work), *beyond, activations)
    parts: tuple[VramPart, ...] = (weights, *held, _runtime(on_gpus=on_gpus))
    if on_gpus:
        return parts
    if own.keeps_freed_blocks:
        parts = (*parts, _freed(held))
    count = own.replicas
    return tuple(
        VramPart(part.name, count * part.bytes, f"{count} processes × ({part.formula})")
        if count > 1
        else part
        for part in parts
    )


def _at_most(resolved: ResolvedModel, work: _Work) -> tuple[VramPart, ...]:
    """The cache of a family that is not known; what else it holds is unknown."""
    if resolved.cached_at_most is None:
        return ()
    tokens = work.batch * (work.prompt + work.output)
    return (
        VramPart(
            "KV cache",
            resolved.cached_at_most * tokens * work.element,
            f"at most, if every layer keeps keys and values: {resolved.cached_at_most:,} numbers × "
            f"{tokens:,} tokens × {work.element} bytes",
        ),
    )


def _cache(a: Architecture, work: _Work) -> Iterator[VramPart]:
    tokens = work.prompt + work.output
    size = kv_cache_bytes(a, batch=work.batch, tokens=tokens, bytes_per_element=work.element)
    if size:
        kinds = _layers(a)
        each = f"({kinds})" if " + " in kinds else kinds
        yield VramPart(
            "KV cache",
            size,
            f"{each} × batch {work.batch} × ({work.prompt} + {work.output}) tokens × {work.element} bytes",
        )
    state = state_bytes(a, batch=work.batch, bytes_per_element=work.element)
    if state:
        count = sum(layer.count for layer in a.layers if layer.recurrence)
        yield VramPart("state", state, f"{count} recurrent layers × batch {work.batch}, at any length")


def _beyond_windows(a: Architecture, work: _Work) -> tuple[VramPart, ...]:
    """What stays of a prompt until the first step of decode: transformers caches a view of each window."""
    beyond = sum(
        layer.count * one.cached * max(work.prompt - one.window, 0)
        for layer in a.layers
        if (one := layer.attention) is not None and one.window is not None
    )
    size = beyond * work.batch * work.element
    return (
        (VramPart("beyond windows", size, "the prompt's other keys and values, until decode"),)
        if size
        else ()
    )


def _layers(a: Architecture) -> str:
    """How many layers keep what of a token."""
    counts: dict[str, int] = {}
    for layer in a.layers:
        if layer.attention is not None:
            each = _per_token(layer.attention)
            counts[each] = counts.get(each, 0) + layer.count
    return " + ".join(f"{count} layers × {each}" for each, count in counts.items())


def _per_token(one: Attention) -> str:
    if one.latent is not None:
        return f"{one.latent} latent numbers"
    each = f"{one.kv_heads} heads × {one.key_dim + one.value_dim}"
    return each if one.window is None else f"{each} for {one.window} tokens at most"


def _activations(a: Architecture, work: _Work, *, eager: bool, fused: bool) -> VramPart:
    """What one layer, or the head, holds at once at its worst."""
    held = most_held(a, Prefill(work.batch, work.prompt, work.element, eager, fused))
    # generate keeps the last position's logits alone, and copies them to fp32.
    logits = work.batch * a.vocab * (work.element + 4)
    if held.bytes >= logits:
        return VramPart("activations", held.bytes, str(held))
    formula = f"logits: batch {work.batch} × {a.vocab:,} tokens × ({work.element} + 4) bytes"
    return VramPart("activations", logits, formula)


def _as_filed(config: ExperimentConfig, filed: FileMemory, resolved: ResolvedModel) -> tuple[VramPart, ...]:
    """The file as it is, and a part of the prompt at a time."""
    a, stored = resolved.architecture, resolved.stored
    assert stored is not None, "a GGUF that was read"
    wanted = filed.context or config.max_tokens
    context = -(-wanted // filed.step) * filed.step
    at_once = min(filed.tokens_at_once, context)
    if a is None:
        cached, layers = (resolved.cached_at_most or 0) * context, "every layer's keys and values"
    else:  # of a window llama.cpp keeps what is computed at once beside it
        kinds = [(layer.count, layer.attention) for layer in a.layers if layer.attention is not None]
        cached = sum(
            count * one.cached * min(context, context if one.window is None else one.window + at_once)
            for count, one in kinds
        )
        layers = _layers(a)
    parts = (
        VramPart("weights", stored.bytes, "the tensors' bytes in its files"),
        VramPart(
            "KV cache",
            round(cached * filed.cached_bytes / 2),
            f"({layers}) × {context} tokens ({wanted} in whole {filed.step}s) × {filed.cached_bytes / 2:g} "
            f"bytes ({filed.cached_types})",
        ),
        VramPart("runtime", FILED_RUNTIME_BYTES, "Python and llama.cpp in memory, as measured once"),
    )
    if a is None:
        return parts
    logits = VramPart(
        "activations",
        at_once * a.vocab * 4,
        f"logits: {at_once} tokens at once × {a.vocab:,} tokens × 4 bytes",
    )
    return (*parts[:2], logits, parts[2])


def _runtime(*, on_gpus: bool) -> VramPart:
    if on_gpus:
        return VramPart(
            "runtime", CUDA_CONTEXT_BYTES, "CUDA context and libraries, assumed; PyTorch's peak leaves it out"
        )
    return VramPart(
        "runtime", CPU_RUNTIME_BYTES, "Python, torch and transformers in memory, as measured once"
    )


def _freed(parts: Sequence[VramPart]) -> VramPart:
    """What the C library keeps of memory that PyTorch gave back.

    A cache that grows by a token is written anew and its old place freed. glibc keeps such blocks (up to
    32 MB each, by its growing threshold for mmap) for later ones, but what comes next is of another size: in
    the end about as much lies free between what is held as there is held at the peak. With that threshold
    fixed at 1 MB this part is not there. A GPU's allocator is asked for what is held alone.
    """
    names = " + ".join(part.name for part in parts)
    return VramPart("freed blocks", sum(part.bytes for part in parts), f"as much again as {names}")
