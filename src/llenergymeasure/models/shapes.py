"""Which published shapes are known without a download, and how does transformers build one?

The figures are those of each model's published `config.json`; the tests compare every parameter count with
the model that transformers builds.
"""

from __future__ import annotations

from pydantic import JsonValue

from llenergymeasure.records import Architecture

_SOURCE = "built-in table"


def _llama(name: str, size: tuple[int, int, int], heads: tuple[int, int, int], **rest: int) -> Architecture:
    """`size` is (layers, hidden, ffn), `heads` is (heads, key-value heads, size of one)."""
    layers, hidden, ffn = size
    query, kv, head_dim = heads
    return Architecture(
        name=name,
        source=_SOURCE,
        layers=layers,
        hidden=hidden,
        heads=query,
        kv_heads=kv,
        head_dim=head_dim,
        ffn=ffn,
        ffn_matrices=3,
        vocab=rest["vocab"],
        tied_embeddings=bool(rest.get("tied")),
        context=rest["context"],
        experts=rest.get("experts", 0),
        active_experts=rest.get("active", 0),
        attention_bias=(bool(rest.get("qkv_bias")), False),
        qk_norm=bool(rest.get("qk_norm")),
    )


def _gpt2(name: str, layers: int, hidden: int, heads: int) -> Architecture:
    return Architecture(
        name=name,
        source=_SOURCE,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=heads,
        head_dim=hidden // heads,
        ffn=4 * hidden,
        ffn_matrices=2,
        vocab=50257,
        tied_embeddings=True,
        context=1024,
        attention_bias=(True, True),
        ffn_bias=True,
        positions=1024,
        norm_parameters=2,
    )


_LLAMA3 = {"vocab": 128256, "context": 131072}
_SMOL = {"vocab": 49152, "context": 8192, "tied": 1}
_QWEN_SMALL = {"vocab": 151936, "context": 32768, "tied": 1, "qkv_bias": 1}
_QWEN_LARGE = {"vocab": 152064, "context": 32768, "qkv_bias": 1}
_QWEN3 = {"vocab": 151936, "context": 40960, "qk_norm": 1}

_TABLE = (
    _gpt2("gpt2", 12, 768, 12),
    _gpt2("gpt2-medium", 24, 1024, 16),
    _gpt2("gpt2-large", 36, 1280, 20),
    _gpt2("gpt2-xl", 48, 1600, 25),
    _llama("smollm2-135m", (30, 576, 1536), (9, 3, 64), **_SMOL),
    _llama("smollm2-360m", (32, 960, 2560), (15, 5, 64), **_SMOL),
    _llama("smollm2-1.7b", (24, 2048, 8192), (32, 32, 64), **_SMOL),
    _llama("tinyllama-1.1b", (22, 2048, 5632), (32, 4, 64), vocab=32000, context=2048),
    _llama("llama-2-7b", (32, 4096, 11008), (32, 32, 128), vocab=32000, context=4096),
    _llama("llama-3-8b", (32, 4096, 14336), (32, 8, 128), vocab=128256, context=8192),
    _llama("llama-3.1-8b", (32, 4096, 14336), (32, 8, 128), **_LLAMA3),
    _llama("llama-3.1-70b", (80, 8192, 28672), (64, 8, 128), **_LLAMA3),
    _llama("llama-3.2-1b", (16, 2048, 8192), (32, 8, 64), tied=1, **_LLAMA3),
    _llama("llama-3.2-3b", (28, 3072, 8192), (24, 8, 128), tied=1, **_LLAMA3),
    _llama("mistral-7b", (32, 4096, 14336), (32, 8, 128), vocab=32000, context=32768),
    _llama("mistral-7b-v0.3", (32, 4096, 14336), (32, 8, 128), vocab=32768, context=32768),
    _llama("mixtral-8x7b", (32, 4096, 14336), (32, 8, 128), vocab=32000, context=32768, experts=8, active=2),
    _llama("qwen2.5-0.5b", (24, 896, 4864), (14, 2, 64), **_QWEN_SMALL),
    _llama("qwen2.5-1.5b", (28, 1536, 8960), (12, 2, 128), **_QWEN_SMALL),
    _llama("qwen2.5-3b", (36, 2048, 11008), (16, 2, 128), **_QWEN_SMALL),
    _llama("qwen2.5-7b", (28, 3584, 18944), (28, 4, 128), **_QWEN_LARGE),
    _llama("qwen2.5-14b", (48, 5120, 13824), (40, 8, 128), **_QWEN_LARGE),
    _llama("qwen2.5-32b", (64, 5120, 27648), (40, 8, 128), **_QWEN_LARGE),
    _llama("qwen2.5-72b", (80, 8192, 29568), (64, 8, 128), **_QWEN_LARGE),
    _llama("qwen3-0.6b", (28, 1024, 3072), (16, 8, 128), tied=1, **_QWEN3),
    _llama("qwen3-8b", (36, 4096, 12288), (32, 8, 128), **_QWEN3),
)

