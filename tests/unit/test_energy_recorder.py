from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pytest

from llenergymeasure.energy import Meter
from llenergymeasure.energy.bounded import bounded
from llenergymeasure.energy.joules.amid import window_energy
from llenergymeasure.energy.meters.nvml import NvmlMeter
from llenergymeasure.energy.recording import recorder as recorder_module
from llenergymeasure.energy.recording.pacing import quiet_s
from llenergymeasure.energy.recording.recorder import Recorder
from llenergymeasure.energy.recording.trace import PARQUET_NAME, STREAM_NAME, read_trace
from llenergymeasure.exceptions import EnergyError, ResultError
from llenergymeasure.records import Domain, PowerModel, Quantity, Sample, Window
from llenergymeasure.simulation.clock import VirtualClock
from llenergymeasure.simulation.device import SimulatedNvml, SimulatedSensor

S = 1_000_000_000


class ScriptedMeter:
    """One power domain whose reads run `script` with the number of the read, and give what it returns."""

    def __init__(
        self, name: str, script: Callable[[int], int | None], clock: VirtualClock | None = None
    ) -> None:
        self._domain = Domain(name, "gpu", (Quantity("power_instant", "test", "W", 1.0),))
        self._script = script
        self._now = time.monotonic_ns if clock is None else clock.monotonic_ns
        self.period_s: float | None = None
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


def test_a_look_reads_at_once_whatever_is_not_read_densely(tmp_path: Path) -> None:
    slow, quick = (ScriptedMeter(name, lambda n: n) for name in ("gpu:a", "gpu:b"))
    slow.period_s = 30.0
    with Recorder([slow, quick], clock=time, directory=tmp_path) as recorder:
        recorder.dense(True)
        begun_ns = time.monotonic_ns()
        recorder.look()
        ended_ns = time.monotonic_ns()
        assert slow.reads == 2
    assert ended_ns - begun_ns < S // 10
    series = recorder.trace().series["gpu:a", "power_instant"]
    assert begun_ns <= series.t_before_ns[1] <= series.t_after_ns[1] <= ended_ns


def test_a_look_does_not_wait_for_a_driver_that_blocks(tmp_path: Path) -> None:
    release = threading.Event()
    stuck = ScriptedMeter("gpu:a", lambda n: n if n < 1 else release.wait(60))
    with Recorder([stuck], clock=time, directory=tmp_path) as recorder:
        begun = time.monotonic()
        recorder.look()
        assert time.monotonic() - begun < 0.5
        release.set()


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
    assert counts == pytest.approx([200, 500, 200], abs=3)
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
from llenergymeasure.energy.meters.nvml import NvmlMeter
from llenergymeasure.energy import Meter
from llenergymeasure.energy.recording import recorder as recorder_module
from llenergymeasure.energy.bounded import bounded
from llenergymeasure.energy.meters.nvml import NvmlMeter
from llenergymeasure.energy.recording.recorder import Recorder
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


class Rig:
    """Boards on virtual time under a recorder; what is near a moment is asked of the trace."""

    def __init__(self, directory: Path, sensor: SimulatedSensor, *uuids: str) -> None:
        self.clock = VirtualClock()
        self.nvml = SimulatedNvml(self.clock, idle_w=60, sensor=sensor, uuids=uuids or ("GPU-a",))
        self.recorder = Recorder(
            [NvmlMeter(self.nvml, clock=self.clock)], clock=self.clock, directory=directory
        )
        self.recorder.start(threaded=False)

    def silence(self) -> Window:
        """As long as the recorder finds it too short."""
        start_ns = self.clock.monotonic_ns()
        while not self.recorder.quiet_enough(start_ns):
            self.clock.sleep(0.01)
        return Window(start_ns, self.clock.monotonic_ns())

    def brackets_ms(self, window: Window, *, uuid: str = "GPU-a") -> list[float]:
        """How closely each step in `window` was caught."""
        series = self.recorder.trace().series[f"gpu:{uuid}", "energy"]
        moved = np.flatnonzero(np.diff(series.raw)) + 1
        low, high = series.t_before_ns[moved - 1], series.t_after_ns[moved]
        inside = (low >= window.start_ns) & (high <= window.end_ns)
        return [float(width) for width in (high - low)[inside] / 1e6]


