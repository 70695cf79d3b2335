from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from llenergymeasure.energy.meters import estimate
from llenergymeasure.energy.meters.cgroup import Cgroup, Cgroups
from llenergymeasure.energy.meters.cpu_power import microarchitectures, power_model
from llenergymeasure.energy.meters.estimate import EstimateMeter

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


# Each burns what its argument says in processes that no longer hang below their parent, then prints.
ESCAPES = {
    "double fork": "if not os.fork(): burn() if not os.fork() else os._exit(0)",
    "double fork and setsid": "if not os.fork(): (os.setsid(), burn()) if not os.fork() else os._exit(0)",
    "SIGCHLD ignored": "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\nif not os.fork(): burn()",
    "grandchild of an exited child": (
        "child = os.fork()\n"
        "if not child: burn() if not os.fork() else (time.sleep(0.5), os._exit(0))\n"
        "os.waitpid(child, 0)"
    ),
}
ESCAPING = """
import os, signal, sys, time
from llenergymeasure.measure.launch import adopt_orphans
def burn():
    while time.process_time() < {seconds}: pass
    os.write(write, b"x")
    time.sleep({lingers})
    os._exit(0)
adopt_orphans()
print("ready", flush=True)
sys.stdin.readline()
read, write = os.pipe()
{escape}
os.read(read, 1)
print("done", flush=True)
time.sleep(60)
"""
NOWHERE = Cgroups(Path("/nonexistent"))


def _escaping(how: str, *, seconds: float, lingers: float) -> subprocess.Popen[bytes]:
    code = ESCAPING.format(escape=ESCAPES[how], seconds=seconds, lingers=lingers)
    root = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert root.stdout is not None
    assert root.stdout.readline() == b"ready\n"
    return root


def _go(root: subprocess.Popen[bytes]) -> None:
    assert root.stdin is not None
    root.stdin.write(b"\n")
    root.stdin.flush()


def _grown_by(meter: EstimateMeter, root: subprocess.Popen[bytes]) -> float:
    before = _busy_s(meter)
    _go(root)
    while not _ready(root):
        _busy_s(meter)
        time.sleep(0.05)
    return _busy_s(meter) - before


@pytest.mark.parametrize("how", ESCAPES)
def test_processes_that_lost_their_parent_are_counted_by_their_adopter(
    how: str, processes: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "_RESCAN_NS", 100_000_000)
    root = _escaping(how, seconds=0.8, lingers=0.5)
    processes.append(root)
    with EstimateMeter(lambda: [root.pid], cgroups=NOWHERE) as meter:
        assert _grown_by(meter, root) == pytest.approx(0.8, abs=0.15)
        # The orphan ends, and what it had used stays.
        time.sleep(0.7)
        assert _busy_s(meter) >= 0.7


@pytest.fixture
def cgroup() -> Iterator[Cgroup]:
    made = Cgroups().make()
    if made is None:
        pytest.skip("no cgroup can be made here")
    yield made
    made.remove()
    assert not made.directory.exists()


@pytest.mark.parametrize("how", ESCAPES)
def test_a_cgroup_of_their_own_counts_processes_that_nobody_saw(
    how: str, processes: list[subprocess.Popen[bytes]], cgroup: Cgroup
) -> None:
    root = _escaping(how, seconds=0.4, lingers=0.0)
    processes.append(root)
    assert cgroup.take_in(root.pid)
    with EstimateMeter(lambda: [root.pid]) as meter:
        before = _busy_s(meter)
        _go(root)
        while not _ready(root):
            time.sleep(0.02)
        assert _busy_s(meter) - before == pytest.approx(0.4, abs=0.08)


def test_a_cgroup_is_taken_away_with_all_that_is_in_it(
    processes: list[subprocess.Popen[bytes]], cgroup: Cgroup
) -> None:
    root = _escaping("double fork and setsid", seconds=0.1, lingers=600)
    processes.append(root)
    cgroup.take_in(root.pid)
    _go(root)
    while not _ready(root):
        time.sleep(0.02)
    assert len(cgroup.pids()) == 2
    cgroup.remove()
    assert not cgroup.directory.exists()
    assert cgroup.used_s() is None


