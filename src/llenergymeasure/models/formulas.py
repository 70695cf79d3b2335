"""How many parameters, floating-point operations and bytes does a decoder of this shape have?

A multiply-add is 2 operations. Counted are the matrix products of every layer, the score and value products
of attention, the recurrences of state-space and linear-attention layers, the router of a mixture of experts
and the output head; not the look-up of embeddings, norms, activations, rotary positions and softmax, as
`torch.utils.flop_counter` has it.
"""

from __future__ import annotations

from collections.abc import Iterable

from llenergymeasure.config.section import Precision
from llenergymeasure.records import Architecture, Attention, Layer, Matrix, Quantisation, Recurrence

ELEMENT_BYTES: dict[Precision, int] = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 2, "int4": 2}
"""Bytes of one activation or cached key: quantised weights still compute in 16 bits."""

# bitsandbytes: NF4 has one fp32 scale for 64 weights, 8 bits one per output.
_ASKED = {"int4": Quantisation("bitsandbytes", 4, group=64), "int8": Quantisation("bitsandbytes", 8)}
# Operations for each number of a state and token: its decay, the input's outer product, their sum and the
# product with the output vector. Mamba's decay differs in each state; the delta rule also reads its state.
_STATE_OPERATIONS = {"mamba": 6, "mamba2": 6, "delta": 7, "convolution": 0}


def parameters(a: Architecture) -> int:
    """All parameters, shared ones once: what `sum(p.numel() for p in model.parameters())` gives.

    Those of a quantised checkpoint are the unquantised model's.
    """
    return text_parameters(a) + (a.tower or 0)


def text_parameters(a: Architecture) -> int:
    """Those of the text model alone."""
    return _outside(a) + sum(layer.count * _layer_parameters(layer, layer.experts) for layer in a.layers)


def active_parameters(a: Architecture) -> int:
    """The parameters that one token of text meets: all of a dense model, the chosen experts of a mixture."""
    return _outside(a) + sum(layer.count * _layer_parameters(layer, layer.active) for layer in a.layers)


def prefill_flops(a: Architecture, prompt_tokens: int, *, batch: int = 1) -> float:
    """Operations from the prompts to their first output token.

    Attention is counted as executed and as the usual utilisation figures have it: the full square, its
    masked half included, or the window of each token where a layer has one. The head works once per request.
    `prompt_tokens` is the padded length where prompts of one batch are padded, since padding is computed too.
    """
    total = float(_head_flops(a))
    for layer in a.layers:
        total += layer.count * prompt_tokens * _token_flops(layer)
        if layer.attention is not None:
            seen = _seen(layer.attention, prompt_tokens)
            total += layer.count * prompt_tokens * (_pair_flops(layer.attention) * seen + _expansion(layer))
    return batch * total


def decode_flops(a: Architecture, prompt_tokens: int, output_tokens: int) -> float:
    """Operations for the output tokens after the first: `output_tokens` − 1 steps of one request.

    Step i feeds one token and attends to prompt_tokens + i; the head works in every step. Latent attention
    makes the keys and values of all these anew in each step, as transformers does.
    """
    steps = max(output_tokens - 1, 0)
    total = float(steps * _head_flops(a))
    for layer in a.layers:
        total += layer.count * steps * _token_flops(layer)
        if layer.attention is not None:
            seen = _seen_in_steps(layer.attention, prompt_tokens, steps)
            total += layer.count * seen * (_pair_flops(layer.attention) + _expansion(layer))
    return total


def recurrence_flops(layer: Layer) -> int:
    """Operations of a layer's recurrence for one token, its convolution included."""
    found = layer.recurrence
    if found is None:
        return 0
    return _STATE_OPERATIONS[found.kind] * found.state + 2 * found.kernel * found.convolved


def kv_cache_bytes(a: Architecture, *, batch: int, tokens: int, bytes_per_element: int) -> int:
    """What is cached of `tokens` positions for `batch` requests: keys and values of grouped heads, or the
    latent vector of each token; no more than its window in a layer that has one.
    """
    cached = sum(
        layer.count * _seen(layer.attention, tokens) * layer.attention.cached
        for layer in a.layers
        if layer.attention is not None
    )
    return batch * cached * bytes_per_element


def decode_cache_bytes(
    a: Architecture, prompt_tokens: int, output_tokens: int, bytes_per_element: int
) -> int:
    """What all steps of one request after its first token read of its cache and its states."""
    steps = max(output_tokens - 1, 0)
    cached = sum(
        layer.count * _seen_in_steps(layer.attention, prompt_tokens, steps) * layer.attention.cached
        for layer in a.layers
        if layer.attention is not None
    )
    states = state_bytes(a, batch=1, bytes_per_element=bytes_per_element)
    return cached * bytes_per_element + steps * states


