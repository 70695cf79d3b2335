"""How does transformers on PyTorch run a workload, in one process or in several?"""

from __future__ import annotations

from contextlib import AbstractContextManager

from llenergymeasure.backends import Refusal, Session, why_missing
from llenergymeasure.backends.pytorch.processes import shared_out
from llenergymeasure.backends.pytorch.refusals import why_refused
from llenergymeasure.backends.pytorch.session import opened
from llenergymeasure.config.models import ExperimentConfig


class PytorchBackend:
    def why_unavailable(self) -> str | None:
        return why_missing("pytorch", "torch", "transformers")

    def why_refused(self, config: ExperimentConfig) -> Refusal | None:
        return why_refused(config)

    def open(self, config: ExperimentConfig) -> AbstractContextManager[Session]:
        return shared_out(config) if config.pytorch.num_processes > 1 else opened(config)
