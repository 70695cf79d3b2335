"""What the kernel's own counters say of the machine, from scripted readings."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial

import pytest

from llenergymeasure.host.machine import processors_s
from llenergymeasure.measure.conditions import Conditions, swapped_bytes, tree_cpu_s
from llenergymeasure.measure.environment import suspended_ns
from llenergymeasure.records import MeasurementWarning, Throttling

HOUR_NS = 3_600_000_000_000


class Kernel:
    """Clocks, processor times and swap that a test moves by hand."""

    def __init__(self) -> None:
        self.now_ns = 1_000_000_000_000
        self.slept_ns = 5_000_000_000
        self.wall_ns = 1_700_000_000_000_000_000
        self.busy_s, self.idle_s = 100.0, 900.0
        self.swapped = 1_000_000
        self.read: set[int] = set()
        self.quota_used_s: float | None = None
        self.throttled: Throttling | None = None

    def monotonic_ns(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float, /) -> None:
        self.idle(seconds)

    def clock_ns(self, clock: int) -> int:
        self.read.add(clock)
        return {
            time.CLOCK_MONOTONIC: self.now_ns,
            time.CLOCK_BOOTTIME: self.now_ns + self.slept_ns,
            time.CLOCK_REALTIME: self.wall_ns,
        }[clock]

    def conditions(self, own_s: Callable[[], float] | None = None) -> Conditions:
        return Conditions(
            slept_ns=partial(suspended_ns, self.clock_ns),
            processors_s=lambda: (self.busy_s, self.busy_s + self.idle_s),
            quota_s=self.quota,
            swap_bytes=lambda: self.swapped,
            throttled=lambda: self.throttled,
            own_s=own_s,
        )

    def quota(self) -> tuple[float, float] | None:
        """Half a processor."""
        return None if self.quota_used_s is None else (self.quota_used_s, 0.5 * self.now_ns / 1e9)

    def idle(self, seconds: float, *, busy: float = 0.0, processors: int = 4) -> None:
        """Time goes by with so many processors busy."""
        self.now_ns += round(seconds * 1e9)
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
    conditions.enter("full")
    assert conditions.warnings() == ()


def test_a_machine_that_sleeps_in_the_run_is_told_with_how_long() -> None:
    kernel = Kernel()
    conditions = kernel.conditions()
    conditions.enter("full")
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
    conditions.enter("full")
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
    conditions.enter("full")
    kernel.idle(30.0, busy=4.0)
    conditions.enter("after")
    assert conditions.warnings() == ()


def test_without_a_bare_idle_nothing_is_said_of_the_host() -> None:
    kernel = Kernel()
    conditions = kernel.conditions()
    conditions.enter("load")
    kernel.idle(30.0, busy=4.0)
    conditions.enter("full")
    assert conditions.warnings() == ()


def test_memory_swapped_in_the_run_is_told_and_what_lay_in_swap_before_is_not() -> None:
    kernel = Kernel()
    quiet, pressed = kernel.conditions(), kernel.conditions()
    assert quiet.warnings() == ()
    kernel.swapped += 7_300_000
    (found,) = pressed.warnings()
    assert (found.code, "7.3 MB" in found.message) == ("swap_active", True)


def test_this_host_can_be_read() -> None:
    both = processors_s()
    assert both is not None
    assert 0 < both[0] < both[1]
    assert (swapped_bytes() or 0) >= 0
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
        conditions.enter("full")
        kernel.idle(5.0, busy=2.0 + others)
        own_s[0] += 10.0
        conditions.enter("silence")
        return [warning.message for warning in conditions.warnings()]

    assert share_of_others(0.0) == []
    assert share_of_others(1.0) == ["25% of the processors went to other work during the passes"]


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


# Silences


class Worker:
    """A kernel and a worker that uses so many cores, told of each silence as the harness does it."""

    def __init__(self) -> None:
        self.kernel, self.own_s = Kernel(), 0.0
        self.conditions = Conditions(
            slept_ns=lambda: 0,
            processors_s=lambda: (self.kernel.busy_s, self.kernel.busy_s + self.kernel.idle_s),
            swap_bytes=lambda: 0,
            own_s=lambda: round(self.own_s, 2),  # the kernel's hundredths
            clock=self.kernel,
        )

    def works(self, seconds: float, cores: float) -> None:
        self.kernel.idle(seconds, busy=cores)
        self.own_s += seconds * cores

    def silence(self, first: float, second: float, *, seconds: float = 0.5) -> None:
        self.conditions.mark()
        self.works(seconds / 2, first)
        self.conditions.mark()
        self.works(seconds / 2, second)
        self.conditions.mark()

    def broken(self) -> list[str]:
        return [one.message for one in self.conditions.warnings() if one.code == "silence_broken"]


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        (0.0, 0.0, False),
        (2.0, 2.0, False),  # an engine that spins all the time: a fact, and constant power
        (2.0, 0.0, False),  # threads of OpenMP that spin on for a moment after the work
        (0.0, 1.0, True),
        (2.0, 1.0, True),
        (0.04, 0.0, False),  # a tick of the kernel's clock
    ],
)
def test_work_that_changes_in_a_silence_breaks_it_and_constant_work_does_not(
    first: float, second: float, *, told: bool
) -> None:
    worker = Worker()
    worker.silence(first, second)
    assert bool(worker.broken()) == told


def test_several_broken_silences_are_one_warning_with_the_first_and_how_many_more() -> None:
    worker = Worker()
    worker.silence(0.0, 1.0)
    worker.silence(0.0, 0.0)
    worker.silence(0.0, 2.0)
    (said,) = worker.broken()
    assert "0.00 cores in its first half and 1.00 in its second, and 1 more" in said


def test_a_silence_too_short_for_the_kernel_s_hundredths_tells_less() -> None:
    long, short = Worker(), Worker()
    long.silence(0.0, 0.2, seconds=4.0)
    short.silence(0.0, 0.2, seconds=0.1)  # 0.01 s of work: one tick
    assert long.broken()
    assert not short.broken()


def test_marks_without_a_worker_of_its_own_say_nothing() -> None:
    conditions = Kernel().conditions()
    for _ in range(6):
        conditions.mark()
    assert conditions.spinning_cores is None
    assert conditions.warnings() == ()


def test_what_a_loaded_engine_spins_is_measured_while_it_is_left_alone() -> None:
    worker = Worker()
    for phase, cores in (("load", 4.0), ("rest", 4.0)):
        worker.conditions.enter("load" if phase == "load" else "rest")
        worker.works(2.0, cores)
    assert worker.conditions.spinning_cores is None
    worker.conditions.enter("loaded")
    worker.works(3.0, 1.5)
    worker.conditions.enter("warm_up")
    worker.works(3.0, 4.0)
    worker.conditions.enter("silence")
    assert worker.conditions.spinning_cores == pytest.approx(1.5, abs=0.01)


def test_other_work_in_prefill_passes_counts_too_and_in_silences_it_does_not() -> None:
    worker = Worker()
    worker.conditions.enter("full")
    worker.works(3.0, 2.0)
    worker.conditions.enter("silence")
    worker.kernel.idle(9.0, busy=4.0)
    worker.conditions.enter("prefill")
    worker.works(3.0, 2.0)
    worker.conditions.enter("after")
    assert worker.conditions.warnings() == ()
    worker.conditions.enter("prefill")
    worker.kernel.idle(3.0, busy=2.0)
    worker.conditions.enter("after")
    (said,) = worker.conditions.warnings()
    assert said.code == "host_busy"
    assert "17%" in said.message  # 6 of 36 processor seconds


# A container


def test_work_of_others_under_the_same_quota_makes_a_busy_host_however_many_processors_idle() -> None:
    kernel = Kernel()
    kernel.quota_used_s = 0.0
    own_s = [0.0]
    conditions = kernel.conditions(lambda: own_s[0])
    conditions.enter("bare")
    kernel.idle(4.0, busy=0.1, processors=64)
    kernel.quota_used_s += 0.4
    conditions.enter("load")
    (idle,) = conditions.warnings()
    assert (idle.code, idle.message) == ("host_busy", "20% of the CPU quota were busy while idle")
    conditions.enter("full")
    kernel.idle(10.0, busy=0.5, processors=64)
    own_s[0] += 3.0
    kernel.quota_used_s += 5.0
    conditions.enter("silence")
    assert [one.message for one in conditions.warnings()] == [
        "20% of the CPU quota were busy while idle",
        "40% of the CPU quota went to other work during the passes",
    ]


def test_only_what_a_quota_did_in_the_passes_counts() -> None:
    kernel = Kernel()
    kernel.throttled = Throttling(100, 90, 5.0)
    conditions = kernel.conditions()
    for phase, more in (("load", 50), ("full", 2), ("silence", 30), ("prefill", 1), ("after", 20)):
        conditions.enter(phase)  # type: ignore[arg-type]
        kernel.throttled = kernel.throttled.plus(Throttling(100, more, more / 10))
    held = conditions.throttling
    assert held is not None
    assert (held.periods, held.throttled_periods) == (200, 3)
    assert held.throttled_s == pytest.approx(0.3)
    (found,) = conditions.warnings()
    assert found.code == "cpu_throttled"
    assert "3 of its 200 periods" in found.message


def test_a_quota_that_holds_back_one_period_in_a_hundred_changes_nothing_that_counts() -> None:
    kernel = Kernel()
    kernel.throttled = Throttling(0, 0, 0.0)
    conditions = kernel.conditions()
    conditions.enter("full")
    kernel.throttled = Throttling(300, 3, 0.1)
    conditions.enter("silence")
    assert conditions.throttling == Throttling(300, 3, 0.1)
    assert conditions.warnings() == ()


def test_a_kernel_that_hides_busy_time_and_swap_makes_no_claim() -> None:
    conditions = Conditions(
        slept_ns=lambda: None,
        processors_s=lambda: None,
        quota_s=lambda: None,
        swap_bytes=lambda: None,
        throttled=lambda: None,
        own_s=lambda: 0.0,
        clock=Kernel(),
    )
    for phase in ("bare", "load", "full", "after"):
        conditions.enter(phase)
    assert conditions.warnings() == ()
    assert conditions.throttling is None
