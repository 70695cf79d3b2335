"""How does TensorRT-LLM run a workload through its `LLM` interface?

Written against TensorRT-LLM 1.2 and not yet run on a GPU: its public names and keywords are held against the
package's own source by a test, what they do is not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import Enum
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pydantic import BaseModel, JsonValue, ValidationError

from llenergymeasure.backends import Observer
from llenergymeasure.backends._limits import check_requests
from llenergymeasure.backends._tensorrt_arguments import engine_arguments, llm_class, sampling_parameters
from llenergymeasure.backends._tensorrt_model import ModelFiles, model_files
from llenergymeasure.backends._tensorrt_outputs import completion
from llenergymeasure.backends._tensorrt_refusals import (
    PACKAGE,
    uses_engine,
    why_penalties_ignored,
    why_refused,
    why_unavailable,
)
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import BackendError, ConfigError, LLEMError
from llenergymeasure.records import Completion, Generation, Request, SessionFacts

OUT_OF_MEMORY = ("out of memory", "outofmemory", "cudaerrormemoryallocation", "insufficient memory")


def cuda_uuids(count: int) -> tuple[str, ...]:
    """UUIDs of the first `count` CUDA devices that this process sees, as the driver writes them."""
    import torch

    seen = min(count, torch.cuda.device_count())
    return tuple(f"GPU-{torch.cuda.get_device_properties(index).uuid}" for index in range(seen))


class TensorrtBackend:
    """`package` stands for the module tensorrt_llm and `uuids` for the look at CUDA's devices."""

    def __init__(self, package: Any = None, *, uuids: Callable[[int], tuple[str, ...]] = cuda_uuids) -> None:
        self._package = package
        self._uuids = uuids

    def why_unavailable(self) -> str | None:
        return None if self._package is not None else why_unavailable()

    def why_refused(self, config: ExperimentConfig) -> str | None:
        return why_refused(config)

    @contextmanager
    def open(self, config: ExperimentConfig) -> Iterator[TensorrtSession]:
        package = self._package or _import()
        why = why_refused(config) or why_penalties_ignored(config, package.__version__)
        if why is not None:
            reason, _, hint = why.partition("; ")
            raise ConfigError(reason, hint=hint or None)
        with model_files(config) as files:
            with _explained(package, f"{config.model} can't be loaded"):
                arguments = engine_arguments(
                    package, config, model=files.path, random_weights=files.random_weights
                )
                llm = llm_class(package, config)(**arguments)
            try:
                yield TensorrtSession(package, llm, config, files=files, uuids=self._uuids)
            finally:
                llm.shutdown()


