"""How does each family of decoders differ from Llama?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

Bias: TypeAlias = bool | str
"""Whether there is a bias, or the field of the file that says so."""
Windows: TypeAlias = Literal["all", "late"] | int | None
"""Which layers have a window where the file does not list them: all, those from `max_window_layers` on, or
all but every n-th.
"""


@dataclass(frozen=True, slots=True)
class Family:
    """A row of the table.

    `norm` is the number of parameters per channel of a norm, `norms` how many of the model's width a layer
    has. `positions` is how many rows a table of learnt positions has beyond the context; None without one.
    `gate` means that attention's output is gated by a part of the query projection. `defaults` stand for
    fields that published files leave out.
    """

    qkv_bias: Bias = False
    output_bias: Bias = False
    ffn_bias: Bias = False
    gated: bool = True
    norm: Literal[0, 1, 2] = 1
    norms: int = 2
    qk_norm: Literal["head", "full"] | None = None
    tied: bool = False
    windows: Windows = None
    mixture: bool = False
    latent: bool = False
    gate: bool = False
    sinks: bool = False
    recurrence: Literal["mamba", "mamba2", "delta", "convolution"] | None = None
    positions: int | None = None
    head_bias: bool = False
    defaults: Mapping[str, object] = field(default_factory=dict)


_BARE = Family()
_LLAMA = Family("attention_bias", "attention_bias", "mlp_bias", defaults={"num_key_value_heads": None})
_QWEN = Family("attention_bias", "attention_bias", qk_norm="head", windows="late")
_QWEN_HYBRID = replace(_QWEN, windows=None, gate=True, recurrence="delta", defaults={"head_dim": 256})
_GEMMA = Family("attention_bias", "attention_bias", tied=True, defaults={"head_dim": 256})
_COHERE = Family("attention_bias", "attention_bias", norms=1, tied=True)
_PLAIN = Family(True, True, True, gated=False, norm=2, defaults={"num_key_value_heads": None})
_MAMBA = Family(norms=1, tied=True, recurrence="mamba", defaults={"max_position_embeddings": None})
_DENSE_FIRST: Mapping[str, object] = {"n_shared_experts": 1, "first_k_dense_replace": 1}
_GEMMA3 = {
    "vocab_size": 262208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131072,
    "sliding_window": 4096,
}

FAMILIES: Mapping[str, Family] = {
    "bamba": replace(_LLAMA, recurrence="mamba2"),
    "bloom": replace(
        _PLAIN, tied=True, defaults={"num_key_value_heads": None, "max_position_embeddings": None}
    ),
    "cohere": replace(_COHERE, qk_norm="full", defaults={"use_qk_norm": False}),
    "cohere2": replace(_COHERE, windows=4),
    "deepseek_v2": replace(_BARE, mixture=True, latent=True, defaults={"n_shared_experts": 2}),
    "deepseek_v3": replace(
        _BARE, mixture=True, latent=True, defaults={**_DENSE_FIRST, "first_k_dense_replace": 3}
    ),
    "exaone4": replace(_BARE, qk_norm="head", windows=4),
    "falcon": replace(
        _PLAIN,
        qkv_bias="bias",
        output_bias="bias",
        ffn_bias="bias",
        tied=True,
        defaults={"max_position_embeddings": 2048, "num_key_value_heads": None},
    ),
    "falcon_h1": replace(_LLAMA, recurrence="mamba2"),
    "falcon_mamba": _MAMBA,
    "gemma": _GEMMA,
    "gemma2": replace(_GEMMA, norms=4, windows=2),
    "gemma3_text": replace(_GEMMA, norms=4, qk_norm="head", windows=6, defaults=_GEMMA3),
    "glm": Family("attention_bias", defaults={"attention_bias": True, "head_dim": 128}),
    "glm4": Family("attention_bias", norms=4, defaults={"attention_bias": True, "head_dim": 128}),
    "glm4_moe": Family(
        "attention_bias", qk_norm="head", mixture=True, defaults={**_DENSE_FIRST, "use_qk_norm": False}
    ),
    "gpt2": replace(_PLAIN, tied=True, positions=0),
    "gpt_bigcode": replace(_PLAIN, tied=True, positions=0),
    "gpt_neox": replace(
        _PLAIN,
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        defaults={"num_key_value_heads": None, "attention_bias": True},
    ),
    "gpt_oss": Family(
        "attention_bias",
        "attention_bias",
        True,
        windows=2,
        mixture=True,
        sinks=True,
        defaults={"attention_bias": True, "sliding_window": 128},
    ),
    "gptj": replace(_PLAIN, qkv_bias=False, output_bias=False, norms=1, head_bias=True),
    "granite": _LLAMA,
    "granitemoe": replace(_LLAMA, ffn_bias=False, mixture=True),
    "granitemoehybrid": replace(_LLAMA, ffn_bias=False, mixture=True, recurrence="mamba2"),
    "jamba": replace(_BARE, mixture=True, recurrence="mamba"),
    "lfm2": replace(_BARE, qk_norm="head", tied=True, recurrence="convolution"),
    "llama": _LLAMA,
    "mamba": _MAMBA,
    "mamba2": replace(_MAMBA, tied=False, recurrence="mamba2"),
    "minimax_m2": replace(_BARE, qk_norm="full", mixture=True),
    "ministral3": replace(_BARE, windows="all", defaults={"head_dim": 128}),
    "mistral": replace(_BARE, windows="all", defaults={"sliding_window": 4096}),
    "mixtral": replace(_BARE, windows="all", mixture=True),
    "nemotron_h": replace(_LLAMA, gated=False, norms=1, mixture=True, recurrence="mamba2"),
    "olmo": replace(_LLAMA, ffn_bias=False, norm=0),
    "olmo2": replace(_LLAMA, ffn_bias=False, qk_norm="full"),
    "olmo3": replace(_LLAMA, ffn_bias=False, qk_norm="full", windows=4),
    "olmoe": replace(_LLAMA, ffn_bias=False, qk_norm="full", mixture=True),
    "opt": replace(
        _PLAIN,
        qkv_bias="enable_bias",
        output_bias="enable_bias",
        ffn_bias="enable_bias",
        tied=True,
        positions=2,
        defaults={"num_key_value_heads": None, "enable_bias": True},
    ),
    "phi": replace(_PLAIN, norms=1, head_bias=True),
    "phi3": replace(_BARE, windows="all", defaults={"num_key_value_heads": None}),
    "qwen2": Family(True, windows="late"),
    "qwen2_moe": Family("qkv_bias", windows="late", mixture=True, defaults={"qkv_bias": True}),
    "qwen3": replace(_QWEN, defaults={"head_dim": 128}),
    "qwen3_5_text": _QWEN_HYBRID,
    "qwen3_moe": replace(_QWEN, mixture=True),
    "qwen3_next": replace(_QWEN_HYBRID, mixture=True),
    "seed_oss": Family(
        "attention_bias",
        "attention_out_bias",
        "mlp_bias",
        defaults={"attention_bias": True, "head_dim": 128},
    ),
    "smollm3": replace(_LLAMA, tied=True, windows="late"),
    "stablelm": Family("use_qkv_bias", norm=2),
    "starcoder2": replace(
        _PLAIN,
        qkv_bias="use_bias",
        output_bias="use_bias",
        ffn_bias="use_bias",
        tied=True,
        windows="all",
        defaults={"use_bias": True},
    ),
}

TEXT_FAMILIES: Mapping[str, str] = {"gemma3": "gemma3_text", "qwen3_5": "qwen3_5_text"}
"""The family of the text model within one that takes images too."""

# Fields by which the files of all families, known or not, say the same.
SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "hidden_size": ("n_embd", "d_model"),
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("n_head", "n_heads"),
    "num_key_value_heads": ("num_kv_heads", "n_head_kv"),
    "intermediate_size": ("ffn_dim", "n_inner", "ffn_hidden_size"),
    "max_position_embeddings": ("n_positions", "max_seq_len", "max_sequence_length", "seq_length", "n_ctx"),
    "experts": ("num_local_experts", "num_experts", "n_routed_experts"),
    "layer_types": ("layers_block_type",),
    "state_size": ("mamba_d_state", "ssm_state_size"),
    "conv_kernel": ("mamba_d_conv", "linear_conv_kernel_dim", "conv_L_cache"),
    "use_conv_bias": ("mamba_conv_bias",),
    "use_bias": ("mamba_proj_bias",),
    "time_step_rank": ("mamba_dt_rank",),
    "expand": ("mamba_expand",),
    "mamba_heads": ("mamba_n_heads", "mamba_num_heads", "num_heads"),
    "mamba_dim": ("mamba_d_head", "mamba_head_dim"),
    "groups": ("mamba_n_groups", "n_groups"),
    "chunk_size": ("mamba_chunk_size",),
    "shared_width": (
        "shared_expert_intermediate_size",
        "shared_intermediate_size",
        "moe_shared_expert_intermediate_size",
    ),
}
