"""The other plain baseline: read the power every 100 ms, and join the points with straight lines."""

from __future__ import annotations

import threading
import time
from itertools import pairwise

import pynvml
from windows import measure

PERIOD_S = 0.1

pynvml.nvmlInit()
handle = pynvml.nvmlDeviceGetHandleByIndex(0)


class Sampling:
    def __init__(self) -> None:
        self.points: list[tuple[float, float]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._read()
        self._thread.start()

    def _read(self) -> None:
        self.points.append((time.monotonic(), pynvml.nvmlDeviceGetPowerUsage(handle) / 1000))

    def _run(self) -> None:
        while not self._stop.wait(PERIOD_S):
            self._read()

    def joules(self) -> float:
        self._stop.set()
        self._thread.join()
        self._read()
        return sum((t1 - t0) * (w0 + w1) / 2 for (t0, w0), (t1, w1) in pairwise(self.points))


measure(Sampling, Sampling.joules)
