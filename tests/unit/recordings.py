"""Recordings of own code as they would be read back, on a board whose power is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from benchmarks.boards.polled import poll_times, polled

from llenergymeasure.analysis.windows import windows_result
from llenergymeasure.records import (
    Environment,
    Marked,
    MeterChoice,
    Overhead,
    Recording,
    Start,
    Trace,
    Window,
)
from llenergymeasure.results.windows import NamedWindows, WindowsResult
from llenergymeasure.simulation.sensor import COUNTER, SimulatedSensor
from llenergymeasure.simulation.waveform import Waveform

S = 1_000_000_000
WHOLE = Window(10 * S, 70 * S)
HERE = Environment("host", "os", "kernel", "3.11", "0.9.0", "cpu", 2, 1, None, None, None, None, None, (), {})


def seen_by(power: Waveform, sensor: SimulatedSensor | None = None, *, poll_ms: int = 4) -> Trace:
    sensor = sensor or SimulatedSensor(fields=frozenset({COUNTER}))
    return polled(power, sensor, poll_times(WHOLE, poll_ms * 1_000_000))


def recording(trace: Trace, marked: Sequence[Marked], **changes: Any) -> Recording:
    made = Recording(
        experiment_id="20260101T000000-x-windows-abc",
        kind="windows",
        program=("python", "x.py"),
        energy=MeterChoice(gpus="all"),
        started=Start("2026-01-01T00:00:00+00:00", WHOLE.start_ns, None),
        environment=HERE,
        whole=Window(11 * S, 69 * S),
        marked=tuple(marked),
        trace=trace,
        overhead=Overhead(0.1, 10, 0.2),
    )
    return replace(made, **changes)


def made(trace: Trace, marked: Sequence[Marked], **changes: Any) -> WindowsResult:
    return windows_result(recording(trace, marked, **changes))


def at(name: str, start_s: float, seconds: float, *, silent_s: float = 0.0, **facts: Any) -> Marked:
    start_ns, end_ns = round(start_s * S), round((start_s + seconds) * S)
    silence_ns = round(silent_s * S)
    silences = (Window(start_ns - silence_ns, start_ns), Window(end_ns, end_ns + silence_ns))
    return Marked(name, Window(start_ns, end_ns), silences if silent_s else None, **facts)


def only(result: WindowsResult) -> NamedWindows:
    (one,) = result.windows
    return one
