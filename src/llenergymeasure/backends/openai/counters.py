"""What did a server itself count between two moments?

vLLM and SGLang count on a page in Prometheus' text format. What a server does not count is None.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import fields, replace
from typing import Any

from llenergymeasure.backends.openai.client import Client, UnreachableError
from llenergymeasure.records import ServerCounts

# Those that were refused or given up by the client are counted apart, by neither side as answered.
_UNANSWERED = ('finished_reason="abort"', 'finished_reason="error"')
# vLLM 0.32 as a real server prints them; SGLang by the source of its collector.
_NAMES: Mapping[str, Mapping[str, str]] = {
    "vllm": {
        "prompt_tokens": "vllm:prompt_tokens_total",
        "output_tokens": "vllm:generation_tokens_total",
        "requests": "vllm:request_success_total",
        "cache_lookup_tokens": "vllm:prefix_cache_queries_total",
        "cache_hit_tokens": "vllm:prefix_cache_hits_total",
        "drafts": "vllm:spec_decode_num_drafts_total",
        "draft_tokens": "vllm:spec_decode_num_draft_tokens_total",
        "accepted_tokens": "vllm:spec_decode_num_accepted_tokens_total",
    },
    # Its speculation has only gauges, which are those of its last interval.
    "sglang": {
        "prompt_tokens": "sglang:prompt_tokens_total",
        "output_tokens": "sglang:generation_tokens_total",
        "requests": "sglang:num_requests_total",
        "cache_lookup_tokens": "sglang:prompt_tokens_total",
        "cache_hit_tokens": "sglang:cached_tokens_total",
    },
}
# A page that takes longer is not waited for.
_PAGE_S = 5.0

_COUNTS = tuple(_NAMES["vllm"])
assert set(_COUNTS) < {one.name for one in fields(ServerCounts)}, "each is a field"


async def read_counts(client: Client) -> ServerCounts:
    """What the server has counted so far; all None with the reason where it has no such page."""
    t_ns = time.monotonic_ns()
    try:
        async with asyncio.timeout(_PAGE_S):
            status, text, _ = await client.get(f"{client.root}/metrics")
    except UnreachableError as error:
        return ServerCounts(t_ns, reason=error.message)
    except TimeoutError:
        return ServerCounts(t_ns, reason=f"the server's /metrics did not answer within {_PAGE_S:g} s")
    if status != 200:
        return ServerCounts(t_ns, reason=f"the server has no counters: /metrics answers HTTP {status}")
    return parse_counts(text, t_ns=t_ns)


def parse_counts(text: str, *, t_ns: int) -> ServerCounts:
    """The sums of each counter over all its labels."""
    sums: dict[str, float] = {}
    for name, labels, value in _samples(text):
        if not any(one in labels for one in _UNANSWERED):
            sums[name] = sums.get(name, 0.0) + value
    for engine, names in _NAMES.items():
        found: dict[str, Any] = {what: round(sums[name]) for what, name in names.items() if name in sums}
        if found:
            return ServerCounts(t_ns, engine, started_s=sums.get("process_start_time_seconds"), **found)
    return ServerCounts(t_ns, reason="the server's /metrics has no counter that llem knows")


def _samples(text: str) -> Iterator[tuple[str, str, float]]:
    """Name, labels and value of each line that is one; a label may hold any character, a brace too."""
    for line in text.split("\n"):
        head, brace, rest = line.rpartition("}")
        name, _, labels = head.partition("{") if brace else (line.partition(" ")[0], "", "")
        numbers = (rest if brace else line.partition(" ")[2]).split()
        with suppress(ValueError):
            value = float(numbers[0]) if numbers else math.nan
            if math.isfinite(value):
                yield name, labels, value


def difference(before: ServerCounts, after: ServerCounts) -> ServerCounts:
    """What was counted in between; all None with the reason where the server was started anew meanwhile."""
    if reason := before.reason or after.reason:
        return ServerCounts(after.t_ns, after.engine, reason=reason)
    grown: dict[str, Any] = {}
    fallen = None
    for what in _COUNTS:
        first, last = getattr(before, what), getattr(after, what)
        # A counter may be printed only once it has counted something.
        grown[what] = None if last is None else last - (first or 0)
        if (last or 0) < (first or 0):
            fallen = what
    if fallen or before.started_s != after.started_s:
        how = f"its counter of {fallen} has fallen" if fallen else "it says another time of its start"
        reason = f"the server was started anew in between: {how}"
        return ServerCounts(after.t_ns, after.engine, started_s=after.started_s, reason=reason)
    return replace(after, **grown)
