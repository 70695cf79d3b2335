"""llem's Monitor, as a script of one's own uses it: a block where power is constant around a window, and a
plain window amid work.
"""

from __future__ import annotations

import os
import sys
import time

from windows import Seen, between_silences, planned, say, timely, wait_until

from llenergymeasure import EnergyError, Monitor

# A block begins when its silence is over: as long before, and a moment for the recorder to answer.
_SILENCE_NS = 900_000_000


def run() -> None:
    silent = between_silences()
    due = [(index, begin - _SILENCE_NS * silent[index], length) for index, begin, length in planned()]
    begins = {index: begin for index, begin, _ in planned()}
    # No process works on these boards, so that those in use would be none.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    with Monitor(gpus=[visible] if visible else "all", meter="nvml") as monitor:
        for index, length_ns in timely(due):
            with monitor.block(f"{index}") if silent[index] else monitor.window(f"{index}"):
                started_ns = time.monotonic_ns()
                wait_until(max(begins[index], started_ns) + length_ns)
    for one in monitor.result.windows:
        (at,) = one.occurrences
        energy = one.energy
        say(Seen(int(one.name), at.start_ns, at.end_ns, energy.value, energy.low, energy.high, energy.reason))


try:
    run()
except EnergyError as error:
    sys.exit(f"EnergyError: {error}")