@pytest.mark.parametrize("step_ms", [20, 50, 100])
@pytest.mark.parametrize("jitter_ms", [0, 2])
def test_every_step_in_a_silence_is_known_to_3_ms_and_three_of_them_end_it(
    tmp_path: Path, step_ms: int, jitter_ms: int
) -> None:
    sensor = SimulatedSensor(
        step_s=step_ms / 1e3, phase_s=0.0123, step_jitter_s=jitter_ms / 1e3, latency_s=0.001
    )
    rig = Rig(tmp_path, sensor)
    with rig.clock.every(rig.recorder.tick_s, rig.recorder.poll):
        rig.clock.sleep(1)
        rig.recorder.dense(True)
        silence = rig.silence()
        rig.recorder.dense(False)
        rig.clock.sleep(1)
        rig.recorder.stop()
    assert silence.duration_s == pytest.approx(0.4, abs=0.02)
    widths = rig.brackets_ms(silence)
    assert len(widths) >= 3
    assert max(widths) <= 6.0


def test_a_silence_waits_for_a_counter_that_steps_slowly_and_not_for_one_that_is_stuck(
    tmp_path: Path,
) -> None:
    slow, stuck = SimulatedSensor(step_s=0.5), SimulatedSensor(counter_stuck=True)
    for number, (sensor, seconds) in enumerate([(slow, 1.5), (stuck, 3.0)]):
        (tmp_path / str(number)).mkdir()
        rig = Rig(tmp_path / str(number), sensor)
        with rig.clock.every(rig.recorder.tick_s, rig.recorder.poll):
            rig.recorder.dense(True)
            assert rig.silence().duration_s == pytest.approx(seconds, abs=0.02)
        rig.recorder.stop()


def test_far_from_silences_a_board_is_read_every_50_ms_and_eight_share_forty_reads_a_second(
    tmp_path: Path,
) -> None:
    for uuids, each in ((("GPU-a",), 20), (tuple(f"GPU-{n}" for n in range(8)), 5)):
        (tmp_path / uuids[0]).mkdir()
        rig = Rig(tmp_path / uuids[0], SimulatedSensor(step_s=0.1, phase_s=0.03), *uuids)
        with rig.clock.every(rig.recorder.tick_s, rig.recorder.poll):
            rig.clock.sleep(20)
            rig.recorder.stop()
        reads = [rig.recorder.trace().series[f"gpu:{uuid}", "energy"].raw.size for uuid in uuids]
        assert reads == pytest.approx([20 * each] * len(uuids), abs=3)


def _domain(*quantities: Quantity, model: PowerModel | None = None) -> Domain:
    return Domain("gpu:a", "gpu", quantities, model=model)


COUNTER = Quantity("energy", "test", "J", 1e-3)
QUICK_COUNTER = Quantity("energy", "test", "J", 1e-3, step_ns=1_000_000)
INSTANT = Quantity("power_instant", "test", "W", 1e-3)
MEAN = Quantity("power_average", "test", "W", 1e-3)
MODEL = PowerModel("a model", "nobody", 1.0, (0.5, 2.0), 0.0, (0.0, 0.0))


@pytest.mark.parametrize(
    ("domain", "silence_s"),
    [
        (_domain(COUNTER, INSTANT, MEAN), (0.4, 0.15)),
        (_domain(QUICK_COUNTER), (0.05, 0.002)),
        (_domain(INSTANT, MEAN), (0.5, 0.35)),
        (_domain(MEAN), (1.25, 1.25)),
        (_domain(replace(MEAN, window_ns=800_000_000, lag_ns=100_000_000)), (0.9, 0.9)),
        (_domain(Quantity("cpu_time", "test", "s", 1e-9), model=MODEL), (0.0, 0.0)),
    ],
)
def test_a_silence_is_as_long_as_the_source_needs(domain: Domain, silence_s: tuple[float, float]) -> None:
    assert quiet_s(domain) == pytest.approx(silence_s)


