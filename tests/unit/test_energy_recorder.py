from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pytest

from llenergymeasure.energy.recorder import Recorder
from llenergymeasure.energy.trace import PARQUET_NAME, STREAM_NAME, read_trace
from llenergymeasure.exceptions import EnergyError, ResultError
from llenergymeasure.records import Domain, Quantity, Sample, Window
from llenergymeasure.simulation.clock import VirtualClock

S = 1_000_000_000


class ScriptedMeter:
    """One power domain whose reads run `script` with the number of the read, and give what it returns."""

    def __init__(
        self, name: str, script: Callable[[int], int | None], clock: VirtualClock | None = None
    ) -> None:
        self._domain = Domain(name, "gpu", (Quantity("power_instant", "test", "W", 1.0),))
        self._script = script
        self._now = time.monotonic_ns if clock is None else clock.monotonic_ns
        self.reads = 0
        self.closed = 0

    def why_unavailable(self) -> str | None:
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.closed += 1

    def domains(self) -> Sequence[Domain]:
        return [self._domain]

    def sample(self) -> Sequence[Sample]:
        before_ns = self._now()
        number, self.reads = self.reads, self.reads + 1
        raw = self._script(number)
        if raw is None:
            return []
        return [Sample(self._domain.name, "power_instant", before_ns, self._now(), raw)]


def _until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_everything_read_is_in_the_trace_in_order(tmp_path: Path) -> None:
    meters = [ScriptedMeter("gpu:a", lambda n: n), ScriptedMeter("gpu:b", lambda n: 2 * n)]
    with Recorder(meters, clock=time, directory=tmp_path) as recorder:
        recorder.dense(True)
        _until(lambda: min(meter.reads for meter in meters) > 30)
        recorder.dense(False)
    trace = recorder.trace()
    for meter, factor in zip(meters, (1, 2), strict=True):
        series = trace.series[meter.domains()[0].name, "power_instant"]
        assert series.raw.tolist() == [factor * number for number in range(meter.reads)]
        assert np.all(np.diff(series.t_before_ns) > 0)
        assert meter.closed == 1
    assert recorder.samples == sum(meter.reads for meter in meters)
    assert trace.gaps == ()
    assert 0 < recorder.cpu_s < 1
    assert [path.name for path in tmp_path.iterdir()] == [PARQUET_NAME]


def test_a_trace_in_a_close_look_reaches_past_a_window_that_has_just_ended(tmp_path: Path) -> None:
    with Recorder([ScriptedMeter("gpu:a", lambda n: n)], clock=time, directory=tmp_path) as recorder:
        recorder.dense(True)
        end_ns = time.monotonic_ns()
        series = recorder.trace().series["gpu:a", "power_instant"]
        assert series.t_before_ns[0] < end_ns < series.t_before_ns[-1] - S // 10


def test_a_meter_that_raises_leaves_a_gap_and_the_others_alone(tmp_path: Path) -> None:
    def flaky(number: int) -> int:
        if 5 <= number < 10:
            raise RuntimeError("the bus is gone")
        return number

    broken, sound = ScriptedMeter("gpu:a", flaky), ScriptedMeter("gpu:b", lambda n: n)
    with Recorder([broken, sound], clock=time, directory=tmp_path) as recorder:
        recorder.dense(True)
        _until(lambda: broken.reads > 15)
    trace = recorder.trace()
    (gap,) = trace.gaps
    assert (gap.domain, gap.reason) == ("gpu:a", "RuntimeError: the bus is gone")
    raw = trace.series["gpu:a", "power_instant"].raw.tolist()
    assert raw == [number for number in range(broken.reads) if not 5 <= number < 10]
    assert trace.series["gpu:b", "power_instant"].raw.size == sound.reads


def test_a_meter_that_gives_nothing_to_the_end_leaves_a_gap_to_the_end(tmp_path: Path) -> None:
    meter = ScriptedMeter("gpu:a", lambda n: n if n < 3 else None)
    with Recorder([meter], clock=time, directory=tmp_path) as recorder:
        recorder.dense(True)
        _until(lambda: meter.reads > 6)
        (gap,) = recorder.trace().gaps
        end_ns = time.monotonic_ns()
    assert gap.window.end_ns <= end_ns
    (final,) = recorder.trace().gaps
    assert final.window.end_ns >= end_ns
    assert final.window.start_ns == gap.window.start_ns


