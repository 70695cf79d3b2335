"""What does recording cost, in CPU time and memory?

python -m benchmarks.accuracy.recorder [--quick]
"""

from __future__ import annotations

import os
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.boards.amdsmi import SimulatedAmdSmi
from benchmarks.boards.rapl import SimulatedRapl, intel_zones
from llenergymeasure.energy import Meter
from llenergymeasure.energy.meters.amd import AmdMeter
from llenergymeasure.energy.meters.cgroup import Cgroups
from llenergymeasure.energy.meters.estimate import EstimateMeter
from llenergymeasure.energy.meters.nvml import NvmlMeter
from llenergymeasure.energy.meters.rapl import RaplMeter
from llenergymeasure.energy.recording.recorder import Recorder
from llenergymeasure.records import Trace, Window
from llenergymeasure.simulation.clock import VirtualClock
from llenergymeasure.simulation.device import SimulatedNvml, SimulatedSensor
from llenergymeasure.simulation.waveform import Waveform

S = 1_000_000_000
LOAD_W = 400.0
# Passes of a block by default, and how long each lasts.
PASSES, PASS_S = 3, 5.0
# What is asked for: the recorder's own share of a core beside the driver's part; bytes of memory in a day.
OWN_SHARE = 0.01
MEMORY_BYTES = 200_000_000
_FIELDS = (83, 186, 185)


@dataclass(frozen=True, slots=True)
class Row:
    """One figure in words, what was to be reached, and whether it was (None where nothing was asked)."""

    name: str
    target: str
    figure: str
    passed: bool | None


@dataclass(frozen=True, slots=True)
class _Case:
    """A meter, and what its driver is asked at each moment at which the recorder reads a domain."""

    name: str
    meter: Meter
    bare: Callable[[str], object]


def rows(*, quick: bool = False) -> list[Row]:
    """Every figure; about six minutes, quick two."""
    found = [cost(case, blocks=1 if quick else 3) for case in _cases()]
    found.append(_memory(hours=1 if quick else 24))
    return found


def cost_rows(*, quick: bool = False) -> list[Row]:
    return [cost(case, blocks=1 if quick else 3) for case in _cases()]


def _cases() -> Iterator[_Case]:
    for step_s in (0.02, 0.05, 0.1):
        yield _nvml_case(f"NVML, one board, T = {1000 * step_s:.0f} ms", _boards(step_s, count=1))
    yield _nvml_case("NVML, eight boards, T = 100 ms", _boards(0.1, count=8))
    power_only = _boards(0.1, count=1, fields=frozenset({186, 185}))
    yield _nvml_case("NVML, one board without a counter", power_only)
    with _rapl() as case:
        yield case
    amdsmi = SimulatedAmdSmi(time, idle_w=LOAD_W)
    amdsmi.amdsmi_init()
    board = amdsmi.amdsmi_get_processor_handles()[0]

    def asked(_: str) -> object:
        amdsmi.amdsmi_init()  # the meter has closed it by then
        return amdsmi.amdsmi_get_energy_count(board), amdsmi.amdsmi_get_power_info(board)

    yield _Case("AMD, one board", AmdMeter(amdsmi), asked)
    nowhere = Cgroups(Path("/nonexistent"))
    with _tree(8) as pids:
        meter = EstimateMeter(lambda: pids[:1], cgroups=nowhere)
        yield _Case("CPU model, a tree of nine processes", meter, _proc_of(pids))
        if (cgroup := Cgroups().make()) is None:
            return
        for pid in pids:
            cgroup.take_in(pid)
        yield _Case(
            "CPU model, nine processes in a cgroup",
            EstimateMeter(lambda: pids[:1]),
            lambda _: cgroup.used_s(),
        )
        cgroup.remove()


def _nvml_case(name: str, nvml: SimulatedNvml) -> _Case:
    nvml.nvmlInit()
    handles = {f"gpu:{gpu.uuid}": nvml.nvmlDeviceGetHandleByIndex(at) for at, gpu in enumerate(nvml.gpus)}
    return _Case(
        name, NvmlMeter(nvml), lambda domain: nvml.nvmlDeviceGetFieldValues(handles[domain], list(_FIELDS))
    )


def _boards(step_s: float, *, count: int, fields: frozenset[int] = frozenset(_FIELDS)) -> SimulatedNvml:
    """Boards at constant load on the real clock, each with a phase of its own; calls wait 1 ms."""
    draw = random.Random(f"{step_s} {count}")
    nvml = SimulatedNvml(time, idle_w=LOAD_W, uuids=[f"GPU-{number}" for number in range(count)])
    for number, gpu in enumerate(nvml.gpus):
        gpu.sensor = SimulatedSensor(
            step_s=step_s, phase_s=draw.uniform(0, step_s), latency_s=0.001, fields=fields, seed=number
        )
    return nvml


@contextmanager
def _rapl() -> Iterator[_Case]:
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        powers = [Waveform(LOAD_W / 2) for _ in range(4)]
        with SimulatedRapl(time, root, intel_zones(powers[:2], dram=powers[2:])):
            counters = {
                f"{kind}:{number}": os.open(root / f"intel-rapl:{number}{zone}" / "energy_uj", os.O_RDONLY)
                for kind, zone in (("cpu", ""), ("dram", ":1"))
                for number in range(2)
            }
            yield _Case(
                "RAPL, two packages and their memory",
                RaplMeter(root),
                lambda domain: int(os.pread(counters[domain], 32, 0)),
            )
            for counter in counters.values():
                os.close(counter)


