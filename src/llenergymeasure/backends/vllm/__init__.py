"""How does vLLM run a workload, through its offline `LLM`?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from llenergymeasure.backends import Refusal, why_missing
from llenergymeasure.backends.vllm.arguments import why_refused
from llenergymeasure.backends.vllm.loading import loaded
from llenergymeasure.backends.vllm.session import VllmSession
from llenergymeasure.config.models import ExperimentConfig


class VllmBackend:
    """vLLM forms its own batches out of the requests it is handed.

    Prefix caching is off unless `vllm.engine.enable_prefix_caching` asks for it: a pass replays its prompts,
    and from the second walk on none of them would be read. Where it is on, it is emptied before every walk.
    """

    def why_unavailable(self) -> str | None:
        return why_missing("vllm", "vllm", "torch")

    def why_refused(self, config: ExperimentConfig) -> Refusal | None:
        return why_refused(config) if self.why_unavailable() is None else None

    @contextmanager
    def open(self, config: ExperimentConfig) -> Iterator[VllmSession]:
        with loaded(config) as engine:
            yield VllmSession(engine, config)
