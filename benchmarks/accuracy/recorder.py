"""What does recording cost, in CPU time and memory, while it stays as accurate as promised?

python -m benchmarks.accuracy.recorder [--quick]
"""

from __future__ import annotations

import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from llenergymeasure.energy.integrate import energy_between
from llenergymeasure.energy.nvml import NvmlMeter
from llenergymeasure.energy.recorder import Recorder
from llenergymeasure.records import Trace, Window
from llenergymeasure.simulation.clock import VirtualClock
from llenergymeasure.simulation.device import SimulatedNvml, SimulatedSensor

S = 1_000_000_000
LOAD_W = 400.0
STEPS_S = (0.02, 0.05, 0.1)
# What is asked for: the recorder's own share of a core, beside calls that wait 1 ms; seconds per poll of
# eight devices; relative errors at constant load; bytes of memory in a day.
OWN_SHARE = 0.01
POLL_S = 0.001
ERRORS = {1: 0.006, 5: 0.0015}
EIGHT_ERROR = 0.005
MEMORY_BYTES = 200_000_000


@dataclass(frozen=True, slots=True)
class Row:
    """One figure in words, what was to be reached, and whether it was (None where nothing was asked)."""

    name: str
    target: str
    figure: str
    passed: bool | None


def rows(*, quick: bool = False) -> list[Row]:
    """Every figure; about three minutes on the real clock and two more for the day, quick a minute in all."""
    seconds = 6.0 if quick else 20.0
    found: list[Row] = []
    for step_s in STEPS_S:
        found += _one_device(step_s, seconds=seconds)
    found += _several_devices(seconds=seconds)
    found.append(_poll_of_eight(200 if quick else 1000))
    found += _eight_slow_devices(3 if quick else 6)
    found.append(_memory(hours=1 if quick else 24))
    return found


def _boards(step_s: float, latency_s: float, *, count: int, jitter_s: float = 0.0) -> SimulatedNvml:
    """Boards at constant load on the real clock, each with a phase of its own."""
    draw = random.Random(f"{step_s} {count}")
    nvml = SimulatedNvml(time, idle_w=LOAD_W, uuids=[f"GPU-{number}" for number in range(count)])
    for number, gpu in enumerate(nvml.gpus):
        gpu.sensor = SimulatedSensor(
            step_s=step_s,
            phase_s=draw.uniform(0, step_s),
            step_jitter_s=jitter_s,
            latency_s=latency_s,
            seed=number,
        )
    return nvml


@contextmanager
def _recording(nvml: SimulatedNvml) -> Iterator[Recorder]:
    with tempfile.TemporaryDirectory() as directory:
        recorder = Recorder([NvmlMeter(nvml)], clock=time, directory=Path(directory))
        with recorder:
            yield recorder


@dataclass(frozen=True, slots=True)
class _Cost:
    own: float
    driver: float
    fields_per_s: float
    window: Window
    trace: Trace


def _watched(nvml: SimulatedNvml, *, seconds: float) -> _Cost:
    """A close look of so many seconds, its shares of a core, and what it recorded."""
    with _recording(nvml) as recorder:
        time.sleep(3)
        recorder.dense(True)
        time.sleep(1.5)
        cpu_s, driver_s, samples = recorder.cpu_s, recorder.driver_cpu_s, recorder.samples
        start_ns = time.monotonic_ns()
        time.sleep(seconds)
        end_ns = time.monotonic_ns()
        driver_s = recorder.driver_cpu_s - driver_s
        own_s = recorder.cpu_s - cpu_s - driver_s
        samples = recorder.samples - samples
        trace = recorder.trace()
    spent_s = (end_ns - start_ns) / S
    return _Cost(own_s / spent_s, driver_s / spent_s, samples / spent_s, Window(start_ns, end_ns), trace)


def _worst(cost: _Cost, seconds: int, *, count: int = 100) -> float:
    """The largest relative error over random windows of this length within the look, over all boards."""
    draw = random.Random(seconds)
    names = [domain.name for domain in cost.trace.domains]
    errors = []
    for _ in range(count):
        start_ns = draw.randrange(cost.window.start_ns, cost.window.end_ns - seconds * S)
        window = Window(start_ns, start_ns + seconds * S)
        read = [energy_between(cost.trace, window, name).energy.value for name in names]
        if None in read:
            return float("inf")
        errors.append(sum(value or 0.0 for value in read) / (LOAD_W * seconds * len(names)) - 1)
    return max(map(abs, errors))


def _cost_row(name: str, cost: _Cost) -> Row:
    figure = f"{cost.own:.2%} of a core of its own, {cost.driver:.2%} in the driver"
    return Row(name, f"< {OWN_SHARE:.0%} of its own", figure, cost.own < OWN_SHARE)


def _error_row(name: str, error: float, limit: float) -> Row:
    return Row(name, f"≤ {limit:.2%}", f"{error:.3%}", error <= limit)


def _one_device(step_s: float, *, seconds: float) -> list[Row]:
    cost = _watched(_boards(step_s, 0.001, count=1), seconds=seconds)
    what = f"one device, T = {1000 * step_s:.0f} ms, calls of 1 ms"
    errors = [
        _error_row(f"{what}: worst of 100 windows of {length} s", _worst(cost, length), limit)
        for length, limit in ERRORS.items()
    ]
    return [_cost_row(f"{what}: {cost.fields_per_s:.0f} fields a second", cost), *errors]


