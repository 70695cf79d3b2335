"""Which shape does a model's own description give: a transformers `config.json` or the header of a GGUF?

Long by the families: each keeps its layers under names of its own, and they are read in one order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import TypeVar

from llenergymeasure.models.families import FAMILIES, SYNONYMS, TEXT_FAMILIES, Bias, Family
from llenergymeasure.records import Architecture, Attention, Layer, Matrix, Quantisation, Recurrence

_RECURRENT = {"linear_attention", "mamba", "mamba2", "conv", "hybrid"}
_NEMOTRON_LETTERS = {"M": "mamba", "*": "full_attention", "-": "mlp", "E": "moe"}
_MOST_LAYERS = 1000
_BY_LAYER = ("num_attention_heads", "num_key_value_heads", "intermediate_size")  # may be lists
_GGUF_WINDOWS = {"gemma2": 2, "gemma3": 6, "gpt-oss": 2, "cohere2": 4}
# The matrices of a GGUF's layer that every token meets; those of experts end in _exps.
_GGUF_MATRICES = {
    *("attn_q", "attn_k", "attn_v", "attn_qkv", "attn_output"),
    *("ffn_gate", "ffn_up", "ffn_down", "ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp"),
}
_GGUF_ROUTERS = {"ffn_gate_inp", "ffn_gate_inp_shexp"}
_GGUF_TABLES = {"token_embd", "position_embd", "output", "token_types"}
_GGUF_NAMES = {
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "context_length": "max_position_embeddings",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.sliding_window": "sliding_window",
    "expert_used_count": "num_experts_per_tok",
}
_Item = TypeVar("_Item")


class _Fields:
    """The fields of a file by transformers' names, whatever the family calls them; those that a file lists
    for each layer as they are in layer `index`. ValueError names a field that is missing or wrong.
    """

    def __init__(
        self, config: Mapping[str, object], defaults: Mapping[str, object], index: int | None = None
    ) -> None:
        self.config, self.defaults, self.index = config, defaults, index

    def at(self, index: int) -> _Fields:
        return _Fields(self.config, self.defaults, index)

    def get(self, key: str) -> object:
        names = (name for name in (key, *SYNONYMS.get(key, ())) if name in self.config)
        value = self.config.get(next(names, key), self.defaults.get(key))
        if isinstance(value, list) and self.index is not None and self.index < len(value):
            return value[self.index]
        return value

    def is_null(self, key: str) -> bool:
        """Whether the file or the family's default says that there is no number."""
        known = key in self.defaults or any(name in self.config for name in (key, *SYNONYMS.get(key, ())))
        return known and self.get(key) is None

    def whole(self, key: str, *, default: int | None = None) -> int:
        value = self.get(key)
        if value is None or value == "auto":
            if default is None:
                raise ValueError(f"its field {key!r} is missing")
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**40:
            raise ValueError(f"its field {key!r} must be a positive whole number, got {value!r}")
        return value

    def count(self, key: str) -> int:
        """A number that may be 0 or missing."""
        return 0 if self.get(key) in (None, 0) else self.whole(key)

    def flag(self, key: str, *, default: bool = False) -> bool:
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise ValueError(f"its field {key!r} must be true or false, got {value!r}")
        return value

    def bias(self, asked: Bias) -> bool:
        return asked if isinstance(asked, bool) else self.flag(asked)

    def listed(self, key: str, kind: type[_Item]) -> list[_Item]:
        value = self.get(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(one, kind) for one in value):
            raise ValueError(f"its field {key!r} must be a list of {kind.__name__}, got {value!r}")
        return value


def text_config(config: Mapping[str, object]) -> Mapping[str, object]:
    """The part that describes the text model, with its family; the whole where there is no other."""
    inner = config.get("text_config")
    if not isinstance(inner, Mapping):
        return config
    outer = config.get("model_type")
    kept = {key: config[key] for key in ("tie_word_embeddings", "quantization_config") if key in config}
    return {"model_type": TEXT_FAMILIES.get(str(outer), outer), **inner, **kept}


def stated_context(config: Mapping[str, object]) -> int | None:
    """The length that the file of any family states."""
    try:
        return _Fields(text_config(config), {}).whole("max_position_embeddings")
    except ValueError:
        return None


