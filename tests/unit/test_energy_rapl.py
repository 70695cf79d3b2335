from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from llenergymeasure.energy.counter import count_between
from llenergymeasure.energy.rapl import RaplMeter
from llenergymeasure.records import Sample, Series, Window
from llenergymeasure.simulation.clock import VirtualClock

S = 1_000_000_000
WRAP_UJ = 262_143_328_850


def _zone(root: Path, zone: str, name: str, uj: int = 1_000) -> Path:
    path = root / zone
    path.mkdir(parents=True)
    (path / "name").write_text(f"{name}\n")
    (path / "energy_uj").write_text(f"{uj}\n")
    (path / "max_energy_range_uj").write_text(f"{WRAP_UJ}\n")
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    _zone(tmp_path, "intel-rapl:0", "package-0")
    _zone(tmp_path, "intel-rapl:0:0", "core")
    _zone(tmp_path, "intel-rapl:0:1", "dram")
    _zone(tmp_path, "intel-rapl:1", "package-1")
    _zone(tmp_path, "intel-rapl:1:0", "dram")
    _zone(tmp_path, "intel-rapl:2", "psys")
    _zone(tmp_path, "intel-rapl-mmio:0", "package-0")
    (tmp_path / "intel-rapl").mkdir()
    return tmp_path


def test_packages_and_memory_are_read_and_nothing_that_holds_them_twice(root: Path) -> None:
    with RaplMeter(root) as meter:
        domains = {domain.name: domain for domain in meter.domains()}
        samples = meter.sample()
    assert list(domains) == ["cpu:0", "dram:0", "cpu:1", "dram:1"]
    assert [sample.domain for sample in samples] == list(domains)
    (energy,) = domains["dram:1"].quantities
    assert (energy.source, energy.wrap, energy.unit, energy.scale) == ("rapl.dram-1", WRAP_UJ, "J", 1e-6)


def test_counters_stay_open_and_closing_lets_them_go(root: Path) -> None:
    before = len(list(Path("/dev/fd").iterdir()))
    meter = RaplMeter(root)
    with meter:
        (root / "intel-rapl:0" / "energy_uj").write_text("2000\n")
        assert meter.sample()[0].raw == 2000
    assert len(list(Path("/dev/fd").iterdir())) == before


def _drawn(meter: RaplMeter, clock: VirtualClock, counter: Path, contents: list[str]) -> list[Sample]:
    samples: list[Sample] = []
    for content in contents:
        counter.write_text(content)
        samples += meter.sample()
        clock.sleep(1)
    return samples


def test_a_wrap_and_a_failed_read_across_it_are_exact_to_a_tick(tmp_path: Path) -> None:
    # 280 W; the counter wraps between the reads at 4 s and 6 s, and the read at 5 s fails.
    counter = _zone(tmp_path, "intel-rapl:0", "package-0") / "energy_uj"
    clock = VirtualClock(0)
    first = WRAP_UJ - 4 * 280_000_000 - 5_000
    contents = [str((first + t * 280_000_000) % WRAP_UJ) for t in range(11)]
    contents[5] = ""
    with RaplMeter(tmp_path, clock=clock) as meter:
        (quantity,) = meter.domains()[0].quantities
        samples = _drawn(meter, clock, counter, contents)
    assert len(samples) == 10
    at = np.array([sample.t_before_ns for sample in samples])
    series = Series(quantity, at, at, np.array([sample.raw for sample in samples]))
    counted = count_between(series, Window(S, 9 * S), outside=(None, None))
    assert counted.amount == pytest.approx(8 * 280, abs=280 * 0.001)


def test_a_machine_without_rapl_is_told_so(tmp_path: Path) -> None:
    _zone(tmp_path, "intel-rapl:0", "psys")
    assert "no RAPL package" in (RaplMeter(tmp_path).why_unavailable() or "")
    assert "no RAPL package" in (RaplMeter(tmp_path / "absent").why_unavailable() or "")


def test_an_unreadable_number_is_a_reason(root: Path) -> None:
    (root / "intel-rapl:1" / "energy_uj").write_text("broken")
    assert "can't be read" in (RaplMeter(root).why_unavailable() or "")


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    root = Path(tempfile.mkdtemp(prefix="powercap-"))
    root.chmod(0o755)
    yield root
    shutil.rmtree(root)


def test_a_counter_of_mode_0400_names_the_command_that_opens_it(open_to_all: Path) -> None:
    (_zone(open_to_all, "intel-rapl:0", "package-0") / "energy_uj").chmod(0o400)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    else:
        (open_to_all / "intel-rapl:0" / "energy_uj").chmod(0o000)
    try:
        why = RaplMeter(open_to_all).why_unavailable()
    finally:
        os.seteuid(user)
    assert why is not None
    assert "root only" in why
    assert f"sudo chmod a+r {open_to_all}/intel-rapl:*/energy_uj" in why
