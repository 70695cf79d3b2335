"""How is `llem record` started on a node of a Ray cluster into which there is no other way?

Its input and output are those of this process: an actor on the node carries them, and ends with this process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

from llenergymeasure.exceptions import ConfigError
from llenergymeasure.study.ray import connected

_CHUNK = 65536
# Of the resource that each node has of its own name.
_A_LITTLE = 0.001


class Recorder:
    """The process there. `read` waits for what it says, so that calls run beside each other."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "llenergymeasure", "record", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )

    def write(self, data: bytes) -> None:
        """Nothing is the end of the input."""
        stdin = self._process.stdin
        assert stdin is not None
        try:
            stdin.write(data) if data else stdin.close()
        except BrokenPipeError:
            return

    def read(self) -> bytes:
        assert self._process.stdout is not None
        return os.read(self._process.stdout.fileno(), _CHUNK)

    def code(self) -> int:
        return self._process.wait()


def record_on(node: str, arguments: Sequence[str]) -> int:
    """The exit code of `llem record` with these arguments on `node` (its address or name).

    The cluster is that of RAY_ADDRESS, else the one of this machine. ConfigError where it has no such node.
    """
    address = os.environ.get("RAY_ADDRESS", "auto")
    ray, _ = connected(address, hint="export RAY_ADDRESS=HOST:PORT, as ray start --head prints it")
    here = [one for one in ray.nodes() if one["Alive"]]
    mine = [one for one in here if node in {one["NodeManagerAddress"], one["NodeName"]}]
    if not mine:
        names = ", ".join(str(one["NodeManagerAddress"]) for one in here)
        raise ConfigError(f"the Ray cluster has no node {node!r}", hint=f"one of {names}")
    place = {f"node:{mine[0]['NodeManagerAddress']}": _A_LITTLE}
    far = ray.remote(num_cpus=0, resources=place, max_concurrency=2)(Recorder).remote(list(arguments))
    threading.Thread(target=_carry_input, args=(ray, far), daemon=True).start()
    while data := ray.get(far.read.remote()):
        os.write(1, data)
    return int(ray.get(far.code.remote()))


def _carry_input(ray: Any, far: Any) -> None:
    while True:
        data = os.read(0, _CHUNK)
        ray.get(far.write.remote(data))
        if not data:
            return