def state_bytes(a: Architecture, *, batch: int, bytes_per_element: int) -> int:
    """The recurrent states of `batch` requests and the ends of their convolutions, at any length.

    transformers keeps states in fp32 and the ends in the type that is computed in.
    """
    return batch * sum(
        layer.count * _state_bytes(layer.recurrence, bytes_per_element)
        for layer in a.layers
        if layer.recurrence is not None
    )


def weight_bytes(a: Architecture, precision: Precision) -> int | None:
    """Bytes of the loaded weights of the whole model.

    A checkpoint that is quantised already keeps its packing. int8 and int4 else are those of bitsandbytes:
    the matrices of the layers are packed; embeddings, head, norms, biases and routers stay in 16 bits.
    None where the packing of a checkpoint has no size that is known without its files.
    """
    packing = a.quantisation or _ASKED.get(precision)
    if packing is None:
        return parameters(a) * ELEMENT_BYTES[precision]
    if packing.bits == 0:
        return None
    kept, packed = parameters(a), 0
    for matrix, count in _packed(a, packing):
        kept -= count * _elements(matrix)
        packed += count * _packed_bytes(matrix, packing)
    return 2 * kept + packed


def _outside(a: Architecture) -> int:
    return a.embedding + a.other + (0 if a.tied else _elements(a.head))


def _elements(matrix: Matrix) -> int:
    return matrix[0] * matrix[1]


def _sum(matrices: Iterable[Matrix]) -> int:
    return sum(_elements(matrix) for matrix in matrices)


def _layer_parameters(layer: Layer, experts: int) -> int:
    own = _sum(layer.matrices) + layer.router + layer.other
    if layer.attention is not None and layer.attention.expansion is not None:
        own += _elements(layer.attention.expansion)
    return own + experts * (_sum(layer.expert_matrices) + layer.expert_other)


def _token_flops(layer: Layer) -> int:
    """Operations for one token wherever it stands."""
    met = _sum(layer.matrices) + layer.router + layer.active * _sum(layer.expert_matrices)
    return 2 * met + recurrence_flops(layer)


def _pair_flops(attention: Attention) -> int:
    return 2 * attention.heads * (attention.key_dim + attention.value_dim)


def _expansion(layer: Layer) -> int:
    expansion = None if layer.attention is None else layer.attention.expansion
    return 0 if expansion is None else 2 * _elements(expansion)


def _head_flops(a: Architecture) -> int:
    return 2 * _elements(a.head)


def _seen(attention: Attention, tokens: int) -> int:
    return tokens if attention.window is None else min(tokens, attention.window)


def _seen_in_steps(attention: Attention, prompt: int, steps: int) -> int:
    """How many positions all steps together attend to: prompt + i in step i, up to the window."""
    growing = steps if attention.window is None else min(max(attention.window - prompt, 0), steps)
    full = (steps - growing) * (attention.window or 0)
    return growing * prompt + growing * (growing + 1) // 2 + full


def _state_bytes(recurrence: Recurrence, element: int) -> int:
    return 4 * recurrence.state + recurrence.convolved * recurrence.kernel * element


def _packed(a: Architecture, packing: Quantisation) -> Iterable[tuple[Matrix, int]]:
    """The matrices that a packing touches, with how many there are of each."""
    for layer in a.layers:
        if packing.scope == "linear":
            yield from ((matrix, layer.count) for matrix in layer.matrices)
            if layer.attention is not None and layer.attention.expansion is not None:
                yield layer.attention.expansion, layer.count
        yield from ((matrix, layer.count * layer.experts) for matrix in layer.expert_matrices)


def _packed_bytes(matrix: Matrix, packing: Quantisation) -> int:
    inputs, outputs = matrix
    groups = -(-inputs // packing.group) if packing.group else 1
    packed = _elements(matrix) * packing.bits // 8
    match packing.method:
        case "bitsandbytes":
            scales = 4 * -(-_elements(matrix) // 64) if packing.bits == 4 else 4 * outputs
        case "mxfp4":
            scales = groups * outputs
        case "fp8":
            rows, columns = packing.block or (outputs, inputs)
            scales = 4 * -(-outputs // rows) * -(-inputs // columns)
        case _:  # AWQ and GPTQ: fp16 scales and packed zeros; GPTQ also lists the group of each input
            scales = groups * (2 * outputs + outputs * packing.bits // 8)
            scales += 4 * inputs if packing.method == "gptq" else 0
    return packed + scales
