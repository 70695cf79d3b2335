"""Which batches did the passes consist of, when did they run and how many tokens were in them?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from llenergymeasure.records import Completion, Pass, Window

CONTINUOUS = "continuous batching: some requests are read while others are written, so time can't split them"
# First tokens of one batch are told one after another, which takes a moment; spread over more than this part
# of the batches' time they are made one after another.
_SPREAD = 0.01


@dataclass(frozen=True, slots=True)
class Batch:
    """Requests that were handed over together: sent, and written to the last token.

    `first_ns` holds the first and the last of their first-token times, None where one is unknown;
    `decoded_tokens` are the output tokens after each request's first, which its prefill makes.
    `passed` is the position of its pass.
    """

    passed: int
    window: Window
    first_ns: tuple[int, int] | None
    prompt_tokens: int
    decoded_tokens: int


def batches(passes: Sequence[Pass]) -> list[Batch]:
    """All batches of all walks of all passes, by the time they were sent."""
    members: dict[tuple[int, int, int], list[Completion]] = defaultdict(list)
    for number, passed in enumerate(passes):
        for one in passed.generation.completions:
            members[number, one.walk, one.batch].append(one)
    found = [_batch(number, batch) for (number, _, _), batch in members.items()]
    return sorted(found, key=lambda batch: batch.window.start_ns)


def are_continuous(found: Sequence[Batch]) -> bool:
    """Whether requests of one batch get their first tokens one after another: the engine forms its own."""
    known = [(batch.first_ns, batch.window) for batch in found if batch.first_ns is not None]
    spread_ns = sum(last_ns - first_ns for (first_ns, last_ns), _ in known)
    return spread_ns > _SPREAD * sum(window.end_ns - window.start_ns for _, window in known)


def _batch(number: int, members: Sequence[Completion]) -> Batch:
    firsts = [one.t_first_ns for one in members if one.t_first_ns is not None]
    return Batch(
        passed=number,
        window=Window(min(one.t_sent_ns for one in members), max(one.t_end_ns for one in members)),
        first_ns=(min(firsts), max(firsts)) if len(firsts) == len(members) else None,
        prompt_tokens=sum(one.prompt_tokens for one in members),
        decoded_tokens=sum(max(one.output_tokens - 1, 0) for one in members),
    )