def cached_at_most(config: Mapping[str, object]) -> int | None:
    """Numbers cached for one token of a family that is not known, if every layer keeps keys and values."""
    whole = _Fields(text_config(config), {})
    try:
        hidden, total = whole.whole("hidden_size"), 0
        for index in range(min(whole.whole("num_hidden_layers"), _MOST_LAYERS)):
            fields = whole.at(index)
            heads = fields.whole("num_attention_heads")
            dim = fields.whole("head_dim", default=hidden // heads)
            total += 2 * dim * fields.whole("num_key_value_heads", default=heads)
    except ValueError:
        return None
    return total


def from_config(config: Mapping[str, object], *, name: str, source: str) -> Architecture:
    """The shape that a transformers `config.json` describes.

    ValueError says why there is none: a family that is not known, or a field that is missing or no number.
    """
    text = text_config(config)
    family = text.get("model_type")
    row = FAMILIES.get(family) if isinstance(family, str) else None
    if not isinstance(family, str) or row is None:
        raise ValueError(
            f"the shape of model_type {family!r} is not known (docs/reference/models.md lists those that are)"
        )
    fields = _Fields(text, row.defaults)
    if not fields.flag("layer_norm_elementwise_affine", default=True):  # some of OPT's
        row = replace(row, norm=0)
    hidden, vocab = fields.whole("hidden_size"), fields.whole("vocab_size")
    table = fields.whole("word_embed_proj_dim", default=hidden)
    layers = _layers(fields, row)
    if table != hidden:
        layers.append(Layer(matrices=((table, hidden), (hidden, table))))  # OPT: from and to its embeddings
    context = None
    if not fields.is_null("max_position_embeddings"):
        context = fields.whole("max_position_embeddings")
    has_positions = row.positions is not None and context is not None
    has_norm = fields.flag("do_layer_norm_before", default=True) and not fields.flag(
        "_remove_final_layer_norm"
    )
    return Architecture(
        name=name,
        source=source,
        family=family,
        hidden=hidden,
        vocab=vocab,
        context=context,
        layers=_grouped(layers),
        embedding=vocab * table
        + ((context or 0) + (row.positions or 0)) * hidden * has_positions
        + 2 * hidden * (family == "bloom"),
        head=(table, vocab),
        tied=fields.flag("tie_word_embeddings", default=row.tied),
        other=row.norm * hidden * has_norm + vocab * row.head_bias,
        tower=0 if text is config else _tower(config, hidden),
        quantisation=_quantisation(text.get("quantization_config")),
    )


def _layers(fields: _Fields, row: Family) -> list[Layer]:
    """One after the other; those that the file describes alike are made once."""
    made: dict[str, Layer] = {}
    layers = []
    for index, kind in enumerate(_kinds(fields, row)):
        one = fields.at(index)
        alike = str([kind, row.mixture and _is_sparse(one), *(one.get(key) for key in _BY_LAYER)])
        if alike not in made:
            made[alike] = _layer(one, row, kind)
        layers.append(made[alike])
    return layers


def _grouped(layers: Iterable[Layer]) -> tuple[Layer, ...]:
    """The kinds of layers in the order of their first, each with its count."""
    counts: dict[Layer, int] = {}
    for layer in layers:
        counts[layer] = counts.get(layer, 0) + 1
    return tuple(replace(layer, count=count) for layer, count in counts.items())


def _kinds(fields: _Fields, row: Family) -> list[str]:
    """What each layer is, by the names of transformers' `layer_types`."""
    pattern = fields.get("hybrid_override_pattern")
    if isinstance(pattern, str) and set(pattern) <= set(_NEMOTRON_LETTERS):
        return [_NEMOTRON_LETTERS[letter] for letter in pattern]
    listed = fields.listed("layer_types", str)
    count = fields.whole("num_hidden_layers", default=len(listed) or None)
    if count > _MOST_LAYERS:
        raise ValueError(f"its field 'num_hidden_layers' is {count}")
    if fields.config.get("model_type") == "falcon_h1":
        return ["hybrid"] * count
    if listed:
        if len(listed) != count:
            raise ValueError(f"its field 'layer_types' names {len(listed)} layers of {count}")
        return listed
    if row.recurrence is not None:
        attending = _full_attention(fields, count)
        return ["full_attention" if index in attending else "linear_attention" for index in range(count)]
    full = _without_window(fields, row, count)
    return ["full_attention" if index in full else "sliding_attention" for index in range(count)]


def _without_window(fields: _Fields, row: Family, count: int) -> range:
    """The layers that see all positions, where the file does not list the kinds."""
    if fields.get("sliding_window") is None or row.windows is None:
        return range(count)
    if isinstance(row.windows, int):
        every = fields.whole("sliding_window_pattern", default=row.windows)
        return range(every - 1, count, every)
    is_off = row.windows == "late" and not fields.flag("use_sliding_window")
    return range(count if is_off else fields.count("max_window_layers") if row.windows == "late" else 0)


def _full_attention(fields: _Fields, count: int) -> set[int]:
    """The layers of a hybrid that attend, where its file does not list the kinds."""
    family = fields.config.get("model_type")
    if family == "jamba":
        return set(range(fields.count("attn_layer_offset"), count, fields.whole("attn_layer_period")))
    if family in {"qwen3_next", "qwen3_5_text"}:
        every = fields.whole("full_attention_interval", default=4)
        return set(range(every - 1, count, every))
    return {*fields.listed("attn_layer_indices", int), *fields.listed("full_attn_idxs", int)}


def _layer(fields: _Fields, row: Family, kind: str) -> Layer:
    norms = Layer(other=row.norm * fields.whole("hidden_size") * _norms(fields, row))
    if kind in {"mlp", "moe"}:
        return _joined(norms, _mixture(fields, row) if kind == "moe" else _dense(fields, row))
    parts = [norms]
    if kind in _RECURRENT:
        parts.append(_recurrence(fields, row))
    if kind not in _RECURRENT or kind == "hybrid":
        window = fields.whole("sliding_window") if kind == "sliding_attention" else None
        parts.append(_latent(fields) if row.latent else _attention(fields, row, window))
    if not (row.recurrence and row.norms == 1):  # Mamba and Nemotron-H have layers that mix and no more
        sparse = row.mixture and _is_sparse(fields)
        parts.append(_mixture(fields, row) if sparse else _dense(fields, row))
    return _joined(*parts)


def _joined(*parts: Layer) -> Layer:
    mixture = next((part for part in parts if part.experts), Layer())
    return replace(
        mixture,
        matrices=tuple(matrix for part in parts for matrix in part.matrices),
        other=sum(part.other for part in parts),
        attention=next((part.attention for part in parts if part.attention), None),
        recurrence=next((part.recurrence for part in parts if part.recurrence), None),
        width=max(part.width for part in parts),
        gated=all(part.gated for part in parts),
    )


def _norms(fields: _Fields, row: Family) -> int:
    family = fields.config.get("model_type")
    if family == "falcon" and fields.flag("new_decoder_architecture"):
        return fields.whole("num_ln_in_parallel_attn", default=2)
    is_parallel = {"falcon": ("parallel_attn", True), "stablelm": ("use_parallel_residual", False)}
    if family in is_parallel:
        key, default = is_parallel[family]
        return 1 if fields.flag(key, default=default) else 2
    return row.norms


def _attention(fields: _Fields, row: Family, window: int | None) -> Layer:
    hidden, heads = fields.whole("hidden_size"), fields.whole("num_attention_heads")
    if fields.flag("qk_layernorm"):
        raise ValueError("a model of this family with 'qk_layernorm' has a shape that is not known")
    is_old = not fields.flag("new_decoder_architecture")
    if fields.config.get("model_type") in {"falcon", "gpt_bigcode"} and is_old:
        kv_heads = 1 if fields.flag("multi_query", default=True) else heads
    else:
        kv_heads = fields.whole(
            "num_key_value_heads", default=heads if fields.is_null("num_key_value_heads") else None
        )
    dim = fields.whole("head_dim", default=hidden // heads)
    queries, keys = heads * dim, kv_heads * dim
    other = (queries + 2 * keys) * fields.bias(row.qkv_bias) + hidden * fields.bias(row.output_bias)
    if row.qk_norm and fields.flag("use_qk_norm", default=True):
        other += 2 * dim if row.qk_norm == "head" else queries + keys
    return Layer(
        matrices=((hidden, queries * (1 + row.gate)), (hidden, keys), (hidden, keys), (queries, hidden)),
        other=other + heads * row.sinks,
        attention=Attention(heads, kv_heads, dim, dim, window),
    )


def _latent(fields: _Fields) -> Layer:
    """DeepSeek's: keys and values of all heads come from one small vector per token, which is cached."""
    hidden, heads = fields.whole("hidden_size"), fields.whole("num_attention_heads")
    plain, rotary = fields.whole("qk_nope_head_dim"), fields.whole("qk_rope_head_dim")
    rank, value = fields.whole("kv_lora_rank"), fields.whole("v_head_dim")
    queries, other = heads * (plain + rotary), rank
    bias = fields.flag("attention_bias")
    matrices: tuple[Matrix, ...] = ((hidden, queries),)
    if not fields.is_null("q_lora_rank"):
        low = fields.whole("q_lora_rank")
        matrices, other = ((hidden, low), (low, queries)), other + low + low * bias
    return Layer(
        matrices=(*matrices, (hidden, rank + rotary), (heads * value, hidden)),
        other=other + (rank + rotary + hidden) * bias,
        attention=Attention(
            heads, heads, plain + rotary, value, None, rank + rotary, (rank, heads * (plain + value))
        ),
    )


def _dense(fields: _Fields, row: Family) -> Layer:
    hidden = fields.whole("hidden_size")
    width = fields.whole("intermediate_size", default=4 * hidden)
    if fields.flag("block_auto_adjust_ff_dim", default=fields.config.get("model_type") == "lfm2"):
        multiple = fields.whole("block_multiple_of", default=256)
        scale = fields.get("block_ffn_dim_multiplier")
        width = int((scale if isinstance(scale, int | float) else 1.0) * (2 * width // 3))
        width = -(-width // multiple) * multiple
    if row.mixture and not fields.count("experts"):
        width = fields.whole("shared_width", default=width)  # Granite: its shared expert stays
    return _block(hidden, width, row, bias=fields.bias(row.ffn_bias))


def _block(hidden: int, width: int, row: Family, *, bias: bool = False) -> Layer:
    return Layer(
        matrices=((hidden, width),) * (1 + row.gated) + ((width, hidden),),
        other=((1 + row.gated) * width + hidden) * bias,
        width=width,
        gated=row.gated,
    )


def _is_sparse(fields: _Fields) -> bool:
    index, experts = fields.index or 0, fields.count("experts")
    if fields.get("expert_layer_period") is not None:
        period, offset = fields.whole("expert_layer_period"), fields.count("expert_layer_offset")
        return experts > 1 and index % period == offset
    step = fields.whole("decoder_sparse_step", default=1)
    listed = _Fields(fields.config, fields.defaults).listed("mlp_only_layers", int)
    is_late = index >= fields.count("first_k_dense_replace")
    return experts > 0 and is_late and index not in listed and (index + 1) % step == 0


def _mixture(fields: _Fields, row: Family) -> Layer:
    hidden, experts = fields.whole("hidden_size"), fields.whole("experts")
    width = fields.whole("moe_intermediate_size", default=fields.whole("intermediate_size"))
    shared = width * fields.count("n_shared_experts")
    if fields.get("shared_width") is not None:
        shared = fields.whole("shared_width")
    gate = hidden * (fields.config.get("model_type") in {"qwen2_moe", "qwen3_next"})
    expert = _block(hidden, width, row, bias=row.sinks)
    return replace(
        _block(hidden, shared, row) if shared else Layer(gated=row.gated),
        other=experts * row.sinks,
        router=hidden * experts + gate,
        experts=experts,
        active=fields.whole("num_experts_per_tok"),
        expert_width=width,
        expert_matrices=expert.matrices,
        expert_other=expert.other,
    )


def _recurrence(fields: _Fields, row: Family) -> Layer:
    makers = {"mamba": _mamba, "mamba2": _mamba2, "delta": _delta, "convolution": _convolution}
    return makers[str(row.recurrence)](fields)


def _mamba(fields: _Fields) -> Layer:
    hidden, state = fields.whole("hidden_size"), fields.whole("state_size")
    kernel = fields.whole("conv_kernel", default=4)
    is_hybrid = fields.config.get("model_type") == "jamba"
    inner = fields.whole("expand", default=2) * hidden
    if not is_hybrid:
        inner = fields.whole("intermediate_size", default=inner)
    rank = fields.whole("time_step_rank", default=-(-hidden // 16))
    biases = (2 * inner + hidden) * fields.flag("use_bias") + inner * fields.flag(
        "use_conv_bias", default=True
    )
    norms = (rank + 2 * state) * is_hybrid
    return Layer(
        matrices=((hidden, 2 * inner), (inner, rank + 2 * state), (rank, inner), (inner, hidden)),
        # convolution, decay of each state, skip, bias of the time step
        other=inner * (kernel + state + 2) + biases + norms,
        recurrence=Recurrence("mamba", inner, state, 1, inner, kernel),
    )


def _mamba2(fields: _Fields) -> Layer:
    hidden, state = fields.whole("hidden_size"), fields.whole("state_size")
    kernel = fields.whole("conv_kernel", default=4)
    heads = fields.whole("mamba_heads")
    family = fields.config.get("model_type")
    key = "head_dim" if family == "mamba2" else "mamba_dim"
    dim = fields.whole(key, default=fields.whole("expand", default=2) * hidden // heads)
    inner, groups = heads * dim, fields.whole("groups", default=1)
    convolved, projected = inner + 2 * groups * state, 2 * inner + 2 * groups * state + heads
    chunk = fields.whole("chunk_size", default=128 if family == "nemotron_h" else 256)
    has_norm = family != "falcon_h1" or fields.flag("mamba_rms_norm")
    biases = convolved * fields.flag("use_conv_bias", default=True)
    biases += projected * fields.flag("use_bias")
    biases += hidden * fields.flag("projectors_bias" if family == "falcon_h1" else "use_bias")
    return Layer(
        matrices=((hidden, projected), (inner, hidden)),
        other=convolved * kernel + 3 * heads + inner * has_norm + biases,
        recurrence=Recurrence("mamba2", heads, state, dim, convolved, kernel, chunk),
    )


def _delta(fields: _Fields) -> Layer:
    """The gated delta rule of Qwen3-Next."""
    hidden, kernel = fields.whole("hidden_size"), fields.whole("conv_kernel", default=4)
    key_dim, value_dim = fields.whole("linear_key_head_dim"), fields.whole("linear_value_head_dim")
    heads = fields.whole("linear_num_value_heads")
    keys, values = fields.whole("linear_num_key_heads") * key_dim, heads * value_dim
    convolved = 2 * keys + values
    return Layer(
        matrices=((hidden, convolved + values), (hidden, 2 * heads), (values, hidden)),
        other=convolved * kernel + 2 * heads + value_dim,
        recurrence=Recurrence("delta", heads, key_dim, value_dim, convolved, kernel, 64),
    )


def _convolution(fields: _Fields) -> Layer:
    """LFM2's short convolution, which keeps nothing else."""
    hidden, kernel = fields.whole("hidden_size"), fields.whole("conv_kernel")
    bias = fields.flag("conv_bias")
    return Layer(
        matrices=((hidden, 3 * hidden), (hidden, hidden)),
        other=hidden * kernel + 5 * hidden * bias,
        recurrence=Recurrence("convolution", 0, 0, 0, hidden, kernel),
    )


def _tower(config: Mapping[str, object], text_hidden: int) -> int | None:
    """Parameters of what turns images into tokens, for the towers that are known."""
    vision = config.get("vision_config")
    if not isinstance(vision, Mapping):
        return None
    outer, fields = config.get("model_type"), _Fields(vision, {"num_channels": 3})
    try:
        hidden, width = fields.whole("hidden_size"), fields.whole("intermediate_size")
        patch, layers = fields.whole("patch_size"), fields.whole("num_hidden_layers")
        pixels = fields.whole("num_channels") * patch**2
        if outer == "gemma3":  # SigLIP with biases, then a norm and one matrix
            feed_forward = 2 * hidden * width + width + hidden
            attention = 4 * (hidden**2 + hidden)
            positions = (fields.whole("image_size") // patch) ** 2
            head = (attention + 3 * hidden + feed_forward) * fields.flag("vision_use_head", default=True)
            body = (pixels + 1 + positions) * hidden + layers * (attention + feed_forward + 4 * hidden)
            return body + 2 * hidden + head + hidden * text_hidden + hidden
        if outer == "mistral3":  # Pixtral without biases, then a merger of patches and two matrices
            merge = _Fields(config, {}).whole("spatial_merge_size", default=2) ** 2
            bias = 2 * text_hidden * _Fields(config, {}).flag("multimodal_projector_bias")
            body = pixels * hidden + hidden + layers * (4 * hidden**2 + 3 * hidden * width + 2 * hidden)
            return body + hidden + merge * hidden**2 + hidden * text_hidden + text_hidden**2 + bias
    except ValueError:
        pass
    return None


def from_stored(stored: object) -> object:
    """A shape as events up to version 0.8 hold it, of a decoder whose layers are all alike, in today's form;
    one of today as it is.
    """
    if not isinstance(stored, Mapping) or "kv_heads" not in stored:
        return stored
    old = _Fields(stored, {})
    hidden, heads, width = old.whole("hidden"), old.whole("heads"), old.whole("ffn")
    kv_heads, dim, vocab = old.whole("kv_heads"), old.whole("head_dim"), old.whole("vocab")
    queries, keys, norm = heads * dim, kv_heads * dim, old.whole("norm_parameters")
    qkv_bias, output_bias = old.listed("attention_bias", bool)
    gates, experts = old.whole("ffn_matrices") - 1, old.count("experts")
    block = ((hidden, width),) * gates + ((width, hidden),)
    block_bias = (gates * width + hidden) * old.flag("ffn_bias")
    norms = norm * (old.whole("layer_norms") * hidden + 2 * dim * old.flag("qk_norm"))
    layer = Layer(
        count=old.whole("layers"),
        matrices=(
            (hidden, queries),
            (hidden, keys),
            (hidden, keys),
            (queries, hidden),
            *(() if experts else block),
        ),
        other=(queries + 2 * keys) * qkv_bias + hidden * output_bias + norms + (0 if experts else block_bias),
        attention=Attention(heads, kv_heads, dim, dim),
        width=0 if experts else width,
        gated=gates == 2,
        router=hidden * experts,
        experts=experts,
        active=old.count("active_experts"),
        expert_width=width if experts else 0,
        expert_matrices=block if experts else (),
        expert_other=block_bias if experts else 0,
    )
    return Architecture(
        name=str(stored["name"]),
        source=str(stored["source"]),
        family="stored",
        hidden=hidden,
        vocab=vocab,
        context=old.whole("context"),
        layers=(layer,),
        embedding=(vocab + old.count("positions")) * hidden,
        head=(hidden, vocab),
        tied=old.flag("tied_embeddings"),
        other=hidden * norm,
    )


def _quantisation(described: object) -> Quantisation | None:
    """How the checkpoint is packed; a method without a known size has 0 bits."""
    if not isinstance(described, Mapping):
        return None
    fields = _Fields(described, {})
    method = str(described.get("quant_method"))
    group = described.get("group_size")
    if method in {"awq", "gptq"}:
        bits = fields.whole("bits", default=4)
        return Quantisation(method, bits, group=group if isinstance(group, int) and group > 0 else None)
    if method == "fp8":
        block = fields.listed("weight_block_size", int)
        return Quantisation(method, 8, block=(block[0], block[1]) if len(block) == 2 else None)
    if method == "mxfp4":
        return Quantisation(method, 4, group=32, scope="experts")
    if method == "bitsandbytes":
        return Quantisation(method, 4, group=64) if fields.flag("load_in_4bit") else Quantisation(method, 8)
    return Quantisation(method, 0)


def gguf_config(metadata: Mapping[str, object]) -> dict[str, object]:
    """The fields of a GGUF's architecture under transformers' names."""
    prefix = f"{metadata.get('general.architecture')}."
    own = {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)}
    return {_GGUF_NAMES.get(key, key): value for key, value in own.items()}


def from_gguf(
    metadata: Mapping[str, object], tensors: Mapping[str, Sequence[int]], *, name: str, source: str
) -> Architecture:
    """The shape that the header of a GGUF describes; `tensors` maps names to dimensions, fastest first.

    Parameters are those of the tensors that are there. ValueError where a tensor has a part in the
    arithmetic that is not known, or where a field is missing.
    """
    family, fields = str(metadata.get("general.architecture")), _Fields(gguf_config(metadata), {})
    embedding = tensors.get("token_embd.weight")
    if embedding is None or len(embedding) != 2:
        raise ValueError("it holds no token embedding")
    rest: dict[str, Sequence[int]] = {}
    count = min(fields.whole("num_hidden_layers"), _MOST_LAYERS)
    layers: dict[int, dict[str, Sequence[int]]] = {index: {} for index in range(count)}
    for tensor, dims in tensors.items():
        number, _, part = tensor.removeprefix("blk.").partition(".")
        if tensor.startswith("blk.") and number.isdigit() and int(number) in layers:
            layers[int(number)][part] = dims
        elif not tensor.startswith("rope_"):
            rest[tensor.removesuffix(".weight")] = dims
    hidden, vocab = embedding
    tables = {tensor: prod(dims) for tensor, dims in rest.items() if tensor in _GGUF_TABLES}
    return Architecture(
        name=name,
        source=source,
        family=family,
        hidden=hidden,
        vocab=vocab,
        context=fields.whole("max_position_embeddings"),
        layers=_grouped(_gguf_layer(fields.at(i), family, parts) for i, parts in layers.items()),
        embedding=sum(tables.values()) - tables.get("output", 0),
        head=(hidden, vocab),
        tied="output" not in rest,
        other=sum(prod(dims) for tensor, dims in rest.items() if tensor not in _GGUF_TABLES),
    )


def _gguf_layer(fields: _Fields, family: str, tensors: Mapping[str, Sequence[int]]) -> Layer:
    heads, index = fields.whole("num_attention_heads"), fields.index or 0
    matrices: list[Matrix] = []
    expert_matrices: list[Matrix] = []
    other = expert_other = router = experts = 0
    for tensor, dims in tensors.items():
        part = tensor.removesuffix(".weight")
        if part in _GGUF_MATRICES:
            matrices.append((dims[0], dims[1]))
        elif part in _GGUF_ROUTERS:
            router += prod(dims)
        elif part.endswith("_exps"):
            expert_matrices.append((dims[0], dims[1]))
            experts = dims[2]
        elif part.endswith("_exps.bias"):
            expert_other += dims[0]
        elif len(dims) == 1 and not part.startswith("ssm"):
            other += dims[0]
        else:
            raise ValueError(f"the shape of architecture {family!r} is not known: it has a tensor {tensor!r}")
    width, expert_width = (
        tensors.get(f"{part}.weight", tensors.get(f"{part}_shexp.weight", (0,)))[0]
        for part in ("ffn_down", "ffn_down_exps")
    )
    up = tensors.get("ffn_up.weight", (0, 0))[1]
    dim = fields.whole("head_dim", default=fields.whole("hidden_size") // heads)
    every, window = _GGUF_WINDOWS.get(family), fields.get("sliding_window")
    slides = every is not None and index % every != every - 1
    return Layer(
        matrices=tuple(matrices),
        other=other,
        attention=Attention(
            heads,
            fields.whole("num_key_value_heads", default=heads),
            dim,
            fields.whole("attention.value_length", default=dim),
            window if isinstance(window, int) and slides else None,
        ),
        width=width,
        gated=up == 2 * width or any(part.startswith("ffn_gate") for part in tensors),
        router=router,
        experts=experts,
        active=fields.whole("num_experts_per_tok") if experts else 0,
        expert_width=expert_width,
        expert_matrices=tuple(expert_matrices),
        expert_other=expert_other,
    )
