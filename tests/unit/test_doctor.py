"""What `llem doctor` finds on a machine that is scripted, and on this one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from llenergymeasure.cli import app
from llenergymeasure.cli.doctor import examination_lines
from llenergymeasure.doctor.examine import Examination, examine
from llenergymeasure.doctor.load import MatrixLoad
from llenergymeasure.doctor.now import hub_now
from llenergymeasure.doctor.verdicts import verdicts
from llenergymeasure.exceptions import EnergyError
from llenergymeasure.results.summary import columns
from llenergymeasure.simulation.device import SimulatedNvml, SimulatedProcess
from llenergymeasure.simulation.nvml_names import Code


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Examination:
    """A machine with one simulated board, one RAPL package, and a meter of this host."""
    root = tmp_path_factory.mktemp("powercap")
    zone = root / "intel-rapl:0"
    zone.mkdir()
    for name, text in (
        ("name", "package-0"),
        ("max_energy_range_uj", "262143328850"),
        ("energy_uj", "1000000"),
    ):
        (zone / name).write_text(text + "\n")
    return examine(nvml=SimulatedNvml(time, idle_w=60.0), rapl_root=root)


def text(found: Examination) -> str:
    return "\n".join(examination_lines(found))


def test_every_meter_is_tried_and_says_what_it_sees(found: Examination) -> None:
    meters = {meter.name: meter for meter in found.meters}
    assert {"nvml", "rapl", "estimate"} <= set(meters)
    assert [domain.name for domain in meters["nvml"].domains] == ["gpu:GPU-simulated-0"]
    assert [domain.name for domain in meters["rapl"].domains] == ["cpu:0"]
    assert meters["estimate"].modelled
    assert not meters["rapl"].modelled
    assert all(0 < (meters[name].read_s or 0.0) < 0.5 for name in ("nvml", "rapl", "estimate"))
    assert {"gpu:GPU-simulated-0", "cpu:0"} <= set(found.measured)
    assert "host" not in found.measured


def test_the_recorder_is_tried_with_all_of_them(found: Examination) -> None:
    assert found.recorder.why_not is None
    assert found.recorder.core_share is not None
    assert 0 < found.recorder.core_share < 0.5
    assert (found.recorder.values_per_s or 0.0) > 10


def test_the_clock_and_the_disks_are_looked_at(found: Examination) -> None:
    assert 0 < found.clock.resolution_s <= 1e-3
    assert found.clock.slept_s is None or found.clock.slept_s >= 0
    assert len(found.disks) == 3
    assert all(disk.free_bytes is None or disk.free_bytes > 0 for disk in found.disks)


def test_a_person_reads_domains_quantities_and_facts(found: Examination) -> None:
    shown = text(found)
    assert "nvml.total_energy" in shown
    assert "rapl.package-0" in shown
    assert "estimated, not measured" in shown
    assert "Simulated GPU" in shown
    assert shown.splitlines()[-1].startswith("Energy is measured here: gpu:GPU-simulated-0")


def test_what_a_driver_does_not_tell_is_shown_as_unknown() -> None:
    silent = examine(nvml=SimulatedNvml(time, idle_w=60.0), rapl_root=Path("/nonexistent"))
    (row,) = [line for line in text(silent).splitlines() if "power limit" in line]
    assert "power limit unknown" in row
    assert "temperature unknown" in row


def test_a_meter_that_can_not_be_used_says_why(tmp_path: Path) -> None:
    found = examine(nvml=SimulatedNvml(time, idle_w=60.0, uuids=()), rapl_root=tmp_path)
    meters = {meter.name: meter for meter in found.meters}
    assert "no NVIDIA GPU" in (meters["nvml"].why_not or "")
    assert str(tmp_path) in (meters["rapl"].why_not or "")
    assert found.gpus == ()
    assert found.usable
    shown = text(found)
    assert "none that NVML shows" in shown
    assert "the meter 'rapl' can't be used" not in shown


def test_a_gpu_that_can_not_be_read_is_named_beside_those_that_can(tmp_path: Path) -> None:
    nvml = SimulatedNvml(time, idle_w=60.0, uuids=("GPU-a", "GPU-b"))
    functions = ("nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetPowerUsage", "nvmlDeviceGetFieldValues")
    nvml.gpus[0].fails = dict.fromkeys(functions, Code.NOT_SUPPORTED)
    found = examine(nvml=nvml, rapl_root=tmp_path)
    assert "gpu:GPU-b" in found.measured
    assert "GPU-a is not read: Not Supported" in text(found)


class Broken(SimulatedNvml):
    """A binding that breaks in a way that nobody foresaw."""

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802  the binding's name
        raise ValueError("an enum of another version")


def test_what_a_binding_raises_ends_no_examination(tmp_path: Path) -> None:
    found = examine(nvml=Broken(time, idle_w=60.0), rapl_root=tmp_path)
    whys = {meter.name: meter.why_not for meter in found.meters}
    assert "ValueError: an enum of another version" in (whys["nvml"] or "")
    assert whys["estimate"] is None


class Slowed(SimulatedNvml):
    """A board that a power cap holds back, without persistence, with somebody else on it."""

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: object) -> int:  # noqa: N802  the binding's name
        return 0x4 | 0x1

    def nvmlDeviceGetMaxClockInfo(self, handle: object, clock: int) -> int:  # noqa: N802  the same
        return 1980

    def nvmlDeviceGetPersistenceMode(self, handle: object) -> int:  # noqa: N802  the same
        return 0

    def nvmlDeviceGetComputeRunningProcesses(self, handle: object) -> list[SimulatedProcess]:  # noqa: N802  the same
        return [SimulatedProcess(os.getpid(), 0)]


def test_what_weakens_a_board_now_is_named_with_the_way_out(tmp_path: Path) -> None:
    found = examine(nvml=Slowed(time, idle_w=60.0), rapl_root=tmp_path)
    (now,) = found.gpus_now
    assert (now.max_clock_mhz, now.power_w, now.slowed_by) == (1980, 60.0, ("power cap",))
    assert now.users is not None
    assert now.users[0].split()[0] == str(os.getpid())
    (board,) = [one for one in verdicts(found) if one.topic == "GPUs"]
    assert board.state == "limited"
    assert "nvidia-smi -i 0 -pm 1" in (board.way_out or "")
    assert "power limit" in (board.way_out or "")
    (well,) = [one for one in verdicts(examine(nvml=SimulatedNvml(time, idle_w=60.0))) if one.topic == "GPUs"]
    assert (well.state, well.way_out) == ("ok", None)


@pytest.mark.parametrize(
    ("container", "virtual", "meter", "way"),
    [
        ("docker", None, "nvml", "--gpus all"),
        ("docker", None, "amd", "--device /dev/kfd"),
        ("docker", None, "rapl", "systempaths=unconfined"),
        ("docker", "KVM", "rapl", "host of a virtual machine"),
        (None, None, "rapl", "modprobe"),
    ],
)
def test_a_meter_without_a_device_says_what_would_show_it(
    container: str | None, virtual: str | None, meter: str, way: str, tmp_path: Path
) -> None:
    found = examine(nvml=SimulatedNvml(time, idle_w=60.0, uuids=()), rapl_root=tmp_path)
    here = replace(found.environment, container=container, virtualization=virtual)
    told = {one.name: one for one in verdicts(replace(found, environment=here)) if one.topic == "Meters"}
    assert told[meter].state == "missing"
    assert way in (told[meter].way_out or "")


def test_where_only_power_is_modelled_it_is_still_read_several_times_a_second(tmp_path: Path) -> None:
    found = examine(nvml=SimulatedNvml(time, idle_w=60.0, uuids=()), rapl_root=tmp_path)
    assert [meter.name for meter in found.meters if meter.why_not is None] == ["estimate"]
    # CPU time and memory, every 0.33 s.
    assert found.recorder.values_per_s == pytest.approx(2 / 0.33)
    assert 0 < (found.recorder.core_share or 0.0) < 0.1


def test_a_hub_that_does_not_answer_costs_half_a_second_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        found = hub_now(within_s=0.2)
    assert found.why_not is not None
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE" in (hub_now(within_s=0.2).why_not or "")


def test_every_backend_is_named_with_what_it_lacks(found: Examination) -> None:
    backends = {one.name: one.why_not for one in found.backends}
    assert backends["simulated"] is None
    assert set(backends) >= {"pytorch", "simulated"}


def test_the_command_ends_well_where_energy_can_be_modelled() -> None:
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 0
    assert "Meters" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("Energy is ")


def test_the_command_gives_one_json_object() -> None:
    done = CliRunner().invoke(app, ["doctor", "--json", "--simulated"])
    value = json.loads(done.stdout)
    assert value["usable"] is True
    assert "gpu:GPU-simulated-0" in value["measured"]
    assert value["gpus"][0]["uuid"] == "GPU-simulated-0"
    assert {meter["name"] for meter in value["meters"]} >= {"nvml", "rapl", "estimate"}
    topics = {verdict["topic"] for verdict in value["verdicts"]}
    assert topics == {"Meters", "GPUs", "Host", "Backends", "Disk", "Hub"}
    assert {verdict["state"] for verdict in value["verdicts"]} <= {"ok", "limited", "missing"}


def test_an_examination_loads_no_engine() -> None:
    program = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from llenergymeasure.cli import app\n"
        "assert CliRunner().invoke(app, ['doctor']).exit_code == 0\n"
        "print(sorted({'torch', 'transformers', 'vllm'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_columns_stand_below_each_other_and_the_last_is_free() -> None:
    assert list(columns([("a", "bb", "c"), ("aaa", "b", "a long one"), ("", "d")])) == [
        "a    bb  c",
        "aaa  b   a long one",
        "     d",
    ]


# The load


def _cpu_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def test_a_load_works_only_between_start_and_stop_and_leaves_nothing() -> None:
    with MatrixLoad(None) as load:
        before = _cpu_s(load.pid)
        time.sleep(0.3)
        idle = _cpu_s(load.pid)
        load.start()
        # A machine with other load gives it little of each second.
        deadline = time.monotonic() + 30
        while _cpu_s(load.pid) - idle <= 0.3 and time.monotonic() < deadline:
            time.sleep(0.1)
        load.stop()
        busy = _cpu_s(load.pid)
        time.sleep(0.3)
        after = _cpu_s(load.pid)
        pid = load.pid
    assert idle - before < 0.1
    assert busy - idle > 0.3
    assert after - busy < 0.1
    assert not psutil.pid_exists(pid)


def test_a_load_ends_with_its_parent() -> None:
    program = (
        "import os, sys\n"
        "from llenergymeasure.doctor.load import MatrixLoad\n"
        "load = MatrixLoad(None).__enter__()\n"
        "load.start()\n"
        "print(load.pid, flush=True)\n"
        "os._exit(0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    pid, deadline = int(done.stdout), time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_load_on_a_gpu_that_is_not_there_says_so() -> None:
    with pytest.raises(EnergyError, match="no load of its own can be run: "), MatrixLoad("GPU-none"):
        pass
    assert not [child for child in psutil.Process(os.getpid()).children() if "load" in child.name()]


@pytest.mark.parametrize("width", [40, 80])
def test_lines_fit_the_terminal(found: Examination, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    whole = found.environment.os
    styles = dict.fromkeys(range(0xFDD0, 0xFDD6))
    lines = [line.translate(styles) for line in examination_lines(found)]
    assert whole.split()[0] in lines[0] + lines[1]
    # A path or a name that is longer than the terminal stays whole.
    assert [line for line in lines if len(line) > width and " " in line.strip()] == []
