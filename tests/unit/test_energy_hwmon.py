"""What the hwmon meter makes of trees like those of known machines."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from hwmon_tree import Driven, chip, record_block, write

from llenergymeasure.config.models import EnergyConfig
from llenergymeasure.energy.boundary import within
from llenergymeasure.energy.meters.drm import gpus_in_use
from llenergymeasure.energy.meters.hwmon import HwmonMeter
from llenergymeasure.energy.meters.selection import choose_meters
from llenergymeasure.exceptions import EnergyError
from llenergymeasure.records import Domain
from llenergymeasure.simulation.clock import VirtualClock
from llenergymeasure.simulation.device import SimulatedNvml
from llenergymeasure.simulation.waveform import Waveform

SRC = Path(__file__).parents[2] / "src"


def _seen(root: Path, **options: object) -> dict[str, Domain]:
    with HwmonMeter(root / "hwmon", clock=VirtualClock(), **options) as meter:  # type: ignore[arg-type]
        samples = {sample.domain for sample in meter.sample()}
        domains = {domain.name: domain for domain in meter.domains()}
    assert samples == set(domains)
    return domains


def _counting(domains: dict[str, Domain]) -> list[str]:
    return [name for name, domain in domains.items() if domain.kind != "part"]


def test_an_intel_gpu_is_its_card_and_the_package_within_is_a_part(tmp_path: Path) -> None:
    chip(
        tmp_path, 0, "xe", "0000:03:00.0",
        energy1_input=5_000, energy1_label="card", energy2_input=4_000, energy2_label="pkg",
    )  # fmt: skip
    domains = _seen(tmp_path)
    assert _counting(domains) == ["gpu:0000:03:00.0"]
    assert domains["gpu:0000:03:00.0"].quantities[0].source == "hwmon.xe.card"
    assert len(domains) == 2


def test_a_board_whose_card_counts_nothing_is_read_by_its_package(tmp_path: Path) -> None:
    chip(
        tmp_path, 0, "xe", "0000:03:00.0",
        energy1_input=0, energy1_label="card", energy2_input=4_000, energy2_label="pkg",
    )  # fmt: skip
    chip(tmp_path, 1, "i915", "0000:04:00.0", energy1_input=7_000)
    domains = _seen(tmp_path)
    assert _counting(domains) == ["gpu:0000:03:00.0", "gpu:0000:04:00.0"]
    assert domains["gpu:0000:03:00.0"].quantities[0].source == "hwmon.xe.pkg"


def test_an_amd_gpu_counts_only_where_amds_own_meter_reads_none(tmp_path: Path) -> None:
    chip(tmp_path, 0, "amdgpu", "0000:0c:00.0", power1_average=30_000_000, power1_label="PPT")
    chip(tmp_path, 1, "amdgpu", "0000:0d:00.0", power1_input=9_000_000, in1_input=700, power1_label="PPT")
    domains = _seen(tmp_path)
    assert _counting(domains) == ["gpu:0000:0c:00.0"]  # the APU's figure holds the processor
    (power,) = domains["gpu:0000:0c:00.0"].quantities
    assert (power.name, power.unit) == ("power_average", "W")
    with pytest.raises(EnergyError):
        _seen(tmp_path, others=lambda: {"amdgpu"})


def test_a_jetsons_rails_are_named_and_its_input_is_the_host(tmp_path: Path) -> None:
    chip(
        tmp_path, 0, "ina3221", "1-0040",
        in1_label="VDD_IN", in1_input=19_000, curr1_input=500,
        in2_label="VDD_CPU_GPU_CV", in2_input=5_000, curr2_input=300,
        in3_label="VDD_SOC", in3_input=5_000, curr3_input=200,
    )  # fmt: skip
    chip(tmp_path, 1, "ina3221", "1-0041", power1_input=1_500_000, power1_label="VDD_GPU", curr1_input=1)
    with HwmonMeter(tmp_path / "hwmon") as meter:
        raw = {sample.domain: sample.raw for sample in meter.sample()}
        domains = meter.domains()
    assert raw["host"] == 19_000 * 500  # mV × mA is µW
    assert raw["gpu:VDD_GPU"] == 1_500_000
    assert {domain.kind for domain in domains if "SOC" in domain.name or "CV" in domain.name} == {"part"}
    assert [one.name for one in within(domains, "host")] == ["host"]


def test_rails_of_a_jetson_that_rest_are_read_though_they_show_0_or_the_same(tmp_path: Path) -> None:
    rails = chip(
        tmp_path, 0, "ina3221", "1-0040",
        in1_label="GPU", in1_input=19_072, curr1_input=0,
        in2_label="CPU", in2_input=19_072, curr2_input=8,
        in3_label="VDDRQ", in3_input=19_072, curr3_input=8,
    )  # fmt: skip
    chip(tmp_path, 1, "ina3221", "1-0041", in1_label="VDD_GPU", in1_input=0, curr1_input=0)
    with HwmonMeter(tmp_path / "hwmon", clock=VirtualClock()) as meter:
        assert [domain.name for domain in meter.domains()] == ["gpu:GPU", "cpu:CPU", "dram:VDDRQ"]
        assert list(meter.unread) == ["gpu:VDD_GPU"]
        write(rails, curr1_input=2_000)
        assert meter.sample()[0].raw == 19_072 * 2_000


def test_graces_sockets_count_without_what_lies_within_them(tmp_path: Path) -> None:
    labels = ("Module", "Grace", "CPU", "SysIO")
    for number, what in enumerate(labels):
        folder = chip(tmp_path, number, "power_meter", f"ACPI000D:0{number}")
        write(
            folder / "device", power1_oem_info=f"{what} Power Socket 0", power1_accuracy="97.00%",
            power1_average=100_000_000 - number, power1_average_interval=50,
        )  # fmt: skip
    domains = _seen(tmp_path)
    assert _counting(domains) == ["module:0", "cpu:0"]
    (power,) = domains["cpu:0"].quantities
    assert power.window_ns == 50_000_000
    assert domains["cpu:0"].systematic_gain == pytest.approx((0.97, 1.03))


def test_an_acpi_meter_without_a_name_is_the_host_and_a_second_one_is_none(tmp_path: Path) -> None:
    chip(tmp_path, 0, "power_meter", "ACPI000D:00", power1_average=211_000_000)
    chip(tmp_path, 1, "power_meter", "ACPI000D:01", power1_average=97_000_000)
    domains = _seen(tmp_path)
    assert _counting(domains) == ["host"]
    assert len(domains) == 2


def test_sockets_of_arm_and_amd_servers_are_processors_and_their_memory(tmp_path: Path) -> None:
    chip(
        tmp_path, 0, "smpro_hwmon", "smpro.1",
        power1_input=80_000_000, power1_label="power1 CORE VRD",
        power2_input=20_000_001, power2_label="power2 SoC VRD",
        power3_input=9_000_001, power3_label="power3 DIMM VRD1",
        power4_input=3_000_001, power4_label="power5 RCA VRD",
    )  # fmt: skip
    chip(
        tmp_path, 1, "amd_energy", "amd_energy.0",
        energy1_input=10, energy1_label="Ecore000", energy2_input=1_000, energy2_label="Esocket0",
    )  # fmt: skip
    assert [domain.kind for domain in _seen(tmp_path).values()] == [
        "cpu",
        "cpu",
        "dram",
        "cpu",
        "part",
        "part",
    ]
    assert _counting(_seen(tmp_path, others=lambda: {"cpu:0"}))[-1] == "dram:smpro.1-DIMM-VRD1"


def test_what_nobody_knows_is_recorded_under_its_label_and_never_counted(tmp_path: Path) -> None:
    chip(tmp_path, 0, "nct6798", "isa", power1_input=5_000_000, power1_label=b"Geh\xe4use L\xfcfter\n")
    domains = _seen(tmp_path)
    assert list(domains) == ["part:nct6798-isa-Gehäuse-Lüfter"]
    assert within(list(domains.values())) == ()


def test_two_channels_that_mirror_each_other_are_read_once(tmp_path: Path) -> None:
    clock, drawn = VirtualClock(), Waveform(100)
    drawn.set(clock.monotonic_ns() + 200_000_000, 130)
    tree = Driven(clock)
    for number, device in enumerate(("0000:03:00.0", "0000:83:00.0", "0000:93:00.0")):
        folder = chip(tmp_path, number, "amdgpu", device, power1_average=0)
        # The third is round and still, as another board may be.
        tree.fields[folder / "power1_average"] = drawn if number < 2 else Waveform(100)
    tree.tick()
    with clock.every(0.01, tree.tick), HwmonMeter(tmp_path / "hwmon", clock=clock) as meter:
        assert [domain.name for domain in meter.domains()] == ["gpu:0000:03:00.0", "gpu:0000:93:00.0"]
        assert len(meter.notes) == 1


def test_equal_and_round_readings_that_do_not_move_are_two_sensors(tmp_path: Path) -> None:
    for number in (0, 1):
        chip(tmp_path, number, "amdgpu", f"0000:0{number}:00.0", power1_average=35_000_000)
    assert len(_seen(tmp_path)) == 2


@pytest.mark.parametrize("text", [0, -1, "N/A", b"\xff\n", ""])
def test_a_sensor_that_says_nothing_is_named_and_the_others_are_read(
    tmp_path: Path, text: str | int | bytes
) -> None:
    chip(tmp_path, 0, "xe", "0000:03:00.0", energy1_input=text, energy1_label="card")
    chip(tmp_path, 1, "i915", "0000:04:00.0", energy1_input=7_000)
    with HwmonMeter(tmp_path / "hwmon") as meter:
        assert [domain.name for domain in meter.domains()] == ["gpu:0000:04:00.0"]
    assert list(meter.unread) == ["gpu:0000:03:00.0"]
    shutil.rmtree(tmp_path / "hwmon" / "hwmon1")
    assert "hwmon0" in (meter.why_unavailable() or "")


def test_a_sensor_that_turns_negative_in_a_run_gives_no_sample(tmp_path: Path) -> None:
    host = chip(tmp_path, 0, "power_meter", "ACPI000D:00", power1_average=211_000_000)
    with HwmonMeter(tmp_path / "hwmon") as meter:
        write(host, power1_average=-1)
        assert meter.sample() == []
        write(host, power1_average=0)
        assert meter.sample() == []
        write(host, power1_average=5_000_000)
        assert [sample.raw for sample in meter.sample()] == [5_000_000]


def test_counters_and_fields_give_the_joules_of_a_block(tmp_path: Path) -> None:
    clock = VirtualClock()
    board, rail = Waveform(35), Waveform(4)
    tree = Driven(clock, step_s=0.02)
    tree.counters[chip(tmp_path, 0, "xe", "0000:03:00.0", energy1_label="card") / "energy1_input"] = board
    folder = chip(tmp_path, 1, "ina3221", "1-0040", power1_label="VDD_CPU")
    tree.fields[folder / "power1_input"] = rail
    tree.tick()

    def work(begins: bool) -> None:
        for power, idle_w, busy_w in ((board, 35, 210), (rail, 4, 17)):
            power.set(clock.monotonic_ns(), busy_w if begins else idle_w)

    meter = HwmonMeter(tmp_path / "hwmon", clock=clock)
    (tmp_path / "trace").mkdir()
    seen = record_block([meter], clock, tick=tree.tick, work=work, folder=tmp_path / "trace")
    for domain, watts, within_j in (("gpu:0000:03:00.0", 210, 0.5), ("cpu:VDD_CPU", 17, 0.4)):
        spent = seen.spent(domain)
        assert spent.joules == pytest.approx(watts * 6, abs=within_j)
        assert spent.method == ("counter" if domain.startswith("gpu") else "sampled")


def test_auto_takes_what_the_other_meters_leave(tmp_path: Path) -> None:
    chip(tmp_path, 0, "amd_energy", "amd_energy.0", energy1_input=1_000, energy1_label="Esocket0")
    chip(tmp_path, 1, "power_meter", "ACPI000D:00", power1_average=211_000_000)
    zone = tmp_path / "powercap" / "intel-rapl:0"
    zone.mkdir(parents=True)
    write(zone, name="package-0", energy_uj=5, max_energy_range_uj=262143328850)
    no_gpu = SimulatedNvml(VirtualClock(), idle_w=60, uuids=())

    def chosen(**energy: str) -> list[str]:
        found = choose_meters(
            EnergyConfig(**energy),
            processes=list,
            nvml=no_gpu,
            rapl_root=tmp_path / "powercap",
            sys_class=tmp_path,
        )
        names = [domain.name for domain in found.domains]
        # The recorder opens them again.
        with ExitStack() as stack:
            meters = [stack.enter_context(one) for one in found.meters]
            seen = [domain.name for meter in meters for domain in meter.domains() if domain.model is None]
        assert seen == names
        return names

    assert chosen() == ["cpu:0", "host"]
    assert chosen(boundary="host") == ["cpu:0", "host"]
    assert chosen(meter="hwmon") == ["cpu:0", "host"]
    with pytest.raises(EnergyError, match=r"energy\.boundary is wall") as caught:
        chosen(boundary="wall")
    assert caught.value.hint is not None


def _may_mount() -> bool:
    if shutil.which("unshare") is None or os.geteuid() != 0:
        return False
    tried = subprocess.run(
        ["unshare", "-m", "mount", "-t", "tmpfs", "none", "/sys/class"], capture_output=True, check=False
    )
    return tried.returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not _may_mount(), reason="no private mount namespace can be made here")
@pytest.mark.parametrize(
    ("said", "used"),
    [
        ("drm-driver:\tamdgpu\ndrm-memory-vram:\t900000 KiB\n", True),
        ("drm-driver:\ti915\ndrm-engine-render:\t1200 ns\n", True),
        ("drm-driver:\txe\ndrm-cycles-ccs:\t9\ndrm-total-cycles-ccs:\t99\n", True),
        # It was opened to be listed.
        ("drm-driver:\txe\ndrm-cycles-ccs:\t0\ndrm-total-cycles-ccs:\t99\ndrm-total-vram0:\t4 MiB\n", False),
        ("drm-driver:\ti915\ndrm-engine-capacity-video:\t2\ndrm-total-system0:\t900 MiB\n", False),
        ("drm-driver:\tast\ndrm-engine-render:\t1200 ns\n", False),
        ("", False),
    ],
)
def test_a_process_that_computes_or_holds_memory_uses_that_gpu(said: str, used: bool, tmp_path: Path) -> None:
    (tmp_path / "renderD128").mkdir()
    for pid in (os.getpid(), 1):
        files = tmp_path / str(pid) / "fdinfo"
        files.mkdir(parents=True)
        address = "0000:03:00.0" if pid == os.getpid() else "0000:04:00.0"
        (files / "7").write_text(f"pos:\t0\ndrm-pdev:\t{address}\n{said}")
        (files / "8").write_text("pos:\t0\n")
    found = gpus_in_use([os.getpid()], proc=tmp_path, drm=tmp_path)
    assert found == (("0000:03:00.0",) if used else ())


def test_the_program_finds_sensors_and_battery_where_the_kernel_shows_them(tmp_path: Path) -> None:
    script = """
