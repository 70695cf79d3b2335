"""llem: the recorder goes on throughout, and energies are computed afterwards.

A window with constant power before and after is a block between two silences, as a run of llem has them; any
other one is a window amid work.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from windows import Seen, between_silences, planned, say, timely, wait_until

from llenergymeasure.energy import Meter
from llenergymeasure.energy.joules.amid import window_energy
from llenergymeasure.energy.joules.pool import estimate
from llenergymeasure.energy.joules.silence import block_energy
from llenergymeasure.energy.meters.nvml import NvmlMeter
from llenergymeasure.energy.recording.recorder import Recorder
from llenergymeasure.exceptions import EnergyError
from llenergymeasure.records import Estimate, Trace, Window


def run(meters: Sequence[Meter]) -> None:
    windows: list[tuple[int, Window]] = []
    with tempfile.TemporaryDirectory() as directory:
        with Recorder(meters, clock=time, directory=Path(directory)) as recorder:
            recorder.dense(True)
            silence_ns = round(sum(recorder.quiet_s) * 1e9)
            for index, length_ns in timely(planned()):
                begin_ns = time.monotonic_ns()
                wait_until(begin_ns + length_ns)
                windows.append((index, Window(begin_ns, time.monotonic_ns())))
            wait_until(time.monotonic_ns() + silence_ns)
        trace = recorder.trace()
    silent = between_silences()
    (domain,) = trace.domains  # one board is visible in every case
    for index, window in windows:
        part = energy(trace, domain.name, window, silence_ns if silent[index] else None)
        say(Seen(index, window.start_ns, window.end_ns, part.value, part.low, part.high, part.reason))


def energy(trace: Trace, domain: str, window: Window, silence_ns: int | None) -> Estimate:
    if silence_ns is None:
        return estimate(window_energy(trace, domain, window))
    before = Window(window.start_ns - silence_ns, window.start_ns)
    after = Window(window.end_ns, window.end_ns + silence_ns)
    return estimate(block_energy(trace, domain, before=before, passes=[window], after=after))


try:
    run([NvmlMeter()])
except EnergyError as error:
    sys.exit(f"EnergyError: {error}")
