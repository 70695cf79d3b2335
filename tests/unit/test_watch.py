from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import pytest
from own_scripts import BOARD, environ

from llenergymeasure.energy.meters.nvml import NvmlMeter
from llenergymeasure.exceptions import EnergyError
from llenergymeasure.measure.look import PowerNow, looks
from llenergymeasure.records import Domain, Quantity, Sample
from llenergymeasure.simulation.clock import VirtualClock
from llenergymeasure.simulation.device import SimulatedNvml


def test_watts_and_joules_of_a_board_are_those_that_it_draws() -> None:
    clock = VirtualClock()
    nvml = SimulatedNvml(clock, idle_w=150.0)
    nvml.gpus[0].offer_health(temperature_c=61, sm_clock_mhz=1200)
    found = list(itertools.islice(looks([NvmlMeter(nvml, clock=clock)], clock=clock, every_s=1.0), 11))
    (last,) = found[-1]
    assert last.watts == pytest.approx(150.0, rel=0.01)
    assert last.joules == pytest.approx(1500.0, rel=0.02)
    assert (last.temperature_c, last.sm_clock_hz) == (61.0, 1.2e9)
    assert (last.method, last.source, last.slowed_by_heat) == ("counter", "nvml.total_energy", 0.0)


class Counts:
    """A counter of 1 J that goes on with these numbers, or fails where there is none."""

    def __init__(self, clock: VirtualClock, raw: Sequence[int | None], wrap: int | None = None) -> None:
        self._clock, self._raw = clock, iter(raw)
        self._domain = Domain("cpu:0", "cpu", (Quantity("energy", "fake", "J", 1.0, wrap=wrap),))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def why_unavailable(self) -> None:
        return None

    def domains(self) -> Sequence[Domain]:
        return [self._domain]

    def sample(self) -> Sequence[Sample]:
        raw, now_ns = next(self._raw), self._clock.monotonic_ns()
        if raw is None:
            raise EnergyError("the driver has gone")
        return [Sample("cpu:0", "energy", now_ns, now_ns, raw)]


def test_a_counter_without_a_power_field_gives_watts_and_a_wrap_is_counted_and_a_reset_is_not() -> None:
    clock = VirtualClock()
    seen = looks([Counts(clock, [90, 95, 5, 15, 2])], clock=clock, every_s=1.0)
    assert [one.joules for (one,) in itertools.islice(seen, 5)] == [0, 5, 5, 15, 15]
    wraps = list(
        itertools.islice(looks([Counts(clock, [90, 95, 5, 15], wrap=100)], clock=clock, every_s=1.0), 4)
    )
    assert [one.joules for (one,) in wraps] == [0, 5, 15, 25]
    assert [one.watts for (one,) in wraps] == [None, 5, 10, 10]


def test_the_power_now_is_that_of_all_measured_domains_and_unknown_where_one_is() -> None:
    def sample(domain: str, quantity: str, second: float, raw: int) -> Sample:
        return Sample(domain, quantity, round(second * 1e9), round(second * 1e9), raw)

    watts = Quantity("power_instant", "fake.power", "W", 1.0)
    gpu = Domain("gpu:a", "gpu", (watts,))
    module = Domain("module:a", "module", (watts,))
    cpu = Domain("cpu:0", "cpu", (Quantity("energy", "fake", "J", 1.0),))
    latest: dict[tuple[str, str], Sample] = {}
    now = PowerNow([gpu, module, cpu], latest)
    assert now() is None
    latest["gpu:a", "power_instant"] = sample("gpu:a", "power_instant", 0, 300)
    latest["module:a", "power_instant"] = sample("module:a", "power_instant", 0, 900)
    latest["cpu:0", "energy"] = sample("cpu:0", "energy", 0, 10)
    assert now() is None  # a counter read once shows no power
    latest["cpu:0", "energy"] = sample("cpu:0", "energy", 2, 110)
    assert now() == pytest.approx(350)
    # Asked again before anything new was read, it is the same.
    assert now() == pytest.approx(350)


def test_a_meter_that_fails_says_why_and_is_looked_at_again() -> None:
    clock = VirtualClock()
    seen = itertools.islice(looks([Counts(clock, [1, 2, None, 4])], clock=clock, every_s=1.0), 4)
    assert [one.reason for (one,) in seen] == [None, None, "the driver has gone", None]


def watch(directory: Path, *arguments: str, boards: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "llenergymeasure", "watch", *arguments],
        env=environ(directory, [BOARD] if boards else []),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_json_is_an_object_a_line_and_the_table_has_a_row_a_domain(tmp_path: Path) -> None:
    lines = watch(tmp_path, "--json", "--count", "2", "--interval", "0.2").stdout.splitlines()
    first, second = (json.loads(line) for line in lines)
    assert second["t_ns"] > first["t_ns"]
    assert [one["domain"] for one in first["domains"]] == ["gpu:GPU-a"]
    table = watch(tmp_path, "--count", "1", "--interval", "0.2").stdout.splitlines()
    assert [line.split()[0] for line in table] == ["domain", "gpu:GPU-a"]


def test_without_a_sensor_a_process_is_modelled_and_nothing_else_is_shown(tmp_path: Path) -> None:
    refused = watch(tmp_path, "--count", "1", boards=False)
    assert refused.returncode == 1
    assert "--pid" in refused.stderr
    shown = watch(tmp_path, "--json", "--count", "1", "--pid", str(os.getpid()), boards=False)
    (domain,) = json.loads(shown.stdout)["domains"]
    assert (domain["domain"], domain["method"]) == ("host", "modelled")
    assert domain["watts"] >= 0
    assert watch(tmp_path, "--pid", "999999999", boards=False).returncode == 2


def test_ctrl_c_ends_it_with_0_and_so_does_the_end_of_the_process(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "llenergymeasure", "watch", "--json", "--interval", "0.2"],
        env=environ(tmp_path, [BOARD]),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as watching:
        assert watching.stdout is not None
        assert watching.stdout.readline()
        watching.send_signal(signal.SIGINT)
        _, err = watching.communicate(timeout=30)
    assert (watching.returncode, "Traceback" in err) == (0, False)
    with subprocess.Popen(["sleep", "4"]) as watched:
        done = watch(tmp_path, "--pid", str(watched.pid), "--interval", "0.2", boards=False)
    assert (done.returncode, "has ended" in done.stderr) == (0, True)
