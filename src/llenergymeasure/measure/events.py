"""Every message of the protocol as it passed, so that a result can be computed again."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Literal

EVENTS_NAME = "events.jsonl"


class EventLog:
    """One JSON object a line: `t_ns` when the parent sent or received it, `from`, and the `message`."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    def write(self, sender: Literal["parent", "worker"], line: bytes) -> None:
        head = json.dumps({"t_ns": time.monotonic_ns(), "from": sender})
        self._file.write(head[:-1].encode() + b', "message": ' + line.strip() + b"}\n")

    def close(self) -> None:
        self._file.close()
