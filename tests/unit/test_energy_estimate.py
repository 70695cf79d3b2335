from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from llenergymeasure.energy.cgroup import Cgroups
from llenergymeasure.energy.cpu_power import microarchitectures, power_model
from llenergymeasure.energy.estimate import EstimateMeter

BURN = "import time\nwhile time.process_time() < {seconds}: pass\n"
TREE = """
import subprocess, sys
children = [subprocess.Popen([sys.executable, "-c", {burn!r}]) for _ in range({count})]
print([child.wait() for child in children], flush=True)
sys.stdin.read()
"""


def _start(code: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def _busy_s(meter: EstimateMeter) -> float:
    return next(sample.raw for sample in meter.sample() if sample.quantity == "cpu_time") / 1e9


def _watched_to_the_end(seconds: float, count: int, processes: list[subprocess.Popen[bytes]]) -> float:
    """CPU seconds that the meter saw of `count` processes that each burn `seconds`."""
    with EstimateMeter(lambda: [process.pid for process in started]) as meter:
        started = [_start(BURN.format(seconds=seconds)) for _ in range(count)]
        processes += started
        while any(process.poll() is None for process in started):
            busy_s = _busy_s(meter)
            time.sleep(0.02)
    return busy_s


def test_two_busy_processes_read_twice_as_much_as_one(processes: list[subprocess.Popen[bytes]]) -> None:
    one = _watched_to_the_end(0.5, 1, processes)
    two = _watched_to_the_end(0.5, 2, processes)
    assert one == pytest.approx(0.5, abs=0.1)
    assert two >= 1.8 * one


def test_seconds_of_children_that_exited_are_counted_once(processes: list[subprocess.Popen[bytes]]) -> None:
    code = TREE.format(burn=BURN.format(seconds=0.4), count=2)
    with EstimateMeter(lambda: [root.pid]) as meter:
        root = _start(code)
        processes.append(root)
        seen = []
        while root.stdout is not None and not _ready(root):
            seen.append(_busy_s(meter))
            time.sleep(0.02)
        seen += [_busy_s(meter) for _ in range(3)]
    assert seen == sorted(seen)
    # Three interpreters start and stop beside the two that burn 0.4 s each.
    assert 0.8 <= seen[-1] <= 1.15


def test_children_that_nobody_saw_are_counted_when_their_parent_reaps_them(
    processes: list[subprocess.Popen[bytes]],
) -> None:
    with EstimateMeter(lambda: [root.pid]) as meter:
        root = _start(TREE.format(burn=BURN.format(seconds=0.4), count=1))
        processes.append(root)
        before = _busy_s(meter)
        while not _ready(root):
            time.sleep(0.02)
        assert _busy_s(meter) - before >= 0.39


def test_a_root_that_was_killed_keeps_its_seconds(processes: list[subprocess.Popen[bytes]]) -> None:
    with EstimateMeter(lambda: [root.pid]) as meter:
        root = _start(BURN.format(seconds=30))
        processes.append(root)
        while _busy_s(meter) < 0.3:
            time.sleep(0.02)
        before = _busy_s(meter)
        root.send_signal(signal.SIGKILL)
        root.communicate()
        assert _busy_s(meter) >= before


def test_what_a_process_used_before_the_meter_opened_is_left_out(
    processes: list[subprocess.Popen[bytes]],
) -> None:
    root = _start(TREE.format(burn=BURN.format(seconds=0.4), count=1))
    processes.append(root)
    while not _ready(root):
        time.sleep(0.02)
    with EstimateMeter(lambda: [root.pid]) as meter:
        assert _busy_s(meter) < 0.05


def test_no_process_and_a_process_that_is_gone_read_nothing() -> None:
    with EstimateMeter(list) as meter:
        assert [sample.raw for sample in meter.sample()] == [0, 0]
    with EstimateMeter(lambda: [2**22 + 1]) as meter:
        assert [sample.raw for sample in meter.sample()] == [0, 0]


class Cgroup:
    """A cgroup with a process in it, as the kernel shows it; ours is another one."""

    def __init__(self, directory: Path, pid: int) -> None:
        self.kernel = Cgroups(directory / "cgroup", directory / "proc")
        self.place = directory / "cgroup" / "job"
        self.place.mkdir(parents=True)
        (directory / "cgroup" / "cpu.stat").write_text("usage_usec 99000000\n")
        self.hold(pid)
        self.use(100.0)
        (directory / "proc" / str(pid)).mkdir(parents=True)
        (directory / "proc" / str(pid) / "cgroup").write_text("1:name=systemd:/x\n0::/job\n")

    def hold(self, *pids: int) -> None:
        (self.place / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))

    def use(self, seconds: float) -> None:
        (self.place / "cpu.stat").write_text(f"usage_usec {round(seconds * 1e6)}\nuser_usec 1\n")


