"""How does llama.cpp run a workload, through llama-cpp-python?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from llenergymeasure.backends import Refusal
from llenergymeasure.backends.llamacpp.loading import loaded
from llenergymeasure.backends.llamacpp.refusals import why_refused, why_unavailable
from llenergymeasure.backends.llamacpp.session import LlamacppSession
from llenergymeasure.config.models import ExperimentConfig


class LlamacppBackend:
    def why_unavailable(self) -> str | None:
        return why_unavailable()

    def why_refused(self, config: ExperimentConfig) -> Refusal | None:
        return why_refused(config)

    @contextmanager
    def open(self, config: ExperimentConfig) -> Iterator[LlamacppSession]:
        with loaded(config) as model:
            yield LlamacppSession(model, config)
