from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from benchmarks.boards.rapl import SimulatedRapl, Zone, amd_zones, intel_zones

from llenergymeasure.energy.joules.amid import window_energy
from llenergymeasure.energy.meters.rapl import RaplMeter
from llenergymeasure.energy.recording.recorder import Recorder
from llenergymeasure.records import Sample, Series, Trace, Window
from llenergymeasure.simulation.clock import VirtualClock
from llenergymeasure.simulation.waveform import Waveform

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
    _zone(tmp_path, "intel-rapl:1", "package-1", 2_000)
    _zone(tmp_path, "intel-rapl:1:0", "dram", 2_000)
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
    assert (energy.source, energy.wrap, energy.unit, energy.scale) == ("rapl.dram-1", WRAP_UJ + 61, "J", 1e-6)


def test_no_counter_passes_for_calibrated(root: Path) -> None:
    gains: dict[tuple[str, str], object] = {}
    for vendor in ("GenuineIntel", "AuthenticAMD"):
        with RaplMeter(root, cpuinfo=f"vendor_id\t: {vendor}\n") as meter:
            gains |= {(vendor, domain.kind): domain.systematic_gain for domain in meter.domains()}
            assert all(domain.systematic_offset_w is not None for domain in meter.domains())
    assert gains["GenuineIntel", "cpu"] == (0.95, 1.05)
    assert gains["AuthenticAMD", "cpu"] == (0.9, 1.1)
    assert gains["GenuineIntel", "dram"] == (0.7, 1.3)


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
        (domain,) = meter.domains()
        samples = _drawn(meter, clock, counter, contents)
    assert len(samples) == 10
    at = np.array([sample.t_before_ns for sample in samples])
    series = Series(domain.quantities[0], at, at, np.array([sample.raw for sample in samples]))
    spent = window_energy(Trace((domain,), {("cpu:0", "energy"): series}), "cpu:0", Window(S, 9 * S))
    assert spent.joules == pytest.approx(8 * 280, abs=280 * 0.001)


def _series(meter: RaplMeter, samples: Sequence[Sample], domain: str) -> Series:
    (quantity,) = next(one for one in meter.domains() if one.name == domain).quantities
    mine = [one for one in samples if one.domain == domain]
    at = np.array([one.t_before_ns for one in mine])
    return Series(quantity, at, at, np.array([one.raw for one in mine]))


@pytest.mark.parametrize("vendor", ["intel", "amd"])
def test_wraps_and_failed_reads_lose_no_tick_in_an_hour(tmp_path: Path, vendor: str) -> None:
    # 280 W wrap every 234 s: fifteen times an hour. Each fifth read fails, so that some fail across a wrap.
    clock = VirtualClock()
    packages, dram = [Waveform(280), Waveform(137.31)], [Waveform(21.7), Waveform(33.3)]
    intel = intel_zones(packages, dram=dram, psys=True, mmio=True)
    zones = intel if vendor == "intel" else amd_zones(packages, dram)
    zones = tuple(replace(zone, start_ticks=number * 7919) for number, zone in enumerate(zones))
    tick_j = {zone.name: zone.tick_nj * 1e-9 for zone in zones}
    with SimulatedRapl(clock, tmp_path, zones) as tree, RaplMeter(tmp_path, clock=clock) as meter:
        names = [domain.name for domain in meter.domains()]
        samples: list[Sample] = []
        for second in range(0, 3700, 20):
            tree.failing = {zone.directory for zone in zones} if second % 100 == 40 else set()
            tree.tick()
            samples += meter.sample()
            clock.sleep(20)
        draw = random.Random(vendor)
        spans = [(draw.uniform(21, 1800), draw.uniform(1900, 3679)) for _ in range(50)]
        for domain, power in zip(("cpu:0", "cpu:1"), packages, strict=True):
            facts = tuple(meter.domains())
            trace = Trace(facts, {(domain, "energy"): _series(meter, samples, domain)})
            for start_s, end_s in spans:
                window = Window(round(S * start_s), round(S * end_s))
                spent = window_energy(trace, domain, window)
                truth = power.energy_j(window.start_ns, window.end_ns)
                assert spent.joules == pytest.approx(truth, abs=tick_j["package-0"])
    expected = ["cpu:0", "dram:0", "cpu:1", "dram:1"] if vendor == "intel" else ["cpu:0", "cpu:1"]
    assert sorted(names) == sorted(expected)


