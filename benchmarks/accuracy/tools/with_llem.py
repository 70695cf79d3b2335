"""llem, as a run of it does: the recorder goes on throughout, and windows are integrated afterwards."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from windows import Seen, planned, say, timely, wait_until

from llenergymeasure.energy import Meter
from llenergymeasure.energy.integrate import energy_between
from llenergymeasure.energy.nvml import NvmlMeter
from llenergymeasure.energy.recorder import Recorder
from llenergymeasure.exceptions import EnergyError
from llenergymeasure.records import Window


def run(meters: Sequence[Meter]) -> None:
    windows: list[tuple[int, Window]] = []
    with tempfile.TemporaryDirectory() as directory:
        with Recorder(meters, clock=time, directory=Path(directory)) as recorder:
            recorder.dense(True)
            for index, length_ns in timely(planned()):
                begin_ns = time.monotonic_ns()
                wait_until(begin_ns + length_ns)
                windows.append((index, Window(begin_ns, time.monotonic_ns())))
        trace = recorder.trace()
    for index, window in windows:
        parts = [energy_between(trace, window, domain.name).energy for domain in trace.domains]
        part = parts[0]  # one board is visible in every case
        assert len(parts) == 1, parts
        say(Seen(index, window.start_ns, window.end_ns, part.value, part.low, part.high, part.reason))


try:
    run([NvmlMeter()])
except EnergyError as error:
    sys.exit(f"EnergyError: {error}")
