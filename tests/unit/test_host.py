"""What processors and memory a process may use, from folders that look like /proc and /sys/fs/cgroup."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llenergymeasure.host.cgroups import cpu_quota, memory_left_bytes, memory_limit_bytes, throttling
from llenergymeasure.host.machine import (
    cpu_name,
    memory_available_bytes,
    memory_total_bytes,
    processors,
    processors_s,
    read_cpuinfo,
    threads,
)
from llenergymeasure.host.processes import lineage, trees
from llenergymeasure.measure.conditions import quota_s, swapped_bytes
from llenergymeasure.measure.environment import environment
from llenergymeasure.records import Throttling
from llenergymeasure.simulation.clock import VirtualClock

GB = 10**9
NONE_OF_V1 = 9223372036854771712


class Container:
    """A /proc whose process is in the cgroup `path`, of which `top` is mounted, by version 2 or 1."""

    def __init__(self, root: Path, *, version: int = 2, path: str = "/pod/app", top: str = "/") -> None:
        self.proc, self.point = root / "proc", root / "cgroup"
        own = self.proc / "self"
        own.mkdir(parents=True)
        self.point.mkdir()
        if version == 2:
            groups, mounts = f"0::{path}\n", [("cgroup2", "rw", self.point)]
        else:
            names = ("cpu,cpuacct", "memory")
            groups = "".join(f"{number}:{name}:{path}\n" for number, name in enumerate(names, start=2))
            mounts = [("cgroup", f"rw,{name}", self.point / name) for name in names]
        (own / "cgroup").write_text(groups)
        (own / "mountinfo").write_text(
            "".join(
                f"3{number} 2 0:2{number} {top} {point} rw,nosuid - {kind} cgroup {options}\n"
                for number, (kind, options, point) in enumerate(mounts)
            )
        )
        self.files(self.proc, meminfo="MemTotal: 64000000 kB\nMemAvailable: 50000000 kB\n")

    def files(self, directory: Path, **contents: object) -> None:
        """`cpu__max` stands for the file `cpu.max`."""
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            (directory / name.replace("__", ".")).write_text(f"{content}\n")


# Processors


@pytest.mark.parametrize(
    ("limit", "expected"), [("150000 100000", 1.5), ("max 100000", 8.0), ("1600000 100000", 8.0)]
)
def test_a_quota_of_version_2_counts_beside_the_affinity(tmp_path: Path, limit: str, expected: float) -> None:
    box = Container(tmp_path)
    box.files(box.point / "pod" / "app", cpu__max=limit)
    assert processors(proc=box.proc, allowed=range(8)) == expected
    assert threads(proc=box.proc, allowed=range(8)) == int(expected)


@pytest.mark.parametrize(("quota_us", "expected"), [(50_000, 0.5), (-1, 4.0)])
def test_a_quota_of_version_1_counts_too(tmp_path: Path, quota_us: int, expected: float) -> None:
    box = Container(tmp_path, version=1)
    box.files(
        box.point / "cpu,cpuacct" / "pod" / "app", cpu__cfs_quota_us=quota_us, cpu__cfs_period_us=100_000
    )
    assert processors(proc=box.proc, allowed=range(4)) == expected
    assert threads(proc=box.proc, allowed=range(4)) == max(1, int(expected))


def test_the_tightest_quota_of_all_levels_holds(tmp_path: Path) -> None:
    box = Container(tmp_path)
    box.files(box.point / "pod", cpu__max="100000 100000", cpu__stat="usage_usec 7000000")
    box.files(box.point / "pod" / "app", cpu__max="400000 100000", cpu__stat="usage_usec 5000000")
    quota = cpu_quota(proc=box.proc)
    assert quota is not None
    assert (quota.processors, quota.directory, quota.used_s()) == (1.0, box.point / "pod", 7.0)
    clock = VirtualClock(start_ns=20 * GB)
    assert quota_s(proc=box.proc, clock=clock) == (7.0, 20.0)


@pytest.mark.parametrize(
    ("path", "top"),
    [("/", "/"), ("/docker/abc", "/docker/abc"), ("/docker/abc", "/"), ("/../other", "/"), ("/x", "/y")],
)
def test_the_container_sees_its_own_cgroup_as_the_root_of_the_mount(
    tmp_path: Path, path: str, top: str
) -> None:
    box = Container(tmp_path, path=path, top=top)
    box.files(box.point, cpu__max="50000 100000", memory__max=GB)
    assert processors(proc=box.proc, allowed=range(8)) == 0.5
    assert memory_limit_bytes(total=64 * GB, proc=box.proc) == GB


@pytest.mark.parametrize(
    ("version", "stat"),
    [
        (2, "usage_usec 9\nnr_periods 200\nnr_throttled 31\nthrottled_usec 1500000"),
        (1, "nr_periods 200\nnr_throttled 31\nthrottled_time 1500000000"),
    ],
)
def test_throttled_periods_are_read_in_either_version(tmp_path: Path, version: int, stat: str) -> None:
    box = Container(tmp_path, version=version)
    place = (box.point if version == 2 else box.point / "cpu,cpuacct") / "pod" / "app"
    assert throttling(proc=box.proc) is None
    limit = {"cpu__max": "50000 100000"} if version == 2 else {}
    box.files(place, cpu__cfs_quota_us=50_000, cpu__cfs_period_us=100_000, cpu__stat=stat, **limit)
    assert throttling(proc=box.proc) == Throttling(200, 31, 1.5)


def test_busy_time_is_that_of_the_processors_that_may_be_used(tmp_path: Path) -> None:
    box = Container(tmp_path)
    ticks = os.sysconf("SC_CLK_TCK")
    lines = ["cpu  0 0 0 0 0 0 0 0 0 0"]
    # user nice system idle iowait irq softirq steal guest guest_nice
    lines += [f"cpu0 {2 * ticks} 0 {ticks} {6 * ticks} {ticks} 0 0 0 {2 * ticks} 0"]
    lines += [f"cpu1 0 0 0 {10 * ticks} 0 0 0 0 0 0", "intr 1"]
    box.files(box.proc, stat="\n".join(lines))
    assert processors_s(proc=box.proc, allowed={0}) == (3.0, 10.0)
    assert processors_s(proc=box.proc, allowed={0, 1}) == (3.0, 20.0)


@pytest.mark.parametrize("stat", ["", "cpu  0 0 0 0 0 0 0 0 0 0\ncpu0 0 0 0 0 0 0 0 0 0 0"])
def test_a_kernel_that_hides_its_busy_time_is_unknown_and_never_idle(tmp_path: Path, stat: str) -> None:
    box = Container(tmp_path)
    if stat:
        box.files(box.proc, stat=stat)
    assert processors_s(proc=box.proc, allowed={0}) is None


def test_affinity_counts_in_a_real_process() -> None:
    code = "from llenergymeasure.host import machine as m; print(m.processors(), m.processors_s())"
    one = min(os.sched_getaffinity(0))
    done = subprocess.run(
        [sys.executable, "-c", f"import os; os.sched_setaffinity(0, {{{one}}}); {code}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert float(done.stdout.split()[0]) <= 1.0
    whole = processors_s(allowed=os.sched_getaffinity(0))
    assert whole is not None
    total = float(done.stdout.split()[2].rstrip(")"))
    assert total == pytest.approx(whole[1] / len(os.sched_getaffinity(0)), rel=0.05)


# Memory


@pytest.mark.parametrize(
    ("version", "names"),
    [
        (2, ("memory.max", "memory.current", "active_file {}\ninactive_file {}")),
        (
            1,
            (
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                "active_file 1\ninactive_file 1\ntotal_active_file {}\ntotal_inactive_file {}",
            ),
        ),
    ],
)
def test_a_memory_limit_leaves_what_is_not_used_and_what_files_hold(
    tmp_path: Path, version: int, names: tuple[str, str, str]
) -> None:
    box = Container(tmp_path, version=version)
    top = box.point if version == 2 else box.point / "memory"
    limit, used, stat = names
    box.files(top / "pod" / "app", **{limit: 4 * GB, used: 3 * GB, "memory.stat": stat.format(GB // 2, GB)})
    assert memory_limit_bytes(total=64 * GB, proc=box.proc) == 4 * GB
    assert memory_left_bytes(proc=box.proc) == 4 * GB - 3 * GB + 3 * GB // 2
    assert memory_available_bytes(proc=box.proc) == 5 * GB // 2


def test_the_limit_of_a_parent_and_the_high_mark_count(tmp_path: Path) -> None:
    box = Container(tmp_path)
    box.files(box.point / "pod", memory__max="max", memory__high=2 * GB, memory__current=GB)
    box.files(box.point / "pod" / "app", memory__max=8 * GB, memory__current=GB)
    assert memory_limit_bytes(total=64 * GB, proc=box.proc) == 2 * GB
    assert memory_available_bytes(proc=box.proc) == GB


def test_no_limit_leaves_what_the_machine_has(tmp_path: Path) -> None:
    box = Container(tmp_path, version=1)
    box.files(
        box.point / "memory" / "pod" / "app",
        **{"memory.limit_in_bytes": NONE_OF_V1, "memory.usage_in_bytes": GB},
    )
    assert memory_limit_bytes(total=memory_total_bytes(proc=box.proc), proc=box.proc) is None
    assert memory_available_bytes(proc=box.proc) == 50_000_000 * 1024


def test_the_limit_of_the_shell_counts() -> None:
    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (3 * GB, 3 * GB))

    code = "from llenergymeasure.host.machine import memory_available_bytes as left; print(left())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        preexec_fn=limited,
        timeout=60,
        check=True,
    )
    assert 0 < int(done.stdout) <= 3 * GB


# What is not there


def test_the_trees_of_processes_are_found_without_the_time_of_boot() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "import os\nif not os.fork():\n  input()\nelse:\n  os.wait()"],
        stdin=subprocess.PIPE,
    ) as parent:
        deadline = time.monotonic() + 60
        while len(found := trees([parent.pid])) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        (child,) = found - {parent.pid}
        assert list(lineage(child))[:3] == [child, parent.pid, os.getpid()]
        parent.communicate(b"\n")
    assert trees([parent.pid]) == set()


def test_a_machine_that_hides_everything_has_an_environment_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    seen = environment((), proc=tmp_path)
    assert seen.logical_cpus >= 1
    assert (seen.swap_used_bytes, seen.memory_limit_bytes, seen.memory_bytes) == (None, None, None)
    assert (seen.usable_cpus or 0) >= 1
    assert swapped_bytes(tmp_path) is None
    assert read_cpuinfo(tmp_path) == ""
    # the shell's own limit may still be known
    assert memory_left_bytes(proc=tmp_path) is None


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("model name\t: AMD EPYC 7R13\ncpu family\t: 25\n", "AMD EPYC 7R13"),
        (
            "vendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 143\nmodel name\t: unknown\n",
            "GenuineIntel family 6 model 143",
        ),
        (
            "CPU implementer\t: 0x41\nCPU part\t: 0xd0c\n",
            "Arm Neoverse N1 (implementer 0x41, part 0xd0c)",
        ),
        ("CPU implementer\t: 0xc0\nCPU part\t: 0xac3\n", "Arm (implementer 0xc0, part 0xac3)"),
        ("hart\t: 0\nisa\t: rv64imafdc\nmmu\t: sv39\nuarch\t: sifive,u74-mc\n", "sifive,u74-mc"),
        ("hart\t: 0\nisa\t: rv64imafdc\n", "RISC-V rv64imafdc"),
        ("cpu\t\t: POWER9, altivec supported\n", "POWER9, altivec supported"),
        ("", None),
    ],
)
def test_a_cpu_has_a_name_where_it_says_one_or_its_numbers(cpuinfo: str, expected: str | None) -> None:
    assert cpu_name(cpuinfo) == expected
