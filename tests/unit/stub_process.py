"""The stub server in a process of its own, as tests drive it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.request import urlopen

COMMAND = (sys.executable, "-m", "llenergymeasure.simulation.server")


@contextmanager
def stub_server(*, key: str | None = None, **behaviour: object) -> Iterator[str]:
    """Its base URL, without /v1."""
    environ = dict(os.environ) if key is None else os.environ | {"STUB_API_KEY": key}
    process = subprocess.Popen(
        [*COMMAND, "--behaviour", json.dumps(behaviour)], stdout=subprocess.PIPE, text=True, env=environ
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def told(url: str) -> Any:
    """What the stub says that it did: `counts` and `requests`."""
    with urlopen(f"{url}/stub", timeout=10) as answer:
        return json.load(answer)
