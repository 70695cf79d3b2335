"""A model on the hub comes onto this disk; the hub is a server of the test's own."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from llenergymeasure.models.shapes import SHAPES, hf_config

COMMIT = "a" * 40
HEADER = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
WEIGHTS = struct.pack("<Q", len(HEADER)) + HEADER + bytes(4)
CONFIG = json.dumps(hf_config(SHAPES["llama-3.2-1b"])).encode()
REPOSITORIES: dict[str, dict[str, bytes]] = {
    "org/safe": {"config.json": CONFIG, "model.safetensors": WEIGHTS, "pytorch_model.bin": b"unwanted"},
    "org/empty": {"config.json": CONFIG, "README.md": b"no weights"},
}
SCRIPT = """
import sys
from llenergymeasure.exceptions import PreFlightError
from llenergymeasure.models.resolve import fetched, resolve
try:
    print(fetched(resolve(sys.argv[1])).path)
except PreFlightError as error:
    print("refused:", error)
"""


class Hub(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:  # the name is http.server's
        self._answer(body=False)

    def do_GET(self) -> None:  # the name is http.server's
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        content = self._content(self.path.partition("?")[0])
        self.send_response(200 if content is not None else 404)
        content = content or b""
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def _content(self, path: str) -> bytes | None:
        repository = next((name for name in REPOSITORIES if f"/{name}/" in path), None)
        if repository is None:
            return None
        files = REPOSITORIES[repository]
        if "/tree/" in path:
            listing = [
                {"type": "file", "path": name, "size": len(content), "oid": "b" * 40}
                for name, content in files.items()
            ]
            return json.dumps(listing).encode()
        if path.startswith("/api/models/"):
            siblings = [{"rfilename": name} for name in files]
            return json.dumps({"id": repository, "sha": COMMIT, "siblings": siblings}).encode()
        return files.get(path.rpartition("/")[2])

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name is http.server's
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def fetch(model: str, endpoint: str, home: Path) -> str:
    """In a process of its own: the hub's library reads its environment when it is imported."""
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1"}
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE", "HF_TOKEN"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, model], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_an_uncached_model_is_downloaded_once_with_one_kind_of_weights(tmp_path: Path, endpoint: str) -> None:
    pytest.importorskip("huggingface_hub", reason="comes with the extra pytorch")
    folder = Path(fetch("org/safe", endpoint, tmp_path))
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert fetch("org/safe", "http://127.0.0.1:9", tmp_path) == str(folder)


def test_a_repository_without_weights_is_refused(tmp_path: Path, endpoint: str) -> None:
    assert "holds no weights" in fetch("org/empty", endpoint, tmp_path)


def test_a_model_that_is_not_there_is_refused_with_its_name(tmp_path: Path, endpoint: str) -> None:
    assert fetch("org/none", endpoint, tmp_path).startswith("refused: org/none can't be downloaded")
