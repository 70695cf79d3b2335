"""llem's own engine of loads, as a measured run drives it, in a process of its own.

`python with_llem.py URL LOAD SECONDS` runs a load for so long and prints as JSON what came of a window;
with `times REQUESTS` in the place of SECONDS it prints ClientTimes, with `finite REQUESTS` it
has so many answered. LOAD are the fields of `load` as JSON.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from dataclasses import asdict

import numpy as np
import psutil
from pydantic import JsonValue

from llenergymeasure.backends.openai import OpenaiBackend
from llenergymeasure.backends.openai.client import Client
from llenergymeasure.backends.openai.selfcheck import TOKENS, times
from llenergymeasure.backends.openai.session import OpenaiSession
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.measure.bench import Position
from llenergymeasure.records import Request
from llenergymeasure.workload.arrivals import arrivals

WARM_S = 0.5
# Memory is looked at from here on: before, buffers and tables take their first size.
SETTLED_SHARE, LOOKS = 0.25, 20


def config(url: str, load: dict[str, JsonValue]) -> ExperimentConfig:
    return ExperimentConfig.model_validate(
        {
            "model": "random:llama-3.2-1b",
            "backend": "openai",
            "n": 64,
            "max_output_tokens": TOKENS,
            "load": load,
            "openai": {"base_url": url},
        }
    )


def requests(count: int) -> list[Request]:
    return [Request(index, (index, *range(1, 32)), TOKENS, exact=True) for index in range(count)]


def still() -> None:
    """As in a measured window: nothing is collected."""
    gc.collect()
    gc.freeze()
    gc.disable()


def window(session: OpenaiSession, asked: ExperimentConfig, seconds: float) -> dict[str, object]:
    assert asked.load is not None
    here, resident = psutil.Process(), []
    with session.serve(arrivals(asked.load, requests(64), seed=0), Position()) as running:
        running.wait(time.monotonic_ns() + round(WARM_S * 1e9))
        start_ns = time.monotonic_ns()
        running.cut([start_ns, end_ns := start_ns + round(seconds * 1e9)])
        cpu_s = time.process_time()
        for look in range(1, LOOKS + 1):
            running.wait(start_ns + round(seconds * 1e9 * look / LOOKS))
            if look / LOOKS >= SETTLED_SHARE:
                resident.append(here.memory_info().rss)
        cpu_s = time.process_time() - cpu_s
        running.drain()
        ((generation, served),) = running.windows()
    late_ns = [one.t_sent_ns - one.t_scheduled_ns for one in generation.completions]
    counts = session.facts().requests
    assert counts is not None
    return {
        "requests": len(generation.completions),
        "sent": served.sent,
        "window_s": (end_ns - start_ns) / 1e9,
        "cpu_s": cpu_s,
        "lag_p99_s": float(np.percentile(late_ns, 99)) / 1e9,
        "growth_bytes": resident[-1] - resident[0],
        "counts": asdict(counts),
    }


async def compared(url: str, concurrency: int, count: int) -> dict[str, object]:
    async with Client(url, key=None, request_timeout_s=20) as client:
        await times(client, concurrency, concurrency)  # opens the connections
        still()
        return asdict(await times(client, concurrency, count))


def main(url: str, load: dict[str, JsonValue], *how: str) -> None:
    asked = config(url, load)
    said: dict[str, object] = {}
    if how[0] == "times":
        assert asked.load is not None
        said = asyncio.run(compared(url, asked.load.concurrency, int(how[1])))
    else:
        with OpenaiBackend().open(asked) as session:
            session.agree(requests(64))
            if how[0] == "finite":
                session.generate(requests(int(how[1])), Position())
            else:
                still()
                said = window(session, asked, float(how[0]))
    sys.stdout.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]), *sys.argv[3:])
