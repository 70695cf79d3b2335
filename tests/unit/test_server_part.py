"""A server's own counts stand beside its client's, and say where the two part, and what they mean."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from test_load_windows import codes, three, under_load

from llenergymeasure.analysis.metrics import metrics
from llenergymeasure.records import DatasetFacts, Measurement, RequestCounts, ServerCounts
from llenergymeasure.results.models import ExperimentResult, ServerPart
from llenergymeasure.results.summary import as_text

CLIENT = RequestCounts(200, 198, 1, 1, prompt_tokens=10_000, output_tokens=4_000)
SERVER = ServerCounts(1, "vllm", 10_000, 4_000, 198)


def counted(client: RequestCounts = CLIENT, *runs: dict[str, int], **server: Any) -> list[Measurement]:
    """A run for each that is named, with what the server counted in it."""
    return [
        replace(one, facts=replace(one.facts, requests=client, counted=replace(SERVER, **server | more)))
        for more in (runs or ({},))
        for one in (under_load(three()),)
    ]


def part(result: ExperimentResult) -> ServerPart:
    assert result.server is not None
    return result.server


def test_counts_that_agree_are_kept_and_raise_nothing() -> None:
    result = metrics(counted())
    found = part(result)
    assert (found.prompt_tokens, found.output_tokens, found.requests) == (10_000, 4_000, 198)
    assert (found.client, found.other_requests, found.reason) == (CLIENT, 0, None)
    assert found.cache_hit_share is found.acceptance_length is None
    assert not {"tokens_disputed", "server_shared", "prompts_cached"} & set(codes(result))
    assert not result.tokens.disputed
    assert ExperimentResult.model_validate_json(result.model_dump_json()).server == found


@pytest.mark.parametrize(
    ("what", "count", "warned", "disputed"),
    [
        ("output_tokens", 4_040, False, False),
        ("output_tokens", 4_041, True, False),
        ("output_tokens", 3_959, True, False),
        ("output_tokens", 4_211, True, True),
        ("prompt_tokens", 9_400, True, True),
        ("requests", 190, True, False),
        ("requests", 180, True, True),
    ],
)
def test_counts_that_part_are_disputed_by_how_far(
    what: str, count: int, *, warned: bool, disputed: bool
) -> None:
    result = metrics(counted(CLIENT, {what: count}))
    assert ("tokens_disputed" in codes(result)) == warned
    assert result.tokens.disputed == disputed


def test_other_clients_are_named_and_explain_why_counts_part() -> None:
    result = metrics(counted(requests=260, output_tokens=6_000, prompt_tokens=13_000))
    assert part(result).other_requests == 60
    assert "server_shared" in codes(result)
    assert "tokens_disputed" not in codes(result)
    assert not result.energy.valid
    # a look by a health check is none
    result = metrics(counted(requests=201))
    assert part(result).other_requests == 1
    assert "server_shared" not in codes(result)
    # answered to the end although the client gave up on it
    assert part(metrics(counted(requests=200))).other_requests == 0


def test_prompts_that_come_from_the_cache_are_told_with_their_share() -> None:
    cached = {"cache_lookup_tokens": 10_000, "cache_hit_tokens": 7_500}
    result = metrics(counted(CLIENT, cached))
    assert part(result).cache_hit_share == 0.75
    assert "75%" in codes(result)["prompts_cached"]
    assert "75 %" in as_text(result)
    # each prompt was sent once
    seldom = replace(CLIENT, sent=100, answered=100, failed=0, cancelled=0)
    result = metrics(counted(seldom, {**cached, "requests": 100}))
    assert part(result).cache_hit_share == 0.75
    assert "prompts_cached" not in codes(result)
    # turns build on one another
    facts = DatasetFacts("chat.jsonl", (), "line", 10, prompts=100, conversations=10)
    talk = [replace(one, dataset=facts) for one in counted(CLIENT, cached)]
    assert "prompts_cached" not in codes(metrics(talk))


def test_speculation_shows_how_much_was_accepted() -> None:
    result = metrics(counted(drafts=1_000, draft_tokens=4_000, accepted_tokens=3_000))
    assert part(result).acceptance_length == 4
    assert "4 token/step" in as_text(result)
    assert "75 % of 4,000 drafted tokens accepted" in as_text(result)


def test_runs_add_up_and_one_without_counts_says_why() -> None:
    found = part(metrics(counted(CLIENT, {}, {"output_tokens": 4_100})))
    assert (found.requests, found.output_tokens) == (396, 8_100)
    assert (found.client.sent, found.client.output_tokens) == (400, 8_000)
    lost = ServerCounts(2, reason="the server was started anew")
    first, second = counted(CLIENT, {}, {})
    found = part(metrics([first, replace(second, facts=replace(second.facts, counted=lost))]))
    assert (found.requests, found.reason) == (None, lost.reason)
    assert found.client.sent == 400


def test_what_no_server_answered_has_no_such_part() -> None:
    assert metrics([under_load(three())]).server is None
