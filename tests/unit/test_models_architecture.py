from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llenergymeasure.models.architecture import from_config
from llenergymeasure.models.formulas import parameters
from llenergymeasure.models.shapes import SHAPES, hf_config
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


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_built_in_shape_survives_its_own_config(shape: Architecture) -> None:
    again = from_config(hf_config(shape), name=shape.name, source=shape.source)
    assert again == shape


def test_llama_defaults_are_those_of_transformers() -> None:
    shape = read(LLAMA)
    assert (shape.kv_heads, shape.head_dim, shape.tied_embeddings) == (4, 16, False)
    assert shape.attention_bias == (False, False)
    assert read({**LLAMA, "num_key_value_heads": None}).kv_heads == 4


def test_biases_are_read_where_a_family_leaves_them_open() -> None:
    shape = read({**LLAMA, "attention_bias": True, "mlp_bias": True})
    assert shape.attention_bias == (True, True)
    assert shape.ffn_bias


def test_qwen2_has_biases_on_queries_keys_and_values_only() -> None:
    assert read({**LLAMA, "model_type": "qwen2", "num_key_value_heads": 2}).attention_bias == (True, False)


def test_a_number_of_heads_that_each_class_defaults_differently_is_not_guessed() -> None:
    with pytest.raises(ValueError, match="'num_key_value_heads' is missing"):
        read({**LLAMA, "model_type": "mistral"})
    with pytest.raises(ValueError, match="'head_dim' is missing"):
        read({**LLAMA, "model_type": "qwen3", "num_key_value_heads": 2})


def test_gemma_ties_its_embeddings_unless_told() -> None:
    gemma = {**LLAMA, "model_type": "gemma2", "num_key_value_heads": 2, "head_dim": 32}
    assert read(gemma).tied_embeddings
    assert read(gemma).layer_norms == 4
    assert not read({**gemma, "tie_word_embeddings": False}).tied_embeddings


def test_an_unknown_family_says_so() -> None:
    with pytest.raises(ValueError, match=r"model_type 'bert' is not known \(known: .*llama"):
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


@pytest.mark.parametrize("field", [{"do_layer_norm_before": False}, {"word_embed_proj_dim": 32}])
def test_an_opt_outside_the_formula_is_refused(field: dict[str, object]) -> None:
    opt = {**LLAMA, "model_type": "opt", "ffn_dim": 176}
    assert read(opt).positions == 514
    with pytest.raises(ValueError, match="OPT"):
        read({**opt, **field})