def test_a_die_that_mirrors_another_one_is_read_once(tmp_path: Path) -> None:
    clock = VirtualClock()
    power, other = Waveform(100), Waveform(100)
    zones = [
        Zone("intel-rapl:0", "package-0-die-0", power, start_ticks=77_000),
        Zone("intel-rapl:1", "package-0-die-1", power, start_ticks=77_000),
        Zone("intel-rapl:2", "package-1-die-0", other, start_ticks=76_999),
        Zone("intel-rapl:0:0", "dram", power, start_ticks=77_000),
    ]
    with SimulatedRapl(clock, tmp_path, zones), RaplMeter(tmp_path, clock=clock) as meter:
        assert [domain.name for domain in meter.domains()] == ["cpu:0-die-0", "dram:0-die-0", "cpu:1-die-0"]


def test_a_tree_that_goes_away_leaves_a_gap_with_its_reason(tmp_path: Path) -> None:
    clock = VirtualClock()
    (tmp_path / "trace").mkdir()
    with SimulatedRapl(clock, tmp_path / "powercap", intel_zones([Waveform(100)])) as tree:
        meter = RaplMeter(tmp_path / "powercap", clock=clock)
        recorder = Recorder([meter], clock=clock, directory=tmp_path / "trace")
        recorder.start(threaded=False)
        with clock.every(recorder.tick_s, recorder.poll):
            clock.sleep(1)
            tree.failing = {"intel-rapl:0"}
            tree.tick()
            clock.sleep(1)
            recorder.stop()
    (gap,) = recorder.trace().gaps
    assert gap.domain == "cpu:0"
    assert gap.window.duration_s == pytest.approx(1, abs=0.15)
    assert gap.reason.startswith("no RAPL counter can be read any more")


def test_a_machine_without_rapl_is_told_so(tmp_path: Path) -> None:
    _zone(tmp_path, "intel-rapl:0", "psys")
    assert "no RAPL package" in (RaplMeter(tmp_path).why_unavailable() or "")
    assert "no RAPL package" in (RaplMeter(tmp_path / "absent").why_unavailable() or "")


@pytest.mark.parametrize(("file", "text"), [("energy_uj", "broken"), ("max_energy_range_uj", "")])
def test_a_zone_that_can_not_be_read_is_named_and_the_others_are_read(
    root: Path, file: str, text: str
) -> None:
    (root / "intel-rapl:1" / file).write_text(text)
    with RaplMeter(root) as meter:
        assert [domain.name for domain in meter.domains()] == ["cpu:0", "dram:0", "dram:1"]
        assert [sample.domain for sample in meter.sample()] == ["cpu:0", "dram:0", "dram:1"]
    assert list(meter.unread) == ["cpu:1"]
    assert str(root / "intel-rapl:1" / file) in meter.unread["cpu:1"]
    assert meter.notes == (f"cpu:1 is not read: {meter.unread['cpu:1']}",)


def test_where_no_zone_can_be_read_the_first_reason_is_given(root: Path) -> None:
    for zone in root.glob("intel-rapl:*"):
        (zone / "energy_uj").write_text("broken")
    assert str(root / "intel-rapl:0" / "energy_uj") in (RaplMeter(root).why_unavailable() or "")


def test_a_zone_that_fails_in_the_run_leaves_a_gap_with_its_own_reason(tmp_path: Path) -> None:
    clock = VirtualClock()
    (tmp_path / "trace").mkdir()
    zones = intel_zones([Waveform(100)], dram=[Waveform(20)])
    with SimulatedRapl(clock, tmp_path / "powercap", zones) as tree:
        meter = RaplMeter(tmp_path / "powercap", clock=clock)
        recorder = Recorder([meter], clock=clock, directory=tmp_path / "trace")
        recorder.start(threaded=False)
        with clock.every(recorder.tick_s, recorder.poll):
            clock.sleep(1)
            tree.failing = {"intel-rapl:0:1"}
            tree.tick()
            clock.sleep(1)
            recorder.stop()
    (gap,) = recorder.trace().gaps
    assert gap.domain == "dram:0"
    assert "invalid literal" in gap.reason


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