def test_the_slowest_source_says_how_long_a_silence_is_and_without_any_there_is_none(tmp_path: Path) -> None:
    recorder = Recorder([], clock=time, directory=tmp_path)
    recorder.start(threaded=False)
    assert recorder.quiet_s == (0.0, 0.0)
    assert recorder.quiet_enough(time.monotonic_ns())
    recorder.stop()
    meters: list[Meter] = [
        NvmlMeter(SimulatedNvml(time, idle_w=60)),
        ScriptedMeter("gpu:a", lambda n: n),
        ScriptedMeter("gpu:b", lambda n: n),
    ]
    recorder = Recorder(meters, clock=time, directory=tmp_path)
    recorder.start(threaded=False)
    assert recorder.quiet_s == (0.5, 0.35)
    recorder.stop()


def test_a_trace_around_windows_is_as_good_as_the_whole_and_much_less(tmp_path: Path) -> None:
    rig = Rig(tmp_path, SimulatedSensor(step_s=0.1, phase_s=0.03))
    window = Window(300 * S, 303 * S)
    with rig.clock.every(0.005, rig.recorder.poll):
        rig.clock.sleep(600)
        whole = rig.recorder.trace()
        near = rig.recorder.trace(windows=[window])
        rig.recorder.stop()
    few, all_ = (window_energy(trace, "gpu:GPU-a", window) for trace in (near, whole))
    assert few.joules == pytest.approx(all_.joules, rel=1e-9)
    assert few.half_width_j == pytest.approx(all_.half_width_j, rel=1e-9)
    stored = rig.recorder.trace(windows=[window])
    assert window_energy(stored, "gpu:GPU-a", window).joules == few.joules
    key = ("gpu:GPU-a", "energy")
    assert near.series[key].raw.size < 0.05 * whole.series[key].raw.size
    assert rig.recorder.trace(windows=[Window(900 * S, 901 * S)]).series == {}
    assert rig.recorder.trace(windows=[]).series == {}


def test_the_buffer_holds_a_second_however_long_the_run(tmp_path: Path) -> None:
    rig = Rig(tmp_path, SimulatedSensor(step_s=0.02))
    rig.recorder.dense(True)
    longest = 0
    with rig.clock.every(0.005, rig.recorder.poll):
        for _ in range(120):
            rig.clock.sleep(0.97)
            longest = max(longest, len(rig.recorder._rows))
        rig.recorder.stop()
    assert 0 < longest < 4 * 4 * 300


class Hanging(ScriptedMeter):
    """It never opens, or never says what it sees."""

    def __init__(self, where: str, release: threading.Event) -> None:
        super().__init__("gpu:h", lambda n: n)
        self._where = where
        self._release = release

    def __enter__(self) -> Self:
        if self._where == "enter":
            self._release.wait(60)
        return self

    def domains(self) -> Sequence[Domain]:
        if self._where == "domains":
            self._release.wait(60)
        return super().domains()


@pytest.mark.parametrize("where", ["enter", "domains"])
def test_a_meter_that_hangs_while_it_is_opened_is_named_and_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(recorder_module, "_OPEN_S", 0.2)
    release = threading.Event()
    sound = ScriptedMeter("gpu:a", lambda n: n)
    with pytest.raises(EnergyError, match="the meter Hanging did not answer"):
        Recorder([sound, Hanging(where, release)], clock=time, directory=tmp_path).start()
    assert sound.closed == 1
    release.set()


def test_two_meters_that_see_the_same_are_refused(tmp_path: Path) -> None:
    meters = [ScriptedMeter("gpu:a", lambda n: n) for _ in range(2)]
    with pytest.raises(EnergyError, match="reads gpu:a, which another meter reads already"):
        Recorder(meters, clock=time, directory=tmp_path).start()
    assert [meter.closed for meter in meters] == [1, 1]


