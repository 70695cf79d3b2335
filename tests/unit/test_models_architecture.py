from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llenergymeasure.models.architecture import (
    cached_at_most,
    from_config,
    from_stored,
    stated_context,
)
from llenergymeasure.models.formulas import (
    kv_cache_bytes,
    parameters,
    prefill_flops,
    text_parameters,
)
from llenergymeasure.models.shapes import SHAPES
from llenergymeasure.records import Architecture

LLAMA: dict[str, object] = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 176,
    "vocab_size": 1000,
    "max_position_embeddings": 512,
}


def read(config: dict[str, object]) -> Architecture:
    return from_config(config, name="model", source="test")


def test_llama_defaults_are_those_of_transformers() -> None:
    shape = read(LLAMA)
    assert [(one.kv_heads, one.key_dim) for one in shape.attentions] == [(4, 16)]
    assert not shape.tied
    assert read({**LLAMA, "num_key_value_heads": None}) == shape


def test_biases_are_read_where_a_family_leaves_them_open() -> None:
    biased = read({**LLAMA, "attention_bias": True, "mlp_bias": True})
    # of q, k, v and output, and of gate, up and down, in each layer
    assert parameters(biased) - parameters(read(LLAMA)) == 2 * (4 * 64 + 2 * 176 + 64)


def test_a_number_of_heads_that_each_class_defaults_differently_is_not_guessed() -> None:
    with pytest.raises(ValueError, match="'num_key_value_heads' is missing"):
        read({**LLAMA, "model_type": "mistral"})


def test_gemma_ties_its_embeddings_unless_told() -> None:
    gemma = {**LLAMA, "model_type": "gemma2", "num_key_value_heads": 2, "head_dim": 32}
    assert read(gemma).tied
    assert not read({**gemma, "tie_word_embeddings": False}).tied


def test_key_value_heads_may_differ_from_layer_to_layer() -> None:
    shape = read({**LLAMA, "num_key_value_heads": [1, 2]})
    assert [one.kv_heads for one in shape.attentions] == [1, 2]
    assert kv_cache_bytes(shape, batch=1, tokens=1, bytes_per_element=2) == (1 + 2) * 2 * 16 * 2


def test_a_text_model_within_another_has_its_own_context_and_family() -> None:
    text = {**LLAMA, "model_type": "mistral", "num_key_value_heads": 2}
    outer: dict[str, object] = {
        "model_type": "some-vision-model",
        "text_config": text,
        "vision_config": {"hidden_size": 8},
    }
    shape = read(outer)
    assert (shape.family, shape.context, shape.tower) == ("mistral", 512, None)
    assert text_parameters(shape) == parameters(read(text))


@pytest.mark.parametrize("key", ["max_position_embeddings", "n_positions", "seq_length", "max_seq_len"])
def test_the_context_of_a_family_that_nobody_knows_is_read(key: str) -> None:
    assert stated_context({"model_type": "unheard-of", key: 777}) == 777
    assert stated_context({"model_type": "unheard-of", "text_config": {key: 777}}) == 777
    assert stated_context({"model_type": "unheard-of", key: "long"}) is None


def test_the_cache_of_a_family_that_nobody_knows_has_a_bound() -> None:
    unknown = {**LLAMA, "model_type": "unheard-of", "num_key_value_heads": 2}
    assert cached_at_most(unknown) == 2 * 2 * 2 * 16
    assert cached_at_most({"model_type": "unheard-of"}) is None


def test_a_shape_in_the_events_of_version_0_8_counts_as_it_did() -> None:
    old = {
        "name": "mixtral-8x7b",
        "source": "built-in table",
        "layers": 32,
        "hidden": 4096,
        "heads": 32,
        "kv_heads": 8,
        "head_dim": 128,
        "ffn": 14336,
        "ffn_matrices": 3,
        "vocab": 32000,
        "tied_embeddings": False,
        "context": 32768,
        "experts": 8,
        "active_experts": 2,
        "attention_bias": [False, False],
        "ffn_bias": False,
        "positions": 0,
        "norm_parameters": 1,
        "layer_norms": 2,
        "qk_norm": False,
    }
    shape, today = from_stored(old), SHAPES["mixtral-8x7b"]
    assert isinstance(shape, Architecture)
    assert parameters(shape) == parameters(today)
    assert prefill_flops(shape, 77) == prefill_flops(today, 77)
    assert from_stored(None) is None


def test_an_unknown_family_says_so() -> None:
    with pytest.raises(ValueError, match="model_type 'bert' is not known"):
        read({**LLAMA, "model_type": "bert"})
    with pytest.raises(ValueError, match="None is not known"):
        read({"hidden_size": 3})


@pytest.mark.parametrize("value", [0, -1, "64", 64.0, True, [64], 2**70])
def test_a_field_that_is_no_positive_whole_number_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="'hidden_size' must be a positive whole number"):
        read({**LLAMA, "hidden_size": value})


@given(
    st.dictionaries(
        st.sampled_from([*LLAMA, "head_dim", "num_key_value_heads", "tie_word_embeddings"]),
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers())),
    )
)
def test_any_config_gives_a_shape_or_a_reason(fields: dict[str, object]) -> None:
    with suppress(ValueError):
        assert parameters(read({**LLAMA, **fields})) > 0
