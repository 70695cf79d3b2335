"""How does TensorRT-LLM run a workload through its `LLM` interface?

Written against TensorRT-LLM 1.2 and not yet run on a GPU: its public names and keywords are held against the
package's own source by a test, what they do is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any

from llenergymeasure.backends import Refusal, refuse
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import ConfigError
from llenergymeasure_tensorrt.arguments import engine_arguments, llm_class
from llenergymeasure_tensorrt.refusals import (
    PACKAGE,
    why_penalties_ignored,
    why_refused,
    why_unavailable,
)
from llenergymeasure_tensorrt.section import TensorrtConfig
from llenergymeasure_tensorrt.session import TensorrtSession, explained, model_files


def cuda_uuids(count: int) -> tuple[str, ...]:
    """UUIDs of the first `count` CUDA devices that this process sees, as the driver writes them."""
    import torch

    seen = min(count, torch.cuda.device_count())
    return tuple(f"GPU-{torch.cuda.get_device_properties(index).uuid}" for index in range(seen))


class TensorrtBackend:
    """`package` stands for the module tensorrt_llm and `uuids` for the look at CUDA's devices."""

    section = TensorrtConfig

    def __init__(self, package: Any = None, *, uuids: Callable[[int], tuple[str, ...]] = cuda_uuids) -> None:
        self._package = package
        self._uuids = uuids

    def why_unavailable(self) -> str | None:
        return None if self._package is not None else why_unavailable()

    def why_refused(self, config: ExperimentConfig) -> Refusal | None:
        return why_refused(config)

    @contextmanager
    def open(self, config: ExperimentConfig) -> Iterator[TensorrtSession]:
        package = self._package or _imported()
        refuse(why_refused(config) or why_penalties_ignored(config, package.__version__), ConfigError)
        with model_files(config) as files:
            with explained(package, f"{config.model} can't be loaded"):
                arguments = engine_arguments(
                    package, config, model=files.path, random_weights=files.random_weights
                )
                llm = llm_class(package, config)(**arguments)
            try:
                yield TensorrtSession(package, llm, config, files=files, uuids=self._uuids)
            finally:
                llm.shutdown()


def _imported() -> Any:
    package = import_module(PACKAGE)
    # Newer versions have no TensorRT engines any more; `llm_class` says so where one is asked for.
    with suppress(ImportError):
        import_module(f"{PACKAGE}._tensorrt_engine")
    return package
