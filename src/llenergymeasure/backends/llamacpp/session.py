"""How does llama.cpp run a workload: its requests one after the other, tokens and times?"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from pydantic import JsonValue

from llenergymeasure.backends import (
    Answer,
    HandOver,
    Observer,
    decoding_in_force,
    installed_versions,
    run_batches,
)
from llenergymeasure.backends.llamacpp.loading import Loaded
from llenergymeasure.backends.memory import reset_resident_peak, resident_peak
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import BackendError
from llenergymeasure.records import Generation, Request, SessionFacts

# llama.cpp's own word for a seed from the clock.
_RANDOM_SEED = 2**32 - 1
_OUT_OF_MEMORY, _NO_ROOM = -2, 1


@contextmanager
def sampler(request: Request, loaded: Loaded, config: ExperimentConfig) -> Iterator[Any]:
    """The chain that picks the tokens of one request.

    In the order of transformers and vLLM, so that the settings mean the same: repetition penalty over prompt
    and output, temperature, top-k, top-p. An exact request can't pick a token that ends a generation. A
    request draws from its own seed, whatever came before it.
    """
    from llama_cpp import llama_cpp

    decoder = config.decoder
    chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
    try:
        for link in _links(request, loaded, config):
            llama_cpp.llama_sampler_chain_add(chain, link)
        if decoder.repetition_penalty != 1:
            for token in request.prompt:
                llama_cpp.llama_sampler_accept(chain, token)
        yield chain
    finally:
        llama_cpp.llama_sampler_free(chain)


def _links(request: Request, loaded: Loaded, config: ExperimentConfig) -> Iterator[Any]:
    from llama_cpp import llama_cpp

    decoder = config.decoder
    if request.exact and loaded.end_ids:
        biases = (llama_cpp.llama_logit_bias * len(loaded.end_ids))()
        for bias, token in zip(biases, sorted(loaded.end_ids), strict=True):
            bias.token, bias.bias = token, float("-inf")
        yield llama_cpp.llama_sampler_init_logit_bias(loaded.vocab_size, len(biases), biases)
    if decoder.repetition_penalty != 1:
        yield llama_cpp.llama_sampler_init_penalties(
            loaded.vocab_size, loaded.limit, decoder.repetition_penalty, 0.0, 0.0
        )
    if decoder.temperature == 0:
        yield llama_cpp.llama_sampler_init_greedy()
        return
    yield llama_cpp.llama_sampler_init_temp(decoder.temperature)
    if decoder.top_k:
        yield llama_cpp.llama_sampler_init_top_k(decoder.top_k)
    if decoder.top_p < 1:
        yield llama_cpp.llama_sampler_init_top_p(decoder.top_p, 1)
    yield llama_cpp.llama_sampler_init_dist((config.random_seed + request.index) % _RANDOM_SEED)


def link_names(chain: Any) -> list[str]:
    from llama_cpp import llama_cpp

    return [
        llama_cpp.llama_sampler_name(llama_cpp.llama_sampler_chain_get(chain, place)).decode()
        for place in range(llama_cpp.llama_sampler_chain_n(chain))
    ]


def prompt_batches(request: Request, size: int) -> list[Any]:
    """The prompt in batches of at most `size`, of which the very last token alone gets logits.

    Positions follow from what the context holds, and no token is added.
    """
    from llama_cpp import llama_cpp

    batches = []
    count = len(request.prompt)
    for start in range(0, count, size):
        part = request.prompt[start : start + size]
        wanted = (ctypes.c_int8 * len(part))()
        wanted[-1] = start + size >= count
        batches.append(
            llama_cpp.llama_batch(
                n_tokens=len(part), token=(llama_cpp.llama_token * len(part))(*part), logits=wanted
            )
        )
    return batches


def run(request: Request, loaded: Loaded, *, batches: list[Any], chain: Any) -> tuple[list[int], list[int]]:
    """The output tokens and a stamp for each, taken when it was picked: picking waits for the device."""
    from llama_cpp import llama_cpp

    sample, now, context = llama_cpp.llama_sampler_sample, time.monotonic_ns, loaded.context
    for batch in batches:
        _decode(loaded, batch)
    ends = frozenset[int]() if request.exact else loaded.end_ids
    one = (llama_cpp.llama_token * 1)()
    step = llama_cpp.llama_batch(n_tokens=1, token=one)
    tokens: list[int] = []
    stamps_ns: list[int] = []
    while True:
        token = sample(chain, context, -1)
        stamps_ns.append(now())
        tokens.append(token)
        if token in ends or len(tokens) == request.max_output_tokens:
            return tokens, stamps_ns
        one[0] = token
        _decode(loaded, step)


def _decode(loaded: Loaded, batch: Any) -> None:
    from llama_cpp import llama_cpp

    code = llama_cpp.llama_decode(loaded.context, batch)
    if code == 0:
        return
    if code == _OUT_OF_MEMORY or loaded.log.lacks_memory():
        raise MemoryError(f"llama.cpp ran out of memory: {loaded.log.error()}")
    if code == _NO_ROOM:
        raise BackendError(
            "llama.cpp has no room for this request in its context", hint="raise llamacpp.context"
        )
    raise BackendError(f"llama.cpp can't compute this request (code {code}): {loaded.log.error()}")


class LlamacppSession:
    """One request at a time; the cache is emptied before each, so that every prompt is read anew."""

    def __init__(self, loaded: Loaded, config: ExperimentConfig) -> None:
        self._loaded = loaded
        self._config = config
        self._sampling: list[str] = []
        self._peak_was_reset = False

    def generate(self, requests: Sequence[Request], observe: Observer) -> Generation:
        """MemoryError when llama.cpp runs out of memory; BackendError as `run_batches` says."""
        return run_batches(requests, observe, self._answers, size=1, context=self._loaded.limit)

    def synchronize(self) -> None:
        from llama_cpp import llama_cpp

        llama_cpp.llama_synchronize(self._loaded.context)

    def facts(self) -> SessionFacts:
        from llama_cpp import llama_cpp

        loaded, report = self._loaded, self._loaded.report
        peak_bytes, memory_source = self._peak()
        cache = [size for name, size in report.buffers.items() if name.endswith((" KV", " RS"))]
        return SessionFacts(
            device=", ".join(f"{name} ({text})" for name, (text, _) in report.devices.items()) or "cpu",
            arguments=self._arguments(),
            versions={
                **installed_versions("llama-cpp-python"),
                "llama.cpp": llama_cpp.llama_version().decode(),
            },
            gpu_uuids=_uuids([bus for _, bus in report.devices.values()]),
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
        report = self._loaded.report
        on_gpus = [size for name, size in report.buffers.items() if name.split()[0] in report.devices]
        if on_gpus:
            return sum(on_gpus), f"llama.cpp's buffers on {' and '.join(report.devices)}"
        return resident_peak(was_reset=self._peak_was_reset)

    def _answers(self, members: Sequence[Request], hand_over: HandOver) -> list[Answer]:
        from llama_cpp import llama_cpp

        (request,) = members
        batches = prompt_batches(request, self._loaded.batch)
        with sampler(request, self._loaded, self._config) as chain:
            if not self._sampling:
                self._sampling = link_names(chain)
            # Without wiping its bytes, which takes long for a large one and hides nothing.
            llama_cpp.llama_memory_clear(self._loaded.memory, False)
            hand_over()
            tokens, stamps_ns = run(request, self._loaded, batches=batches, chain=chain)
        ended = not request.exact and tokens[-1] in self._loaded.end_ids
        return [Answer(tokens, stamps_ns[0], stamps_ns[-1], "eos" if ended else "length")]

    def _arguments(self) -> dict[str, JsonValue]:
        from llama_cpp import llama_cpp

        loaded, report = self._loaded, self._loaded.report
        cache_k, cache_v = report.cache_types or (None, None)
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
            "gpu_layers": report.gpu_layers,
            "cache_type_k": cache_k,
            "cache_type_v": cache_v,
            "flash_attn": report.flash_attn,
            "load_mode": report.load_mode,
            "buffers": dict(report.buffers),
            "sampling": list(self._sampling),
            "eos_token_ids": sorted(loaded.end_ids),
            **decoding_in_force(self._config),
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