class TensorrtSession:
    """A batch goes to the engine at once, which forms its own; each request has its own lengths."""

    def __init__(
        self,
        package: Any,
        llm: Any,
        config: ExperimentConfig,
        *,
        files: ModelFiles,
        uuids: Callable[[int], tuple[str, ...]],
    ) -> None:
        self._package, self._llm, self._config = package, llm, config
        self._files = files
        self._uuids = uuids
        self._timed = True

    def generate(self, requests: Sequence[Request], observe: Observer) -> Generation:
        """MemoryError when the device runs out of memory; BackendError when the engine refuses or breaks."""
        check_requests(requests, context=getattr(self._llm.args, "max_seq_len", None))
        size = self._config.batch_size
        done: list[Completion] = []
        ids: list[tuple[int, ...]] = []
        for batch, start in enumerate(range(0, len(requests), size)):
            members = requests[start : start + size]
            parameters = [self._sampling(request) for request in members]
            prompts = [list(request.prompt) for request in members]
            sent_ns = time.monotonic_ns()
            observe.batch(members, sent_ns)
            with _explained(self._package, f"generating for a batch of {len(members)} failed"):
                outputs = self._llm.generate(inputs=prompts, sampling_params=parameters, use_tqdm=False)
            done_ns = time.monotonic_ns()
            for request, output in zip(members, outputs, strict=True):
                made, tokens = completion(
                    request,
                    output.outputs[0],
                    batch=batch,
                    sent_ns=sent_ns,
                    done_ns=done_ns,
                    end_ids=self._files.end_ids,
                )
                done.append(made)
                ids.append(tokens)
        self._timed = all(one.t_first_ns is not None for one in done)
        return Generation(tuple(done), tuple(ids))

    def synchronize(self) -> None:
        """Nothing is left on the device: `generate` returns when every request is done."""

    def facts(self) -> SessionFacts:
        """Weights, cache and peak memory are the engine's processes' own, and it does not tell them."""
        arguments = _in_force(self._llm.args)
        return SessionFacts(
            device="cuda",
            arguments=arguments | self._own_arguments(),
            versions=_versions(self._package),
            gpu_uuids=self._uuids(_world_size(self._llm.args)),
        )

    def reset_peak(self) -> None:
        """No peak is kept."""

    def _sampling(self, request: Request) -> Any:
        with _explained(self._package, "the sampling parameters are refused"):
            return sampling_parameters(self._package, self._config, request, end_ids=self._files.end_ids)

    def _own_arguments(self) -> dict[str, JsonValue]:
        request = Request(
            0, (0,), self._config.max_output_tokens, exact=self._config.output_length == "exact"
        )
        quantised = getattr(self._llm.args, "quant_config", None)
        return {
            "batch_size": self._config.batch_size,
            "engine": "tensorrt" if uses_engine(self._config) else "pytorch",
            "engine_dir": None if self._config.tensorrt.engine_dir is None else str(self._files.path),
            "quantization": _json(getattr(quantised, "quant_algo", None)),
            "sampling": _in_force(self._sampling(request)),
            "request_times": "engine" if self._timed else "of the batch: the engine gave none",
            "revision": self._files.revision,
        }


def _import() -> Any:
    package = import_module(PACKAGE)
    # Newer versions have no TensorRT engines any more; `llm_class` says so where one is asked for.
    with suppress(ImportError):
        import_module(f"{PACKAGE}._tensorrt_engine")
    return package


@contextmanager
def _explained(package: Any, what: str) -> Iterator[None]:
    """Say what failed, whatever the engine raised; MemoryError where it says that memory ran out."""
    raised = (package.llmapi.RequestError, RuntimeError, ValueError, TypeError, OSError, AssertionError)
    try:
        yield
    except LLEMError:
        raise
    except (*raised, KeyError, AttributeError, ImportError) as error:
        first = _said(error)
        if any(text in str(error).lower() for text in OUT_OF_MEMORY):
            raise MemoryError(f"{what}: {first}") from error
        raise BackendError(f"TensorRT-LLM: {what}: {first}") from error


def _said(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _in_force(arguments: Any) -> dict[str, JsonValue]:
    """The public fields of a pydantic model or a dataclass, as they stand after its own validation."""
    names = getattr(type(arguments), "model_fields", None) or type(arguments).__dataclass_fields__
    return {name: _json(getattr(arguments, name)) for name in names if not name.startswith("_")}


def _json(value: Any) -> JsonValue:
    known: JsonValue
    match value:
        case Enum():
            known = value.name
        case None | bool() | int() | float() | str():
            known = value
        case BaseModel():
            known = _in_force(value)
        case dict():
            known = {str(key): _json(one) for key, one in value.items()}
        case list() | tuple():
            known = [_json(one) for one in value]
        case _:
            # Paths, and objects of the engine's own such as a build configuration.
            known = str(value)
    return known


def _world_size(arguments: Any) -> int:
    """How many GPUs: the product of the ways in which the model is split."""
    ways = ("tensor_parallel_size", "pipeline_parallel_size", "context_parallel_size")
    size = 1
    for name in ways:
        size *= getattr(arguments, name, None) or 1
    return size


def _versions(package: Any) -> dict[str, str]:
    found = {PACKAGE: str(package.__version__)}
    for name in ("tensorrt", "torch", "transformers"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