def test_what_a_bounded_call_returns_or_raises_comes_through() -> None:
    assert bounded(lambda: 3, 5, what="it") == 3
    with pytest.raises(ZeroDivisionError):
        bounded(lambda: 1 // 0, 5, what="it")
    release = threading.Event()
    with pytest.raises(EnergyError, match="it did not answer within 0 s"):
        bounded(lambda: release.wait(60), 0.05, what="it")
    release.set()


class OneBlocks(SimulatedNvml):
    """A driver that does not come back from a call about its first board."""

    release: threading.Event | None = None

    def nvmlDeviceGetFieldValues(self, handle: object, fieldIds: object) -> list[object]:  # type: ignore[override]  # noqa: N802, N803
        if self.release is not None and handle is self.gpus[0]:
            self.release.wait(60)
        return super().nvmlDeviceGetFieldValues(handle, fieldIds)  # type: ignore[arg-type, return-value]


def test_a_board_that_blocks_holds_up_no_other_board_of_its_meter(tmp_path: Path) -> None:
    nvml = OneBlocks(time, idle_w=60, uuids=("GPU-a", "GPU-b"))
    recorder = Recorder([NvmlMeter(nvml)], clock=time, directory=tmp_path)
    recorder.start()
    nvml.release = release = threading.Event()
    time.sleep(1.6)
    recorder.stop()
    trace = recorder.trace()
    release.set()
    assert {gap.domain for gap in trace.gaps} == {"gpu:GPU-a"}
    assert all("took" in gap.reason for gap in trace.gaps)
    last_ns = [int(trace.series[f"gpu:GPU-{one}", "energy"].t_after_ns[-1]) for one in "ab"]
    assert last_ns[1] - last_ns[0] > 1.2 * S


def test_the_drivers_share_of_its_cpu_time_is_told_apart(tmp_path: Path) -> None:
    class Busy(SimulatedNvml):
        def nvmlDeviceGetFieldValues(self, handle: object, fieldIds: object) -> list[object]:  # type: ignore[override]  # noqa: N802, N803
            until_ns = time.thread_time_ns() + 2_000_000
            while time.thread_time_ns() < until_ns:
                pass
            return super().nvmlDeviceGetFieldValues(handle, fieldIds)  # type: ignore[arg-type, return-value]

    with Recorder([NvmlMeter(Busy(time, idle_w=60))], clock=time, directory=tmp_path) as recorder:
        recorder.dense(True)
        time.sleep(1)
    reads = recorder.samples / 4
    assert recorder.driver_cpu_s > 0.0015 * reads
    assert recorder.driver_cpu_s < recorder.cpu_s < recorder.driver_cpu_s + 0.15


@pytest.mark.parametrize("garbage", [None, "junk", [1], "raw", "large", "unknown"])
def test_a_meter_that_gives_garbage_leaves_a_gap_and_the_others_alone(
    tmp_path: Path, garbage: object
) -> None:
    domain = Domain("host", "host", (Quantity("power_usage", "plug-in", "W", 1.0),))

    class Garbage:
        def why_unavailable(self) -> str | None:
            return None

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def domains(self) -> Sequence[Domain]:
            return [domain]

        def sample(self) -> Any:
            now_ns = time.monotonic_ns()
            if garbage == "raw":
                wrong: Any = 3.7
                return [Sample("host", "power_usage", now_ns, now_ns, wrong)]
            if garbage == "large":
                return [Sample("host", "power_usage", now_ns, now_ns, 2**70)]
            if garbage == "unknown":
                return [Sample("nowhere", "power_usage", now_ns, now_ns, 1)]
            return garbage

    good = NvmlMeter(SimulatedNvml(time, idle_w=60.0))
    with Recorder([Garbage(), good], clock=time, directory=tmp_path) as recorder:
        time.sleep(1.5)
    trace = recorder.trace()
    assert any("the meter returned" in gap.reason for gap in trace.gaps if gap.domain == "host")
    assert ("host", "power_usage") not in trace.series
    assert trace.series["gpu:GPU-simulated-0", "energy"].raw.size > 5


def test_a_trace_can_be_read_from_its_first_moment_on(tmp_path: Path) -> None:
    recorder = Recorder([NvmlMeter(SimulatedNvml(time, idle_w=60.0))], clock=time, directory=tmp_path)
    recorder.start(threaded=False)
    found = read_trace(tmp_path / "power.arrow")
    assert [one.name for one in found.domains] == ["gpu:GPU-simulated-0"]
    recorder.stop()
