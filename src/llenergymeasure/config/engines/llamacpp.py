"""What can be asked of llama.cpp, and what does it hold?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, TypeAlias

from pydantic import Field

from llenergymeasure.config.engines import EngineSection, FileMemory, Traits
from llenergymeasure.config.section import Positive

CacheType: TypeAlias = Literal["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1"]
# llama.cpp rounds its context up to whole steps, and keeps blocks of 32 cached numbers with a scale (and for
# …_1 a minimum) of 2 bytes.
_CONTEXT_STEP = 256
_BLOCK_BYTES: dict[CacheType, int] = {
    "f32": 128,
    "f16": 64,
    "bf16": 64,
    "q8_0": 34,
    "q5_1": 24,
    "q5_0": 22,
    "q4_1": 20,
    "q4_0": 18,
}


class LlamacppConfig(EngineSection):
    """llama.cpp through llama-cpp-python: one request after the other."""

    peers: ClassVar[Mapping[str, str]] = {
        "n_gpu_layers": "gpu_layers",
        "ngl": "gpu_layers",
        "n_ctx": "context",
        "ctx_size": "context",
        "n_threads": "threads",
    }
    also: ClassVar[tuple[str, ...]] = ("llama.cpp", "llama-cpp")

    threads: Positive | None = Field(
        default=None, description="threads that generate; one for each physical core when absent"
    )
    threads_batch: Positive | None = Field(
        default=None, description="threads that read prompts; threads when absent"
    )
    n_batch: Positive = Field(default=512, description="prompt tokens handed over at once")
    n_ubatch: Positive | None = Field(
        default=None, description="prompt tokens computed at once; n_batch, but at most 512, when absent"
    )
    gpu_layers: int = Field(default=0, ge=-1, description="layers on the GPU; -1 all of them")
    context: Positive | None = Field(
        default=None,
        description="tokens of context, which llama.cpp rounds up to a multiple of 256; "
        "max_input_tokens + max_output_tokens when absent",
    )
    cache_type_k: CacheType = Field(default="f16", description="type of the cached keys")
    cache_type_v: CacheType = Field(
        default="f16", description="type of the cached values; a quantised one needs flash_attn"
    )
    flash_attn: bool = Field(default=False, description="flash attention")
    mmap: bool = Field(default=True, description="map the file instead of reading it")
    mlock: bool = Field(default=False, description="keep the model from being swapped out")
    repack: bool = Field(
        default=True, description="weights are laid out anew for this CPU where llama.cpp can"
    )

    @property
    def tokens_at_once(self) -> int:
        return self.n_ubatch or min(self.n_batch, 512)

    @property
    def traits(self) -> Traits:
        cached = (self.cache_type_k, self.cache_type_v)
        return Traits(
            is_sized=True,
            filed=FileMemory(
                context=self.context,
                step=_CONTEXT_STEP,
                cached_bytes=sum(_BLOCK_BYTES[kind] for kind in cached) / 32,
                cached_types=", ".join(cached),
                tokens_at_once=self.tokens_at_once,
            ),
            batch_size=1,
            why_no_batch_size=(
                "llama.cpp processes one request at a time: it has no batch size",
                "leave --batch-size out; llamacpp.n_batch is how many prompt tokens it takes at once",
            ),
            uses_gpus=None if self.gpu_layers else False,
            gpus=None if self.gpu_layers else 0,
            gpus_per_model=None,
        )
