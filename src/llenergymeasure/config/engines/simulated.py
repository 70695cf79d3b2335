"""What can be asked of the engine without a model?"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from llenergymeasure.config.engines import EngineSection, Traits
from llenergymeasure.config.section import Positive, PositiveSeconds, Section


class SimulatedFault(Section):
    """Something that goes wrong on purpose."""

    kind: Literal["crash", "hang", "oom", "error"] = Field(description="what goes wrong")
    at: Literal["open", "warmup", "pass"] = Field(default="pass", description="stage in which it does")
    after_batches: int = Field(default=0, ge=0, description="how many batches of that stage still succeed")


class SimulatedConfig(EngineSection):
    """No model: requested lengths and times, and a device whose true power is known."""

    batch_size: Positive = Field(default=1, description="requests at once")
    load_s: float = Field(default=0.2, ge=0, le=3600, description="time to open the model")
    prefill_s_per_token: float = Field(
        default=2e-5, ge=0, le=10, description="time of prefill for each prompt token"
    )
    decode_s_per_step: float = Field(
        default=2e-3, ge=0, le=10, description="time of a step that gives each request a token"
    )
    scatter: float = Field(
        default=0.01, ge=0, le=1, description="relative sd of a batch's duration and power"
    )
    run_scatter: float = Field(default=0.0, ge=0, le=1, description="relative sd of power from run to run")
    eos_probability: float = Field(
        default=0.02, ge=0, le=1, description="per token, with output_length: natural"
    )
    idle_w: float = Field(default=60.0, ge=0, description="power before the model is loaded")
    context_w: float = Field(default=95.0, ge=0, description="power once the model is loaded")
    active_w: float = Field(default=400.0, ge=0, description="power while it works")
    counter_step_s: PositiveSeconds = Field(default=0.1, description="update period of the energy counter")
    fault: SimulatedFault | None = Field(default=None, description="what goes wrong; nothing when absent")

    @property
    def traits(self) -> Traits:
        return Traits(is_simulated=True, batch_size=self.batch_size)
