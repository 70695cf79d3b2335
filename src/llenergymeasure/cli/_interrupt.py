"""What do Ctrl-C and a request to end do while a command runs?"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def interruptible() -> Iterator[None]:
    """The first Ctrl-C raises KeyboardInterrupt; later ones only say so and leave the clean-up alone.

    SIGTERM and SIGHUP (a scheduler's time limit, a closed terminal) also clean up and exit with 128 +
    their number. The handlers of before are put back on leaving. Outside the main thread, where none can be
    set, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stopping = False

    def stop(number: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        if stopping:
            # not through sys.stderr, which the interrupted code may be in the middle of writing to
            os.write(2, b"already stopping\n")
            return
        stopping = True
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        os.write(2, f"Ended by {signal.Signals(number).name}\n".encode())
        raise SystemExit(128 + number)

    # What a caller has ignored (nohup does so with SIGHUP) stays ignored.
    heard = [number for number in _ENDING if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
