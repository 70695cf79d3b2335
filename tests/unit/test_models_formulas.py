from __future__ import annotations

from pathlib import Path

import pytest
from docs.generate import models_page
from hypothesis import given
from hypothesis import strategies as st

from llenergymeasure.models.architecture import from_config
from llenergymeasure.models.formulas import (
    active_parameters,
    decode_cache_bytes,
    decode_flops,
    kv_cache_bytes,
    parameters,
    prefill_flops,
    recurrence_flops,
    state_bytes,
    text_parameters,
    weight_bytes,
)
from llenergymeasure.models.shapes import CONFIGS, HUB_SHAPES, SHAPES
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
    "gemma-2-9b": 9_241_705_984,
    "gemma-7b": 8_537_680_896,
    "gemma-3-1b": 999_885_952,
    "gemma-3-4b": 4_300_079_472,
    "phi-3-mini-4k": 3_821_079_552,
    "phi-4": 14_659_507_200,
    "mistral-nemo-12b": 12_247_782_400,
    "pythia-6.9b": 6_857_302_016,
    "opt-6.7b": 6_658_473_984,
    "opt-350m": 331_196_416,
    "qwen3-4b": 4_022_468_096,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-next-80b-a3b": 79_674_391_296,
    "deepseek-v3": 671_026_404_352,
    "gpt-oss-20b": 20_914_757_184,
    "falcon-7b": 6_921_720_704,
    "mamba-2.8b": 2_768_345_600,
    "mamba2-2.7b": 2_702_599_680,
    "jamba-v0.1": 51_570_323_328,
}

# Worked by hand below: 2 layers, width 8, 4 heads of 2 over 2 key-value heads, gated feed-forward of 16.
CONFIG: dict[str, object] = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 100,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}


def shape_of(**fields: object) -> Architecture:
    return from_config({**CONFIG, **fields}, name="tiny", source="by hand")


TINY = shape_of()
# Matrices of a layer: q 8·8 + k 8·4 + v 8·4 + o 8·8 = 192, and 3·8·16 = 384 of the feed-forward.
LAYER_WEIGHTS = 192 + 384


@pytest.mark.parametrize(("name", "count"), PUBLISHED.items())
def test_parameters_are_those_published(name: str, count: int) -> None:
    assert parameters(SHAPES[name]) == count


def test_a_mixture_activates_only_the_chosen_experts() -> None:
    assert active_parameters(SHAPES["mixtral-8x7b"]) == 12_879_925_248
    assert active_parameters(SHAPES["deepseek-v3"]) == 671_026_404_352 - 58 * 248 * 3 * 7168 * 2048
    # 48 layers choose 8 of 128 experts
    assert active_parameters(SHAPES["qwen3-30b-a3b"]) == 30_532_122_624 - 48 * 120 * 3 * 2048 * 768
    assert active_parameters(SHAPES["gemma-3-4b"]) == text_parameters(SHAPES["gemma-3-4b"])
    assert active_parameters(SHAPES["llama-3.1-8b"]) == parameters(SHAPES["llama-3.1-8b"])


def test_parameters_of_a_tiny_decoder_by_hand() -> None:
    assert parameters(TINY) == 100 * 8 + 2 * (LAYER_WEIGHTS + 2 * 8) + 8
    assert parameters(shape_of(tie_word_embeddings=False)) == parameters(TINY) + 100 * 8
    # biases of q, k and v: 8 + 4 + 4 in each layer
    qwen2 = shape_of(model_type="qwen2")
    assert parameters(qwen2) == parameters(TINY) + 2 * 16
    # a norm over each head's query and key: 2 + 2 in each layer
    assert parameters(shape_of(model_type="qwen3", head_dim=2)) == parameters(TINY) + 2 * 4


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
    mixture = shape_of(model_type="mixtral", num_local_experts=4, num_experts_per_tok=2)
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
    # int4: half a byte each, a 4-byte scale for 64 of a matrix: q 1, k 1, v 1, o 1, gate 2, up 2, down 2
    assert weight_bytes(TINY, "int4") == 2 * kept + LAYER_WEIGHTS + 4 * 2 * 10


@given(st.sampled_from(list(SHAPES.values())))
def test_fewer_bits_need_fewer_bytes(shape: Architecture) -> None:
    sizes = [weight_bytes(shape, precision) or 0 for precision in ("fp32", "bf16", "int8", "int4")]
    assert sizes == sorted(sizes, reverse=True)


def test_the_page_of_models_holds_what_the_code_says() -> None:
    page = Path(__file__).parents[2] / "docs" / "reference" / "models.md"
    assert page.read_text(encoding="utf-8") == models_page(), "run: python docs/generate.py"


def test_hub_ids_lead_to_shapes() -> None:
    assert HUB_SHAPES["meta-llama/llama-3.1-8b"] is SHAPES["llama-3.1-8b"]
    assert HUB_SHAPES["qwen/qwen2.5-7b-instruct"] is SHAPES["qwen2.5-7b"]
    assert HUB_SHAPES["openai-community/gpt2"] is SHAPES["gpt2"]