mount -t tmpfs none /sys/class
mkdir -p /sys/class/hwmon/hwmon0 /sys/class/power_supply/BAT0 /sys/class/0000:03:00.0
mkdir -p /sys/class/drm/renderD128
ln -s /sys/class/0000:03:00.0 /sys/class/hwmon/hwmon0/device
echo xe > /sys/class/hwmon/hwmon0/name; echo card > /sys/class/hwmon/hwmon0/energy1_label
echo 1000 > /sys/class/hwmon/hwmon0/energy1_input
cd /sys/class/power_supply/BAT0
echo Battery > type; echo Discharging > status; echo 12000000 > power_now
$PYTHON -m llenergymeasure doctor --json > $OUT/doctor.json
$PYTHON -c '
import time
while True:
    with open("/sys/class/hwmon/hwmon0/energy1_input", "r+") as file:
        file.write(f"{int(time.monotonic() * 50e6):020}")
    time.sleep(0.02)' &
writer=$!
trap 'kill $writer' EXIT
mkdir $OUT/files
printf 'pos:\t0\ndrm-driver:\txe\ndrm-pdev:\t0000:03:00.0\ndrm-cycles-ccs:\t77\n' > $OUT/files/5
$PYTHON -m llenergymeasure exec --meter hwmon --json -- bash -c \
    'mount --bind $OUT/files /proc/$$/fdinfo; sleep 3; :' > $OUT/exec.json
"""
    subprocess.run(
        ["unshare", "-m", "bash", "-ec", script],
        env=os.environ | {"PYTHONPATH": str(SRC), "OUT": str(tmp_path), "PYTHON": sys.executable},
        check=True,
        timeout=110,
    )
    doctor, spent = (json.loads((tmp_path / name).read_text()) for name in ("doctor.json", "exec.json"))
    meters = {one["name"]: one for one in doctor["meters"]}
    assert [one["name"] for one in meters["hwmon"]["domains"]] == ["gpu:0000:03:00.0"]
    assert [one["name"] for one in meters["battery"]["domains"]] == ["host"]
    (reading,) = spent["readings"]
    assert reading["source"] == "hwmon.xe.card"
    # Its counter counts 50 J a second, however late it is written.
    assert reading["energy"]["value"] == pytest.approx(50 * spent["duration_s"], rel=0.2)
