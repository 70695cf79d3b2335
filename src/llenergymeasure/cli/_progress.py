"""How do a run's phases show on a progress bar?"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from llenergymeasure.records import Progress

_KNOWN_END = "{desc} {bar:30} {n:.0f} of {total:.0f} s"
_OPEN_END = "{desc}, {n:.0f} s"


@contextmanager
def following(bar: tqdm[Any]) -> Iterator[Progress]:
    """A callback that gives the bar each phase's name and seconds; in between it ticks once a second."""
    started = time.monotonic()
    bar.leave = False

    def show(elapsed: float) -> None:
        # an estimate that is overrun stays full
        bar.n = elapsed if bar.total is None else min(elapsed, bar.total)
        bar.refresh()

    def progress(description: str, *, done: float | None = None, total: float | None = None) -> None:
        nonlocal started
        started = time.monotonic() - (done or 0.0)
        bar.bar_format = _OPEN_END if total is None else _KNOWN_END
        bar.total = total
        bar.n = done or 0.0
        bar.set_description_str(description, refresh=False)
        bar.refresh()

    def tick() -> None:
        while not stop.wait(1.0):
            show(time.monotonic() - started)

    if bar.disable:
        yield progress
        return
    stop = threading.Event()
    ticker = threading.Thread(target=tick, name="llem-progress", daemon=True)
    ticker.start()
    try:
        yield progress
    finally:
        stop.set()
        ticker.join()
