"""A server's own counters are read as it prints them, summed, and held against the client's."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stub_process import stub_server

from llenergymeasure.backends.openai.client import Client
from llenergymeasure.backends.openai.counters import difference, parse_counts, read_counts
from llenergymeasure.records import ServerCounts

pytest.importorskip("aiohttp", reason="the extra openai is not installed")

PRINTED = Path(__file__).parent.parent / "data" / "metrics"


def printed(name: str) -> ServerCounts:
    return parse_counts((PRINTED / name).read_text(), t_ns=1)


def test_vllm_s_page_is_read_as_it_prints_it() -> None:
    # three requests of 80 prompt and 20 output tokens each, drafted by n-grams of two tokens
    before, after = printed("vllm-0.32-before.txt"), printed("vllm-0.32-after.txt")
    counted = difference(before, after)
    assert (counted.engine, counted.reason) == ("vllm", None)
    assert (counted.prompt_tokens, counted.output_tokens, counted.requests) == (240, 60, 3)
    assert (counted.cache_lookup_tokens, counted.cache_hit_tokens) == (240, 0)
    assert (counted.drafts, counted.draft_tokens, counted.accepted_tokens) == (18, 33, 33)
    assert after.started_s == before.started_s is not None


SGLANG = """# HELP sglang:prompt_tokens_total Number of prefill tokens processed.
# TYPE sglang:prompt_tokens_total counter
sglang:prompt_tokens_total{engine_type="unified",model_name="m",tp_rank="0"} 1024.0
sglang:generation_tokens_total{engine_type="unified",model_name="m",tp_rank="0"} 256.0
sglang:num_requests_total{model_name="m"} 8.0
sglang:cached_tokens_total{cache_source="device",model_name="m"} 500.0
sglang:cached_tokens_total{cache_source="host",model_name="m"} 12.0
sglang:spec_accept_length{model_name="m"} 2.5
"""


def test_sglang_s_page_is_read_and_its_gauges_are_no_counters() -> None:
    counts = parse_counts(SGLANG, t_ns=1)
    assert counts == ServerCounts(
        1, "sglang", 1024, 256, 8, cache_lookup_tokens=1024, cache_hit_tokens=512, drafts=None
    )


def test_what_is_not_there_is_none_with_the_reason() -> None:
    counts = parse_counts("# TYPE http_requests_total counter\nhttp_requests_total 5\n", t_ns=1)
    assert (counts.engine, counts.requests) == (None, None)
    assert counts.reason is not None
    assert difference(counts, parse_counts(SGLANG, t_ns=2)).reason == counts.reason
    only = parse_counts("vllm:prompt_tokens_total 5\n", t_ns=1)
    assert (only.prompt_tokens, only.output_tokens, only.reason) == (5, None, None)


def test_several_engines_are_summed_and_what_was_not_answered_is_left_out() -> None:
    lines = [
        'vllm:request_success_total{engine="0",finished_reason="length"} 3',
        'vllm:request_success_total{engine="1",finished_reason="stop"} 4 1395066363000',
        'vllm:request_success_total{engine="0",finished_reason="abort"} 7',
        'vllm:request_success_total{engine="1",finished_reason="error"} 9',
        'vllm:prompt_tokens_total{engine="0"} 1e3',
        'vllm:prompt_tokens_total{engine="1"} 24.0',
        "vllm:generation_tokens_total{} NaN",
        "vllm:generation_tokens_total",
    ]
    counts = parse_counts("\n".join(lines), t_ns=1)
    assert (counts.requests, counts.prompt_tokens, counts.output_tokens) == (7, 1024, None)


@given(st.lists(st.tuples(st.text(), st.integers(0, 10**12))))
def test_counts_are_summed_whatever_a_label_holds(series: list[tuple[str, int]]) -> None:
    def escaped(label: str) -> str:
        return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    lines = [f'vllm:prompt_tokens_total{{model_name="{escaped(label)}"}} {n}.0\n' for label, n in series]
    counts = parse_counts("".join(lines), t_ns=1)
    assert counts.prompt_tokens == (sum(n for _, n in series) if series else None)


@given(st.text())
def test_any_page_is_read_or_has_a_reason(text: str) -> None:
    assert parse_counts(text, t_ns=1).reason is not None


def test_a_server_that_was_started_anew_in_between_has_no_difference() -> None:
    counts = parse_counts(SGLANG, t_ns=1)
    for later in (
        replace(counts, output_tokens=100),
        replace(counts, cache_hit_tokens=None),
        replace(counts, prompt_tokens=10**6, started_s=5.0),
    ):
        counted = difference(counts, later)
        assert "started anew" in str(counted.reason)
        assert counted.prompt_tokens is None
    assert difference(counts, replace(counts, t_ns=2)).requests == 0


async def counted(url: str, posts: int) -> tuple[ServerCounts, ServerCounts]:
    body = {"model": "stub", "prompt": [1, 2, 3], "max_tokens": 4, "stream": True}
    async with Client(url, key=None, request_timeout_s=20) as client:
        before = await read_counts(client)
        for _ in range(posts):
            await client.post("/completions", json.dumps(body).encode())
        return before, await read_counts(client)


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_a_server_s_counts_are_those_of_its_client(engine: str) -> None:
    with stub_server(metrics=f"{engine}:", cache_block=3, refuse_every=4) as url:
        before, after = asyncio.run(counted(url, 8))
    seen = difference(before, after)
    assert (seen.engine, seen.requests, seen.prompt_tokens, seen.output_tokens) == (engine, 6, 18, 24)
    assert seen.cache_hit_tokens == 15
    assert seen.t_ns > before.t_ns


def test_a_server_without_counters_says_so() -> None:
    with stub_server(metrics="none") as url:
        before, _ = asyncio.run(counted(url, 0))
    assert "404" in str(before.reason)
