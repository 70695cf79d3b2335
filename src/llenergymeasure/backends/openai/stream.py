"""What did a server send, and when: the events of a stream, and the answer that they make up?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

_TEXTS = ("content", "reasoning_content", "reasoning", "text")


class Events:
    """Server-sent events out of bytes that may be torn anywhere, a character included."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def take(self, received: bytes) -> Iterator[bytes]:
        """The data of each event that is whole."""
        *lines, self._rest = (self._rest + received).split(b"\n")
        for line in lines:
            field_of, _, value = line.removesuffix(b"\r").partition(b":")
            if field_of == b"data":
                self._data.append(value.removeprefix(b" "))
            elif not field_of and not value and self._data:
                yield b"\n".join(self._data)
                self._data = []

    def close(self) -> Iterator[bytes]:
        """The last event, where no empty line came after it."""
        yield from self.take(b"\n\n")


@dataclass(slots=True)
class Reply:
    """The answer to one request, as it comes in.

    `first_ns` is when the first token came: text or reasoning, not a role or an empty one. `end_ns` is when
    the last of it came, or the reason why it ended, and `chunk_ns` when each chunk with text did. `failure`
    is why there is no whole answer, with the status where it is that of HTTP.
    """

    sent_ns: int
    first_ns: int | None = None
    end_ns: int = 0
    finish: str | None = None
    usage: Mapping[str, Any] | None = None
    failure: str | None = None
    status: int | None = None
    is_done: bool = False
    texts: list[str] = field(default_factory=list)
    chunk_ns: list[int] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def take(self, data: bytes, t_ns: int) -> None:
        if data.strip() == b"[DONE]":
            self.is_done = True
            return
        try:
            event = json.loads(data)
        except ValueError:
            self.fail(f"an event is no JSON: {data[:80]!r}", t_ns)
            return
        if not isinstance(event, dict):
            self.fail(f"an event is no object: {data[:80]!r}", t_ns)
            return
        if event.get("error"):
            self.fail(f"the server reported an error: {message_of(event)}", t_ns)
            return
        if isinstance(usage := event.get("usage"), dict):
            self.usage = usage
        for choice in (event.get("choices") or [])[:1]:
            self._take_choice(choice, t_ns)

    def _take_choice(self, choice: Mapping[str, Any], t_ns: int) -> None:
        said = choice.get("delta") or choice.get("message") or choice
        texts = [text for name in _TEXTS if isinstance(text := said.get(name), str) and text]
        if texts:
            self.texts += texts
            self.chunk_ns.append(t_ns)
            self.end_ns = t_ns
            if self.first_ns is None:
                self.first_ns = t_ns
        if choice.get("finish_reason") is not None:
            self.finish, self.end_ns = str(choice["finish_reason"]), t_ns

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
