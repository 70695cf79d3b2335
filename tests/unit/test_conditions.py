"""What the kernel's own counters say of the machine, from scripted readings."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterable
from functools import partial

import pytest

from llenergymeasure.measure.conditions import Conditions, cpu_s, swapped_bytes, tree_cpu_s
from llenergymeasure.measure.environment import suspended_ns
from llenergymeasure.records import MeasurementWarning

HOUR_NS = 3_600_000_000_000


class Kernel:
    """Clocks, processor times and swap that a test moves by hand."""

    def __init__(self) -> None:
        self.monotonic_ns = 1_000_000_000_000
        self.slept_ns = 5_000_000_000
        self.wall_ns = 1_700_000_000_000_000_000
        self.busy_s, self.idle_s = 100.0, 900.0
        self.swapped = 1_000_000
        self.read: set[int] = set()

    def clock_ns(self, clock: int) -> int:
        self.read.add(clock)
        return {
            time.CLOCK_MONOTONIC: self.monotonic_ns,
            time.CLOCK_BOOTTIME: self.monotonic_ns + self.slept_ns,
            time.CLOCK_REALTIME: self.wall_ns,
        }[clock]

    def conditions(self) -> Conditions:
        return Conditions(
            slept_ns=partial(suspended_ns, self.clock_ns),
            processors_s=lambda: (self.busy_s, self.busy_s + self.idle_s),
            swap_bytes=lambda: self.swapped,
        )

    def idle(self, seconds: float, *, busy: float = 0.0, processors: int = 4) -> None:
        """Time goes by with so many processors busy."""
        self.monotonic_ns += round(seconds * 1e9)
        self.busy_s += busy * seconds
        self.idle_s += (processors - busy) * seconds


def codes(warnings: Iterable[MeasurementWarning]) -> set[str]:
    return {warning.code for warning in warnings}


def test_a_quiet_machine_is_told_nothing() -> None:
    kernel = Kernel()
    conditions = kernel.conditions()
    conditions.enter("bare")
    kernel.idle(3.0, busy=0.1)
    conditions.enter("load")
    kernel.idle(60.0, busy=4.0)
    conditions.enter("pass")
    assert conditions.warnings() == ()


def test_a_machine_that_sleeps_in_the_run_is_told_with_how_long() -> None:
    kernel = Kernel()
    conditions = kernel.conditions()
    conditions.enter("pass")
    kernel.slept_ns += 42_500_000_000
    (found,) = conditions.warnings()
    assert found.code == "suspended"
    assert "42.5 s" in found.message


def test_sleep_before_the_run_is_no_sleep_in_it() -> None:
    kernel = Kernel()
    kernel.slept_ns = 10 * HOUR_NS
    assert kernel.conditions().warnings() == ()


@pytest.mark.parametrize("jump_ns", [HOUR_NS, -HOUR_NS])
def test_a_wall_clock_that_jumps_by_an_hour_changes_nothing(jump_ns: int) -> None:
    kernel = Kernel()
    conditions = kernel.conditions()
    conditions.enter("bare")
    kernel.idle(3.0)
    kernel.wall_ns += jump_ns
    conditions.enter("pass")
    assert conditions.warnings() == ()
    assert kernel.read == {time.CLOCK_BOOTTIME, time.CLOCK_MONOTONIC}


def test_a_kernel_that_can_not_tell_sleep_is_not_said_to_have_slept() -> None:
    readings: list[int | None] = [None, HOUR_NS]
    conditions = Conditions(slept_ns=lambda: readings.pop(0))
    assert "suspended" not in codes(conditions.warnings())


def test_a_busy_host_is_told_from_the_time_before_the_worker_exists() -> None:
    kernel = Kernel()
    conditions = kernel.conditions()
    conditions.enter("bare")
    kernel.idle(3.0, busy=1.0)
    conditions.enter("load")
    (found,) = conditions.warnings()
    assert found.code == "host_busy"
    assert "25%" in found.message


def test_work_of_the_run_itself_makes_no_busy_host() -> None:
    kernel = Kernel()
    conditions = kernel.conditions()
    conditions.enter("bare")
    kernel.idle(3.0)
    conditions.enter("load")
    kernel.idle(30.0, busy=4.0)
    conditions.enter("pass")
    kernel.idle(30.0, busy=4.0)
    conditions.enter("after")
    assert conditions.warnings() == ()


def test_without_a_bare_idle_nothing_is_said_of_the_host() -> None:
    kernel = Kernel()
    conditions = kernel.conditions()
    conditions.enter("load")
    kernel.idle(30.0, busy=4.0)
    conditions.enter("pass")
    assert conditions.warnings() == ()


def test_memory_swapped_in_the_run_is_told_and_what_lay_in_swap_before_is_not() -> None:
    kernel = Kernel()
    quiet, pressed = kernel.conditions(), kernel.conditions()
    assert quiet.warnings() == ()
    kernel.swapped += 7_300_000
    (found,) = pressed.warnings()
    assert (found.code, "7.3 MB" in found.message) == ("swap_active", True)


def test_this_host_can_be_read() -> None:
    busy, total = cpu_s()
    assert 0 < busy < total
    assert swapped_bytes() >= 0
    slept_ns = suspended_ns()
    assert slept_ns is None or slept_ns > -1_000_000_000


def test_other_work_during_the_passes_is_told_and_the_run_s_own_is_not() -> None:
    def share_of_others(others: float) -> list[str]:
        kernel, own_s = Kernel(), [0.0]
        conditions = Conditions(
            slept_ns=lambda: 0,
            processors_s=lambda: (kernel.busy_s, kernel.busy_s + kernel.idle_s),
            swap_bytes=lambda: 0,
            own_s=lambda: own_s[0],
        )
        conditions.enter("pass")
        kernel.idle(5.0, busy=2.0 + others)
        own_s[0] += 10.0
        conditions.enter("between")
        return [warning.message for warning in conditions.warnings()]

    assert share_of_others(0.0) == []
    assert share_of_others(1.0) == ["25% of the processors' time went to other work during the passes"]


def test_the_processor_time_of_a_tree_holds_its_children_s() -> None:
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os, time\nif not os.fork():\n  sum(range(10**7)); os._exit(0)\nos.wait(); time.sleep(60)",
        ]
    ) as parent:
        deadline = time.monotonic() + 20
        while tree_cpu_s([parent.pid]) < 0.1 and time.monotonic() < deadline:
            time.sleep(0.05)
        seen = tree_cpu_s([parent.pid])
        parent.kill()
    assert seen >= 0.1
    assert tree_cpu_s([parent.pid]) == 0.0