def test_a_meter_that_blocks_holds_up_neither_the_others_nor_the_end(tmp_path: Path) -> None:
    release = threading.Event()

    def blocking(number: int) -> int:
        if number == 3:
            release.wait(60)
        return number

    stuck, sound = ScriptedMeter("gpu:a", blocking), ScriptedMeter("gpu:b", lambda n: n)
    recorder = Recorder([stuck, sound], clock=time, directory=tmp_path)
    recorder.start()
    recorder.dense(True)
    _until(lambda: stuck.reads == 4)
    blocked_ns = time.monotonic_ns()
    reads = sound.reads
    _until(lambda: sound.reads > reads + 40)
    _until(lambda: time.monotonic_ns() > blocked_ns + 1.2 * S)
    began = time.monotonic()
    recorder.stop()
    assert time.monotonic() - began < 4
    trace = recorder.trace()
    release.set()
    (gap,) = trace.gaps
    assert gap.domain == "gpu:a"
    assert gap.window.start_ns <= blocked_ns
    assert "took" in gap.reason
    assert trace.series["gpu:a", "power_instant"].raw.tolist() == [0, 1, 2]
    assert stuck.closed == 0
    assert sound.closed == 1


def test_a_close_look_is_closer_and_ends(tmp_path: Path) -> None:
    clock = VirtualClock()
    meter = ScriptedMeter("gpu:a", lambda n: n, clock)
    recorder = Recorder([meter], clock=clock, directory=tmp_path)
    recorder.start(threaded=False)
    counts = []
    with clock.every(recorder.tick_s, recorder.poll):
        for wanted in (False, True, False):
            recorder.dense(wanted)
            clock.sleep(0.5)
            before = meter.reads
            clock.sleep(10)
            counts.append(meter.reads - before)
        recorder.stop()
    assert counts[0] == pytest.approx(98, abs=3)
    assert counts[1] == pytest.approx(10 / 0.017, abs=3)
    assert counts[2] == pytest.approx(98, abs=3)
    assert recorder.trace().series["gpu:a", "power_instant"].raw.size == meter.reads


def test_a_slow_driver_keeps_most_of_its_time_for_the_workload(tmp_path: Path) -> None:
    clock = VirtualClock()

    def slow(number: int) -> int:
        clock.sleep(0.02)
        return number

    meter = ScriptedMeter("gpu:a", slow, clock)
    recorder = Recorder([meter], clock=clock, directory=tmp_path)
    recorder.start(threaded=False)
    recorder.dense(True)
    with clock.every(recorder.tick_s, recorder.poll):
        clock.sleep(10)
    assert meter.reads * 0.02 < 10 / 2.5
    recorder.stop()


def test_a_meter_that_can_not_be_opened_says_so_and_the_opened_ones_are_closed(tmp_path: Path) -> None:
    class Closed(ScriptedMeter):
        def __enter__(self) -> Self:
            raise EnergyError("no access")

    opened = ScriptedMeter("gpu:a", lambda n: n)
    with pytest.raises(EnergyError, match="no access"):
        Recorder([opened, Closed("gpu:b", lambda n: n)], clock=time, directory=tmp_path).start()
    assert opened.closed == 1


def test_an_error_in_the_body_comes_through_and_no_thread_is_left(tmp_path: Path) -> None:
    before = threading.active_count()
    meter = ScriptedMeter("gpu:a", lambda n: n)
    with pytest.raises(KeyboardInterrupt), Recorder([meter], clock=time, directory=tmp_path):
        raise KeyboardInterrupt
    assert threading.active_count() == before
    assert read_trace(tmp_path / STREAM_NAME).series["gpu:a", "power_instant"].raw.size == meter.reads


def test_a_folder_that_is_gone_is_an_error(tmp_path: Path) -> None:
    meter = ScriptedMeter("gpu:a", lambda n: n)
    with pytest.raises(ResultError, match="absent"):
        Recorder([meter], clock=time, directory=tmp_path / "absent").start()
    assert meter.closed == 1


KILLED = """
import sys, time
from pathlib import Path
from llenergymeasure.energy.nvml import NvmlMeter
from llenergymeasure.energy.recorder import Recorder
from llenergymeasure.simulation.device import SimulatedNvml
recorder = Recorder([NvmlMeter(SimulatedNvml(time, idle_w=60))], clock=time, directory=Path(sys.argv[1]))
recorder.start()
recorder.dense(True)
print(time.monotonic_ns(), flush=True)
time.sleep(60)
"""


def test_a_recorder_that_is_killed_leaves_all_but_its_last_second(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        start_ns = int(child.stdout.readline())
        time.sleep(2.6)
        child.send_signal(signal.SIGKILL)
        killed_ns = time.monotonic_ns()
    trace = read_trace(tmp_path / STREAM_NAME)
    series = trace.series["gpu:GPU-simulated-0", "energy"]
    read = Window(int(series.t_before_ns[0]), int(series.t_before_ns[-1]))
    assert read.start_ns < start_ns
    assert read.end_ns > killed_ns - 1.5 * S