def test_what_a_killed_process_left_is_taken_away_by_the_next(cgroup: Cgroup) -> None:
    left = cgroup.directory.with_name(f"llem-{2**22 + 1}-abc")
    left.mkdir()
    again = Cgroups().make()
    assert again is not None
    again.remove()
    assert not left.exists()
    assert cgroup.directory.exists()


def test_where_no_cgroup_can_be_made_the_meter_says_what_it_does_not_see() -> None:
    (note,) = EstimateMeter(list, cgroups=NOWHERE).notes
    assert "SIGCHLD" in note


class Kernel:
    """A process in a cgroup, as the kernel shows both; version 2 or cpuacct of version 1."""

    def __init__(self, directory: Path, pid: int, *, version: int) -> None:
        point = directory / "cgroup"
        self.cgroups = Cgroups(directory / "proc")
        self._version = version
        self._place = point / "job"
        self._place.mkdir(parents=True)
        for one in ("self", str(pid)):
            (directory / "proc" / one).mkdir(parents=True)
        kind = "cgroup2 none rw" if version == 2 else "cgroup none rw,cpu,cpuacct"
        other = f"30 20 0:9 / {directory} rw - tmpfs tmpfs rw"
        (directory / "proc" / "self" / "mountinfo").write_text(
            f"{other}\n31 30 0:27 /slice {point} rw,nosuid shared:1 - {kind}\n"
        )
        line = "0::/slice/job" if version == 2 else "4:cpu,cpuacct:/slice/job"
        (directory / "proc" / str(pid) / "cgroup").write_text(f"1:name=systemd:/x\n{line}\n")
        self.hold(pid)
        self.use(100.0)

    def hold(self, *pids: int) -> None:
        (self._place / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))

    def use(self, seconds: float) -> None:
        if self._version == 2:
            (self._place / "cpu.stat").write_text(f"usage_usec {round(seconds * 1e6)}\nuser_usec 1\n")
        else:
            (self._place / "cpuacct.usage").write_text(f"{round(seconds * 1e9)}\n")

    def forget(self) -> None:
        for name in ("cpu.stat", "cpuacct.usage"):
            (self._place / name).unlink(missing_ok=True)


@pytest.mark.parametrize("version", [1, 2])
def test_a_cgroup_that_somebody_else_made_counts_where_nobody_else_is_in_it(
    tmp_path: Path, processes: list[subprocess.Popen[bytes]], version: int
) -> None:
    root = _start("import sys; print(1, flush=True); sys.stdin.read()")
    processes.append(root)
    while not _ready(root):
        time.sleep(0.02)
    kernel = Kernel(tmp_path, root.pid, version=version)
    with EstimateMeter(lambda: [root.pid], cgroups=kernel.cgroups) as meter:
        assert _busy_s(meter) < 0.05
        kernel.use(107.5)
        assert _busy_s(meter) == pytest.approx(7.5, abs=0.05)
        kernel.forget()
        assert _busy_s(meter) == pytest.approx(7.5, abs=0.05)


def test_a_cgroup_that_is_shared_does_not_count(
    tmp_path: Path, processes: list[subprocess.Popen[bytes]]
) -> None:
    root = _start("import sys; sys.stdin.read()")
    processes.append(root)
    kernel = Kernel(tmp_path, root.pid, version=2)
    kernel.hold(root.pid, os.getpid())
    with EstimateMeter(lambda: [root.pid], cgroups=kernel.cgroups) as meter:
        _busy_s(meter)
        kernel.use(200)
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


def _cpuinfo(vendor: str, family: int, model: int, *, stepping: int | str = 1, flags: str = "fpu") -> str:
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
        (_cpuinfo("GenuineIntel", 6, 85, stepping="unknown"), ["Skylake", "Cascade Lake"]),
        (_cpuinfo("GenuineIntel", 6, 85, stepping="unknown", flags="avx512_vnni"), ["Cascade Lake"]),
        (_cpuinfo("GenuineIntel", 6, 143, stepping="unknown"), ["Sapphire Rapids"]),
        ("processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd4f\n", []),
        ("processor\t: 0\nhart\t: 0\nisa\t: rv64imafdc\n", []),
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