@contextmanager
def _tree(children: int) -> Iterator[list[int]]:
    """A process and its children, which do nothing; the pid of the root first."""
    code = (
        "import subprocess, sys, os\n"
        f"them = [subprocess.Popen(['sleep', '600']) for _ in range({children})]\n"
        "print(os.getpid(), *(one.pid for one in them), flush=True)\n"
        "sys.stdin.read()\n"
        "for one in them: one.kill(); one.wait()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as root:
        assert root.stdout is not None
        yield [int(pid) for pid in root.stdout.readline().split()]
        root.communicate()


def _proc_of(pids: Sequence[int]) -> Callable[[str], object]:
    def read(_: str) -> object:
        return [Path(f"/proc/{pid}/{name}").read_bytes() for pid in pids for name in ("stat", "statm")]

    return read


def cost(case: _Case, *, blocks: int) -> Row:
    """Blocks between silences, as the harness has them: the recorder's share of a core, its driver's part,
    and how many times as much as the bare calls take at the same moments.
    """
    with tempfile.TemporaryDirectory() as directory:
        recorder = Recorder([case.meter], clock=time, directory=Path(directory))
        with recorder:
            time.sleep(1)
            cpu_s, driver_s, start_ns = recorder.cpu_s, recorder.driver_cpu_s, time.monotonic_ns()
            for _ in range(blocks):
                _silence(recorder, more_s=0.0)
                for _ in range(PASSES):
                    recorder.edge()
                    time.sleep(PASS_S)
                _silence(recorder, more_s=recorder.quiet_s[1])
            seconds = (time.monotonic_ns() - start_ns) / S
            driver_s = recorder.driver_cpu_s - driver_s
            spent_s = recorder.cpu_s - cpu_s
        bare_s = _bare_s(recorder.trace(), case.bare, since_ns=start_ns)
    own = (spent_s - driver_s) / seconds
    figure = (
        f"{own:.2%} of a core of its own, {driver_s / seconds:.2%} in the driver, "
        f"{spent_s / bare_s:.1f} times the bare calls"
    )
    return Row(case.name, f"≤ {OWN_SHARE:.0%} of a core", figure, own <= OWN_SHARE)


def _silence(recorder: Recorder, *, more_s: float) -> None:
    if recorder.quiet_s[0]:
        recorder.dense(True)
        time.sleep(more_s)
        since_ns = time.monotonic_ns()
        while not recorder.quiet_enough(since_ns):
            time.sleep(0.02)
        recorder.dense(False)
    recorder.look()


def _bare_s(trace: Trace, ask: Callable[[str], object], *, since_ns: int) -> float:
    """CPU seconds of threads that do nothing but ask at the moments at which the recorder read, one each."""
    reads = {}
    for (domain, quantity), series in trace.series.items():
        if quantity in {"energy", "cpu_time", "power_instant"}:
            reads[domain] = [int(at) for at in series.t_before_ns if at >= since_ns]
    delay_ns = time.monotonic_ns() - since_ns
    spent_s = []

    def at_those(domain: str) -> None:
        for at_ns in reads[domain]:
            left_ns = at_ns + delay_ns - time.monotonic_ns()
            if left_ns > 0:
                time.sleep(left_ns / S)
            ask(domain)
        spent_s.append(time.thread_time())

    threads = [threading.Thread(target=at_those, args=(domain,)) for domain in reads]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(spent_s)


def _memory(*, hours: int) -> Row:
    command = [sys.executable, "-m", "benchmarks.accuracy.recorder", "--day", str(hours)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    grown, peak = (int(number) for number in done.stdout.split())
    return Row(
        f"memory: {hours} h on the virtual clock, with a trace of its last minute and the file's closing",
        f"< {MEMORY_BYTES // 1_000_000} MB",
        f"{peak / 1e6:.0f} MB, of which {grown / 1e6:.0f} MB after its start",
        peak < MEMORY_BYTES,
    )


def day(hours: int) -> tuple[int, int]:
    """Record so long, densely: by how much memory grew since the start, and its highest, in bytes."""
    clock = VirtualClock()
    nvml = SimulatedNvml(clock, idle_w=LOAD_W)
    with tempfile.TemporaryDirectory() as directory:
        recorder = Recorder([NvmlMeter(nvml, clock=clock)], clock=clock, directory=Path(directory))
        recorder.start(threaded=False)
        recorder.dense(True)
        before = _peak_bytes()
        end_ns = clock.monotonic_ns() + hours * 3600 * S
        while clock.monotonic_ns() < end_ns:
            clock.sleep_until(recorder.due_ns)
            recorder.poll()
        recorder.trace(windows=[Window(end_ns - 60 * S, end_ns)])
        recorder.stop()
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
        print(f"{verdict:8}{row.name}: {row.figure} (asked: {row.target})", flush=True)
    return int(any(row.passed is False for row in found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
