"""A server is driven as asked, each request is accounted for, and what a server may do wrong has its name."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stub_process import stub_server, told

from llenergymeasure.backends import load_backend
from llenergymeasure.backends.openai import OpenaiBackend, client, form
from llenergymeasure.backends.openai.client import Client
from llenergymeasure.backends.openai.launch import command_of
from llenergymeasure.backends.openai.place import listeners
from llenergymeasure.backends.openai.section import LaunchConfig
from llenergymeasure.backends.openai.session import OpenaiSession
from llenergymeasure.backends.openai.stream import Events, Reply, message_of
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import BackendError, ConfigError
from llenergymeasure.measure.bench import Position
from llenergymeasure.records import Completion, Request
from llenergymeasure.simulation.server import TEXTS

pytest.importorskip("aiohttp", reason="the extra openai is not installed")

MODEL = "random:llama-3.2-1b"
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["content", "text", "delta", "usage", "finish_reason"]), inner)
    ),
    max_leaves=6,
)


def config(url: str, /, **changes: Any) -> ExperimentConfig:
    own = {"base_url": url, **changes.pop("openai", {})}
    load = {"concurrency": 4, "finite": True}
    fields = {
        "model": MODEL,
        "backend": "openai",
        "n": 8,
        "max_output_tokens": 4,
        "openai": own,
        "load": load,
    }
    return ExperimentConfig.model_validate(fields | changes)


def asked(count: int = 8, *, tokens: int = 4, exact: bool = True) -> list[Request]:
    return [Request(index, tuple(range(3 + index)), tokens, exact) for index in range(count)]


@contextmanager
def opened(url: str, /, **changes: Any) -> Iterator[OpenaiSession]:
    with OpenaiBackend().open(config(url, **changes)) as session:
        yield session


def completions(session: OpenaiSession, requests: list[Request] | None = None) -> tuple[Completion, ...]:
    return tuple(session.generate(requests or asked(), Position()).completions)


def accounted(session: OpenaiSession) -> dict[str, int]:
    counts = session.account()
    assert counts.sent == counts.answered + counts.failed + counts.cancelled
    return asdict(counts)


def test_it_is_an_engine_like_the_others() -> None:
    assert isinstance(load_backend("openai"), OpenaiBackend)
    assert config("http://h:1", load={"concurrency": 3}).batch_size == 3


def test_times_and_counts_are_those_of_the_server() -> None:
    with stub_server(first_s=0.05, each_s=0.02) as url, opened(url) as session:
        done = completions(session)
        seen = accounted(session)
        served = {tuple(one["body"]["prompt"]): one for one in told(url)["requests"]}
        counts = told(url)["counts"]
    assert seen["answered"] == seen["sent"] == counts["received"] == counts["answered"]
    assert [one.index for one in done] == list(range(8))
    for one, request in zip(done, asked(), strict=True):
        theirs = served[request.prompt]
        assert theirs["body"]["ignore_eos"] is True
        assert (one.prompt_tokens, one.output_tokens, one.finish) == (len(request.prompt), 4, "length")
        assert one.t_first_ns is not None
        assert one.t_sent_ns <= theirs["arrived_ns"]
        assert one.t_first_ns - theirs["arrived_ns"] >= 0.05e9
        assert one.t_end_ns - theirs["arrived_ns"] >= 0.11e9


def test_a_closed_loop_keeps_as_many_requests_on_their_way_as_asked_for() -> None:
    with stub_server(first_s=0.1) as url, opened(url, load={"concurrency": 3, "finite": True}) as session:
        done = completions(session, asked(9))
    steps = sorted([(one.t_sent_ns, 1) for one in done] + [(one.t_end_ns, -1) for one in done])
    assert max(accumulate(step for _, step in steps)) == 3


@pytest.mark.parametrize("api", ["chat", "completions"])
@pytest.mark.parametrize(
    "behaviour",
    [
        {"splits": True},
        {"tokens_per_chunk": 3},
        {"events_per_write": 4},
        {"opens_with_role": True, "empty_chunks": True, "comments": True},
        {"crlf": True},
        {"usage": "last", "done": False},
        {"usage": "every"},
        {"usage": "none"},
        {"usage": "none", "done": False},
        {"reasoning": 2},
        {"reasoning": 2, "reasoning_key": "reasoning"},
        {"strict": True},
        {"takes_ids": False},
        {"headers_after_s": 0.05},
        {"splits": True, "crlf": True, "comments": True},
        {"cache_block": 1, "usage": "every"},
    ],
    ids=str,
)
def test_an_answer_is_the_same_in_whatever_pieces_it_comes(api: str, behaviour: dict[str, Any]) -> None:
    with (
        stub_server(first_s=0.05, each_s=0.005, **behaviour) as url,
        opened(url, openai={"api": api}) as session,
    ):
        done = completions(session, asked(2, tokens=6))
        arrived = [one["arrived_ns"] for one in told(url)["requests"]][-2:]
    assert [(one.output_tokens, one.finish) for one in done] == [(6, "length")] * 2
    for one in done:
        assert one.t_first_ns is not None
        # neither a role nor an empty piece is a token
        assert one.t_first_ns - min(arrived) >= 0.05e9
        assert one.t_end_ns - min(arrived) >= 0.075e9


def test_the_form_is_found_out_by_asking() -> None:
    forms = {}
    behaviours: dict[str, dict[str, Any]] = {
        "all": {},
        "text": {"takes_ids": False},
        "plain": {"strict": True},
        "both": {"takes_ids": False, "strict": True},
    }
    for name, behaviour in behaviours.items():
        with stub_server(**behaviour) as url, opened(url) as session:
            arguments = session.facts().arguments
            forms[name] = (arguments["prompts"], arguments["lengths"])
    assert forms == {
        "all": ("ids", "ignore_eos"),
        "text": ("text", "ignore_eos"),
        "plain": ("ids", "none"),
        "both": ("text", "none"),
    }


def test_a_server_that_is_busy_when_it_is_asked_for_the_form_is_asked_again() -> None:
    # a trace's ids would be sent as text, and counted as something else
    with stub_server(refuse_every=2, refuse_status=429) as url:
        for _ in range(2):
            with opened(url) as session:
                assert session.facts().arguments["prompts"] == "ids"
                seen = accounted(session)
        assert (seen["sent"], seen["answered"], seen["failed"]) == (2, 1, 1)


def test_a_server_that_is_busy_for_good_says_so() -> None:
    with (
        stub_server(refuse_every=1, refuse_status=503) as url,
        pytest.raises(BackendError, match="the server refuses requests"),
        opened(url),
    ):
        pass


def test_the_tokenizer_is_loaded_before_a_load_runs_and_not_by_its_first_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Words:
        def encode(self, text: str) -> list[int]:
            return [1] * len(text.split())

    loaded: list[bool] = []

    def load(*_: object) -> Words:
        loaded.append(is_driven)
        return Words()

    is_driven = False
    monkeypatch.setattr(form, "tokenizer_identity", lambda _: "words")
    monkeypatch.setattr(form, "tokenizer_for", load)
    with stub_server(refuse_every=3) as url, opened(url) as session:
        is_driven = True
        done = completions(session)
    assert loaded == [False]
    assert {one.output_tokens for one in done if one.finish == "error"} == {0}


def test_a_server_that_ends_early_or_runs_on_shows_in_the_counts() -> None:
    lengths = []
    behaviours: list[dict[str, Any]] = [
        {"eos_after": 2, "heeds_ignore_eos": False},
        {"heeds_max_tokens": False},
    ]
    for behaviour in behaviours:
        with stub_server(**behaviour) as url, opened(url) as session:
            lengths.append({(one.output_tokens, one.finish) for one in completions(session)})
    assert lengths == [{(2, "eos")}, {(16, "length")}]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_refused_request_counts_as_failed_and_is_not_sent_again(status: int) -> None:
    # the first of the nine is the one that finds out the form
    with (
        stub_server(refuse_every=3, refuse_status=status, retry_after_s=7) as url,
        opened(url) as session,
    ):
        done = completions(session)
        seen, counts = accounted(session), told(url)["counts"]
    failed = [one for one in done if one.finish == "error"]
    assert len(failed) == 3
    assert all((one.output_tokens, one.t_first_ns) == (0, None) for one in failed)
    assert (seen["sent"], seen["answered"], seen["failed"]) == (9, 6, 3)
    assert (counts["received"], counts["answered"], counts["refused"]) == (9, 6, 3)


@pytest.mark.parametrize("how", ["event", "cut", "stall"])
def test_a_broken_stream_fails_with_what_had_come(how: str) -> None:
    requests = [*asked(6, tokens=2), Request(6, (1, 2), 4, True), Request(7, (1, 2), 4, True)]
    with (
        stub_server(break_after=2, break_how=how, usage="every") as url,
        opened(url, openai={"request_timeout_s": 0.5}) as session,
    ):
        done = completions(session, requests)
        seen, counts = accounted(session), told(url)["counts"]
    assert [one.finish for one in done] == [*["length"] * 6, "error", "error"]
    assert all((one.prompt_tokens, one.output_tokens) == (2, 2) for one in done[6:])
    assert all(one.t_first_ns is not None for one in done)
    assert (seen["sent"], seen["answered"], seen["failed"]) == (9, 7, 2)
    assert counts["received"] == 9


def test_a_walk_in_which_every_request_fails_ends_the_run() -> None:
    with (
        stub_server(break_after=2) as url,
        opened(url) as session,
        pytest.raises(BackendError, match="all 8 requests failed"),
    ):
        completions(session)


def test_a_server_that_dies_ends_the_run_and_leaves_no_request_unaccounted_for() -> None:
    with stub_server(first_s=0.02, dies_at=6) as url, opened(url) as session:
        with pytest.raises(BackendError, match="nothing answers at"):
            completions(session, asked(40))
        seen = accounted(session)
    assert seen["answered"] < 10
    assert seen["failed"] >= 1


def test_a_wrong_model_is_refused_with_those_that_are_served() -> None:
    with (
        stub_server(model="right") as url,
        pytest.raises(BackendError, match="it serves right") as raised,
        opened(url, openai={"model": "wrong"}),
    ):
        pass
    assert raised.value.hint == "--set openai.model=right"


def test_a_key_comes_from_the_environment_and_is_seen_nowhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with stub_server(key="secret-1") as url:
        for value in ("", "secret-2"):
            monkeypatch.setenv("STUB_KEY", value)
            with (
                pytest.raises(BackendError) as raised,
                opened(url, openai={"key_variable": "STUB_KEY"}),
            ):
                pass
            assert "STUB_KEY" in str(raised.value.hint)
            assert "secret" not in f"{raised.value} {raised.value.hint}"
        monkeypatch.setenv("STUB_KEY", "secret\n1")
        with pytest.raises(BackendError, match="STUB_KEY holds a line break") as raised:
            opened(url, openai={"key_variable": "STUB_KEY"}).__enter__()
        assert "secret" not in f"{raised.value} {raised.value.hint}"
        monkeypatch.setenv("STUB_KEY", "secret-1\n")  # as `$(< file)` in another shell, or a mounted secret
        with opened(url, openai={"key_variable": "STUB_KEY"}) as session:
            assert "secret" not in repr(session.facts())
            assert "secret" not in config(url).model_dump_json()


@pytest.mark.parametrize("url", ["http://me:pw@h:1", "http://h:1/v1?key=1", "ftp://h", "h:1"])
def test_a_url_holds_a_host_and_no_secret(url: str) -> None:
    with pytest.raises(ValueError, match=r"openai\.base_url") as raised:
        config(url)
    assert "pw" not in str(raised.value)


def test_what_does_not_answer_is_named() -> None:
    with stub_server() as url:
        for wrong, said in (
            (url.replace("http:", "https:"), "TLS does not come about"),
            (f"{url}/v2", "the server has no /completions below"),
        ):
            with pytest.raises(BackendError, match=said), opened(wrong):
                pass
    with pytest.raises(BackendError, match="nothing answers at") as raised, opened(url):
        pass
    assert "ssl" not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"openai": {"base_url": None}}, "no server is named"),
        ({"decoder": {"top_k": 4}}, "decoder.top_k"),
        ({"decoder": {"repetition_penalty": 1.1}}, "decoder.repetition_penalty"),
        ({"openai": {"api": "chat"}, "dataset": {"name": "synthetic"}}, "synthetic prompts"),
        ({"openai": {"api": "chat"}, "dataset": {"chat_template": "off"}}, "chat_template"),
        ({"openai": {"body": {"max_tokens": 3}}}, "openai.body.max_tokens"),
    ],
)
def test_what_a_server_would_not_heed_is_refused(changes: dict[str, Any], said: str) -> None:
    assert said in str(OpenaiBackend().why_refused(config("http://h:1", **changes)))


def test_what_launched_the_listener_is_metered_with_it_and_a_shell_is_not() -> None:
    launcher = "import subprocess, sys; sys.exit(subprocess.run(sys.argv[1:]).returncode)"
    words = [sys.executable, "-m", "llenergymeasure.simulation.server"]
    for command, is_launcher in (
        ([sys.executable, "-c", launcher, *words], True),
        (["sh", "-c", '"$@"; true', "x", *words], False),
    ):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, process_group=0)
        assert process.stdout is not None
        try:
            pids, why = listeners(process.stdout.readline().strip())
            assert why is None
            assert (pids == (process.pid,)) is is_launcher
            assert len(pids) == 1
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process.stdout.close()


def test_the_server_s_processes_are_found_or_it_is_said_why_not() -> None:
    with stub_server() as url, opened(url) as session:
        facts = session.facts()
        (pid,) = facts.pids
        assert "llenergymeasure.simulation.server" in Path(f"/proc/{pid}/cmdline").read_text()
        assert facts.why_unmetered is None
    pids, why = listeners("http://192.0.2.7:8000/v1")
    assert pids == ()
    assert "192.0.2.7" in str(why)
    assert listeners(url)[1] is not None


def test_an_answer_that_does_not_stream_has_its_counts_and_no_time_of_a_first_token() -> None:
    with stub_server(streams=False) as url, opened(url, openai={"api": "chat"}) as session:
        done = completions(session, asked(2, tokens=6))
    assert [(one.output_tokens, one.finish, one.t_first_ns) for one in done] == [(6, "length", None)] * 2


async def posted(url: str, **fields: object) -> Reply:
    body = {"model": "stub", "prompt": [1, 2], "max_tokens": 4, "stream": True} | fields
    async with Client(url, key=None, request_timeout_s=20) as client:
        return await client.post("/completions", json.dumps(body).encode())


def test_each_piece_has_the_time_at_which_it_was_read() -> None:
    with stub_server(first_s=0.05, each_s=0.02) as url:
        reply = asyncio.run(posted(url))
        (served,) = told(url)["requests"]
    assert tuple(reply.texts) == TEXTS
    assert reply.first_ns == reply.chunk_ns[0]
    assert reply.sent_ns <= served["arrived_ns"]
    for sent_ns, read_ns in zip(served["sent_ns"], reply.chunk_ns, strict=True):
        assert sent_ns <= read_ns
    # what a server writes at once comes at once
    with stub_server(events_per_write=4) as url:
        reply = asyncio.run(posted(url))
    assert len(set(reply.chunk_ns)) == 1
    assert len(reply.chunk_ns) == 4


class LookedAt(Reply):
    """Notes how long after the time of a chunk it was looked at."""

    def take(self, data: bytes, t_ns: int) -> None:
        waits_ns.append(time.monotonic_ns() - t_ns)
        super().take(data, t_ns)


waits_ns: list[int] = []


def test_a_busy_client_says_when_it_sent_and_read_and_not_when_it_got_round_to_it() -> None:
    busy_s = 0.005

    async def posted_amid_work(url: str) -> Reply:
        loop = asyncio.get_running_loop()

        def work() -> None:
            time.sleep(busy_s)
            loop.call_soon(work)

        body = json.dumps({"model": "stub", "prompt": [1], "max_tokens": 4, "stream": True}).encode()
        async with Client(url, key=None, request_timeout_s=20) as client:
            await client.post("/completions", body)
            work()
            waits_ns.clear()
            return await client.post("/completions", body, LookedAt(0))

    with stub_server(first_s=0.05, each_s=0.02) as url:
        reply = asyncio.run(posted_amid_work(url))
    assert len(reply.chunk_ns) == 4
    # between a read and what is done with it all other work of the loop has its turn
    assert min(waits_ns[:4]) >= 0.9e9 * busy_s
    assert reply.sent_ns > 0


def test_a_server_that_accepts_no_connection_is_no_server_that_is_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "_CONNECT_S", 0.2)
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        reply = asyncio.run(posted(f"http://127.0.0.1:{listener.getsockname()[1]}"))
    assert reply.failure == "no connection came about within 0.2 s"


def test_a_refusal_keeps_its_status_and_when_the_server_wants_to_be_asked_again() -> None:
    with stub_server(refuse_every=1, refuse_status=429, retry_after_s=7) as url:
        reply = asyncio.run(posted(url))
    assert reply.status == 429
    assert "Retry-After: 7" in str(reply.failure)


@given(st.lists(st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp"))), max_size=5), st.data())
def test_events_are_the_same_however_the_bytes_are_torn(texts: list[str], data: st.DataObject) -> None:
    sent = b"".join(f": ping\r\ndata: {json.dumps(text, ensure_ascii=False)}\n\n".encode() for text in texts)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(sent)), max_size=8)) | {0, len(sent)})
    events = Events()
    heard = [one for a, b in pairwise(cuts) for one in events.take(sent[a:b])]
    assert [json.loads(one) for one in [*heard, *events.close()]] == texts


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"error": {"message": "no\nroom"}}, "no room"),
        ({"error": "busy"}, "busy"),
        ({"detail": [{"msg": "Input should be", "loc": ["body"]}]}, "Input should be"),
        ("<html>", "<html>"),
        ({}, "{}"),
    ],
)
def test_an_error_is_read_in_any_of_its_forms(content: object, said: str) -> None:
    assert message_of(content) == said


@given(json_values)
def test_no_event_ends_more_than_its_request(event: object) -> None:
    reply = Reply(1)
    for data in (event, {"choices": event}, {"choices": [event]}, {"choices": [{"delta": event}]}):
        reply.take(json.dumps(data).encode(), 5)
    reply.close(7)
    assert len(reply.texts) == len(reply.chunk_ns)
    assert all(isinstance(text, str) for text in reply.texts)


def test_a_piece_is_counted_once_whatever_its_names() -> None:
    reply = Reply(1)
    for delta in (
        {"reasoning": "a", "reasoning_content": "a"},
        {"reasoning_content": "b", "content": "c"},
        {"role": "assistant", "content": ""},
        {"content": None},
    ):
        reply.take(json.dumps({"choices": [{"delta": delta}]}).encode(), 2)
    assert sorted("".join(reply.texts)) == ["a", "b", "c"]
    assert reply.chunk_ns == [2, 2]
    assert reply.answer == "c"


def test_what_a_server_sends_apart_as_reasoning_is_counted_and_is_not_the_answer() -> None:
    with stub_server(reasoning=2) as url, opened(url, openai={"api": "chat"}) as session:
        done = session.generate(asked(2), Position())
    assert done.texts == ("".join(TEXTS[2:4]),) * 2
    assert [one.output_tokens for one in done.completions] == [4, 4]


def test_garbage_in_a_stream_fails_the_request() -> None:
    for data in (b"{", b"[]", b"\xff", b'{"error": {"message": "m"}}', b'{"choices": [null]}'):
        reply = Reply(1)
        reply.take(data, 5)
        assert (reply.failure is not None, reply.end_ns) == (True, 5)
    reply = Reply(1)
    reply.close(7)
    assert (reply.failure is not None, reply.end_ns) == (True, 7)
    reply = Reply(1)
    reply.take(json.dumps({"choices": [{"text": TEXTS[0], "finish_reason": "stop"}]}).encode(), 3)
    reply.close(7)
    assert (reply.failure, reply.first_ns, reply.end_ns, reply.finish) == (None, 3, 3, "stop")


def llem(url: str, folder: Path, *more: str) -> list[str]:
    base = [sys.executable, "-m", "llenergymeasure", "run", "--backend", "openai", "--model", MODEL]
    base += [
        "--preset",
        "smoke",
        "-n",
        "8",
        "--set",
        f"openai.base_url={url}",
        "--set",
        "max_output_tokens=8",
    ]
    return [*base, "--set", "load={concurrency: 4, finite: true}", "--output", str(folder), "--json", *more]


def test_a_run_counts_what_the_server_counts(tmp_path: Path) -> None:
    with stub_server(first_s=0.02, each_s=0.005, refuse_every=10) as url:
        done = subprocess.run(llem(url, tmp_path), capture_output=True, check=False, text=True, timeout=100)
        counts = told(url)["counts"]
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    asked_for = result["session"]["requests"]
    assert asked_for["sent"] == counts["received"]
    assert asked_for["answered"] == counts["answered"]
    assert asked_for["failed"] == counts["refused"] > 0
    assert result["tokens"]["failed"] > 0
    assert result["tokens"]["output"] == 8 * result["tokens"]["requests"]
    assert "requests_failed" in {warning["code"] for warning in result["warnings"]}
    # of the server's processes, which are not the worker's
    assert result["energy"]["method"] in {"modelled", "measured"}
    assert result["performance"]["ttft_s"]["p50"]["value"] >= 0.02


def test_ctrl_c_cancels_what_is_on_its_way(tmp_path: Path) -> None:
    with stub_server(first_s=0.3) as url:
        process = subprocess.Popen(llem(url, tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        while told(url)["counts"].get("answered", 0) < 2:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        counts = told(url)["counts"]
    assert process.returncode == 130
    assert counts["received"] == counts["answered"] + counts["cancelled"]


def test_a_server_that_dies_in_a_run_is_one_line(tmp_path: Path) -> None:
    with stub_server(first_s=0.02, dies_at=30) as url:
        done = subprocess.run(llem(url, tmp_path), capture_output=True, check=False, text=True, timeout=100)
    assert done.returncode == 1
    assert "nothing answers at" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises((ConfigError, ValueError), match="concurency"):
        config("http://h:1", openai={"concurency": 3})


STUB = (sys.executable, "-m", "llenergymeasure.simulation.server", "--port", "{port}")


def launching(*words: str, **more: Any) -> dict[str, Any]:
    return {"base_url": None, "launch": {"command": [*STUB, *words], **more}}


def behaving(**behaviour: object) -> tuple[str, str]:
    return "--behaviour", json.dumps(behaviour)


def processes(marker: str) -> list[int]:
    """Those that were started with the marker among their words."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if marker in path.read_text():
                found.append(int(path.parent.name))
    return found


