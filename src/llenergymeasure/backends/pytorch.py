"""How does transformers on PyTorch run a workload, in one process or in several?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from llenergymeasure.backends import Session
from llenergymeasure.backends._pytorch_refusals import why_refused
from llenergymeasure.config.models import ExperimentConfig


class PytorchBackend:
    def why_unavailable(self) -> str | None:
        missing = [name for name in ("torch", "transformers") if find_spec(name) is None]
        if not missing:
            return None
        return (
            f"the pytorch backend needs {' and '.join(missing)}: run pip install 'llenergymeasure[pytorch]'"
        )

    def why_refused(self, config: ExperimentConfig) -> str | None:
        return why_refused(config)

    @contextmanager
    def open(self, config: ExperimentConfig) -> Iterator[Session]:
        if config.pytorch.num_processes > 1:
            from llenergymeasure.backends._pytorch_parallel import shared_out

            with shared_out(config) as processes:
                yield processes
            return
        from llenergymeasure.backends._pytorch_session import opened

        with opened(config) as session:
            yield session
