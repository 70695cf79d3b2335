"""What is a model, without running it?"""

from __future__ import annotations

from llenergymeasure.models.formulas import (
    active_parameters,
    decode_flops,
    kv_cache_bytes,
    parameters,
    prefill_flops,
    weight_bytes,
)
from llenergymeasure.models.resolve import (
    ALIASES,
    ResolvedModel,
    fetch_shape,
    require_available,
    resolve,
    weights_path,
)
from llenergymeasure.models.shapes import SHAPES, hf_config
from llenergymeasure.models.tokenizers import ByteTokenizer, Tokenizer, load_tokenizer
from llenergymeasure.models.vram import VramEstimate, VramPart, estimate_vram

__all__ = [
    "ALIASES",
    "SHAPES",
    "ByteTokenizer",
    "ResolvedModel",
    "Tokenizer",
    "VramEstimate",
    "VramPart",
    "active_parameters",
    "decode_flops",
    "estimate_vram",
    "fetch_shape",
    "hf_config",
    "kv_cache_bytes",
    "load_tokenizer",
    "parameters",
    "prefill_flops",
    "require_available",
    "resolve",
    "weight_bytes",
    "weights_path",
]
