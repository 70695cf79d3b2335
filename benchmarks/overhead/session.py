"""What does llem's session cost beside the bare engine, in one process, with the same tokens and threads?"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.overhead.turns import Row, ratio, turns
from llenergymeasure.backends import load_backend
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.measure.bench import Position
from llenergymeasure.records import Request
from llenergymeasure.workload.prepared import prepared

# Pairs of turns, each a walk over the requests.
PAIRS = (75, 12)
RATIO, LOW = 0.995, 0.99
OUTPUT = 32
ENGINES = ("pytorch", "llamacpp", "vllm")

# The token ids of every request.
Bare = Callable[[], list[tuple[int, ...]]]


def row(engine: str, *, quick: bool, threads: int | None) -> Row:
    name = f"llem's session against bare {engine}"
    if why := load_backend(engine).why_unavailable():
        return Row(name, f"skipped: {why}")
    config = _config(engine, threads)
    requests = prepared(config).workload.requests
    with load_backend(engine).open(config) as session:
        bare = _BARE[engine](session, requests, threads)
        same = session.generate(requests, Position()).output_ids == tuple(bare())
        pairs: list[tuple[float, float]] = []
        spent: dict[bool, float] = {}
        for ours in turns(PAIRS[quick]):
            start = time.perf_counter()
            if ours:
                session.generate(requests, Position())
            else:
                bare()
            spent[ours] = time.perf_counter() - start
            if len(spent) == 2:
                pairs.append((spent[True], spent[False]))
                spent = {}
    found = ratio(pairs)
    tokens = "" if same else ", other tokens"
    return Row(
        name, f"{found}{tokens}", f"≥ {RATIO}, lower end ≥ {LOW}", found.value >= RATIO and found.low >= LOW
    )


def _config(engine: str, threads: int | None) -> ExperimentConfig:
    sections: dict[str, dict[str, object]] = {
        "pytorch": {"batch_size": 4, "device": "cpu"},
        "llamacpp": {},
        "vllm": {"batch_size": 4, "engine": {"enforce_eager": True}},
    }
    if threads is not None and engine != "vllm":
        sections[engine]["threads"] = threads
    return ExperimentConfig.model_validate(
        {
            "model": "smollm2-135m",
            "backend": engine,
            "n": 4,
            "dataset": {"name": "synthetic", "prompt_tokens": 64},
            "max_input_tokens": 64,
            "max_output_tokens": OUTPUT,
            "output_length": "exact",
            "precision": "int4" if engine == "llamacpp" else "bf16",
            engine: sections[engine],
        }
    )


def _bare_pytorch(session: Any, requests: Sequence[Request], _: int | None) -> Bare:
    """The model that the session has loaded, by one call of `generate`."""
    import torch

    loaded = session._loaded  # noqa: SLF001  one copy of the weights for both
    model = loaded.model
    ids = torch.tensor([request.prompt for request in requests])
    mask = torch.ones_like(ids)

    def generate() -> list[tuple[int, ...]]:
        with torch.no_grad():
            output = model.generate(
                ids,
                attention_mask=mask,
                do_sample=False,
                min_new_tokens=OUTPUT,
                max_new_tokens=OUTPUT,
                eos_token_id=list(loaded.eos_token_ids),
                pad_token_id=loaded.pad_token_id,
            )
        return [tuple(row[ids.shape[1] :]) for row in output.tolist()]

    return generate


def _bare_llamacpp(session: Any, requests: Sequence[Request], threads: int | None) -> Bare:
    """The package's own class over the same file; it has weights of its own.

    By itself it takes half the processors, and the session takes all. It may pick the token that ends a text,
    which a pinned length rules out: then the tokens after it differ, and the work does not.
    """
    from itertools import islice

    from llama_cpp import Llama

    path = str(session._loaded.path)  # noqa: SLF001  the file that the session has opened
    threads = threads or session.facts().arguments["threads"]
    llama = Llama(path, n_ctx=256, n_threads=threads, n_threads_batch=threads, verbose=False)

    def generate() -> list[tuple[int, ...]]:
        found = []
        for request in requests:
            llama.reset()
            llama._ctx.kv_cache_clear()  # noqa: SLF001  or the prompt would not be read anew
            found.append(tuple(islice(llama.generate(list(request.prompt), temp=0.0), OUTPUT)))
        return found

    return generate


def _bare_vllm(session: Any, requests: Sequence[Request], _: int | None) -> Bare:
    """The engine that the session has loaded, by one call of `generate`."""
    from vllm import SamplingParams
    from vllm.inputs import TokensPrompt

    llm = session._engine.llm  # noqa: SLF001  one engine for both
    prompts = [TokensPrompt(prompt_token_ids=list(request.prompt)) for request in requests]
    wanted = SamplingParams(temperature=0.0, min_tokens=OUTPUT, max_tokens=OUTPUT, ignore_eos=True)

    def generate() -> list[tuple[int, ...]]:
        answers = llm.generate(prompts, wanted, use_tqdm=False)
        return [tuple(answer.outputs[0].token_ids) for answer in answers]

    return generate


_BARE = {"pytorch": _bare_pytorch, "llamacpp": _bare_llamacpp, "vllm": _bare_vllm}
