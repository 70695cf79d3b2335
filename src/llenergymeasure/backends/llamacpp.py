"""How does llama.cpp run a workload: its requests one after the other, tokens and times?"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from typing import TYPE_CHECKING

from pydantic import JsonValue

from llenergymeasure.backends import Observer
from llenergymeasure.backends._limits import check_requests
from llenergymeasure.backends._llamacpp_refusals import why_refused, why_unavailable
from llenergymeasure.backends._process_memory import reset_resident_peak, resident_peak
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.records import Completion, Generation, Request, SessionFacts

if TYPE_CHECKING:
    from llenergymeasure.backends._llamacpp_loading import Loaded


class LlamacppBackend:
    def why_unavailable(self) -> str | None:
        return why_unavailable()

    def why_refused(self, config: ExperimentConfig) -> str | None:
        return why_refused(config)

    @contextmanager
    def open(self, config: ExperimentConfig) -> Iterator[LlamacppSession]:
        from llenergymeasure.backends._llamacpp_loading import loaded

        with loaded(config) as model:
            yield LlamacppSession(model, config)


class LlamacppSession:
    """One request at a time; the cache is emptied before each, so that every prompt is read anew."""

    def __init__(self, loaded: Loaded, config: ExperimentConfig) -> None:
        self._loaded = loaded
        self._config = config
        self._sampling: list[str] = []
        self._peak_was_reset = False

    def generate(self, requests: Sequence[Request], observe: Observer) -> Generation:
        """MemoryError when llama.cpp runs out of memory; BackendError as `check_requests` says."""
        check_requests(requests, context=self._loaded.limit)
        done: list[Completion] = []
        ids: list[tuple[int, ...]] = []
        for batch, request in enumerate(requests):
            completion, tokens = self._answer(request, batch, observe)
            done.append(completion)
            ids.append(tokens)
        return Generation(tuple(done), output_ids=tuple(ids))

    def synchronize(self) -> None:
        from llama_cpp import llama_cpp

        llama_cpp.llama_synchronize(self._loaded.context)

    def facts(self) -> SessionFacts:
        from llama_cpp import llama_cpp

        loaded, told = self._loaded, self._loaded.told
        peak_bytes, memory_source = self._peak()
        cache = [size for name, size in told.buffers.items() if name.endswith((" KV", " RS"))]
        return SessionFacts(
            device=", ".join(f"{name} ({text})" for name, (text, _) in told.devices.items()) or "cpu",
            arguments=self._arguments(),
            versions={
                "llama-cpp-python": version("llama_cpp_python"),
                "llama.cpp": llama_cpp.llama_version().decode(),
            },
            gpu_uuids=_uuids([bus for _, bus in told.devices.values()]),
            parameters=llama_cpp.llama_model_n_params(loaded.model),
            weights_bytes=llama_cpp.llama_model_size(loaded.model),
            kv_cache_bytes=sum(cache) if cache else None,
            peak_bytes=peak_bytes,
            memory_source=memory_source,
        )

    def reset_peak(self) -> None:
        self._peak_was_reset = reset_resident_peak()

    def _peak(self) -> tuple[int | None, str | None]:
        """On GPUs what llama.cpp allocated at the load and keeps, else this process's resident memory."""
        told = self._loaded.told
        on_gpus = [size for name, size in told.buffers.items() if name.split()[0] in told.devices]
        if on_gpus:
            return sum(on_gpus), f"llama.cpp's buffers on {' and '.join(told.devices)}"
        return resident_peak(was_reset=self._peak_was_reset)

    def _answer(self, request: Request, batch: int, observe: Observer) -> tuple[Completion, tuple[int, ...]]:
        from llama_cpp import llama_cpp

        from llenergymeasure.backends import _llamacpp_decoding as decoding

        batches = decoding.prompt_batches(request, self._loaded.batch)
        with decoding.sampler(request, self._loaded, self._config) as chain:
            if not self._sampling:
                self._sampling = decoding.link_names(chain)
            # Without wiping its bytes, which takes long for a large one and hides nothing.
            llama_cpp.llama_memory_clear(self._loaded.memory, False)
            sent_ns = time.monotonic_ns()
            observe.batch([request], sent_ns)
            tokens, stamps_ns = decoding.run(request, self._loaded, batches=batches, chain=chain)
        ended = not request.exact and tokens[-1] in self._loaded.end_ids
        return Completion(
            index=request.index,
            walk=0,
            batch=batch,
            prompt_tokens=len(request.prompt),
            output_tokens=len(tokens),
            t_scheduled_ns=sent_ns,
            t_sent_ns=sent_ns,
            t_first_ns=stamps_ns[0],
            t_end_ns=stamps_ns[-1],
            finish="eos" if ended else "length",
        ), tuple(tokens)

    def _arguments(self) -> dict[str, JsonValue]:
        from llama_cpp import llama_cpp

        loaded, told, decoder = self._loaded, self._loaded.told, self._config.decoder
        sampled = decoder.temperature > 0
        cache_k, cache_v = told.cache_types or (None, None)
        return {
            "batch_size": 1,
            "file": loaded.path.name,
            "file_type": llama_cpp.llama_ftype_name(llama_cpp.llama_model_ftype(loaded.model)).decode(),
            "context": llama_cpp.llama_n_ctx(loaded.context),
            "trained_context": llama_cpp.llama_model_n_ctx_train(loaded.model),
            "n_batch": llama_cpp.llama_n_batch(loaded.context),
            "n_ubatch": llama_cpp.llama_n_ubatch(loaded.context),
            "threads": llama_cpp.llama_n_threads(loaded.context),
            "threads_batch": llama_cpp.llama_n_threads_batch(loaded.context),
            "gpu_layers": told.gpu_layers,
            "cache_type_k": cache_k,
            "cache_type_v": cache_v,
            "flash_attn": told.flash_attn,
            "load_mode": told.load_mode,
            "buffers": dict(told.buffers),
            "sampling": list(self._sampling),
            "temperature": decoder.temperature if sampled else None,
            "top_p": decoder.top_p if sampled else None,
            "top_k": decoder.top_k if sampled else None,
            "repetition_penalty": decoder.repetition_penalty,
            "eos_token_ids": sorted(loaded.end_ids),
            "random_seed": self._config.random_seed,
            "system_info": llama_cpp.llama_print_system_info().decode().strip(" |"),
        }


def _uuids(bus_ids: Sequence[str]) -> tuple[str, ...]:
    """UUIDs of the NVIDIA GPUs at these PCI addresses; () where the driver does not say."""
    if not bus_ids:
        return ()
    import pynvml

    found: list[str] = []
    with suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        try:
            for bus_id in bus_ids:
                handle = pynvml.nvmlDeviceGetHandleByPciBusId(bus_id.encode())
                found.append(pynvml.nvmlDeviceGetUUID(handle))
        finally:
            pynvml.nvmlShutdown()
    return tuple(found)
