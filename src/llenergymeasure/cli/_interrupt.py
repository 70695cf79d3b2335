"""What does Ctrl-C do while a command runs?"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interruptible() -> Iterator[None]:
    """The first Ctrl-C raises KeyboardInterrupt; later ones only say so, lest they cut the clean-up short.

    The handler of before is put back on leaving. Outside the main thread, where none can be set, it does
    nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stopping = False

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        if stopping:
            # not through sys.stderr, which the interrupted code may be in the middle of writing to
            os.write(2, b"already stopping\n")
            return
        stopping = True
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