def _several_devices(*, seconds: float) -> list[Row]:
    cost = _watched(_boards(0.1, 0.001, count=8), seconds=seconds)
    what = "eight devices, T = 100 ms, calls of 1 ms"
    return [
        _cost_row(f"{what}: {cost.fields_per_s:.0f} fields a second", cost),
        _error_row(f"{what}: total, worst of 100 windows of 5 s", _worst(cost, 5), EIGHT_ERROR),
    ]


def _poll_of_eight(count: int) -> Row:
    """One read of each of eight devices that answer at once, driver's time apart."""
    clock = VirtualClock()
    nvml = SimulatedNvml(clock, idle_w=LOAD_W, uuids=[f"GPU-{number}" for number in range(8)])
    with tempfile.TemporaryDirectory() as directory:
        recorder = Recorder([NvmlMeter(nvml, clock=clock)], clock=clock, directory=Path(directory))
        recorder.start(threaded=False)
        cpu_s, driver_s = recorder.cpu_s, recorder.driver_cpu_s
        for _ in range(count):
            clock.sleep(0.5)
            recorder.dense(True)
            recorder.poll()
        own_s = (recorder.cpu_s - cpu_s - recorder.driver_cpu_s + driver_s) / count
        recorder.stop()
    return Row(
        "one poll of eight devices, beyond the driver",
        f"< {1000 * POLL_S:.0f} ms",
        f"{1000 * own_s:.2f} ms",
        own_s < POLL_S,
    )


def _eight_slow_devices(count: int) -> list[Row]:
    """Eight boards whose every call takes 20 ms: idle to load and back, several times."""
    nvml = _boards(0.1, 0.02, count=8, jitter_s=0.002)
    windows = []
    with _recording(nvml) as recorder:
        for index in range(8):
            nvml.set_power(60.0, index=index)
        time.sleep(10)
        for _ in range(count):
            time.sleep(1.5)
            recorder.dense(True)
            time.sleep(0.3)
            for index in range(8):
                nvml.set_power(LOAD_W, index=index)
            start_ns = time.monotonic_ns()
            time.sleep(5)
            windows.append(Window(start_ns, time.monotonic_ns()))
            for index in range(8):
                nvml.set_power(60.0, index=index)
            recorder.dense(False)
        time.sleep(2)
        trace = recorder.trace()
    errors = []
    for window in windows:
        read = [energy_between(trace, window, domain.name).energy.value for domain in trace.domains]
        truth = sum(nvml.true_energy_j(window, index=index) for index in range(8))
        errors.append(float("inf") if None in read else sum(value or 0.0 for value in read) / truth - 1)
    worst = max(map(abs, errors))
    what = f"eight devices, 20 ms per call, idle to load: total, worst of {count} windows of 5 s"
    return [_error_row(what, worst, EIGHT_ERROR)]


def _memory(*, hours: int) -> Row:
    command = [sys.executable, "-m", "benchmarks.accuracy.recorder", "--day", str(hours)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    grown, peak = (int(number) for number in done.stdout.split())
    return Row(
        f"a close look of {hours} h (virtual clock), with a trace of its last minute and the file's closing",
        f"< {MEMORY_BYTES // 1_000_000} MB",
        f"{peak / 1e6:.0f} MB, of which {grown / 1e6:.0f} MB after its start",
        peak < MEMORY_BYTES,
    )


def day(hours: int) -> tuple[int, int]:
    """Record for so long: by how much memory grew since the start, and its highest, in bytes."""
    clock = VirtualClock()
    nvml = SimulatedNvml(clock, idle_w=LOAD_W, sensor=replace(SimulatedSensor(), step_jitter_s=0.001))
    with tempfile.TemporaryDirectory() as directory:
        recorder = Recorder([NvmlMeter(nvml, clock=clock)], clock=clock, directory=Path(directory))
        recorder.start(threaded=False)
        recorder.dense(True)
        before = _peak_bytes()
        end_ns = clock.monotonic_ns() + hours * 3600 * S
        while clock.monotonic_ns() < end_ns:
            clock.sleep_until(recorder.due_ns)
            recorder.poll()
        with clock.every(recorder.tick_s, recorder.poll):
            window = Window(end_ns - 61 * S, end_ns - S)
            trace = recorder.trace(windows=[window])
            error = abs((energy_between(trace, window, "gpu:GPU-simulated-0").energy.value or 0) / 24_000 - 1)
            recorder.stop()
    if error > ERRORS[5]:
        raise ValueError(f"the last minute of the day is {error:.2%} off")
    return _peak_bytes() - before, _peak_bytes()


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(arguments: Sequence[str]) -> int:
    if arguments[:1] == ["--day"]:
        print(*day(int(arguments[1])))
        return 0
    found = rows(quick="--quick" in arguments)
    for row in found:
        verdict = {True: "met", False: "NOT MET", None: ""}[row.passed]
        print(f"{verdict:8}{row.name}: {row.figure} (asked: {row.target})")
    return int(any(row.passed is False for row in found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