def living(group: int) -> list[int]:
    """The processes of a group that still run."""
    found = []
    for process in psutil.process_iter(["status"]):
        with suppress(OSError):
            if os.getpgid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def test_a_launched_server_answers_and_goes_with_all_that_it_started() -> None:
    marker = f"launched-{time.monotonic_ns()}"
    # A shell that stays beside the server, as an engine's own processes do, and heeds no SIGTERM.
    stays = "(trap '' TERM; sleep 600) & exec \"$@\""
    command = ["sh", "-c", stays, marker, *STUB, *behaving(model=marker, healthy_after_s=0.5)]
    with opened("http://unused", openai={"base_url": None, "launch": {"command": command}}) as session:
        assert {one.output_tokens for one in completions(session)} == {4}
        facts = session.facts()
        (group,) = {os.getpgid(pid) for pid in processes(marker)}
        assert group != os.getpgid(0)
        assert os.getsid(group) == os.getsid(0)
        assert len(living(group)) >= 2
    assert living(group) == []
    assert (facts.pids, facts.why_unmetered) == ((), None)
    words: Any = facts.arguments["command"]
    port = words[words.index("--port") + 1]
    assert words == [word.replace("{port}", port) for word in command]


@pytest.mark.parametrize(
    ("launch", "said", "hint"),
    [
        ({"command": ["sh", "-c", "echo no such weights; exit 3"]}, "exit code 3", "no such weights"),
        ({"command": ["sh", "-c", "kill -9 $$"]}, "SIGKILL", "it said nothing"),
        (
            {"command": [*STUB, *behaving(healthy_after_s=None)], "ready_timeout_s": 1},
            "not ready within 1 s",
            "http://127.0.0.1",
        ),
    ],
    ids=["ends", "killed", "never healthy"],
)
def test_a_server_that_does_not_come_up_shows_its_last_lines(
    launch: dict[str, Any], said: str, hint: str
) -> None:
    with (
        pytest.raises(BackendError, match=said) as raised,
        opened("http://unused", openai={"base_url": None, "launch": launch}),
    ):
        pass
    assert hint in str(raised.value.hint)


