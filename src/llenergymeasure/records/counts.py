"""What did a server and its client each count?"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RequestCounts:
    """What became of every request that a session has sent: it was answered, failed or was cancelled.

    The tokens are those of all of them, as in a Completion; None where that was not recorded.
    """

    sent: int = 0
    answered: int = 0
    failed: int = 0
    cancelled: int = 0
    prompt_tokens: int | None = None
    output_tokens: int | None = None

    def __str__(self) -> str:
        return (
            f"{self.sent:,} requests were sent: {self.answered:,} answered, {self.failed:,} failed, "
            f"{self.cancelled:,} cancelled"
        )


@dataclass(frozen=True, slots=True)
class ServerCounts:
    """Sums over all engines and models of a server: since it started at the moment `t_ns`, or between two.

    `cache_lookup_tokens` are prompt tokens that were looked for in the prefix cache. `drafts` are steps of
    speculative decoding. `started_s` is the server's own time of its start, in seconds of its epoch. `reason`
    says why counts are None.
    """

    t_ns: int
    engine: str | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    requests: int | None = None
    cache_lookup_tokens: int | None = None
    cache_hit_tokens: int | None = None
    drafts: int | None = None
    draft_tokens: int | None = None
    accepted_tokens: int | None = None
    started_s: float | None = None
    reason: str | None = None
