"""How fast and how true is llem's client on this machine?

`python -m llenergymeasure.backends.openai.selfcheck SLOW FAST` prints ClientLimits as JSON. The two are URLs
of the stub server, one that takes its time and one that takes none. It runs in a process of its own, as the
client of a measured run does.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice, pairwise

from pydantic import TypeAdapter

from llenergymeasure.backends import why_missing
from llenergymeasure.backends.openai.client import Client
from llenergymeasure.backends.openai.load import drive
from llenergymeasure.backends.openai.stream import Reply
from llenergymeasure.config.load import LoadConfig
from llenergymeasure.records import Request
from llenergymeasure.records.client import ClientLag, ClientLimits, ClientRate, ClientTimes
from llenergymeasure.workload.arrivals import Arrival, arrivals

TOKENS = 8
_PROMPT_TOKENS = 32
_TIMEOUT_S = 10.0
# The p99 of fewer means nothing.
_REQUESTS = {1: 100, 16: 480}
_RATE_S, _LAG_S = 2.0, 3.0
CLOSED, OPEN = 64, 500.0


class Drive:
    """Requests on their way to one server by a load; `done` holds those that have ended, each with the moment
    at which it was due. A request's number is the first token of its prompt.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self.done: list[tuple[Arrival, int, Reply]] = []

    async def run(self, load: LoadConfig, requests: int | None) -> None:
        one = Request(0, (0,), TOKENS, exact=True)
        await drive(load, islice(arrivals(load, [one], seed=0), requests), self._send)

    async def _send(self, arrival: Arrival, due_ns: int) -> None:
        reply = Reply(time.monotonic_ns())
        await self._client.post("/completions", _body(arrival.number), reply)
        self.done.append((arrival, due_ns, reply))


def _body(number: int) -> bytes:
    return b'{"model":"stub","prompt":[%d,%b],"max_tokens":%d,%b}' % (number, _REST, TOKENS, _FIELDS)


_REST = b",".join(b"%d" % token for token in range(1, _PROMPT_TOKENS))
_FIELDS = b'"ignore_eos":true,"stream":true,"stream_options":{"include_usage":true}'


async def times(client: Client, concurrency: int, requests: int) -> ClientTimes:
    driven = Drive(client)
    await driven.run(LoadConfig(concurrency=concurrency), requests)
    _, text, _ = await client.get(f"{client.root}/stub")
    theirs = {one["body"]["prompt"][0]: one for one in json.loads(text)["requests"][-requests:]}
    first, between = [], []
    for arrival, _, reply in driven.done:
        its = theirs[arrival.number]
        assert reply.failure is None, reply.failure
        assert reply.first_ns is not None, "it has tokens"
        first.append(reply.first_ns - reply.sent_ns - (its["sent_ns"][0] - its["arrived_ns"]))
        between += [
            abs(mine - theirs)
            for mine, theirs in zip(_gaps(reply.chunk_ns), _gaps(its["sent_ns"]), strict=True)
        ]
    return ClientTimes(concurrency, requests, _percentiles(first), _percentiles(between))


async def rate(client: Client, concurrency: int, seconds: float) -> ClientRate:
    driven = Drive(client)
    cpu_s = time.process_time()
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await driven.run(LoadConfig(concurrency=concurrency), None)
    done = len(driven.done)
    return ClientRate(concurrency, done, done / seconds, (time.process_time() - cpu_s) / max(done, 1))


async def lag(client: Client, per_second: float, seconds: float) -> ClientLag:
    driven = Drive(client)
    load = LoadConfig(arrivals="constant", rate=per_second)
    await driven.run(load, round(per_second * seconds))
    sent = sorted(reply.sent_ns for _, _, reply in driven.done)
    late = [reply.sent_ns - due_ns for _, due_ns, reply in driven.done]
    achieved = (len(sent) - 1) / ((sent[-1] - sent[0]) / 1e9)
    return ClientLag(per_second, len(sent), achieved, _percentiles(late))


def _gaps(moments: Sequence[int]) -> list[int]:
    return [after - before for before, after in pairwise(moments)]


def _percentiles(ns: Sequence[int]) -> tuple[float, float]:
    import numpy as np

    p50, p99 = np.percentile(ns, [50, 99]) / 1e9
    return float(p50), float(p99)


async def limits(slow: str, fast: str) -> ClientLimits:
    async with (
        Client(slow, key=None, request_timeout_s=_TIMEOUT_S) as timed,
        Client(fast, key=None, request_timeout_s=_TIMEOUT_S) as quick,
    ):
        await rate(quick, 1, 0.2)  # the first requests import what aiohttp needs
        gc.collect()
        gc.freeze()
        gc.disable()
        found = [await times(timed, concurrency, n) for concurrency, n in _REQUESTS.items()]
        return ClientLimits(found, await rate(quick, CLOSED, _RATE_S), await lag(quick, OPEN, _LAG_S))


def main() -> None:
    if why := why_missing("openai", "aiohttp"):
        sys.exit(why)
    found = asyncio.run(limits(*sys.argv[1:]))
    sys.stdout.write(TypeAdapter(ClientLimits).dump_json(found).decode() + "\n")


if __name__ == "__main__":
    main()