SHAPES: dict[str, Architecture] = {shape.name: shape for shape in _TABLE}


def _and_instruct(*names: str) -> tuple[str, ...]:
    return tuple(name + suffix for name in names for suffix in ("", "-Instruct"))


_HUB_IDS = {
    **{name: (name, f"openai-community/{name}") for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")},
    **{
        f"smollm2-{size.lower()}": _and_instruct(f"HuggingFaceTB/SmolLM2-{size}")
        for size in ("135M", "360M", "1.7B")
    },
    "tinyllama-1.1b": ("TinyLlama/TinyLlama-1.1B-Chat-v1.0",),
    "llama-2-7b": ("meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-7b-chat-hf"),
    "llama-3-8b": _and_instruct("meta-llama/Meta-Llama-3-8B"),
    "llama-3.1-8b": _and_instruct("meta-llama/Llama-3.1-8B", "meta-llama/Meta-Llama-3.1-8B"),
    "llama-3.1-70b": (*_and_instruct("meta-llama/Llama-3.1-70B"), "meta-llama/Llama-3.3-70B-Instruct"),
    "llama-3.2-1b": _and_instruct("meta-llama/Llama-3.2-1B"),
    "llama-3.2-3b": _and_instruct("meta-llama/Llama-3.2-3B"),
    "mistral-7b": ("mistralai/Mistral-7B-v0.1", "mistralai/Mistral-7B-Instruct-v0.2"),
    "mistral-7b-v0.3": ("mistralai/Mistral-7B-v0.3", "mistralai/Mistral-7B-Instruct-v0.3"),
    "mixtral-8x7b": ("mistralai/Mixtral-8x7B-v0.1", "mistralai/Mixtral-8x7B-Instruct-v0.1"),
    **{
        f"qwen2.5-{size.lower()}": _and_instruct(f"Qwen/Qwen2.5-{size}")
        for size in ("0.5B", "1.5B", "3B", "7B", "14B", "32B", "72B")
    },
    "qwen3-0.6b": ("Qwen/Qwen3-0.6B",),
    "qwen3-8b": ("Qwen/Qwen3-8B",),
}

HUB_SHAPES: dict[str, Architecture] = {
    hub_id.lower(): SHAPES[shape] for shape, hub_ids in _HUB_IDS.items() for hub_id in hub_ids
}
"""Shapes by lower-case hub id, so that a dry run of a well-known model needs no network."""


def hf_config(a: Architecture) -> dict[str, JsonValue]:
    """The dictionary from which transformers' `AutoConfig.for_model` builds a model of this shape.

    Only what decides arithmetic and bytes is set: Mistral is built as a Llama, and rotary bases and sliding
    windows keep their defaults. ValueError for a shape outside GPT-2, Llama, Qwen 2 and 3 and Mixtral.
    """
    plain = a.ffn_matrices == 2 and a.norm_parameters == 2 and a.attention_bias == (True, True)
    if plain and a.ffn_bias and a.positions and a.kv_heads * a.head_dim == a.hidden:
        return {
            "model_type": "gpt2",
            "n_layer": a.layers,
            "n_embd": a.hidden,
            "n_head": a.heads,
            "n_inner": a.ffn,
            "n_positions": a.positions,
            "vocab_size": a.vocab,
            "tie_word_embeddings": a.tied_embeddings,
        }
    if a.ffn_matrices != 3 or a.norm_parameters != 1 or a.layer_norms != 2 or a.positions:
        raise ValueError(f"{a.name}: no known family of transformers has this shape")
    config: dict[str, JsonValue] = {
        "model_type": _rotary_family(a),
        "num_hidden_layers": a.layers,
        "hidden_size": a.hidden,
        "num_attention_heads": a.heads,
        "num_key_value_heads": a.kv_heads,
        "head_dim": a.head_dim,
        "intermediate_size": a.ffn,
        "vocab_size": a.vocab,
        "max_position_embeddings": a.context,
        "tie_word_embeddings": a.tied_embeddings,
    }
    if a.experts:
        config |= {"num_local_experts": a.experts, "num_experts_per_tok": a.active_experts}
    if a.attention_bias == (True, True):
        config["attention_bias"] = True
    if a.ffn_bias:
        config["mlp_bias"] = True
    return config


def _rotary_family(a: Architecture) -> str:
    match (a.attention_bias, a.ffn_bias, a.qk_norm, bool(a.experts)):
        case ((False, False) | (True, True), _, False, False):
            return "llama"
        case ((True, False), False, False, False):
            return "qwen2"
        case ((False, False) | (True, True), False, True, False):
            return "qwen3"
        case ((False, False), False, False, True):
            return "mixtral"
    raise ValueError(f"{a.name}: no known family of transformers has this shape")
