"""How much does a prefill hold at once beside weights and cache, at its worst?

The blocks of transformers' own implementations, as the allocator shows them at the peak of each kind of
layer; layers reuse each other's memory. Each is so many bytes for a token and so many for a pair of tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llenergymeasure.records import Architecture, Attention, Layer

# How many tensors as wide as the feed-forward its activation keeps, where GELU is written out in torch or
# gate and up are one tensor; else 3 with a gate, 2 without.
_KEPT = {"gpt2": 4, "gptj": 4, "phi": 4, "bloom": 5, "phi3": 4, "glm": 4, "glm4": 4}
# And how many as wide as the model are around it, where more than 4.
_AROUND = {"gpt2": 6, "gpt_bigcode": 6, "stablelm": 6}
# Attention that transformers has written out only.
_ALWAYS_EAGER = {"gemma2", "gpt_oss", "bloom"}
# What written-out attention keeps of the scores of a pair: numbers as computed and in fp32; else 3 and 1.
_SCORES = {"gpt2": (4, 0), "falcon": (4, 0), "bloom": (3, 2)}
# The outputs of experts are weighted in fp32.
_WEIGHTED_IN_FP32 = {"mixtral", "deepseek_v2", "deepseek_v3", "glm4_moe", "minimax_m2", "nemotron_h"}


@dataclass(frozen=True, slots=True)
class Prefill:
    """A batch of prompts of one length. `eager` attention writes its scores out; `fused` says that the device
    has a kernel for heads whose keys and values differ in size.
    """

    batch: int
    prompt: int
    element: int
    eager: bool
    fused: bool


@dataclass(frozen=True, slots=True)
class Held:
    """What is held at one moment of the prefill."""

    what: str
    tokens: int
    per_token: int
    pairs: int
    per_pair: int

    @property
    def bytes(self) -> int:
        return self.tokens * self.per_token + self.pairs * self.per_pair

    def __str__(self) -> str:
        text = f"{self.what} of the prefill: {self.tokens:,} tokens × {self.per_token:,} bytes"
        return f"{text} + {self.pairs:,} pairs × {self.per_pair:,} bytes" if self.per_pair else text


def most_held(a: Architecture, work: Prefill) -> Held:
    """The moment of the prefill that holds most."""
    return max((held for layer in a.layers for held in _moments(a, layer, work)), key=lambda held: held.bytes)


def _moments(a: Architecture, layer: Layer, work: Prefill) -> Iterator[Held]:
    tokens, pairs, element = work.batch * work.prompt, work.batch * work.prompt**2, work.element
    eager = work.eager or a.family in _ALWAYS_EAGER
    # The mask: one number for a pair, or a byte for a fused kernel; eager attention also keeps its weights.
    kept = 0 if not a.attentions else 1
    if layer.attention is not None:
        kept = element * (1 + layer.attention.heads) if eager else 1
        width, per_pair = _attention(a, layer.attention, work, eager=eager)
        yield Held("attention", tokens, width, pairs, per_pair)
    width = _feed_forward(a, layer, element)
    if width:
        yield Held("feed-forward", tokens, width, pairs, kept)
    if layer.recurrence is not None:
        padded = work.batch * -(-work.prompt // (layer.recurrence.chunk or 1)) * (layer.recurrence.chunk or 1)
        yield Held(
            "recurrence",
            padded,
            _recurrence(a, layer, element),
            pairs,
            element if eager and a.attentions else kept,
        )


def _attention(a: Architecture, one: Attention, work: Prefill, *, eager: bool) -> tuple[int, int]:
    """Bytes for a token and for a pair."""
    keys, element = one.heads * one.key_dim, work.element
    is_plain = one.expansion is None and (one.kv_heads == one.heads)
    width = element * ((2 if eager and is_plain else 3) * keys + 3 * a.hidden)
    if one.expansion is not None:
        width += element * one.expansion[1]
    if eager:
        as_computed, in_fp32 = _SCORES.get(a.family, (3, 1))
        return width, one.heads * (as_computed * element + 4 * in_fp32) + element
    # No kernel of a CPU takes keys and values of different sizes, or Falcon's one head for all queries.
    if not work.fused and (one.key_dim != one.value_dim or (a.family == "falcon" and one.kv_heads == 1)):
        copies = 2 * keys + one.kv_heads * (one.key_dim + one.value_dim)
        return width + 4 * copies, 9 * one.heads + element + 1
    return width, element + 1


def _feed_forward(a: Architecture, layer: Layer, element: int) -> int:
    """Residual, norm, input and output beside what the activation keeps."""
    width = _KEPT.get(a.family, 3 if layer.gated else 2) * layer.width
    around = _AROUND.get(a.family, 4) * a.hidden
    if layer.experts:
        copies = layer.active * a.hidden
        inside = (9 if a.family == "gpt_oss" else 4) * layer.active * layer.expert_width + copies
        weighted = 2 + 8 // element if a.family in _WEIGHTED_IN_FP32 else 4
        # The shared expert's output waits for the others.
        width = max(width, inside, weighted * copies) + a.hidden * bool(layer.width)
    return element * (width + around) if width else 0


def _recurrence(a: Architecture, layer: Layer, element: int) -> int:
    """Without the kernels of further packages, as transformers computes them: mostly in fp32."""
    found = layer.recurrence
    assert found is not None, "a layer with a recurrence"
    inner, around = found.heads * found.value_dim, 4 * a.hidden
    match found.kind:
        case "mamba":
            return 12 * found.state + inner * (16 + 5 * element) + element * around
        case "mamba2":
            projected = layer.matrices[0][1]
            full = 12 * found.heads * found.chunk + 20 * found.heads * found.key_dim + 16 * inner
            return (
                full
                + 9 * found.state // found.chunk
                + element * (projected + found.convolved + inner + around)
            )
        case "delta":
            full = found.heads * (12 * found.chunk + 20 * found.key_dim) + 20 * inner
            projected = layer.matrices[0][1]
            return full + element * (projected + found.convolved + inner + around)
        case "convolution":
            return element * (6 * found.convolved + around)
