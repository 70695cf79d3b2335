"""How does vLLM run a workload: its batches, tokens and times?"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from pydantic import JsonValue

from llenergymeasure.backends import Observer
from llenergymeasure.backends._limits import check_requests
from llenergymeasure.backends._process_memory import reset_resident_peak, resident_peak
from llenergymeasure.backends._vllm_arguments import request_arguments, why_refused
from llenergymeasure.backends._vllm_declared import accepted
from llenergymeasure.backends._vllm_facts import in_force, versions
from llenergymeasure.backends._vllm_generating import Answer, explained, sampled, searched
from llenergymeasure.backends._vllm_probe import Worker
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.models.formulas import parameters, weight_bytes
from llenergymeasure.records import Completion, Generation, Request, SessionFacts

if TYPE_CHECKING:
    from llenergymeasure.backends._vllm_loading import Loaded


class VllmBackend:
    """vLLM's offline `LLM`, which forms its own batches out of the requests it is handed.

    Prefix caching is off unless `vllm.engine.enable_prefix_caching` asks for it: a pass replays its prompts,
    and from the second walk on none of them would be read. Where it is on, it is emptied before every walk.
    """

    def why_unavailable(self) -> str | None:
        missing = [name for name in ("vllm", "torch") if find_spec(name) is None]
        if not missing:
            return None
        return f"the vllm backend needs {' and '.join(missing)}: run pip install 'llenergymeasure[vllm]'"

    def why_refused(self, config: ExperimentConfig) -> str | None:
        return why_refused(config) if self.why_unavailable() is None else None

    @contextmanager
    def open(self, config: ExperimentConfig) -> Iterator[VllmSession]:
        from llenergymeasure.backends._vllm_loading import loaded

        with loaded(config) as engine:
            yield VllmSession(engine, config)


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
        check_requests(requests, context=self._context)
        self._empty_cache()
        size = self._config.batch_size
        done: list[Completion] = []
        ids: list[tuple[int, ...]] = []
        for batch, start in enumerate(range(0, len(requests), size)):
            members = requests[start : start + size]
            sent_ns = time.monotonic_ns()
            observe.batch(members, sent_ns)
            for request, answer in zip(members, self._answers(members), strict=True):
                ids.append(answer.tokens)
                self._cached_tokens += answer.cached_tokens
                done.append(
                    Completion(
                        index=request.index,
                        walk=0,
                        batch=batch,
                        prompt_tokens=answer.prompt_tokens,
                        output_tokens=len(answer.tokens),
                        t_scheduled_ns=sent_ns,
                        t_sent_ns=sent_ns,
                        t_first_ns=answer.first_ns,
                        t_end_ns=answer.end_ns,
                        finish=answer.finish,
                    )
                )
        return Generation(tuple(done), tuple(ids))

    def synchronize(self) -> None:
        """Nothing is ever left on the device: a call returns when its last token is on the host."""

    def facts(self) -> SessionFacts:
        workers = self._asked("llem_facts", "it was asked for its memory")
        count, weights = self._weights(workers)
        peak, source = self._peak(workers)
        return SessionFacts(
            device=", ".join(worker["device"] for worker in workers),
            arguments=self._arguments(workers),
            versions=versions(),
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

    def _answers(self, members: Sequence[Request]) -> list[Answer]:
        answer = sampled if self._config.vllm.beam_search is None else searched
        with self._engine.watch.guarded("it generated"), explained(f"generating for {len(members)} requests"):
            return answer(self._engine.llm, self._config, members, lora=self._engine.lora)

    def _empty_cache(self) -> None:
        self._cached_tokens = 0
        if self._settings.cache_config.enable_prefix_caching:
            with self._engine.watch.guarded("its cache was emptied"):
                self._engine.llm.reset_prefix_cache()

    def _asked(self, method: str, doing: str) -> list[Worker]:
        """What every worker process answers."""
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
