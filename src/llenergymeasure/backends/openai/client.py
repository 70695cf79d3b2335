"""How does a request reach a server, and what can keep it from that?"""

from __future__ import annotations

import json
import time
from typing import Any, Self
from urllib.parse import urlsplit

from llenergymeasure.backends.openai.stream import Events, Reply, message_of
from llenergymeasure.exceptions import BackendError

# Servers close what is idle, uvicorn after 5 s; a request sent at that moment is lost.
_KEPT_OPEN_S = 2.0
_CONNECT_S = 10.0


class UnreachableError(BackendError):
    """No connection: nothing listens there, its name is not known, or TLS does not come about."""


class Client:
    """Connections to one server, as many as there are requests. What it says never holds the key."""

    def __init__(self, base_url: str, *, key: str | None, request_timeout_s: float) -> None:
        self.api = base_url if urlsplit(base_url).path.strip("/") else f"{base_url}/v1"
        self.root = self.api.removesuffix("/v1")
        self._key = key
        self._timeout_s = request_timeout_s

    async def __aenter__(self) -> Self:
        import aiohttp

        headers = {"Accept": "text/event-stream", "Content-Type": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        self._stamped = _stamped()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEPT_OPEN_S),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=self._timeout_s),
            headers=headers,
        )
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._session.close()

    async def post(self, path: str, body: bytes, reply: Reply | None = None) -> Reply:
        """The whole answer. A request that fails once it was sent is a reply that says why. It is `reply`
        where that is given, which holds what has come until then.

        UnreachableError where it could not be sent.
        """
        import aiohttp

        reply = reply or Reply(time.monotonic_ns())
        try:
            async with self._session.post(self.api + path, data=self._stamped(body, reply)) as response:
                if response.status != 200:
                    said = await response.text(errors="replace")
                    self._refused(reply, response, said)
                    return reply
                await _read(response, reply)
        except aiohttp.ClientConnectorError as error:
            raise self._unreachable(error) from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            why = f"the connection broke ({type(error).__name__})"
            if isinstance(error, aiohttp.ConnectionTimeoutError):
                why = f"no connection came about within {_CONNECT_S:g} s"
            elif isinstance(error, TimeoutError):
                why = f"nothing came for {self._timeout_s:g} s"
            if reply.first_ns is not None:
                why += " in the middle of the answer"
            reply.fail(why, time.monotonic_ns())
        return reply

    async def get(self, url: str) -> tuple[int, str, str]:
        """Status, text and server of a page of the server.

        UnreachableError as for `post`, and where the connection breaks.
        """
        import aiohttp

        try:
            async with self._session.get(url) as response:
                said = await response.text(errors="replace")
                return response.status, said, response.headers.get("Server", "")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._unreachable(error) from None

    def _refused(self, reply: Reply, response: Any, said: str) -> None:
        try:
            content: Any = json.loads(said)
        except ValueError:
            content = said
        why = self.without_key(f"HTTP {response.status}: {message_of(content)}")
        if (after := response.headers.get("Retry-After")) is not None:
            why += f" (Retry-After: {after[:40]})"
        reply.fail(why, time.monotonic_ns(), response.status)

    def _unreachable(self, error: Exception) -> UnreachableError:
        import aiohttp

        # aiohttp says ssl:default where no TLS was asked for, too.
        said = " ".join(str(error).replace(" ssl:default", "").split()) or type(error).__name__
        if isinstance(error, aiohttp.ClientSSLError):
            hint = "is the server's certificate trusted here (SSL_CERT_FILE), or does it speak plain http?"
            return UnreachableError(f"{self.api}: TLS does not come about: {said}", hint=hint)
        return UnreachableError(
            f"nothing answers at {self.api}: {said}",
            hint="is the server running, and openai.base_url where it listens?",
        )

    def without_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


async def _read(response: Any, reply: Reply) -> None:
    """To the end of the answer, so that the connection can be used again."""
    if response.content_type == "application/json":
        # It does not stream: when its first token was there is not known.
        reply.take(await response.read(), time.monotonic_ns())
        reply.chunk_ns.clear()
        reply.close(time.monotonic_ns())
        return
    events, reads = Events(), _reads_of(response)
    while received := await response.content.readany():
        t_ns = (reads and reads.t_ns) or time.monotonic_ns()
        for data in events.take(received):
            reply.take(data, t_ns)
    t_ns = time.monotonic_ns()
    for data in events.close():
        reply.take(data, t_ns)
    reply.close(t_ns)


def _stamped() -> type[Any]:
    """A body that notes in a reply when it is written, which is long after its request was made."""
    from aiohttp.payload import BytesPayload

    class Stamped(BytesPayload):  # type: ignore[misc]  # aiohttp is not there for mypy
        def __init__(self, body: bytes, reply: Reply) -> None:
            super().__init__(body)
            self._reply = reply

        async def write_with_length(self, writer: Any, content_length: int | None) -> None:
            self._reply.sent_ns = time.monotonic_ns()
            await super().write_with_length(writer, content_length)

    return Stamped


class _Reads:
    """Stands before a connection's own protocol, and notes when it was last read: the task that waits for the
    data goes on only after those of all other connections that were read with it.
    """

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.t_ns = 0  # nothing since then
        self.eof_received = inner.eof_received
        self.connection_lost = inner.connection_lost
        self.pause_writing = inner.pause_writing
        self.resume_writing = inner.resume_writing

    def data_received(self, data: bytes) -> None:
        self.t_ns = time.monotonic_ns()
        self._inner.data_received(data)


def _reads_of(response: Any) -> _Reads | None:
    """Those of the connection; None where that was let go, because the whole answer is there."""
    transport = None if response.connection is None else response.connection.transport
    if transport is None:
        return None
    protocol = transport.get_protocol()
    if not isinstance(protocol, _Reads):
        protocol = _Reads(protocol)
        transport.set_protocol(protocol)
    return protocol
