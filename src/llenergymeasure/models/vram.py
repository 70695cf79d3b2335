"""How much memory will an experiment need, and how does that come about?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llenergymeasure.config.engines import FileMemory, Traits
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.models.formulas import ELEMENT_BYTES, kv_cache_bytes, parameters, weight_bytes
from llenergymeasure.models.resolve import fetch_shape, resolve
from llenergymeasure.records import Architecture

CUDA_CONTEXT_BYTES = 500_000_000  # context, kernels and cuBLAS workspace; 0.3 to 0.7 GB by GPU and driver
# Resident size of a worker with torch 2.13 and transformers 5.24 after a first token, less weights and cache:
# 405 MB with GPT-2 and with SmolLM2 of random weights, 405 to 435 MB with SmolLM2's own.
CPU_RUNTIME_BYTES = 410_000_000

# The same of a worker with llama-cpp-python 0.3.36, which imports no torch.
FILED_RUNTIME_BYTES = 60_000_000

_FORMULA = "weights + KV cache + activations + runtime"

_WEIGHTS = {
    "fp32": "{n:,} parameters × 4 bytes",
    "fp16": "{n:,} parameters × 2 bytes",
    "bf16": "{n:,} parameters × 2 bytes",
    "int8": "{n:,} parameters: layers' matrices × 1 byte + a 4-byte scale per row, the rest × 2 bytes",
    "int4": "{n:,} parameters: layers' matrices × 0.5 byte + a 4-byte scale per 64, the rest × 2 bytes",
}


@dataclass(frozen=True, slots=True)
class VramPart:
    """One term of the sum, with the numbers that went into it."""

    name: str
    bytes: int
    formula: str


@dataclass(frozen=True, slots=True)
class VramEstimate:
    """The sum of `parts`, or None for the `reason`; `source` says where the model's shape was read."""

    total_bytes: int | None
    parts: tuple[VramPart, ...]
    formula: str
    source: str
    reason: str | None


@dataclass(frozen=True, slots=True)
class _Work:
    """The largest batch of an experiment: every prompt as long as allowed."""

    batch: int
    prompt: int
    output: int
    element: int
    eager: bool


def estimate_vram(config: ExperimentConfig, *, least: bool = False) -> VramEstimate:
    """The peak memory of the experiment on its device, from the model's shape alone; the `least` is that with
    one request at once, where the engine forms its own batches.

    An estimate from above: every prompt fills `max_input_tokens`. The network is asked once, for a few
    seconds at most, and only for a hub id whose shape is neither cached nor built in. PreFlightError where
    the model itself can't be there.
    """
    own = config.engine
    if own.is_simulated:
        return VramEstimate(None, (), _FORMULA, "none", f"the {config.backend} backend loads no model")
    resolved = fetch_shape(resolve(config.model, revision=own.revision))
    shape = resolved.architecture
    if shape is None:
        return VramEstimate(None, (), _FORMULA, "none", resolved.reason)
    if own.filed is not None and resolved.kind == "gguf" and resolved.path is not None:
        parts = _as_filed(config, own.filed, shape, resolved.path.stat().st_size)
    else:
        at_once = 1 if least and own.forms_batches else min(config.batch_size, config.n)
        parts = _as_computed(config, own, shape, at_once=at_once)
    formula = " + ".join(part.name for part in parts)
    return VramEstimate(sum(part.bytes for part in parts), parts, formula, shape.source, None)


def _as_computed(
    config: ExperimentConfig, own: Traits, shape: Architecture, *, at_once: int
) -> tuple[VramPart, ...]:
    """Weights in the precision asked for, and what the largest batch takes beside them."""
    work = _Work(
        batch=at_once // own.replicas * own.beams,
        prompt=config.max_input_tokens,
        output=config.max_output_tokens,
        element=ELEMENT_BYTES[config.precision],
        eager=own.is_eager,
    )
    weights = _WEIGHTS[config.precision].format(n=parameters(shape))
    on_gpus = Path("/dev/nvidiactl").exists() if own.uses_gpus is None else own.uses_gpus
    parts: tuple[VramPart, ...] = (
        VramPart("weights", weight_bytes(shape, config.precision), weights),
        _kv_cache(shape, work),
        _activations(shape, work),
        _runtime(on_gpus=on_gpus),
    )
    if on_gpus:
        return parts
    if own.keeps_freed_blocks:
        parts = (*parts, _freed(parts))
    count = own.replicas
    return tuple(
        VramPart(part.name, count * part.bytes, f"{count} processes × ({part.formula})")
        if count > 1
        else part
        for part in parts
    )