def test_a_launched_server_that_dies_says_so_with_its_last_lines() -> None:
    with (
        pytest.raises(BackendError, match="exit code 9") as raised,
        opened("http://unused", openai=launching(*behaving(first_s=0.02, dies_at=4))) as session,
    ):
        completions(session, asked(30))
    assert "the stub dies as asked" in str(raised.value.hint)


def test_a_server_goes_with_its_run_whatever_ends_that(tmp_path: Path) -> None:
    for number, outcome in ((signal.SIGINT, 130), (signal.SIGKILL, -9)):
        marker = f"launched-{time.monotonic_ns()}"
        path = tmp_path / f"{number}.yaml"
        path.write_text(
            json.dumps(
                config("http://unused", openai=launching(*behaving(model=marker, first_s=0.1))).model_dump(
                    mode="json", exclude_defaults=True
                )
            )
        )
        command = [sys.executable, "-m", "llenergymeasure", "run", str(path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        while not processes(marker):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        process.communicate(timeout=60)
        assert process.returncode == outcome
        until = time.monotonic() + 30
        while processes(marker) and time.monotonic() < until:
            time.sleep(0.05)
        assert not processes(marker)


def test_what_a_server_started_has_time_to_clear_up_when_the_server_is_gone(tmp_path: Path) -> None:
    done = tmp_path / "cleared up"
    slow = f'(trap \'sleep 1; touch "{done}"; exit\' TERM; while :; do sleep 0.05; done) & exec "$@"'
    command = ["sh", "-c", slow, "server", *STUB]
    with opened("http://unused", openai={"base_url": None, "launch": {"command": command}}) as session:
        completions(session)
    assert done.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="shared memory is no file elsewhere")
def test_shared_memory_goes_with_a_server_that_heeds_no_sigterm(tmp_path: Path) -> None:
    name = tmp_path / "name"
    holds = (
        "import signal, sys, time; from multiprocessing.shared_memory import SharedMemory;"
        "held = SharedMemory(create=True, size=4096); open(sys.argv[1], 'w').write(held.name);"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    )
    command = ["sh", "-c", '"$0" -c "$1" "$2" & shift 2; exec "$@"', sys.executable, holds, str(name), *STUB]
    with opened("http://unused", openai={"base_url": None, "launch": {"command": command}}) as session:
        completions(session)
        while not name.exists() or not name.read_text():
            time.sleep(0.05)
        held = Path("/dev/shm") / name.read_text()
        assert held.exists()
    assert not held.exists()


def test_a_server_and_its_group_go_where_the_process_that_holds_it_is_killed(tmp_path: Path) -> None:
    marker = f"launched-{time.monotonic_ns()}"
    # Two that stay beside the server; one of them heeds no SIGTERM.
    stays = "sleep 600 & (trap '' TERM; sleep 600) & exec \"$@\""
    command = ["sh", "-c", stays, marker, *STUB, *behaving(model=marker)]
    path = tmp_path / "held.json"
    asked_for = config("http://unused", openai={"base_url": None, "launch": {"command": command}})
    path.write_text(asked_for.model_dump_json())
    with subprocess.Popen(
        [sys.executable, "-m", "llenergymeasure.study.standing", str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        assert marker not in holder.stdout.readline().decode()
        (group,) = {os.getpgid(pid) for pid in processes(marker)}
        assert len(living(group)) >= 4
        holder.kill()
    until = time.monotonic() + 30
    while (left := living(group)) and time.monotonic() < until:
        time.sleep(0.05)
    assert left == []


@pytest.mark.parametrize(
    ("launch", "said"),
    [
        ({}, "either engine or command"),
        ({"engine": "vllm", "command": ["x"]}, "either engine or command"),
        ({"command": ["no-such-program"]}, "not there"),
        ({"engine": "vllm", "python": "/no/python"}, "not there"),
        ({"engine": "llamacpp"}, "no GGUF"),
    ],
)
def test_a_launch_that_can_t_be_is_refused(launch: dict[str, Any], said: str) -> None:
    asked_for = config("http://h:1", openai={"base_url": None, "launch": launch})
    assert said in str(OpenaiBackend().why_refused(asked_for))


def test_an_environment_of_a_server_holds_no_secret() -> None:
    with pytest.raises(ValueError, match="HF_TOKEN") as raised:
        config("http://h:1", openai={"launch": {"command": ["x"], "env": {"HF_TOKEN": "hf_abc"}}})
    assert "hf_abc" not in str(raised.value)


def test_options_become_words_by_the_server_s_own_names() -> None:
    options = {"max_model_len": 512, "enforce_eager": True, "async_scheduling": False}
    words = {}
    for engine in ("vllm", "llamacpp", "transformers"):
        launch = LaunchConfig.model_validate({"engine": engine, "python": "py", "options": options})
        words[engine] = command_of(config("http://h:1", model="smollm2-135m"), launch, 5)
    assert words["vllm"][-4:] == ("--max-model-len", "512", "--enforce-eager", "--no-async-scheduling")
    assert words["llamacpp"][-6:-2] == ("--max_model_len", "512", "--enforce_eager", "true")
    assert all(line[:2] == ("py", "-m") for line in words.values())
    assert all(line[line.index("--port") + 1] == "5" for line in words.values())


def test_without_a_package_of_the_client_the_backend_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "llenergymeasure.backends.find_spec", lambda name: None if name == "orjson" else found(name)
    )
    assert "needs orjson: run pip install" in (OpenaiBackend().why_unavailable() or "")
