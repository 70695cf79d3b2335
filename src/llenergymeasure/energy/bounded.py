"""What if a driver never answers?"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from llenergymeasure.exceptions import EnergyError

T = TypeVar("T")


def bounded(call: Callable[[], T], seconds: float, *, what: str) -> T:
    """The result of `call`, or what it raises; EnergyError naming `what` when it takes longer.

    The call runs in a thread of its own. One that never returns is left behind in it: nothing can end a call
    into a driver that hangs.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:  # noqa: BLE001  it is raised again by the caller's thread
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise EnergyError(
            f"{what} did not answer within {seconds:.0f} s",
            hint="see whether the driver still works (nvidia-smi, dmesg), or choose another meter: --meter",
        )
    return results[0]
