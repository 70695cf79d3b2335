"""How does TensorRT-LLM run a workload: its files, batches, tokens and times?"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from math import prod
from pathlib import Path
from typing import Any

from pydantic import BaseModel, JsonValue

from llenergymeasure.backends import (
    Answer,
    HandOver,
    Observer,
    installed_versions,
    is_out_of_memory,
    model_folder,
    run_batches,
    summary_of,
)
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import BackendError, LLEMError
from llenergymeasure.models.resolve import fetched, resolve
from llenergymeasure.records import FinishReason, Generation, Request, SessionFacts
from llenergymeasure_tensorrt.arguments import sampling_parameters
from llenergymeasure_tensorrt.refusals import (
    PACKAGE,
    uses_engine,
)
from llenergymeasure_tensorrt.section import options_of

_FINISHES: dict[str, FinishReason] = {"stop": "eos", "length": "length"}
# The engine's times are whole microseconds of the clock that ours are nanoseconds of.
_RESOLUTION_NS = 1_000


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """`path` is what is loaded: a checkpoint, a folder with a shape only, or a built engine.

    `end_ids` are the end-of-sequence tokens of the model, empty where it names none.
    """

    path: Path
    end_ids: tuple[int, ...]
    random_weights: bool
    revision: str | None


@contextmanager
def model_files(config: ExperimentConfig) -> Iterator[ModelFiles]:
    """The model as a folder; the one that stands for a published shape goes when this is left."""
    resolved = fetched(resolve(config.model, revision=config.engine.revision))
    built = options_of(config).engine_dir
    if built is not None and resolved.kind == "random":
        raise BackendError(
            f"the engine in {built} has weights of its own: {config.model} can't be what it was built from",
            hint="name the model that it was built from, whose tokenizer makes the token ids",
        )
    # The engine would take the ids that transformers fills in for a shape's family, which mean nothing here.
    with model_folder(resolved, eos_token_id=None, bos_token_id=None) as folder:
        yield ModelFiles(built or folder, end_ids(folder), resolved.kind == "random", resolved.revision)


def end_ids(folder: Path) -> tuple[int, ...]:
    """End-of-sequence tokens as `generation_config.json` names them, else `config.json`."""
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        described = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        ids = described.get("eos_token_id")
        if ids is not None:
            return tuple(ids) if isinstance(ids, list) else (int(ids),)
    return ()


def answer_of(request: Request, output: Any, *, sent_ns: int, done_ns: int, end_ids: Sequence[int]) -> Answer:
    """What became of a request whose batch was handed over at `sent_ns` and was back at `done_ns`.

    BackendError where the engine gave it up.
    """
    ids = tuple(int(token) for token in output.token_ids)
    finish = _FINISHES.get(output.finish_reason)
    if finish is None:
        raise BackendError(f"TensorRT-LLM ended request {request.index} with {output.finish_reason!r}")
    # Whether the end token is listed differs between its engines; it was generated all the same.
    if finish == "eos" and end_ids and (not ids or ids[-1] not in end_ids) and not output.stop_reason:
        ids = (*ids, end_ids[0])
    first_ns, last_ns = _times(output, sent_ns=sent_ns, done_ns=done_ns)
    return Answer(ids, first_ns, done_ns if last_ns is None else last_ns, finish)


def _times(output: Any, *, sent_ns: int, done_ns: int) -> tuple[int | None, int | None]:
    """When the first and the last token were there, on the monotonic clock; None where that is not told.

    The engine reads std::chrono::steady_clock, which is CLOCK_MONOTONIC on Linux, and its bindings give the
    time since that clock's origin as a timedelta. Times outside the batch are from some other clock.
    """
    metrics = output.request_perf_metrics
    if metrics is None:
        return None, None
    first_ns = _ns(metrics.timing_metrics.first_token_time)
    last_ns = _ns(metrics.timing_metrics.last_token_time)
    if not sent_ns - _RESOLUTION_NS <= first_ns <= last_ns <= done_ns + _RESOLUTION_NS:
        return None, None
    return first_ns, last_ns


def _ns(since_origin: timedelta) -> int:
    return since_origin // timedelta(microseconds=1) * 1_000


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
        context = getattr(self._llm.args, "max_seq_len", None)
        generation = run_batches(
            requests, observe, self._answers, size=self._config.batch_size, context=context
        )
        self._timed = all(one.t_first_ns is not None for one in generation.completions)
        return generation

    def synchronize(self) -> None:
        """Nothing is left on the device: `generate` returns when every request is done."""

    def facts(self) -> SessionFacts:
        """Weights, cache and peak memory are the engine's processes' own, and it does not tell them."""
        arguments = _in_force(self._llm.args)
        return SessionFacts(
            device="cuda",
            arguments=arguments | self._own_arguments(),
            versions={
                PACKAGE: str(self._package.__version__),
                **installed_versions("tensorrt", "torch", "transformers"),
            },
            gpu_uuids=self._uuids(_world_size(self._llm.args)),
        )

    def reset_peak(self) -> None:
        """No peak is kept."""

    def _answers(self, members: Sequence[Request], hand_over: HandOver) -> list[Answer]:
        parameters = [self._sampling(request) for request in members]
        prompts = [list(request.prompt) for request in members]
        sent_ns = hand_over()
        with explained(self._package, f"generating for a batch of {len(members)} failed"):
            outputs = self._llm.generate(inputs=prompts, sampling_params=parameters, use_tqdm=False)
        done_ns = time.monotonic_ns()
        return [
            answer_of(
                request, output.outputs[0], sent_ns=sent_ns, done_ns=done_ns, end_ids=self._files.end_ids
            )
            for request, output in zip(members, outputs, strict=True)
        ]

    def _sampling(self, request: Request) -> Any:
        with explained(self._package, "the sampling parameters are refused"):
            return sampling_parameters(self._package, self._config, request, end_ids=self._files.end_ids)

    def _own_arguments(self) -> dict[str, JsonValue]:
        request = Request(
            0, (0,), self._config.max_output_tokens, exact=self._config.output_length == "exact"
        )
        quantised = getattr(self._llm.args, "quant_config", None)
        return {
            "batch_size": self._config.batch_size,
            "engine": "tensorrt" if uses_engine(self._config) else "pytorch",
            "engine_dir": None if options_of(self._config).engine_dir is None else str(self._files.path),
            "quantization": _json(getattr(quantised, "quant_algo", None)),
            "sampling": _in_force(self._sampling(request)),
            "request_times": "engine" if self._timed else "of the batch: the engine gave none",
            "revision": self._files.revision,
        }


@contextmanager
def explained(package: Any, what: str) -> Iterator[None]:
    """Say what failed, whatever the engine raised; MemoryError where it says that memory ran out."""
    raised = (package.llmapi.RequestError, RuntimeError, ValueError, TypeError, OSError, AssertionError)
    try:
        yield
    except LLEMError:
        raise
    except (*raised, KeyError, AttributeError, ImportError) as error:
        first = summary_of(error)
        if is_out_of_memory(error):
            raise MemoryError(f"{what}: {first}") from error
        raise BackendError(f"TensorRT-LLM: {what}: {first}") from error


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
    return prod(getattr(arguments, name, None) or 1 for name in ways)
