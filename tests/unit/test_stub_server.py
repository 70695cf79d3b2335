"""The stub server sends what it was asked to, when it was asked to, and says so."""

from __future__ import annotations

import http.client
import json
import time
from contextlib import closing
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
from stub_process import stub_server, told

from llenergymeasure.simulation.server import TEXTS, Behaviour, asked, script

REQUEST = {"model": "stub", "prompt": [1, 2, 3], "max_tokens": 4, "stream": True}


def send(url: str, body: dict[str, Any]) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
    connection.request("POST", "/v1/completions", json.dumps(body))
    return connection


def post(url: str, body: dict[str, Any], path: str = "/v1/completions", **headers: str) -> tuple[int, bytes]:
    with closing(http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)) as connection:
        connection.request("POST", path, json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, answer.read()


def events(data: bytes) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in data.decode().splitlines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def written(behaviour: Behaviour, *, is_chat: bool = False, **changes: object) -> list[Any]:
    body = REQUEST | {"messages": [{"role": "user", "content": "hé"}]} | changes
    steps = script(behaviour, asked(behaviour, body, is_chat=is_chat))
    return events(b"".join(step.data for step in steps))


def test_tokens_come_when_the_schedule_says_and_the_log_holds_when_they_went() -> None:
    with stub_server(first_s=0.05, each_s=0.02) as url:
        start_ns = time.monotonic_ns()
        _, data = post(url, REQUEST | {"stream_options": {"include_usage": True}})
        end_ns = time.monotonic_ns()
        (served,) = told(url)["requests"]
    *tokens, finish, usage, done = events(data)
    assert [event["choices"][0]["text"] for event in tokens] == list(TEXTS)
    assert finish["choices"][0]["finish_reason"] == "length"
    assert usage["choices"] == []
    assert usage["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    assert done == "[DONE]"
    assert served["outcome"] == "answered"
    after_s = [(at - served["arrived_ns"]) / 1e9 for at in served["sent_ns"]]
    # never early, and each by its own distance from the start, so that delays do not add up
    assert all(at >= due for at, due in zip(after_s, (0.05, 0.07, 0.09, 0.11), strict=True))
    assert start_ns <= served["arrived_ns"] < served["sent_ns"][-1] <= end_ns


def test_every_form_of_chunks_is_one_answer_in_other_pieces() -> None:
    plain = written(Behaviour(), is_chat=True)
    text = "".join(event["choices"][0]["delta"].get("content", "") for event in plain[:-1])
    assert text == "".join(TEXTS)
    bundled = written(Behaviour(tokens_per_chunk=3), is_chat=True)
    assert [event["choices"][0]["delta"].get("content") for event in bundled[:-1]] == [
        "".join(TEXTS[:3]),
        TEXTS[3],
        None,
    ]
    odd = written(
        Behaviour(opens_with_role=True, empty_chunks=True, comments=True, crlf=True, done=False), is_chat=True
    )
    contents = [event["choices"][0]["delta"].get("content") for event in odd]
    assert contents == ["", *(part for piece in TEXTS for part in ("", piece)), None]
    thinking = written(Behaviour(reasoning=2), is_chat=True)[:-2]
    assert [next(iter(event["choices"][0]["delta"])) for event in thinking] == [
        *["reasoning_content"] * 2,
        *["content"] * 2,
    ]


def test_a_split_write_ends_within_a_character() -> None:
    behaviour = Behaviour(splits=True)
    steps = script(behaviour, asked(behaviour, REQUEST, is_chat=False))
    assert events(b"".join(step.data for step in steps))[-1] == "[DONE]"
    torn = [step for step in steps if b"text" in step.data and not step.data.endswith(b"\n")]
    with pytest.raises(UnicodeDecodeError):
        [step.data.decode() for step in torn]


@pytest.mark.parametrize(("usage", "places"), [("last", [4]), ("every", [0, 1, 2, 3, 4]), ("none", [])])
def test_usage_comes_where_it_was_asked_for(usage: str, places: list[int]) -> None:
    behaviour = Behaviour(usage=usage)  # type: ignore[arg-type]
    said = written(behaviour, stream_options={"include_usage": True})[:-1]
    assert [at for at, event in enumerate(said) if "usage" in event] == places


def test_lengths_are_heeded_unless_it_shall_not() -> None:
    def length(behaviour: Behaviour, **body: object) -> tuple[int, str]:
        request = asked(behaviour, REQUEST | body, is_chat=False)
        return request.output_tokens, request.finish

    assert length(Behaviour(eos_after=2)) == (2, "stop")
    assert length(Behaviour(eos_after=2), ignore_eos=True) == (4, "length")
    assert length(Behaviour(eos_after=2, heeds_ignore_eos=False), ignore_eos=True) == (2, "stop")
    assert length(Behaviour(heeds_max_tokens=False, own_length=9)) == (9, "length")


@pytest.mark.parametrize(("how", "outcome"), [("event", "broken"), ("cut", "broken")])
def test_a_stream_breaks_after_so_many_tokens(how: str, outcome: str) -> None:
    with stub_server(break_after=2, break_how=how) as url:
        with pytest.raises(http.client.IncompleteRead) as raised:
            post(url, REQUEST)
        (served,) = told(url)["requests"]
    assert (served["outcome"], served["output_tokens"]) == (outcome, 2)
    assert ("error" in events(raised.value.partial)[-1]) == (how == "event")


def test_it_refuses_and_says_why() -> None:
    with stub_server(refuse_every=2, refuse_status=503, strict=True, takes_ids=False) as url:
        text = REQUEST | {"prompt": "abc"}
        statuses = [
            post(url, body)[0]
            for body in (text, text, text | {"ignore_eos": True}, text | {"model": "other"}, REQUEST)
        ]
        counts = told(url)["counts"]
    assert statuses == [200, 503, 422, 404, 500]
    assert (counts["received"], counts["answered"], counts["refused"]) == (5, 1, 4)


def test_a_key_is_wanted_where_it_has_one() -> None:
    with stub_server(key="k-1") as url:
        assert post(url, REQUEST)[0] == 401
        assert post(url, REQUEST, authorization="Bearer k-1")[0] == 200


def test_it_is_healthy_late_or_never() -> None:
    with stub_server(healthy_after_s=None) as url:
        with pytest.raises(HTTPError, match="503"):
            urlopen(f"{url}/health", timeout=10)
        assert post(url, REQUEST)[0] == 503


def test_it_dies_under_load() -> None:
    with stub_server(dies_at=2) as url:
        post(url, REQUEST)
        with pytest.raises((http.client.HTTPException, OSError)):
            post(url, REQUEST)
        with pytest.raises((URLError, ConnectionError)):
            told(url)


def test_a_client_that_leaves_and_requests_that_queue_are_accounted_for() -> None:
    with stub_server(first_s=0.3, slots=1) as url:
        send(url, REQUEST).close()
        with closing(send(url, REQUEST)) as first:
            post(url, REQUEST)
            first.getresponse().read()
        counts, requests = told(url)["counts"], told(url)["requests"]
    assert counts["received"] == counts["answered"] + counts["cancelled"] == 3
    firsts = sorted(one["sent_ns"][0] for one in requests if one["sent_ns"])
    assert firsts[1] - firsts[0] >= 0.3e9


def scraped(url: str) -> dict[str, float]:
    """The counters of the stub by their names, without labels but the reason for the end."""
    found: dict[str, float] = {}
    with urlopen(f"{url}/metrics", timeout=10) as answer:
        for line in answer.read().decode().splitlines():
            name, _, rest = line.partition("{")
            reason = rest.partition('finished_reason="')[2].partition('"')[0]
            found[f"{name} {reason}".strip()] = float(line.rpartition(" ")[2])
    return found


def test_counters_are_those_of_what_was_sent() -> None:
    with stub_server(model="m", cache_block=2, tokens_per_chunk=2, drafted=3) as url:
        for prompt in ([1, 2, 3], [1, 2, 3, 4, 5]):
            post(url, REQUEST | {"model": "m", "prompt": prompt})
        assert scraped(url) == {
            "vllm:prompt_tokens_total": 8,
            "vllm:generation_tokens_total": 8,
            "vllm:request_success_total length": 2,
            "vllm:request_success_total abort": 0,
            "vllm:request_success_total error": 0,
            "vllm:prefix_cache_queries_total": 8,
            "vllm:prefix_cache_hits_total": 2,
            "vllm:spec_decode_num_drafts_total": 4,
            "vllm:spec_decode_num_draft_tokens_total": 12,
            "vllm:spec_decode_num_accepted_tokens_total": 4,
        }
    with stub_server(metrics="sglang:", break_after=1, cache_block=3) as url:
        for _ in range(2):
            with pytest.raises(http.client.IncompleteRead):
                post(url, REQUEST)
        assert scraped(url) == {
            "sglang:prompt_tokens_total": 6,
            "sglang:generation_tokens_total": 2,
            "sglang:num_requests_total": 0,
            "sglang:cached_tokens_total": 3,
        }
    with stub_server(metrics="none") as url, pytest.raises(HTTPError, match="404"):
        scraped(url)


def test_headers_come_late_and_a_refusal_says_when_to_come_again() -> None:
    with stub_server(headers_after_s=0.1, refuse_every=2, refuse_status=503, retry_after_s=7) as url:
        start_s = time.monotonic()
        assert post(url, REQUEST)[0] == 200
        assert time.monotonic() - start_s >= 0.1
        with closing(send(url, REQUEST)) as connection:
            answer = connection.getresponse()
            assert (answer.status, answer.headers["Retry-After"]) == (503, "7")


def test_chat_says_what_each_object_is_or_clients_pass_over_its_content() -> None:
    chat = {"model": "stub", "messages": [{"role": "user", "content": "a"}], "max_tokens": 2, "stream": True}
    with stub_server() as url:
        lines = post(url, chat, "/v1/chat/completions")[1].decode().split("\n\n")
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    with_content = [one for one in chunks if one["choices"] and one["choices"][0]["delta"].get("content")]
    assert len(with_content) == 2
    assert {one["object"] for one in with_content} == {"chat.completion.chunk"}
    with stub_server(streams=False) as url:
        whole = json.loads(post(url, chat, "/v1/chat/completions")[1])
    assert whole["object"] == "chat.completion"
    assert whole["choices"][0]["message"] == {"role": "assistant", "content": "".join(TEXTS[:2])}


def test_an_answer_that_does_not_stream_is_one_object() -> None:
    with stub_server(streams=False) as url:
        answer = json.loads(post(url, REQUEST)[1])
    assert answer["choices"][0]["text"] == "".join(TEXTS)
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
