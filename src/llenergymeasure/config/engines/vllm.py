"""What can be asked of vLLM?"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from llenergymeasure.config.engines import OwnBatches
from llenergymeasure.config.section import Arguments


class VllmConfig(OwnBatches):
    """vLLM in this process's child, through its offline `LLM`."""

    takes: ClassVar[frozenset[str]] = frozenset({"lora"})

    engine: Arguments = Field(default_factory=dict, description="any argument of the installed vllm.LLM")
    sampling: Arguments = Field(
        default_factory=dict, description="any argument of the installed vllm.SamplingParams"
    )
    beam_search: Arguments | None = Field(
        None,
        description="any argument of the installed BeamSearchParams, such as beam_width; off when absent",
    )

    @property
    def beams(self) -> int:
        width = (self.beam_search or {}).get("beam_width", 1)
        return width if isinstance(width, int) else 1

    @property
    def searches_beams(self) -> bool:
        return self.beam_search is not None

    @property
    def why_other_work(self) -> str | None:
        why = super().why_other_work
        if why is None and self.engine.get("enable_prefix_caching") is True:
            return "what two prompts begin with alike is computed once"
        return why
