"""What did the server itself count, and does that agree with what its client saw?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Any

from llenergymeasure.records import Measurement, MeasurementWarning, RequestCounts, ServerCounts
from llenergymeasure.results.models import ServerPart

WARNED, DISPUTED = 0.01, 0.05
_COUNTS = (
    *("prompt_tokens", "output_tokens", "requests", "cache_lookup_tokens", "cache_hit_tokens"),
    *("drafts", "draft_tokens", "accepted_tokens"),
)
_CLIENT = ("sent", "answered", "failed", "cancelled", "prompt_tokens", "output_tokens")


def apart(one: int, other: int) -> float:
    """How far two counts are apart, relative to the larger one; 0 where both are 0."""
    return abs(one - other) / max(one, other, 1)


def server_part(measurements: Sequence[Measurement]) -> ServerPart | None:
    """Sums over the runs; None where no server answered, or a version measured that did not ask it."""
    both = [
        (one.facts.counted, one.facts.requests)
        for one in measurements
        if one.facts.counted is not None and one.facts.requests is not None
    ]
    if not both or len(both) < len(measurements):
        return None
    server, client = [one for one, _ in both], [one for _, one in both]
    counts = {name: _sum(server, name) for name in _COUNTS}
    own: dict[str, Any] = {name: _sum(client, name) for name in _CLIENT}
    mine = RequestCounts(**own)
    requests, drafts, accepted = (counts[name] for name in ("requests", "drafts", "accepted_tokens"))
    steps = _share(accepted, drafts)
    return ServerPart(
        **counts,
        engine=server[0].engine,
        cache_hit_share=_share(counts["cache_hit_tokens"], counts["cache_lookup_tokens"]),
        acceptance_length=None if steps is None else 1 + steps,
        # One that was given up by the client may have been answered all the same.
        other_requests=None if requests is None else max(0, requests - mine.sent),
        client=mine,
        reason=next((one.reason for one in server if one.reason), None),
    )


def disputes(server: ServerPart | None) -> Iterator[tuple[str, int, int]]:
    """What, by the client and by the server, where nobody else asked that server."""
    if server is None or _is_shared(server):
        return
    mine = server.client
    for what, client, its in (
        ("prompt tokens", mine.prompt_tokens, server.prompt_tokens),
        ("output tokens", mine.output_tokens, server.output_tokens),
        ("requests", mine.answered, server.requests),
    ):
        if client is not None and its is not None and apart(client, its) > WARNED:
            yield what, client, its


def is_disputed(server: ServerPart | None) -> bool:
    return any(apart(client, its) > DISPUTED for _, client, its in disputes(server))


def server_warnings(
    server: ServerPart | None, measurements: Sequence[Measurement]
) -> Iterator[MeasurementWarning]:
    for what, client, its in disputes(server):
        yield MeasurementWarning.of(
            "tokens_disputed",
            f"{what}: the server's answers add up to {client:,} and its own counters to {its:,}, "
            f"{100 * apart(client, its):.3g} % apart; the former are used",
        )
    if server is None:
        return
    if _is_shared(server):
        yield MeasurementWarning.of(
            "server_shared",
            f"the server answered {server.requests or 0:,} requests, and {server.client.sent:,} were of this "
            "experiment: other clients used it meanwhile",
        )
    if (server.cache_hit_share or 0.0) > WARNED and _repeats_prompts(measurements):
        yield MeasurementWarning.of(
            "prompts_cached",
            f"{server.cache_hit_share:.0%} of the prompt tokens came from the server's prefix cache: "
            "prompts are sent over and over",
        )


def _is_shared(server: ServerPart) -> bool:
    """With somebody who asked more of it than a health check does."""
    return (server.other_requests or 0) > WARNED * (server.requests or 0)


def _repeats_prompts(measurements: Sequence[Measurement]) -> bool:
    """Whether prompts were sent more than once that do not build on one another anyway."""
    return any(
        one.facts.requests is not None
        and one.facts.requests.answered > one.config.n
        and (one.dataset is None or one.dataset.conversations is None)
        for one in measurements
    )


def _sum(counts: Sequence[ServerCounts] | Sequence[RequestCounts], name: str) -> int | None:
    found = [attrgetter(name)(one) for one in counts]
    return None if None in found else sum(found)


def _share(part: int | None, whole: int | None) -> float | None:
    return None if part is None or not whole else part / whole