def test_a_window_bounds_what_is_cached_and_attended_to() -> None:
    slides = shape_of(model_type="mistral", sliding_window=4)
    # 2 · 2 layers · 2 heads · 2 numbers · 2 bytes = 32 bytes for each token of at most 4
    sizes = [kv_cache_bytes(slides, batch=3, tokens=tokens, bytes_per_element=2) for tokens in (2, 4, 40)]
    assert sizes == [3 * 2 * 32, 3 * 4 * 32, 3 * 4 * 32]
    # 6 tokens each see 4 positions, over 2 layers of width 8: scores and values
    whole = shape_of(model_type="mistral", sliding_window=None)
    assert prefill_flops(whole, 6) - prefill_flops(slides, 6) == 2 * (4 * 8 * 6 * (6 - 4))
    # from a prompt of 2 three steps see 3, 4 and 4 positions, where all are 3, 4 and 5
    assert decode_flops(whole, 2, 4) - decode_flops(slides, 2, 4) == 2 * 4 * 8 * (5 - 4)
    read = decode_cache_bytes(slides, 2, 4, 2)
    assert read == (3 + 4 + 4) * 32


def test_every_sixth_layer_of_gemma_3_sees_all() -> None:
    gemma = shape_of(model_type="gemma3_text", num_hidden_layers=12, head_dim=2, sliding_window=4)
    assert [(layer.count, one.window) for layer in gemma.layers if (one := layer.attention)] == [
        (10, 4),
        (2, None),
    ]
    long = kv_cache_bytes(gemma, batch=1, tokens=1000, bytes_per_element=2)
    assert long == (10 * 4 + 2 * 1000) * 2 * 2 * 2 * 2


def test_latent_attention_caches_one_vector_for_a_token() -> None:
    # 512 and 64 rotary numbers in each of 61 layers
    assert kv_cache_bytes(SHAPES["deepseek-v3"], batch=1, tokens=1, bytes_per_element=2) == 70_272
    assert kv_cache_bytes(SHAPES["falcon-7b"], batch=1, tokens=1, bytes_per_element=2) == 8_192
    assert kv_cache_bytes(SHAPES["mamba-2.8b"], batch=1, tokens=9, bytes_per_element=2) == 0


def test_the_state_of_a_recurrence_has_one_size_at_every_length() -> None:
    # Mamba-2.8B: 64 layers of 5,120 channels with 16 states in fp32 and the last 4 positions
    mamba = 64 * 5120 * (16 * 4 + 4 * 2)
    assert state_bytes(SHAPES["mamba-2.8b"], batch=2, bytes_per_element=2) == 2 * mamba
    # Qwen3-Next: 36 layers with 32 states of 128 by 128 in fp32, and 4 positions of 8,192 channels
    assert state_bytes(SHAPES["qwen3-next-80b-a3b"], batch=1, bytes_per_element=2) == 36 * (
        32 * 128 * 128 * 4 + 4 * 8192 * 2
    )


def test_recurrences_by_hand() -> None:
    (mamba,) = SHAPES["mamba-2.8b"].layers
    # for each of 5,120 · 16 states: decay, input, their sum (2), output (2); and 4 taps of 5,120 channels
    assert recurrence_flops(mamba) == 5120 * (16 * 6 + 4 * 2)
    delta = SHAPES["qwen3-next-80b-a3b"].layers[0]
    # decay, what the key recalls (2), its correction (2), output (2); and 4 taps of 8,192 channels
    assert recurrence_flops(delta) == 32 * 128 * 128 * 7 + 8192 * 8


def test_a_quantised_checkpoint_keeps_its_packing_and_the_parameters_of_the_model() -> None:
    def packed(**quantization: object) -> Architecture:
        return shape_of(
            hidden_size=256,
            intermediate_size=512,
            quantization_config={"quant_method": "awq", "bits": 4, "group_size": 128, **quantization},
        )

    plain = shape_of(hidden_size=256, intermediate_size=512)
    matrices = 2 * (2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 512)
    kept = 2 * (parameters(plain) - matrices)
    # half a byte each, and for 128 of them a scale of 2 bytes and a zero of half a byte
    assert weight_bytes(packed(), "bf16") == kept + matrices // 2 + matrices // 128 * 5 // 2
    assert parameters(packed()) == parameters(plain)
    fp8 = packed(quant_method="fp8", weight_block_size=[128, 128])
    assert weight_bytes(fp8, "bf16") == kept + matrices + matrices // 128**2 * 4
    assert weight_bytes(packed(quant_method="made-up"), "bf16") is None


def test_mxfp4_packs_the_experts_alone() -> None:
    config = {**CONFIGS["gpt-oss-20b"], "quantization_config": {"quant_method": "mxfp4"}}
    size = weight_bytes(from_config(config, name="x", source="x"), "bf16")
    experts = 24 * 32 * 3 * 2880 * 2880
    assert size == 2 * (20_914_757_184 - experts) + experts // 2 + experts // 32