def _kv_cache(a: Architecture, work: _Work) -> VramPart:
    tokens = work.prompt + work.output
    size = kv_cache_bytes(a, batch=work.batch, tokens=tokens, bytes_per_element=work.element)
    return VramPart(
        "KV cache",
        size,
        f"2 × {a.layers} layers × {a.kv_heads} heads × {a.head_dim} × batch {work.batch} × "
        f"({work.prompt} + {work.output}) tokens × {work.element} bytes",
    )


def _activations(a: Architecture, work: _Work) -> VramPart:
    """What one layer, or the head, holds at once at its worst; layers reuse each other's memory."""
    return max(_feed_forward(a, work), _attention(a, work), _logits(a, work), key=lambda part: part.bytes)


def _feed_forward(a: Architecture, work: _Work) -> VramPart:
    # Gated: the activated gate, up and their product. Plain: GPT-2's GELU is written out and keeps five. A
    # mixture keeps gate and up as one tensor beside activation and product, and a copy of the input for
    # each chosen expert. Around them the residual, its norm and the rotary tables.
    chosen = a.active_experts if a.experts else 1
    held = 4 if a.experts else 3 if a.ffn_matrices == 3 else 5
    width = held * chosen * a.ffn + (4 + (chosen if a.experts else 0)) * a.hidden
    return _prefill(a, work, "feed-forward", width)


def _attention(a: Architecture, work: _Work) -> VramPart:
    # Queries, output, and keys and values repeated for each head, beside residual, norm and rotary tables.
    return _prefill(a, work, "attention", 4 * a.heads * a.head_dim + 4 * a.hidden)


def _prefill(a: Architecture, work: _Work, what: str, width: int) -> VramPart:
    tokens, square = work.batch * work.prompt, work.batch * work.prompt**2
    size = tokens * width * work.element + square * work.element
    formula = (
        f"{what} of the prefill: {tokens:,} tokens × {width:,} channels × {work.element} bytes"
        f" + mask {square:,} × {work.element} bytes"
    )
    if work.eager and what == "attention":
        # Scores as they come, scaled, in fp32 for the softmax, and as they go.
        each = 3 * work.element + 4
        size += a.heads * square * each
        formula += f" + {a.heads * square:,} scores × {each} bytes"
    return VramPart("activations", size, formula)


def _logits(a: Architecture, work: _Work) -> VramPart:
    # generate keeps the last position's logits alone, and copies them to fp32.
    return VramPart(
        "activations",
        work.batch * a.vocab * (work.element + 4),
        f"logits: batch {work.batch} × {a.vocab:,} tokens × ({work.element} + 4) bytes",
    )


def _as_filed(
    config: ExperimentConfig, filed: FileMemory, a: Architecture, file_bytes: int
) -> tuple[VramPart, ...]:
    """The file as it is, and a part of the prompt at a time."""
    wanted = filed.context or config.max_tokens
    context = -(-wanted // filed.step) * filed.step
    at_once = min(filed.tokens_at_once, context)
    return (
        VramPart("weights", file_bytes, "the file's bytes"),
        VramPart(
            "KV cache",
            round(a.layers * a.kv_heads * a.head_dim * context * filed.cached_bytes),
            f"{a.layers} layers × {a.kv_heads} heads × {a.head_dim} × {context} tokens "
            f"({wanted} in whole {filed.step}s) × {filed.cached_bytes:g} bytes ({filed.cached_types})",
        ),
        VramPart(
            "activations",
            at_once * a.vocab * 4,
            f"logits: {at_once} tokens at once × {a.vocab:,} tokens × 4 bytes",
        ),
        VramPart("runtime", FILED_RUNTIME_BYTES, "Python and llama.cpp in memory, as measured once"),
    )


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
    held = [part for part in parts if part.name in {"KV cache", "activations"}]
    return VramPart(
        "freed blocks", sum(part.bytes for part in held), "as much again as KV cache + activations"
    )
