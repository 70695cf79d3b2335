"""How does llama.cpp answer one request: which tokens, and when was each of them there?"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llenergymeasure.backends._llamacpp_loading import Loaded
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import BackendError
from llenergymeasure.records import Request

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
            "llama.cpp finds no room for this request in its context", hint="raise llamacpp.context"
        )
    raise BackendError(f"llama.cpp can't compute this request (code {code}): {loaded.log.error()}")
