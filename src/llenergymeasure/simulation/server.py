"""What does a server of the OpenAI API send, and when, that has no model and any bad habit that is asked for?

`python -m llenergymeasure.simulation.server --behaviour '{"first_s": 0.05, "each_s": 0.01}'` prints its base
URL once it listens. With STUB_API_KEY in its environment it wants that key. `GET /stub` tells what it did.

Long by the bad habits: each is a few lines of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from threading import Thread
from typing import Any, Literal

# The text of the n-th token: one to four bytes of UTF-8 for a character.
TEXTS = (" a", " ö", "界", "🙂")
_KNOWN = {
    *(
        "model",
        "prompt",
        "messages",
        "max_tokens",
        "max_completion_tokens",
        "stream",
        "stream_options",
        "temperature",
        "top_p",
        "seed",
    ),
}
_GENERATING = {"/v1/completions": False, "/v1/chat/completions": True}
_KEPT_REQUESTS = 20_000
_REST_OF_A_SPLIT_S = 0.002


@dataclass(frozen=True, slots=True)
class Behaviour:
    """The first token comes `first_s` after a request has arrived, each further one `each_s` later.

    A request that does not ask for `ignore_eos` ends after `eos_after` tokens. Every `refuse_every`-th
    request for tokens gets `refuse_status`; the `dies_at`-th ends the process after a token. `break_after`
    tokens each stream breaks, by an error event, a cut connection or silence.
    """

    model: str = "stub"
    first_s: float = 0.0
    each_s: float = 0.0
    healthy_after_s: float | None = 0.0  # None for never
    headers_after_s: float = 0.0  # of an answer, after its request
    streams: bool = True  # else an answer is one JSON object, whatever was asked for
    slots: int | None = None  # requests at once; the others queue
    takes_ids: bool = True
    strict: bool = False  # fields that OpenAI does not know are a 422
    heeds_max_tokens: bool = True
    heeds_ignore_eos: bool = True
    eos_after: int | None = None
    own_length: int = 16  # where max_tokens is not heeded or not given
    tokens_per_chunk: int = 1
    events_per_write: int = 1
    splits: bool = False  # every write in two, where possible within a character
    opens_with_role: bool = False
    empty_chunks: bool = False
    comments: bool = False  # and the fields of an event that are not its data
    crlf: bool = False
    reasoning: int = 0  # so many tokens first, under `reasoning_key`
    reasoning_key: str = "reasoning_content"
    usage: Literal["apart", "last", "every", "none"] = "apart"
    done: bool = True
    refuse_every: int | None = None
    refuse_status: int = 429
    retry_after_s: int | None = None
    break_after: int | None = None
    break_how: Literal["event", "cut", "stall"] = "event"
    dies_at: int | None = None
    metrics: Literal["vllm:", "sglang:", "none"] = "vllm:"  # what counters' names begin with
    cache_block: int | None = None  # prompts are served from earlier ones in whole blocks of so many tokens
    drafted: int = 0  # tokens that each chunk's draft holds; all tokens of a chunk but one were accepted


@dataclass(frozen=True, slots=True)
class Asked:
    """A request for tokens, as far as the stub heeds it."""

    is_chat: bool
    prompt_tokens: int
    output_tokens: int
    finish: Literal["length", "stop"]
    wants_usage: bool
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """`data` to write `at_s` after the request arrived, with which so many `tokens` are out."""

    at_s: float
    data: bytes
    tokens: int = 0
    then: Literal["go on", "cut", "stall"] = "go on"


@dataclass(slots=True)
class Served:
    """What became of a request for tokens; `arrived_ns` is when the last of it was read, `sent_ns` when each
    write with a token was begun.
    """

    number: int
    arrived_ns: int
    body: dict[str, Any]
    ended_ns: int | None = None
    outcome: Literal["running", "answered", "refused", "broken", "cancelled"] = "running"
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    sent_ns: list[int] = field(default_factory=list)


def prompt_of(body: dict[str, Any], *, is_chat: bool) -> Sequence[int]:
    """Token ids. A text has a token for each byte of UTF-8."""
    if is_chat:
        return "".join(str(message.get("content", "")) for message in body["messages"]).encode()
    prompt = body["prompt"]
    return prompt.encode() if isinstance(prompt, str) else list(prompt)


def asked(behaviour: Behaviour, body: dict[str, Any], *, is_chat: bool, cached: int = 0) -> Asked:
    """How many tokens the request gets; so many of its prompt are `cached`."""
    limit = body.get("max_completion_tokens") or body.get("max_tokens", behaviour.own_length)
    if not behaviour.heeds_max_tokens:
        limit = behaviour.own_length
    end = behaviour.eos_after
    if end is not None and behaviour.heeds_ignore_eos and body.get("ignore_eos"):
        end = None
    ends_early = end is not None and end <= limit
    return Asked(
        is_chat=is_chat,
        prompt_tokens=len(prompt_of(body, is_chat=is_chat)),
        output_tokens=end if ends_early and end is not None else limit,
        finish="stop" if ends_early else "length",
        wants_usage=bool((body.get("stream_options") or {}).get("include_usage")),
        cached_tokens=cached,
    )


@lru_cache(maxsize=256)
def script(behaviour: Behaviour, request: Asked) -> list[Step]:
    """All writes of an answer, in order. Those of a request like an earlier one are made already."""
    steps: list[Step] = []
    waiting: list[Step] = []
    for step in _events(behaviour, request):
        waiting.append(step)
        if len(waiting) == behaviour.events_per_write or step.then != "go on":
            steps.append(_joined(waiting))
            waiting = []
    if waiting:
        steps.append(_joined(waiting))
    return [part for step in steps for part in _split(step)] if behaviour.splits else steps


def _events(behaviour: Behaviour, request: Asked) -> Iterator[Step]:
    if behaviour.comments:
        yield Step(0.0, b": keep-alive\n\nevent: message\nid: 1\nretry: 100\n")
    if behaviour.opens_with_role and request.is_chat:
        yield Step(0.0, _event(behaviour, request, {"role": "assistant", "content": ""}))
    out, at_s = 0, behaviour.first_s
    while out < request.output_tokens:
        more = min(behaviour.tokens_per_chunk, request.output_tokens - out)
        if out < behaviour.reasoning:
            more = min(more, behaviour.reasoning - out)
        if behaviour.break_after is not None:
            if out >= behaviour.break_after:
                yield _break(behaviour, at_s)
                return
            more = min(more, behaviour.break_after - out)
        if behaviour.empty_chunks:
            yield Step(at_s, _event(behaviour, request, {"content": ""}))
        key = behaviour.reasoning_key if out < behaviour.reasoning else "content"
        text = "".join(TEXTS[(out + k) % len(TEXTS)] for k in range(more))
        out += more
        at_s = behaviour.first_s + (out - 1) * behaviour.each_s
        yield Step(at_s, _event(behaviour, request, {key: text}, out=out), tokens=more)
    yield Step(at_s, _event(behaviour, request, {}, out=out, finish=request.finish))
    if behaviour.usage == "apart" and request.wants_usage:
        yield Step(at_s, _line(behaviour, {"choices": [], "usage": _usage(request, out)}))
    if behaviour.done:
        yield Step(at_s, b"data: [DONE]\n\n")


def _break(behaviour: Behaviour, at_s: float) -> Step:
    if behaviour.break_how == "event":
        error = {"error": {"message": "the stub broke as asked", "code": 500}}
        return Step(at_s, _line(behaviour, error), then="cut")
    return Step(at_s, b"", then=behaviour.break_how)


def _event(
    behaviour: Behaviour, request: Asked, delta: dict[str, Any], *, out: int = 0, finish: str | None = None
) -> bytes:
    choice: dict[str, Any] = {"index": 0, "finish_reason": finish}
    if request.is_chat:
        choice["delta"] = delta
    else:
        choice["text"] = "".join(map(str, delta.values()))
    content: dict[str, Any] = {
        "id": "stub",
        "object": "chat.completion.chunk" if request.is_chat else "text_completion",
        "created": 0,
        "model": behaviour.model,
        "choices": [choice],
    }
    if behaviour.usage == "every" or (behaviour.usage == "last" and finish is not None):
        content["usage"] = _usage(request, out)
    return _line(behaviour, content)


def _usage(request: Asked, out: int) -> dict[str, Any]:
    read = request.prompt_tokens
    counts: dict[str, Any] = {"prompt_tokens": read, "completion_tokens": out, "total_tokens": read + out}
    if request.cached_tokens:
        counts["prompt_tokens_details"] = {"cached_tokens": request.cached_tokens}
    return counts


def _line(behaviour: Behaviour, content: dict[str, Any]) -> bytes:
    end = "\r\n" if behaviour.crlf else "\n"
    return f"data: {json.dumps(content, ensure_ascii=False, separators=(',', ':'))}{end}{end}".encode()


def _joined(steps: Sequence[Step]) -> Step:
    last = steps[-1]
    data = b"".join(step.data for step in steps)
    return Step(last.at_s, data, tokens=sum(step.tokens for step in steps), then=last.then)


def _split(step: Step) -> Iterator[Step]:
    """In two, within the first character that has several bytes, else in the middle."""
    at = next((at for at, byte in enumerate(step.data) if byte >= 0x80), len(step.data) // 2 - 1) + 1
    if at <= 0 or at >= len(step.data):
        yield step
        return
    yield Step(step.at_s, step.data[:at])
    yield Step(step.at_s + _REST_OF_A_SPLIT_S, step.data[at:], tokens=step.tokens, then=step.then)


def metrics(behaviour: Behaviour, counts: Counter[str]) -> str:
    """What it counted, under vLLM's names or SGLang's."""
    labels = f'engine="0",model_name="{behaviour.model}"'
    drafts = counts["token_chunks"] if behaviour.drafted else 0
    tables: dict[str, dict[str, int]] = {
        "vllm:": {
            f"prompt_tokens_total{{{labels}}}": counts["prompt_tokens"],
            f"generation_tokens_total{{{labels}}}": counts["generation_tokens"],
            f'request_success_total{{finished_reason="length",{labels}}}': counts["answered"],
            f'request_success_total{{finished_reason="abort",{labels}}}': counts["cancelled"],
            f'request_success_total{{finished_reason="error",{labels}}}': counts["broken"],
            f"prefix_cache_queries_total{{{labels}}}": counts["looked_up_tokens"],
            f"prefix_cache_hits_total{{{labels}}}": counts["cached_tokens"],
            f"spec_decode_num_drafts_total{{{labels}}}": drafts,
            f"spec_decode_num_draft_tokens_total{{{labels}}}": drafts * behaviour.drafted,
            f"spec_decode_num_accepted_tokens_total{{{labels}}}": counts["generation_tokens"] - drafts
            if drafts
            else 0,
        },
        "sglang:": {
            f"prompt_tokens_total{{{labels}}}": counts["prompt_tokens"],
            f"generation_tokens_total{{{labels}}}": counts["generation_tokens"],
            f"num_requests_total{{{labels}}}": counts["answered"],
            f'cached_tokens_total{{cache_source="device",{labels}}}': counts["cached_tokens"],
        },
    }
    table = tables[behaviour.metrics]
    return "".join(f"{behaviour.metrics}{name} {count}.0\n" for name, count in table.items())


class Stub:
    """The server: its counts, and the requests that wait for a slot."""

    def __init__(self, behaviour: Behaviour, key: str | None = None) -> None:
        self.behaviour = behaviour
        self.key = key
        self.started_s = time.monotonic()
        self.counts: Counter[str] = Counter()
        self.served: deque[Served] = deque(maxlen=_KEPT_REQUESTS)
        self.running = 0
        self.cached: set[tuple[int, ...]] = set()
        self.queue: deque[_Connection] = deque()

    def is_healthy(self) -> bool:
        after_s = self.behaviour.healthy_after_s
        return after_s is not None and time.monotonic() - self.started_s >= after_s

    def page(self, path: str) -> tuple[int, bytes, str]:
        """Status, content and its type of what is not for tokens."""
        if path == "/stub":
            told = [
                {
                    name: getattr(one, name)
                    for name in ("number", "arrived_ns", "ended_ns", "body", "outcome", "prompt_tokens")
                }
                | {"output_tokens": one.output_tokens, "sent_ns": one.sent_ns}
                for one in self.served
            ]
            return 200, json.dumps({"counts": self.counts, "requests": told}).encode(), "application/json"
        if not self.is_healthy():
            return 503, _error("still loading"), "application/json"
        if path == "/health":
            return 200, b"", "text/plain"
        if path == "/v1/models":
            models = {"object": "list", "data": [{"id": self.behaviour.model, "owned_by": "stub"}]}
            return 200, json.dumps(models).encode(), "application/json"
        if path == "/metrics" and self.behaviour.metrics != "none":
            return 200, metrics(self.behaviour, self.counts).encode(), "text/plain"
        return 404, _error(f"no page {path}"), "application/json"

    def look_up(self, prompt: Sequence[int]) -> int:
        """How many tokens of the prompt an earlier one began with, in whole blocks; this one is then kept."""
        block = self.behaviour.cache_block
        if block is None:
            return 0
        found = 0
        for end in range(block, len(prompt) + 1, block):
            start = tuple(prompt[:end])
            if start in self.cached:
                found = end
            self.cached.add(start)
        self.counts["looked_up_tokens"] += len(prompt)
        return found

    def why_refused(self, body: dict[str, Any], *, is_chat: bool) -> tuple[int, str] | None:
        own, prompt = self.behaviour, body.get("prompt")
        unknown = sorted(set(body) - _KNOWN) if own.strict else []
        refusals = (
            (not self.is_healthy(), 503, "still loading"),
            (body.get("model") != own.model, 404, f"The model `{body.get('model')}` does not exist."),
            (not body.get("stream"), 400, "the stub wants to be asked for a stream"),
            (bool(unknown), 422, f"unexpected fields: {', '.join(unknown)}"),
            (
                not is_chat and not own.takes_ids and not isinstance(prompt, str),
                500,  # as llama_cpp.server
                "prompt: Input should be a valid string",
            ),
            (
                own.refuse_every is not None and self.counts["received"] % own.refuse_every == 0,
                own.refuse_status,
                "the stub refused as asked",
            ),
        )
        return next(((status, why) for holds, status, why in refusals if holds), None)


class _Connection(asyncio.Protocol):
    """One connection, which serves one request after the other."""

    def __init__(self, stub: Stub) -> None:
        self._stub = stub
        self._buffer = bytearray()
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._served: Served | None = None
        self._asked: Asked
        self._steps: list[Step] = []
        self._next = 0
        self._arrived_s = 0.0
        self._holds_slot = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        arrived_ns = time.monotonic_ns()
        self._buffer += data
        if not self._buffer[:1].isalpha():
            # The beginning of TLS, for one.
            self._whole(400, _error("Invalid HTTP request received."), "application/json")
            self._transport.close()
            return
        head_end = self._buffer.find(b"\r\n\r\n")
        if head_end < 0 or self._served is not None:
            return
        first, *lines = bytes(self._buffer[:head_end]).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        end = head_end + 4 + int(headers.get("content-length", "0"))
        if len(self._buffer) < end:
            return
        content = bytes(self._buffer[head_end + 4 : end])
        del self._buffer[:end]
        self._answer(first.split(" ")[1].partition("?")[0], headers, content, arrived_ns)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002  the protocol of asyncio
        if self._served is not None:
            self._close("cancelled")

    def _answer(self, path: str, headers: dict[str, str], content: bytes, arrived_ns: int) -> None:
        stub = self._stub
        if stub.key is not None and headers.get("authorization") != f"Bearer {stub.key}":
            self._whole(401, _error("Incorrect API key provided"), "application/json")
            return
        is_chat = _GENERATING.get(path)
        if is_chat is None:
            self._whole(*stub.page(path))
            return
        body = json.loads(content)
        stub.counts["received"] += 1
        served = Served(stub.counts["received"], arrived_ns, body)
        stub.served.append(served)
        if why := stub.why_refused(body, is_chat=is_chat):
            served.outcome, served.ended_ns = "refused", served.arrived_ns
            stub.counts["refused"] += 1
            self._whole(why[0], _error(why[1]), "application/json", stub.behaviour.retry_after_s)
            return
        cached = stub.look_up(prompt_of(body, is_chat=is_chat))
        request = asked(stub.behaviour, body, is_chat=is_chat, cached=cached)
        served.prompt_tokens, served.cached_tokens = request.prompt_tokens, cached
        self._served, self._asked = served, request
        self._steps, self._next = script(stub.behaviour, request), 0
        if stub.behaviour.slots is None or stub.running < stub.behaviour.slots:
            self.start()
        else:
            stub.queue.append(self)

    def start(self) -> None:
        self._stub.running += 1
        self._holds_slot = True
        self._arrived_s = self._loop.time()
        if self._stub.behaviour.headers_after_s:
            self._loop.call_later(self._stub.behaviour.headers_after_s, self._open)
        else:
            self._open()

    def _open(self) -> None:
        if self._served is None:
            return
        if not self._stub.behaviour.streams:
            self._answer_whole(self._served)
            return
        self._transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        self._go_on()

    def _answer_whole(self, served: Served) -> None:
        texts = (TEXTS[k % len(TEXTS)] for k in range(self._asked.output_tokens))
        choice: dict[str, Any] = {"index": 0, "finish_reason": self._asked.finish}
        text = "".join(texts)
        choice |= (
            {"message": {"role": "assistant", "content": text}} if self._asked.is_chat else {"text": text}
        )
        usage = _usage(self._asked, self._asked.output_tokens)
        kind = "chat.completion" if self._asked.is_chat else "text_completion"
        head = {"id": "stub", "object": kind, "created": 0, "model": self._stub.behaviour.model}
        content = json.dumps({**head, "choices": [choice], "usage": usage}).encode()
        self._count(served, self._asked.output_tokens)
        self._close("answered")
        self._whole(200, content, "application/json")

    def _go_on(self) -> None:
        """Write what is due."""
        while self._served is not None and self._next < len(self._steps):
            step = self._steps[self._next]
            if self._arrived_s + step.at_s > self._loop.time():
                self._loop.call_at(self._arrived_s + step.at_s, self._go_on)
                return
            self._next += 1
            self._write(step, self._served)
            if step.then == "stall":
                return
            if step.then == "cut":
                self._close("broken")
                self._transport.close()
                return
        if self._served is not None:
            self._close("answered")
            self._transport.write(b"0\r\n\r\n")

    def _write(self, step: Step, served: Served) -> None:
        if step.tokens:
            served.sent_ns.append(time.monotonic_ns())
        if step.data and not self._transport.is_closing():
            self._transport.write(b"%x\r\n%b\r\n" % (len(step.data), step.data))
        if step.tokens:
            self._count(served, step.tokens)
            if served.number == self._stub.behaviour.dies_at:
                sys.stderr.write("the stub dies as asked\n")
                os._exit(9)

    def _count(self, served: Served, tokens: int) -> None:
        """Tokens as they go out, and the prompt's with the first of them, as engines count them."""
        counts = self._stub.counts
        if not served.output_tokens:
            counts["prompt_tokens"] += served.prompt_tokens
            counts["cached_tokens"] += served.cached_tokens
        served.output_tokens += tokens
        counts["generation_tokens"] += tokens
        counts["token_chunks"] += 1

    def _close(self, outcome: Literal["answered", "broken", "cancelled"]) -> None:
        stub, served = self._stub, self._served
        assert served is not None
        self._served = None
        served.outcome, served.ended_ns = outcome, time.monotonic_ns()
        stub.counts[outcome] += 1
        if self._holds_slot:
            self._holds_slot = False
            stub.running -= 1
        else:
            stub.queue.remove(self)
        if stub.queue and (stub.behaviour.slots is None or stub.running < stub.behaviour.slots):
            stub.queue.popleft().start()

    def _whole(self, status: int, content: bytes, kind: str, retry_after_s: int | None = None) -> None:
        after = "" if retry_after_s is None else f"retry-after: {retry_after_s}\r\n"
        head = f"HTTP/1.1 {status} Stub\r\ncontent-type: {kind}\r\n{after}content-length: {len(content)}"
        self._transport.write(f"{head}\r\n\r\n".encode() + content)


def _error(message: str) -> bytes:
    return json.dumps({"error": {"message": message}}).encode()


async def serve(behaviour: Behaviour, *, port: int, key: str | None) -> None:
    stub = Stub(behaviour, key)
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(stub), "127.0.0.1", port)
    sys.stdout.write(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--ends-with-stdin", action="store_true", help="so that it ends with its parent")
    parser.add_argument("--behaviour", default="{}", help="fields of Behaviour, as a JSON object")
    given = parser.parse_args()
    behaviour = Behaviour(**json.loads(given.behaviour))
    if given.ends_with_stdin:
        Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    try:
        asyncio.run(serve(behaviour, port=given.port, key=os.environ.get("STUB_API_KEY")))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
