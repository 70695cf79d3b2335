"""What can be asked of TensorRT-LLM?"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from llenergymeasure.config.engines import OwnBatches, Traits
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.config.section import Arguments


class TensorrtConfig(OwnBatches):
    """TensorRT-LLM through its `LLM` interface."""

    engine_dir: Path | None = Field(
        default=None,
        description="a TensorRT engine that is built already; `model` names what it was built from",
    )
    engine: Arguments = Field(
        default_factory=dict, description="any argument of the installed tensorrt_llm.LLM"
    )
    sampling: Arguments = Field(
        default_factory=dict, description="any argument of the installed tensorrt_llm.SamplingParams"
    )

    @property
    def traits(self) -> Traits:
        return self.traits_with(searches_beams=self.sampling.get("use_beam_search") is True)


def options_of(config: ExperimentConfig) -> TensorrtConfig:
    """The section of a configuration whose backend is this one."""
    options = config.options
    assert isinstance(options, TensorrtConfig), "llem hands over only what this backend is to run"
    return options
