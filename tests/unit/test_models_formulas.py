from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llenergymeasure.models.formulas import (
    active_parameters,
    decode_flops,
    kv_cache_bytes,
    parameters,
    prefill_flops,
    weight_bytes,
)
from llenergymeasure.models.shapes import HUB_SHAPES, SHAPES, hf_config
from llenergymeasure.records import Architecture

PUBLISHED = {
    "gpt2": 124_439_808,
    "gpt2-xl": 1_557_611_200,
    "smollm2-135m": 134_515_008,
    "smollm2-1.7b": 1_711_376_384,
    "tinyllama-1.1b": 1_100_048_384,
    "llama-2-7b": 6_738_415_616,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-7b": 7_615_616_512,
    "mistral-7b": 7_241_732_096,
    "mixtral-8x7b": 46_702_792_704,
}

# Worked by hand below: 2 layers, width 8, 4 heads of 2 over 2 key-value heads, gated feed-forward of 16.
TINY = Architecture(
    name="tiny",
    source="by hand",
    layers=2,
    hidden=8,
    heads=4,
    kv_heads=2,
    head_dim=2,
    ffn=16,
    ffn_matrices=3,
    vocab=100,
    tied_embeddings=True,
    context=64,
)
# Matrices of a layer: q 8·8 + k 8·4 + v 8·4 + o 8·8 = 192, and 3·8·16 = 384 of the feed-forward.
LAYER_WEIGHTS = 192 + 384


@pytest.mark.parametrize(("name", "count"), PUBLISHED.items())
def test_parameters_are_those_published(name: str, count: int) -> None:
    assert parameters(SHAPES[name]) == count


def test_a_mixture_activates_only_the_chosen_experts() -> None:
    assert active_parameters(SHAPES["mixtral-8x7b"]) == 12_879_925_248
    assert active_parameters(SHAPES["llama-3.1-8b"]) == parameters(SHAPES["llama-3.1-8b"])


def test_parameters_of_a_tiny_decoder_by_hand() -> None:
    assert parameters(TINY) == 100 * 8 + 2 * (LAYER_WEIGHTS + 2 * 8) + 8
    assert parameters(replace(TINY, tied_embeddings=False)) == parameters(TINY) + 100 * 8
    # biases of q, k and v: 8 + 4 + 4 in each layer
    assert parameters(replace(TINY, attention_bias=(True, False))) == parameters(TINY) + 2 * 16
    # a norm over each head's query and key: 2 + 2 in each layer
    assert parameters(replace(TINY, qk_norm=True)) == parameters(TINY) + 2 * 4


def test_prefill_by_hand() -> None:
    # 3 tokens: 2 per multiply-add of the matrices, scores and values over the full 3 × 3 square of width 8,
    # the head once.
    layer = 2 * 3 * LAYER_WEIGHTS + 2 * (2 * 3 * 3 * 8)
    assert prefill_flops(TINY, 3) == 2 * layer + 2 * 8 * 100
    assert prefill_flops(TINY, 3, batch=5) == 5 * prefill_flops(TINY, 3)


def test_decode_by_hand() -> None:
    # 3 prompt tokens, 3 output tokens: two steps, over 4 and then 5 positions, the head in each.
    matrices = 2 * (2 * 2 * LAYER_WEIGHTS + 2 * 8 * 100)
    attention = 2 * (2 * 2 * 8 * (4 + 5))
    assert decode_flops(TINY, 3, 3) == matrices + attention


def test_the_first_token_needs_no_decode_step() -> None:
    assert decode_flops(TINY, 100, 1) == 0
    assert decode_flops(TINY, 100, 0) == 0


@given(st.sampled_from(list(SHAPES.values())), st.integers(1, 4000), st.integers(1, 300), st.integers(1, 300))
def test_decode_of_two_stretches_adds_up(shape: Architecture, prompt: int, first: int, then: int) -> None:
    whole = decode_flops(shape, prompt, first + then)
    parts = decode_flops(shape, prompt, first) + decode_flops(shape, prompt + first - 1, then + 1)
    assert whole == pytest.approx(parts, rel=1e-12)


def test_prefill_of_a_mixture_counts_active_experts_and_the_router() -> None:
    mixture = replace(TINY, experts=4, active_experts=2)
    layer = 2 * (192 + 2 * 384 + 8 * 4) + 4 * 8
    assert prefill_flops(mixture, 1) == 2 * layer + 2 * 8 * 100


def test_kv_cache_counts_grouped_heads() -> None:
    # Llama-3.1-8B: 2 · 32 layers · 8 heads · 128 · 2 bytes = 131,072 bytes for each token
    assert kv_cache_bytes(SHAPES["llama-3.1-8b"], batch=4, tokens=1000, bytes_per_element=2) == 4000 * 131_072


def test_weight_bytes_of_plain_precisions() -> None:
    assert weight_bytes(TINY, "fp32") == 4 * parameters(TINY)
    assert weight_bytes(TINY, "bf16") == weight_bytes(TINY, "fp16") == 2 * parameters(TINY)


def test_quantised_weights_carry_their_scales() -> None:
    kept = parameters(TINY) - 2 * LAYER_WEIGHTS
    # int8: a 4-byte scale for each output row: q 8, k 4, v 4, o 8, gate 16, up 16, down 8
    assert weight_bytes(TINY, "int8") == 2 * kept + 2 * LAYER_WEIGHTS + 4 * 2 * 64
    # int4: half a byte each, a 4-byte scale for 64
    assert weight_bytes(TINY, "int4") == 2 * kept + LAYER_WEIGHTS + 4 * (2 * LAYER_WEIGHTS // 64)


@given(st.sampled_from(list(SHAPES.values())))
def test_fewer_bits_need_fewer_bytes(shape: Architecture) -> None:
    sizes = [weight_bytes(shape, precision) for precision in ("fp32", "bf16", "int8", "int4")]
    assert sizes == sorted(sizes, reverse=True)


def test_hub_ids_lead_to_shapes() -> None:
    assert HUB_SHAPES["meta-llama/llama-3.1-8b"] is SHAPES["llama-3.1-8b"]
    assert HUB_SHAPES["qwen/qwen2.5-7b-instruct"] is SHAPES["qwen2.5-7b"]
    assert HUB_SHAPES["openai-community/gpt2"] is SHAPES["gpt2"]


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("gpt2", "gpt2"),
        ("llama-3.2-1b", "llama"),
        ("qwen2.5-0.5b", "qwen2"),
        ("qwen3-8b", "qwen3"),
        ("mixtral-8x7b", "mixtral"),
    ],
)
def test_a_shape_is_built_by_its_family(name: str, family: str) -> None:
    assert hf_config(SHAPES[name])["model_type"] == family


def test_a_shape_of_no_known_family_is_refused() -> None:
    for strange in ({"layer_norms": 4}, {"norm_parameters": 2}, {"ffn_matrices": 2}):
        with pytest.raises(ValueError, match="no known family"):
            hf_config(replace(TINY, **strange))  # type: ignore[arg-type]  # one strange field at a time
    with pytest.raises(ValueError, match="no known family"):
        hf_config(replace(TINY, qk_norm=True, experts=4, active_experts=2))
