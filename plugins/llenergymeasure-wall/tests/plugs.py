"""Plugs that answer as their makers' documentation says: Shelly's Switch.GetStatus, Tasmota's Status 8."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(slots=True)
class Plug:
    """Draws `watts` and counts them in steps of `step_s`; `replaced` is what it says instead."""

    kind: str = "shelly"
    watts: float = 240.0
    step_s: float = 0.1
    status: int = 200
    replaced: Any = None
    since: float = field(default_factory=time.monotonic)
    asked: list[str] = field(default_factory=list)

    def answer(self, path: str) -> tuple[int, Any]:
        self.asked.append(path)
        if self.status != 200:
            return self.status, {}
        seconds = time.monotonic() - self.since
        counted_wh = 1_234.5 + self.watts * (seconds - seconds % self.step_s) / 3600
        said: dict[str, Any] = {}
        if self.kind == "shelly" and path == "/rpc/Switch.GetStatus?id=0":
            energy = {"total": round(counted_wh, 3), "by_minute": [0.0, 0.0, 0.0], "minute_ts": 1_764_000_000}
            said = {
                "id": 0, "source": "init", "output": True, "apower": self.watts, "voltage": 231.2,
                "current": 1.04, "aenergy": energy, "temperature": {"tC": 41.3, "tF": 106.3},
            }  # fmt: skip
        if self.kind == "tasmota" and path == "/cm?cmnd=Status%208":
            energy = {
                "TotalStartTime": "2026-01-01T00:00:00",
                "Total": counted_wh / 1000,
                "Power": self.watts,
            }
            said = {"StatusSNS": {"Time": "2026-11-30T00:00:00", "ENERGY": {**energy, "Voltage": 231}}}
        if not said:
            return 404, {"code": 404, "message": "No handler"}
        return 200, said if self.replaced is None else self.replaced


@contextmanager
def plugged_in(plug: Plug) -> Iterator[str]:
    """The address at which `plug` answers."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, said = plug.answer(self.path)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(said if isinstance(said, bytes) else json.dumps(said).encode())

        def log_message(self, *said: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
