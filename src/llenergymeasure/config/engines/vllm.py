"""What can be asked of vLLM?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from llenergymeasure.config.engines import OwnBatches, Traits
from llenergymeasure.config.section import Arguments


class VllmConfig(OwnBatches):
    """vLLM in this process's child, through its offline `LLM`."""

    peers: ClassVar[Mapping[str, str]] = {
        name: f"engine.{name}"
        for name in (
            "tensor_parallel_size",
            "pipeline_parallel_size",
            "gpu_memory_utilization",
            "max_model_len",
            "max_num_seqs",
            "max_num_batched_tokens",
            "enforce_eager",
            "kv_cache_dtype",
            "quantization",
            "enable_prefix_caching",
            "speculative_config",
        )
    }

    engine: Arguments = Field(default_factory=dict, description="any argument of the installed vllm.LLM")
    sampling: Arguments = Field(
        default_factory=dict, description="any argument of the installed vllm.SamplingParams"
    )
    beam_search: Arguments | None = Field(
        default=None,
        description="any argument of the installed BeamSearchParams, such as beam_width; off when absent",
    )

    @property
    def traits(self) -> Traits:
        width = (self.beam_search or {}).get("beam_width")
        return self.traits_with(
            takes=frozenset({"lora"}),
            beams=width if isinstance(width, int) else 1,
            searches_beams=self.beam_search is not None,
            skips_prefixes=self.engine.get("enable_prefix_caching") is True,
        )
