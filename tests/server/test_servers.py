"""Real servers answer as llem's client counts: each on the small model, launched by llem, on a CPU.

LLEM_TEST_SERVERS names the interpreter of each, such as `vllm=.venv-vllm/bin/python transformers=…`; one that
is not named is skipped.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil
import pytest
from pydantic import JsonValue

from llenergymeasure.backends.openai import OpenaiBackend
from llenergymeasure.backends.openai.client import Client
from llenergymeasure.backends.openai.counters import difference, read_counts
from llenergymeasure.backends.openai.session import OpenaiSession
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.measure.bench import Position
from llenergymeasure.models.resolve import resolve
from llenergymeasure.records import Completion, ServerCounts
from llenergymeasure.workload.prepared import prepared

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]

PYTHONS = dict(one.split("=", 1) for one in os.environ.get("LLEM_TEST_SERVERS", "").split())
TOKENS, REQUESTS = 8, 6
# A thread each, so that they come along on a busy machine too.
ONE: dict[str, JsonValue] = {"OMP_NUM_THREADS": "1"}
OPTIONS: dict[str, dict[str, JsonValue]] = {
    "vllm": {
        "options": {"enforce_eager": True, "max_model_len": 512},
        "env": {"VLLM_CPU_KVCACHE_SPACE": "1", **ONE},
    },
    "transformers": {"env": ONE},
    "llamacpp": {"options": {"n_threads": 1, "n_threads_batch": 1}},
}


def experiment(engine: str) -> ExperimentConfig:
    if engine not in PYTHONS:
        pytest.skip(f"LLEM_TEST_SERVERS names no interpreter for {engine}")
    launch = {"engine": engine, "python": PYTHONS[engine], "ready_timeout_s": 300, **OPTIONS[engine]}
    model = "smollm2-135m"
    if engine == "llamacpp":
        resolved = resolve(model)
        model = str(resolved.path)
    return ExperimentConfig.model_validate(
        {
            "model": model,
            "backend": "openai",
            "n": REQUESTS,
            "max_input_tokens": 64,
            "max_output_tokens": TOKENS,
            "load": {"concurrency": 3},
            "openai": {"launch": launch},
        }
    )


@contextmanager
def launched(config: ExperimentConfig) -> Iterator[tuple[OpenaiSession, str]]:
    """The session, and where the server listens; nothing of the server is left."""
    with OpenaiBackend().open(config) as session:
        words = session.facts().arguments["command"]
        assert isinstance(words, list)
        port = words[words.index("--port") + 1]
        pids = [one.pid for one in psutil.Process().children(recursive=True)]
        yield session, f"http://127.0.0.1:{port}"
    assert pids
    # Those that were killed may take a moment to go.
    until = time.monotonic() + 60
    while any(map(is_running, pids)):
        assert time.monotonic() < until
        time.sleep(0.1)


def is_running(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def answered(session: OpenaiSession, config: ExperimentConfig) -> tuple[Completion, ...]:
    """All requests of a walk, each with times in order."""
    requests = prepared(config).workload.requests
    done = tuple(session.generate(requests, Position()).completions)
    assert len(done) == REQUESTS
    for one, request in zip(done, requests, strict=True):
        assert one.finish in {"length", "eos"}
        assert one.prompt_tokens == len(request.prompt)
        assert 0 < one.output_tokens <= TOKENS
        assert one.t_first_ns is not None
        assert one.t_sent_ns < one.t_first_ns <= one.t_end_ns
    counts = session.account()
    assert counts.sent == counts.answered + counts.failed + counts.cancelled
    assert counts.cancelled == 0
    return done


def test_vllm_counts_what_its_client_counts() -> None:
    config = experiment("vllm")
    with launched(config) as (session, url):

        async def looked() -> ServerCounts:
            async with Client(url, key=None, request_timeout_s=60) as client:
                return await read_counts(client)

        before = asyncio.run(looked())
        done = answered(session, config)
        after = asyncio.run(looked())
    server = difference(before, after)
    assert server.reason is None
    assert (server.requests, server.prompt_tokens, server.output_tokens) == (
        REQUESTS,
        sum(one.prompt_tokens for one in done),
        sum(one.output_tokens for one in done),
    )
    assert [one.output_tokens for one in done] == [TOKENS] * REQUESTS


def test_transformers_counts_what_its_client_counts() -> None:
    config = experiment("transformers")
    with launched(config) as (session, _):
        done = answered(session, config)
        assert session.facts().arguments["lengths"] == "generation_config"
    # by its usage; the tokenizer's own count of the text is beside it
    assert [one.output_tokens for one in done] == [TOKENS] * REQUESTS
    local = sum(one.local_output_tokens or 0 for one in done)
    assert local == pytest.approx(TOKENS * REQUESTS, rel=0.1)


def test_llama_cpp_counts_what_its_client_counts() -> None:
    config = experiment("llamacpp")
    with launched(config) as (session, url):
        done = answered(session, config)
        form = session._form
        assert form is not None
        requests = prepared(config).workload.requests
        bodies = [json.loads(session._bodies.body(form, request)) for request in requests]

        async def whole() -> list[int]:
            """It counts only answers that do not stream; greedily they are the same."""
            found = []
            async with Client(url, key=None, request_timeout_s=60) as client:
                for body in bodies:
                    body |= {"stream": False}
                    del body["stream_options"]
                    reply = await client.post("/completions", json.dumps(body).encode())
                    found.append(reply.count("completion_tokens") or 0)
            return found

        theirs = asyncio.run(whole())
    assert [one.output_tokens for one in done] == theirs
