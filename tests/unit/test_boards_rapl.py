from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.boards.rapl import (
    AMD_NJ,
    SERVER_DRAM_NJ,
    SimulatedRapl,
    Zone,
    amd_zones,
    intel_zones,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llenergymeasure.simulation.clock import VirtualClock
from llenergymeasure.simulation.waveform import Waveform


def _read(root: Path, directory: str) -> int:
    return int((root / directory / "energy_uj").read_text())


def test_counters_move_by_what_was_drawn_when_they_are_brought_up_to_date(tmp_path: Path) -> None:
    clock = VirtualClock()
    package, memory = Waveform(100), Waveform(20)
    with SimulatedRapl(clock, tmp_path, intel_zones([package], dram=[memory])) as rapl:
        assert _read(tmp_path, "intel-rapl:0") == 0
        package.set(clock.monotonic_ns(), 280)
        clock.sleep(10)
        assert _read(tmp_path, "intel-rapl:0") == 0
        rapl.tick()
        assert _read(tmp_path, "intel-rapl:0") == pytest.approx(2_800_000_000, abs=62)
        assert _read(tmp_path, "intel-rapl:0:1") == pytest.approx(200_000_000, abs=16)


def test_an_intel_tree_has_the_kernels_names_and_ranges(tmp_path: Path) -> None:
    zones = intel_zones(
        [Waveform(100), Waveform(90)], dram=[Waveform(20), Waveform(20)], psys=True, mmio=True
    )
    clock = VirtualClock()
    with SimulatedRapl(clock, tmp_path, zones) as rapl:
        names = {path.name: (path / "name").read_text().strip() for path in tmp_path.iterdir()}
        clock.sleep(1)
        rapl.tick()
        assert _read(tmp_path, "intel-rapl:2") == pytest.approx(230_000_000, abs=62)
        assert _read(tmp_path, "intel-rapl-mmio:1") == _read(tmp_path, "intel-rapl:1")
    assert names == {
        "intel-rapl:0": "package-0",
        "intel-rapl:0:0": "core",
        "intel-rapl:0:1": "dram",
        "intel-rapl:1": "package-1",
        "intel-rapl:1:0": "core",
        "intel-rapl:1:1": "dram",
        "intel-rapl:2": "psys",
        "intel-rapl-mmio:0": "package-0",
        "intel-rapl-mmio:1": "package-1",
    }
    # what the kernel shows on such machines
    assert (tmp_path / "intel-rapl:0" / "max_energy_range_uj").read_text() == "262143328850\n"
    assert (tmp_path / "intel-rapl:0:1" / "max_energy_range_uj").read_text() == "65712999613\n"


def test_an_amd_tree_has_finer_ticks_and_no_memory(tmp_path: Path) -> None:
    zones = amd_zones([Waveform(100)], [Waveform(40)])
    with SimulatedRapl(VirtualClock(), tmp_path, zones):
        assert sorted(path.name for path in tmp_path.iterdir()) == ["intel-rapl:0", "intel-rapl:0:0"]
        assert (tmp_path / "intel-rapl:0" / "max_energy_range_uj").read_text() == "65532610987\n"
    assert {zone.tick_nj for zone in zones} == {AMD_NJ}


def test_a_counter_wraps_at_its_width_as_early_as_234_s_at_280_w(tmp_path: Path) -> None:
    clock = VirtualClock()
    memory = Zone("intel-rapl:0:1", "dram", Waveform(280), tick_nj=SERVER_DRAM_NJ)
    with SimulatedRapl(clock, tmp_path, [memory]) as rapl:
        clock.sleep(234)
        rapl.tick()
        assert _read(tmp_path, "intel-rapl:0:1") == pytest.approx(234 * 280_000_000, abs=16)
        clock.sleep(1)
        rapl.tick()
        assert _read(tmp_path, "intel-rapl:0:1") == pytest.approx(
            235 * 280_000_000 - 65_713_000_000, abs=1000
        )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.integers(0, 2**12 - 1), st.lists(st.floats(0, 2), min_size=1, max_size=20))
def test_across_any_number_of_wraps_no_tick_is_lost(
    tmp_path: Path, start_ticks: int, pauses_s: list[float]
) -> None:
    zone = Zone("intel-rapl:0", "package-0", Waveform(1), tick_nj=1_000_000, bits=12, start_ticks=start_ticks)
    clock, counted, before = VirtualClock(), 0, start_ticks * 1000
    root = Path(tempfile.mkdtemp(dir=tmp_path))
    with SimulatedRapl(clock, root, [zone]) as rapl:
        for pause_s in pauses_s:
            clock.sleep(pause_s)
            rapl.tick()
            now = _read(root, "intel-rapl:0")
            counted += (now - before) % (2**12 * 1000)
            before = now
    assert counted / 1e6 == pytest.approx((clock.monotonic_ns() - 1_000_000_000) / 1e9, abs=0.0011)


def test_mirrored_dies_show_the_same_counter(tmp_path: Path) -> None:
    power, clock = Waveform(100), VirtualClock()
    dies = [
        Zone(f"intel-rapl:{die}", f"package-0-die-{die}", power, start_ticks=2**32 - 5000) for die in (0, 1)
    ]
    with SimulatedRapl(clock, tmp_path, dies) as rapl:
        for _ in range(3):
            assert _read(tmp_path, "intel-rapl:0") == _read(tmp_path, "intel-rapl:1")
            clock.sleep(0.1)
            rapl.tick()


def test_a_reader_that_keeps_its_file_open_misses_only_what_failed(tmp_path: Path) -> None:
    clock = VirtualClock()
    zone = Zone("intel-rapl:0", "package-0", Waveform(100), start_ticks=2**32 - 100)
    with SimulatedRapl(clock, tmp_path, [zone]) as rapl:
        file = os.open(tmp_path / "intel-rapl:0" / "energy_uj", os.O_RDONLY)
        before = int(os.pread(file, 64, 0))
        rapl.failing.add("intel-rapl:0")
        clock.sleep(1)
        rapl.tick()
        assert not os.pread(file, 64, 0).strip()
        rapl.failing.clear()
        clock.sleep(1)
        rapl.tick()
        after = int(os.pread(file, 64, 0))
        os.close(file)
    assert after < before
    assert after - before + zone.max_energy_range_uj == pytest.approx(200_000_000, abs=125)


def test_closing_lets_the_counters_go(tmp_path: Path) -> None:
    before = len(list(Path("/dev/fd").iterdir()))
    with SimulatedRapl(VirtualClock(), tmp_path, intel_zones([Waveform(1)])):
        assert len(list(Path("/dev/fd").iterdir())) == before + 2
    assert len(list(Path("/dev/fd").iterdir())) == before


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    root = Path(tempfile.mkdtemp(prefix="powercap-"))
    root.chmod(0o755)
    yield root
    shutil.rmtree(root)


def test_a_counter_of_mode_0400_is_its_owners_alone(open_to_all: Path) -> None:
    zone = Zone("intel-rapl:0", "package-0", Waveform(100), mode=0o400)
    counter, user = open_to_all / "intel-rapl:0" / "energy_uj", os.geteuid()
    with SimulatedRapl(VirtualClock(), open_to_all, [zone]):
        assert counter.stat().st_mode & 0o777 == 0o400
        if user == 0:
            os.seteuid(65534)
            try:
                with pytest.raises(PermissionError):
                    counter.read_text()
            finally:
                os.seteuid(user)
