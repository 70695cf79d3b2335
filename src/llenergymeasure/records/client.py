"""How fast and how true was a client that sends requests to a server?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ClientTimes:
    """Against a server that notes when it sent each token, with `concurrency` requests at once.

    `ttft_bias_s` is by how much the client found the time to the first token longer than the server did, and
    `itl_bias_s` by how much the two differ on a time between tokens, as (p50, p99).
    """

    concurrency: int
    requests: int
    ttft_bias_s: tuple[float, float]
    itl_bias_s: tuple[float, float]


@dataclass(frozen=True, slots=True)
class ClientRate:
    """Of a closed loop of so many requests at once, against a server that takes no time."""

    concurrency: int
    requests: int
    per_second: float
    cpu_s_per_request: float


@dataclass(frozen=True, slots=True)
class ClientLag:
    """Of an open loop at a constant rate: what it came to, and how late requests were sent, as (p50, p99)."""

    per_second: float
    requests: int
    achieved_per_second: float
    lag_s: tuple[float, float]


@dataclass(frozen=True, slots=True)
class ClientLimits:
    times: Sequence[ClientTimes]
    rate: ClientRate
    lag: ClientLag
