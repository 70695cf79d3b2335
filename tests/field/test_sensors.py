"""Machines and result files of the field, where they are at hand: what must be said of each."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from benchmarks.boards.scenario import Board, Scenario, write_scenario

from llenergymeasure.energy.meters.cpu_power import power_model
from llenergymeasure.host.machine import cpu_name
from llenergymeasure.simulation.sensor import AVERAGE, INSTANT, SimulatedSensor

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = ROOT / "benchmarks/boards/pynvml"


def _place() -> Path | None:
    """FIELD_CASES, else beside the checkout."""
    named = os.environ.get("FIELD_CASES")
    beside = (Path(named),) if named else tuple(up / "shared/data/field-cases" for up in ROOT.parents)
    return next((place for place in beside if (place / "README.md").is_file()), None)


PLACE = _place()
needs_cases = pytest.mark.skipif(PLACE is None, reason="no field cases: set FIELD_CASES to their folder")


def case(name: str) -> Path:
    assert PLACE is not None
    return PLACE / name


def llem(*arguments: str | Path, first: Path | None = None, **more: str) -> subprocess.CompletedProcess[str]:
    """What a user would see; `first` comes first on the path of modules."""
    path = os.pathsep.join(str(each) for each in (first, ROOT / "src") if each is not None)
    return subprocess.run(
        [sys.executable, "-m", "llenergymeasure", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": path, **more},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


# 05: /proc/cpuinfo of sandboxes and of other processors


@needs_cases
@pytest.mark.parametrize(
    ("cpuinfo", "name", "model"),
    [
        ("cpuinfo", "GenuineIntel family 6 model 85", "Skylake or Cascade Lake"),
        ("arm/cpuinfo", "Arm Neoverse V2 (implementer 0x41, part 0xd4f)", "CPU not in the table"),
    ],
)
def test_a_cpu_is_told_by_its_numbers_or_not_in_the_table(cpuinfo: str, name: str, model: str) -> None:
    text = (case("05-gvisor-cpuinfo") / cpuinfo).read_text()
    assert cpu_name(text) == name
    assert power_model(text).name == f"cpu-time-model ({model})"


def _may_mount() -> bool:
    if shutil.which("unshare") is None or os.geteuid() != 0:
        return False
    tried = subprocess.run(
        ["unshare", "-m", "mount", "--bind", "/dev/null", "/proc/vmstat"], capture_output=True, check=False
    )
    return tried.returncode == 0


@needs_cases
@pytest.mark.skipif(not _may_mount(), reason="no private mount namespace can be made here")
def test_doctor_and_a_run_go_on_in_a_sandbox_that_hides_the_machine(tmp_path: Path) -> None:
    cpuinfo = case("05-gvisor-cpuinfo") / "cpuinfo"
    program = f"{sys.executable} -m llenergymeasure"
    script = (
        f"mount --bind {cpuinfo} /proc/cpuinfo; mount -t tmpfs none /sys; "
        "for each in stat vmstat loadavg; do mount --bind /dev/null /proc/$each; done; "
        f"{program} doctor --json > $OUT/doctor.json && "
        f"{program} run -b simulated --model any -n 2 --preset smoke --json > $OUT/run.json"
    )
    subprocess.run(
        ["unshare", "-m", "sh", "-ec", script],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "OUT": str(tmp_path)},
        check=True,
        timeout=300,
    )
    found, result = (json.loads((tmp_path / name).read_text()) for name in ("doctor.json", "run.json"))
    assert found["usable"]
    assert found["environment"]["cpu"] == "GenuineIntel family 6 model 85"
    assert result["environment"]["load_1min"] is None or result["environment"]["load_1min"] >= 0
    assert result["energy"]["total"]["value"] > 0


# 10: a board of unified memory, with power and nothing else


@pytest.fixture
def gb10(tmp_path: Path) -> Path:
    lacks = (
        "nvmlDeviceGetMemoryInfo",
        "nvmlDeviceGetEnforcedPowerLimit",
        "nvmlDeviceGetTotalEnergyConsumption",
    )
    sensor = SimulatedSensor(fields=frozenset({AVERAGE, INSTANT}))
    path = tmp_path / "scenario.json"
    write_scenario(
        path, Scenario(time.monotonic_ns(), (Board("GPU-1", 12.0, sensor=sensor, name="GB10", lacks=lacks),))
    )
    return path


def test_a_board_of_unified_memory_is_metered_by_its_power(gb10: Path) -> None:
    done = llem("doctor", "--json", first=STAND_IN, LLEM_SIMULATED_NVML=str(gb10))
    found = json.loads(done.stdout)
    assert done.returncode == 0
    (gpu,) = found["gpus"]
    assert (gpu["name"], gpu["memory_bytes"], gpu["unified_memory"]) == ("GB10", None, True)
    assert "gpu:GPU-1" in found["measured"]


def test_the_dry_run_compares_unified_memory_with_that_of_the_host(gb10: Path) -> None:
    done = llem("run", "--model", "random:gpt2", "--dry-run", first=STAND_IN, LLEM_SIMULATED_NVML=str(gb10))
    (line,) = [line for line in done.stdout.splitlines() if line.strip().startswith("total  ")]
    assert "that this host has left (unified memory" in line
    assert "fits" in line


# 11: the old package pynvml before nvidia-ml-py

OLD = """
from {module} import *
import {module} as _new
for _name in ("NVML_FI_DEV_POWER_INSTANT", "NVML_FI_DEV_POWER_AVERAGE"):
    globals().pop(_name, None)
"""


def test_the_old_binding_ends_neither_doctor_nor_a_run_and_is_named(gb10: Path, tmp_path: Path) -> None:
    shadow = tmp_path / "old"
    (shadow / "pynvml").mkdir(parents=True)
    shutil.copy(STAND_IN / "pynvml.py", shadow / "newer_pynvml.py")
    source = (shadow / "newer_pynvml.py").read_text()
    source = source.replace("Path(__file__).resolve().parents[3]", f"Path({str(ROOT)!r})")
    (shadow / "newer_pynvml.py").write_text(source)
    (shadow / "pynvml" / "__init__.py").write_text(OLD.format(module="newer_pynvml"))
    done = llem("doctor", "--json", first=shadow, LLEM_SIMULATED_NVML=str(gb10))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    (nvml,) = [meter for meter in found["meters"] if meter["name"] == "nvml"]
    assert [q["source"] for q in nvml["domains"][0]["quantities"] if q["unit"] == "W"] == ["nvml.power.usage"]
    assert any("pip uninstall -y pynvml" in note for note in nvml["notes"])


# 19: result files that were changed


@needs_cases
@pytest.mark.parametrize(
    ("change", "code"),
    [("nan", 1), ("negative", 1), ("swapped", 1), ("newer", 1), ("html", 1), ("unit", 2), ("crlf", 0)],
)
def test_a_changed_result_is_refused_by_name(change: str, code: int) -> None:
    files = case("19-result-files")
    (own,) = (files / "a").iterdir()
    done = llem("compare", own, files / f"m-{change}")
    assert done.returncode == code, done.stderr
    if code == 1:
        assert f"m-{change}" in done.stderr
    if change == "unit":
        assert "mJ/token" in done.stderr
