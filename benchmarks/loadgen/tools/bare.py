"""The least that a client can do: aiohttp, as many users as asked for, and the SSE chunks counted.

It needs aiohttp alone. `python bare.py closed URL USERS SECONDS` and `bare.py times URL USERS REQUESTS` print
one JSON object. A request's number is the first token of its prompt.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import sys
import time
from collections.abc import Iterator

import aiohttp

TOKENS = 8
WARM_S = 0.5
FIELDS = b'"ignore_eos":true,"stream":true,"stream_options":{"include_usage":true}'
REST = b",".join(b"%d" % token for token in range(1, 32))


def body(number: int) -> bytes:
    return b'{"model":"stub","prompt":[%d,%b],"max_tokens":%d,%b}' % (number, REST, TOKENS, FIELDS)


class Users:
    """Each sends a request once the answer to the one before is whole."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url, self.session = url, session
        self.ended_ns: list[int] = []
        self.times: list[tuple[int, int, int]] = []
        self.chunks = 0

    async def one(self, numbers: Iterator[int]) -> None:
        for number in numbers:
            sent_ns, first_ns = time.monotonic_ns(), 0
            async with self.session.post(f"{self.url}/v1/completions", data=body(number)) as answer:
                async for received in answer.content.iter_any():
                    first_ns = first_ns or time.monotonic_ns()
                    self.chunks += received.count(b"data: ")
            self.ended_ns.append(time.monotonic_ns())
            self.times.append((number, sent_ns, first_ns))

    async def closed(self, users: int, seconds: float) -> dict[str, float]:
        numbers = itertools.count()
        tasks = [asyncio.create_task(self.one(numbers)) for _ in range(users)]
        await asyncio.sleep(WARM_S)
        start_ns, cpu_s = time.monotonic_ns(), time.process_time()
        await asyncio.sleep(seconds)
        end_ns, cpu_s = time.monotonic_ns(), time.process_time() - cpu_s
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        requests = sum(start_ns <= t_ns < end_ns for t_ns in self.ended_ns)
        return {"requests": requests, "window_s": (end_ns - start_ns) / 1e9, "cpu_s": cpu_s}


async def main(mode: str, url: str, users: int, amount: float) -> None:
    headers = {"Content-Type": "application/json"}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        warm = Users(url, session)
        await asyncio.gather(*(warm.one(iter((-1,))) for _ in range(users)))
        gc.collect()
        gc.freeze()
        gc.disable()
        driven = Users(url, session)
        said: object
        if mode == "closed":
            said = await driven.closed(users, amount)
        else:
            numbers = iter(range(int(amount)))
            await asyncio.gather(*(driven.one(numbers) for _ in range(users)))
            said = driven.times
    sys.stdout.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
