"""What did a server send, and when: the events of a stream, and the answer that they make up?"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


class Events:
    """Server-sent events out of bytes that may be torn anywhere, a character included."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def take(self, received: bytes) -> Iterable[bytes]:
        """The data of each event that is whole."""
        if (
            received.startswith(b"data: ")
            and received.endswith(b"\n\n")
            and not self._rest
            and not self._data
        ):
            # Whole events of one line each, as servers write them: no line is looked at.
            whole = received[6:-2].split(b"\n\ndata: ")
            if received.count(b"\n") == 2 * len(whole) and b"\r" not in received:
                return whole
        return self._lines(received)

    def _lines(self, received: bytes) -> Iterator[bytes]:
        *lines, self._rest = (self._rest + received).split(b"\n")
        for line in lines:
            field_of, _, value = line.removesuffix(b"\r").partition(b":")
            if field_of == b"data":
                self._data.append(value.removeprefix(b" "))
            elif not field_of and not value and self._data:
                yield b"\n".join(self._data)
                self._data = []

    def close(self) -> Iterable[bytes]:
        """The last event, where no empty line came after it."""
        return self.take(b"\n\n")


@dataclass(slots=True)
class Reply:
    """The answer to one request, as it comes in.

    `texts` are the pieces that carry tokens, text or reasoning, not a role or an empty one, and `chunk_ns`
    says when each came: the same time for those that were read at once. `end_ns` is when the last of it
    came, or the reason why it ended. `failure` is why there is no whole answer, with the status where it is
    that of HTTP.
    """

    sent_ns: int
    end_ns: int = 0
    finish: str | None = None
    usage: Mapping[str, Any] | None = None
    failure: str | None = None
    status: int | None = None
    is_done: bool = False
    texts: list[str] = field(default_factory=list)
    # Those that are no reasoning, once there is some.
    _contents: list[str] | None = None
    chunk_ns: list[int] = field(default_factory=list)

    @property
    def first_ns(self) -> int | None:
        """When the first token came; None too where the answer did not come as a stream."""
        return self.chunk_ns[0] if self.chunk_ns else None

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def answer(self) -> str:
        """The text without what the server sent apart as reasoning."""
        return "".join(self.texts if self._contents is None else self._contents)

    def take(self, data: bytes, t_ns: int) -> None:
        if data.strip() == b"[DONE]":
            self.is_done = True
            return
        try:
            event = _content(data)
        except ValueError:
            self.fail(f"an event is no JSON: {data[:80]!r}", t_ns)
            return
        if not isinstance(event, dict):
            self.fail(f"an event is not an object: {data[:80]!r}", t_ns)
            return
        if event.get("error"):
            self.fail(f"the server reported an error: {message_of(event)}", t_ns)
            return
        if isinstance(usage := event.get("usage"), dict):
            self.usage = usage
        if choices := event.get("choices"):
            try:
                self._take_choice(choices[0], t_ns)
            except (AttributeError, LookupError, TypeError):
                self.fail(f"an event is not a completion: {data[:80]!r}", t_ns)

    def _take_choice(self, choice: Mapping[str, Any], t_ns: int) -> None:
        said = choice.get("delta") or choice.get("message") or choice
        text = said.get("content") or said.get("text")
        # vLLM sends reasoning under both of its names at once.
        thought = said.get("reasoning_content") or said.get("reasoning")
        if isinstance(thought, str):
            if self._contents is None:
                self._contents = list(self.texts)
            if isinstance(text, str):
                self._contents.append(text)
            text = thought + text if isinstance(text, str) else thought
        elif self._contents is not None and isinstance(text, str):
            self._contents.append(text)
        if text and isinstance(text, str):
            self.texts.append(text)
            self.chunk_ns.append(t_ns)
            self.end_ns = t_ns
        if (reason := choice.get("finish_reason")) is not None:
            self.finish, self.end_ns = str(reason), t_ns

    def fail(self, why: str, t_ns: int, status: int | None = None) -> None:
        """Unless it has failed before."""
        if self.failure is None:
            self.failure, self.status, self.end_ns = why, status, t_ns

    def close(self, t_ns: int) -> None:
        """Nothing more will come."""
        if self.finish is None and self.usage is None and not self.is_done:
            self.fail("the stream ended without finish_reason, usage or [DONE]", t_ns)
        self.end_ns = self.end_ns or t_ns

    def count(self, name: str) -> int | None:
        """A number of tokens by the server's own count."""
        number = (self.usage or {}).get(name)
        return number if isinstance(number, int) else None


def _content(data: bytes) -> Any:
    """ValueError where it is no JSON."""
    import orjson  # reading an event takes a third of the client's time with json

    try:
        return orjson.loads(data)
    except ValueError:
        return json.loads(data)  # NaN, which some servers write


def message_of(content: object) -> str:
    """What an error says, in any of the usual forms, in one line."""
    while isinstance(content, dict | list) and content:
        if isinstance(content, list):
            content = content[0]
            continue
        content = next(
            (content[name] for name in ("error", "message", "detail", "msg") if content.get(name)),
            json.dumps(content),
        )
    return " ".join(str(content).split())[:300] or "nothing"
