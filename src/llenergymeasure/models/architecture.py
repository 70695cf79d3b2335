"""Which shape does a model's own description give: a transformers `config.json` or the header of a GGUF?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

from llenergymeasure.models.formulas import parameters
from llenergymeasure.records import Architecture


@dataclass(frozen=True, slots=True)
class _Family:
    """How a family of rotary decoders departs from Llama.

    `grouped_default` says that a missing number of key-value heads means one for each head, and
    `head_dim_default` that a missing head size means hidden over heads; elsewhere the class has a default
    of its own that a file should not rely on. A bias of None is read from the file.
    """

    tied: bool = False
    grouped_default: bool = False
    head_dim_default: bool = True
    qkv_bias: bool | None = False
    output_bias: bool | None = False
    bias_default: bool = False
    ffn_bias: bool | None = False
    ffn_matrices: Literal[2, 3] = 3
    norm_parameters: Literal[1, 2] = 1
    layer_norms: Literal[2, 4] = 2
    qk_norm: bool = False
    mixture: bool = False


_FAMILIES = {
    "llama": _Family(grouped_default=True, qkv_bias=None, output_bias=None, ffn_bias=None),
    "mistral": _Family(),
    "mixtral": _Family(mixture=True),
    "qwen2": _Family(qkv_bias=True),
    "qwen3": _Family(qkv_bias=None, output_bias=None, qk_norm=True, head_dim_default=False),
    "phi3": _Family(grouped_default=True),
    "gemma": _Family(tied=True, qkv_bias=None, output_bias=None, head_dim_default=False),
    "gemma2": _Family(tied=True, qkv_bias=None, output_bias=None, head_dim_default=False, layer_norms=4),
    "gpt_neox": _Family(
        grouped_default=True,
        qkv_bias=None,
        output_bias=None,
        bias_default=True,
        ffn_bias=True,
        ffn_matrices=2,
        norm_parameters=2,
    ),
}


def from_config(config: Mapping[str, object], *, name: str, source: str) -> Architecture:
    """The shape that a transformers `config.json` describes.

    ValueError says why there is none: a family that is not known, or a field that is missing or no number.
    """
    family = config.get("model_type")
    if family == "gpt2":
        return _gpt2(config, name, source)
    if family == "opt":
        return _opt(config, name, source)
    if isinstance(family, str) and family in _FAMILIES:
        return _rotary(_FAMILIES[family], config, name, source)
    known = ", ".join(sorted({*_FAMILIES, "gpt2", "opt"}))
    raise ValueError(f"the shape of model_type {family!r} is not known (known: {known})")


def from_gguf(
    metadata: Mapping[str, object], tensors: Mapping[str, Sequence[int]], *, name: str, source: str
) -> Architecture:
    """The shape that the header of a GGUF describes; `tensors` maps names to dimensions, fastest first.

    Biases, norms, gates and tying are read from the tensors that are there, and the shape must account for
    every parameter in the file. ValueError where it does not, or where a field is missing.
    """
    family = metadata.get("general.architecture")

    def field(key: str, *, default: int | None = None) -> int:
        return _whole(metadata, f"{family}.{key}", default=default)

    embedding = tensors.get("token_embd.weight")
    if embedding is None or len(embedding) != 2:
        raise ValueError("it holds no token embedding")
    heads, experts = field("attention.head_count"), field("expert_count", default=0)
    fused = "blk.0.attn_qkv.bias" in tensors
    gates = {"blk.0.ffn_gate.weight", "blk.0.ffn_gate_exps.weight"}
    shape = Architecture(
        name=name,
        source=source,
        layers=field("block_count"),
        hidden=field("embedding_length"),
        heads=heads,
        kv_heads=field("attention.head_count_kv", default=heads),
        head_dim=field("attention.key_length", default=field("embedding_length") // heads),
        ffn=field("feed_forward_length"),
        ffn_matrices=3 if gates & tensors.keys() else 2,
        vocab=embedding[1],
        tied_embeddings="output.weight" not in tensors,
        context=field("context_length"),
        experts=experts,
        active_experts=field("expert_used_count") if experts else 0,
        attention_bias=(fused or "blk.0.attn_q.bias" in tensors, "blk.0.attn_output.bias" in tensors),
        ffn_bias="blk.0.ffn_up.bias" in tensors,
        positions=tensors.get("position_embd.weight", (0, 0))[1],
        norm_parameters=2 if "blk.0.attn_norm.bias" in tensors else 1,
        layer_norms=4 if "blk.0.post_attention_norm.weight" in tensors else 2,
        qk_norm="blk.0.attn_q_norm.weight" in tensors,
    )
    held = sum(prod(dims) for tensor, dims in tensors.items() if not tensor.startswith("rope_"))
    if held != parameters(shape):
        raise ValueError(
            f"the shape of architecture {family!r} is not known: "
            f"its tensors hold {held:,} parameters where a usual decoder has {parameters(shape):,}"
        )
    return shape


def _rotary(family: _Family, config: Mapping[str, object], name: str, source: str) -> Architecture:
    hidden, heads = _whole(config, "hidden_size"), _whole(config, "num_attention_heads")
    bias = _flag(config, "attention_bias", default=family.bias_default)
    qkv_bias = bias if family.qkv_bias is None else family.qkv_bias
    output_bias = bias if family.output_bias is None else family.output_bias
    ffn_bias = _flag(config, "mlp_bias", default=False) if family.ffn_bias is None else family.ffn_bias
    null_kv = "num_key_value_heads" in config and config["num_key_value_heads"] is None
    return Architecture(
        name=name,
        source=source,
        layers=_whole(config, "num_hidden_layers"),
        hidden=hidden,
        heads=heads,
        kv_heads=_whole(
            config, "num_key_value_heads", default=heads if family.grouped_default or null_kv else None
        ),
        head_dim=_whole(config, "head_dim", default=hidden // heads if family.head_dim_default else None),
        ffn=_whole(config, "intermediate_size"),
        ffn_matrices=family.ffn_matrices,
        vocab=_whole(config, "vocab_size"),
        tied_embeddings=_flag(config, "tie_word_embeddings", default=family.tied),
        context=_whole(config, "max_position_embeddings"),
        experts=_whole(config, "num_local_experts") if family.mixture else 0,
        active_experts=_whole(config, "num_experts_per_tok") if family.mixture else 0,
        attention_bias=(qkv_bias, output_bias),
        ffn_bias=ffn_bias,
        norm_parameters=family.norm_parameters,
        layer_norms=family.layer_norms,
        qk_norm=family.qk_norm,
    )


def _gpt2(config: Mapping[str, object], name: str, source: str) -> Architecture:
    hidden, heads = _whole(config, "n_embd"), _whole(config, "n_head")
    positions = _whole(config, "n_positions")
    return Architecture(
        name=name,
        source=source,
        layers=_whole(config, "n_layer"),
        hidden=hidden,
        heads=heads,
        kv_heads=heads,
        head_dim=hidden // heads,
        ffn=_whole(config, "n_inner", default=4 * hidden),
        ffn_matrices=2,
        vocab=_whole(config, "vocab_size"),
        tied_embeddings=_flag(config, "tie_word_embeddings", default=True),
        context=positions,
        attention_bias=(True, True),
        ffn_bias=True,
        positions=positions,
        norm_parameters=2,
    )


def _opt(config: Mapping[str, object], name: str, source: str) -> Architecture:
    hidden, heads = _whole(config, "hidden_size"), _whole(config, "num_attention_heads")
    if _whole(config, "word_embed_proj_dim", default=hidden) != hidden:
        raise ValueError("an OPT with projected embeddings has a shape that is not known")
    if not _flag(config, "do_layer_norm_before", default=True):
        raise ValueError("an OPT that normalises after its layers has a shape that is not known")
    bias = _flag(config, "enable_bias", default=True)
    context = _whole(config, "max_position_embeddings")
    return Architecture(
        name=name,
        source=source,
        layers=_whole(config, "num_hidden_layers"),
        hidden=hidden,
        heads=heads,
        kv_heads=heads,
        head_dim=hidden // heads,
        ffn=_whole(config, "ffn_dim"),
        ffn_matrices=2,
        vocab=_whole(config, "vocab_size"),
        tied_embeddings=_flag(config, "tie_word_embeddings", default=True),
        context=context,
        attention_bias=(bias, bias),
        ffn_bias=bias,
        positions=context + 2,  # OPT's table starts two rows late
        norm_parameters=2,
    )


def _whole(config: Mapping[str, object], key: str, *, default: int | None = None) -> int:
    value = config.get(key)
    if value is None:
        if default is None:
            raise ValueError(f"its field {key!r} is missing")
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**40:
        raise ValueError(f"its field {key!r} must be a positive whole number, got {value!r}")
    return value


def _flag(config: Mapping[str, object], key: str, *, default: bool) -> bool:
    value = config.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise ValueError(f"its field {key!r} must be true or false, got {value!r}")
    return value
