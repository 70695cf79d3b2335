"""How many parameters, floating-point operations and bytes does a decoder of this shape have?

A multiply-add is 2 operations. Counted are the matrix products of every layer, the score and value products
of attention, the router of a mixture of experts and the output head; not the look-up of embeddings, norms,
activations, rotary positions and softmax, as `torch.utils.flop_counter` has it.
"""

from __future__ import annotations

from llenergymeasure.config.section import Precision
from llenergymeasure.records import Architecture

ELEMENT_BYTES: dict[Precision, int] = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 2, "int4": 2}
"""Bytes of one activation or cached key: quantised weights still compute in 16 bits."""

INT4_BLOCK = 64  # bitsandbytes NF4: one fp32 scale for 64 weights


def parameters(a: Architecture) -> int:
    """All parameters, shared ones once: what `sum(p.numel() for p in model.parameters())` gives."""
    return _embedding(a) + a.layers * _layer_parameters(a, a.experts or 1) + a.hidden * a.norm_parameters


def active_parameters(a: Architecture) -> int:
    """The parameters that one token meets: all of a dense model, the chosen experts of a mixture."""
    chosen = a.active_experts if a.experts else 1
    return _embedding(a) + a.layers * _layer_parameters(a, chosen) + a.hidden * a.norm_parameters


def prefill_flops(a: Architecture, prompt_tokens: int, *, batch: int = 1) -> float:
    """Operations from the prompts to their first output token.

    Attention is counted as executed and as the usual utilisation figures have it: the full square, its
    masked half included. The head works once per request. `prompt_tokens` is the padded length where
    prompts of one batch are padded, since padding is computed too.
    """
    layer = 2.0 * prompt_tokens * _layer_weights_met(a) + 4.0 * _query_width(a) * prompt_tokens**2
    return batch * (a.layers * layer + _head_flops(a))


def decode_flops(a: Architecture, prompt_tokens: int, output_tokens: int) -> float:
    """Operations for the output tokens after the first: `output_tokens` − 1 steps of one request.

    Step i feeds one token and attends to prompt_tokens + i; the head works in every step.
    """
    steps = max(output_tokens - 1, 0)
    contexts = steps * prompt_tokens + steps * (steps + 1) // 2
    dense = 2.0 * a.layers * _layer_weights_met(a) + _head_flops(a)
    return steps * dense + 4.0 * a.layers * _query_width(a) * contexts


def kv_cache_bytes(a: Architecture, *, batch: int, tokens: int, bytes_per_element: int) -> int:
    """Keys and values of `tokens` positions for `batch` requests, with grouped heads."""
    return 2 * a.layers * a.kv_heads * a.head_dim * batch * tokens * bytes_per_element


def weight_bytes(a: Architecture, precision: Precision) -> int:
    """Bytes of the loaded weights.

    Assumed for int8 and int4, after bitsandbytes: only the matrices of the layers are quantised, and
    embeddings, head, norms and biases stay in 16 bits. int8 adds one fp32 scale per output row, int4 (NF4)
    one per 64 weights.
    """
    if precision not in {"int8", "int4"}:
        return parameters(a) * ELEMENT_BYTES[precision]
    experts = a.experts or 1
    matrices = a.layers * (_attention_weights(a) + experts * _expert_weights(a))
    kept = parameters(a) - matrices
    if precision == "int4":
        return 2 * kept + matrices // 2 + 4 * (matrices // INT4_BLOCK)
    rows = _query_width(a) + 2 * _kv_width(a) + a.hidden
    rows += experts * ((a.ffn_matrices - 1) * a.ffn + a.hidden)
    return 2 * kept + matrices + 4 * a.layers * rows


def _query_width(a: Architecture) -> int:
    return a.heads * a.head_dim


def _kv_width(a: Architecture) -> int:
    return a.kv_heads * a.head_dim


def _embedding(a: Architecture) -> int:
    tables = 1 if a.tied_embeddings else 2
    return (tables * a.vocab + a.positions) * a.hidden


def _attention_weights(a: Architecture) -> int:
    return 2 * a.hidden * (_query_width(a) + _kv_width(a))


def _expert_weights(a: Architecture) -> int:
    return a.ffn_matrices * a.hidden * a.ffn


def _layer_parameters(a: Architecture, experts: int) -> int:
    qkv_bias, output_bias = a.attention_bias
    biases = (_query_width(a) + 2 * _kv_width(a)) * qkv_bias + a.hidden * output_bias
    biases += experts * ((a.ffn_matrices - 1) * a.ffn + a.hidden) * a.ffn_bias
    norms = a.norm_parameters * (a.layer_norms * a.hidden + 2 * a.head_dim * a.qk_norm)
    router = a.hidden * a.experts
    return _attention_weights(a) + experts * _expert_weights(a) + router + biases + norms


def _layer_weights_met(a: Architecture) -> int:
    chosen = a.active_experts if a.experts else 1
    return _attention_weights(a) + chosen * _expert_weights(a) + a.hidden * a.experts


def _head_flops(a: Architecture) -> float:
    return 2.0 * a.hidden * a.vocab
