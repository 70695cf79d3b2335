from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from llenergymeasure.exceptions import PreFlightError
from llenergymeasure.models.resolve import fetch_shape, require_available, resolve
from llenergymeasure.models.shapes import SHAPES, hf_config

ANSWERS = {
    "/some-org/llama/resolve/main/config.json": (200, json.dumps(hf_config(SHAPES["llama-3.2-1b"]))),
    "/some-org/bert/resolve/main/config.json": (200, '{"model_type": "bert"}'),
    "/some-org/list/resolve/main/config.json": (200, "[]"),
    "/some-org/page/resolve/main/config.json": (200, "<html>"),
    "/some-org/gated/resolve/main/config.json": (401, "no"),
}


class _Hub(BaseHTTPRequestHandler):
    def do_GET(self) -> None:  # the name is http.server's
        status, body = ANSWERS.get(self.path, (404, ""))
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name is http.server's
        pass


@pytest.fixture(autouse=True)
def _no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    for name in (
        "HF_HUB_CACHE",
        "HUGGINGFACE_HUB_CACHE",
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
        "HF_TOKEN",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def _hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Hub) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}/")
        yield
        server.shutdown()
        thread.join()


@pytest.mark.usefixtures("_hub")
def test_the_shape_of_an_uncached_model_is_asked_for_once() -> None:
    resolved = fetch_shape(resolve("some-org/llama"))
    assert resolved.architecture is not None
    assert resolved.architecture.hidden == 2048
    assert "on the hub" in resolved.architecture.source
    assert resolved.reason is None
    require_available(resolved)


@pytest.mark.usefixtures("_hub")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("bert", "'bert' is not known"),
        ("list", "no JSON object"),
        ("page", "not in the hub cache, and"),
        ("missing", "not found"),
        ("gated", "private or gated"),
    ],
)
def test_a_shape_that_cannot_be_had_has_a_reason(name: str, reason: str) -> None:
    resolved = fetch_shape(resolve(f"some-org/{name}"))
    assert resolved.architecture is None
    assert resolved.reason is not None
    assert reason in resolved.reason


@pytest.mark.usefixtures("_hub")
def test_a_model_that_the_hub_does_not_know_is_refused() -> None:
    with pytest.raises(PreFlightError, match="not found"):
        require_available(resolve("some-org/missing"))


@pytest.mark.usefixtures("_hub")
def test_a_gated_model_is_refused_only_without_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    resolved = resolve("some-org/gated")
    with pytest.raises(PreFlightError, match="gated"):
        require_available(resolved)
    monkeypatch.setenv("HF_TOKEN", "any")
    require_available(resolved)


def test_a_hub_that_is_not_there_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(PreFlightError, match="offline: 'some-org/llama'"):
            require_available(resolve("some-org/llama"))


def test_a_hub_that_does_not_answer_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        with pytest.raises(PreFlightError, match="offline"):
            require_available(resolve("some-org/llama"), timeout_s=0.5)
        assert time.monotonic() - start < 2