def test_a_cgroup_of_their_own_counts_what_no_look_at_processes_saw(
    tmp_path: Path, processes: list[subprocess.Popen[bytes]]
) -> None:
    root = _start("import sys; print(1, flush=True); sys.stdin.read()")
    processes.append(root)
    while not _ready(root):
        time.sleep(0.02)
    cgroup = Cgroup(tmp_path, root.pid)
    with EstimateMeter(lambda: [root.pid], cgroups=cgroup.kernel) as meter:
        assert _busy_s(meter) < 0.05
        cgroup.use(107.5)
        assert _busy_s(meter) == pytest.approx(7.5, abs=0.05)
        (cgroup.place / "cpu.stat").unlink()
        assert _busy_s(meter) == pytest.approx(7.5, abs=0.05)


def test_a_cgroup_that_is_shared_does_not_count(
    tmp_path: Path, processes: list[subprocess.Popen[bytes]]
) -> None:
    root = _start("import sys; sys.stdin.read()")
    processes.append(root)
    cgroup = Cgroup(tmp_path, root.pid)
    cgroup.hold(root.pid, os.getpid())
    with EstimateMeter(lambda: [root.pid], cgroups=cgroup.kernel) as meter:
        _busy_s(meter)
        cgroup.use(200)
        assert _busy_s(meter) < 1


def test_a_wall_clock_that_jumps_by_an_hour_changes_nothing(
    processes: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    old = _start(TREE.format(burn=BURN.format(seconds=0.3), count=1))
    processes.append(old)
    while not _ready(old):
        time.sleep(0.02)
    real = time.time
    started = [old]
    for hours in (-1, 1):
        with EstimateMeter(lambda: [process.pid for process in started]) as meter:
            before = _busy_s(meter)
            monkeypatch.setattr(time, "time", lambda hours=hours: real() + 3600 * hours)
            new = _start(BURN.format(seconds=0.3))
            started.append(new)
            processes.append(new)
            while new.poll() is None:
                busy_s = _busy_s(meter)
                time.sleep(0.02)
            assert before < 0.05
            assert busy_s == pytest.approx(0.3, abs=0.1)
        monkeypatch.setattr(time, "time", real)


def test_resident_memory_is_that_of_the_process(processes: list[subprocess.Popen[bytes]]) -> None:
    root = _start("import sys\nheld = b'x' * 200_000_000\nprint(1, flush=True)\nsys.stdin.read()")
    processes.append(root)
    while not _ready(root):
        time.sleep(0.02)
    with EstimateMeter(lambda: [root.pid]) as meter:
        resident = next(sample.raw for sample in meter.sample() if sample.quantity == "resident")
    assert 200_000_000 < resident < 240_000_000


def _ready(process: subprocess.Popen[bytes]) -> bool:
    """Whether it has printed something."""
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    return bool(process.stdout.read())


def _cpuinfo(vendor: str, family: int, model: int, *, stepping: int = 1, flags: str = "fpu") -> str:
    return (
        f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: {model}\n"
        f"model name\t: Something\nstepping\t: {stepping}\nflags\t\t: {flags}\n"
    )


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        (_cpuinfo("GenuineIntel", 6, 143), ["Sapphire Rapids"]),
        (_cpuinfo("GenuineIntel", 6, 85, stepping=4), ["Skylake"]),
        (_cpuinfo("GenuineIntel", 6, 85, stepping=7), ["Cascade Lake"]),
        (_cpuinfo("GenuineIntel", 6, 85, stepping=11), []),
        (_cpuinfo("AuthenticAMD", 25, 1), ["EPYC 3rd generation"]),
        (_cpuinfo("AuthenticAMD", 25, 17), ["EPYC 4th generation"]),
        (_cpuinfo("AuthenticAMD", 25, 33), []),
        (_cpuinfo("GenuineIntel", 6, 167, flags="fpu amx_tile"), ["Sapphire Rapids", "Emerald Rapids"]),
        (_cpuinfo("GenuineIntel", 6, 167), []),
        ("processor\t: 0\nCPU implementer\t: 0x41\n", []),
        ("", []),
    ],
)
def test_the_cpu_is_known_by_its_numbers(cpuinfo: str, expected: list[str]) -> None:
    assert microarchitectures(cpuinfo) == expected


def test_the_model_of_power_spans_what_the_cpu_may_be() -> None:
    known = power_model(_cpuinfo("GenuineIntel", 6, 143))
    assert known.w_per_busy_vcpu == 4.16
    assert known.w_per_busy_vcpu_range == pytest.approx((4.16 - 1.04, 2 * 4.16))
    unknown = power_model("")
    assert unknown.w_per_busy_vcpu == 3.76
    assert unknown.w_per_busy_vcpu_range == pytest.approx((1.69 - 0.47, 2 * 8.96))
    assert "not in the table" in unknown.name
    assert unknown.w_per_byte_range == pytest.approx((0.19e-9, 0.54e-9))
