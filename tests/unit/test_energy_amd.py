from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from benchmarks.boards.amdsmi import SimulatedAmdSmi

from llenergymeasure.energy.meters.amd import AmdMeter
from llenergymeasure.energy.recording.recorder import Recorder
from llenergymeasure.exceptions import EnergyError
from llenergymeasure.simulation.clock import VirtualClock
from llenergymeasure.simulation.sensor import SimulatedSensor

NOT_SUPPORTED, NO_PERMISSION = 2, 10


@pytest.fixture(autouse=True)
def _no_hidden_boards(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)


def _amd(
    *uuids: str, two_dies: bool = False, clock: VirtualClock | None = None, step_s: float = 0.001
) -> SimulatedAmdSmi:
    return SimulatedAmdSmi(
        clock or VirtualClock(),
        idle_w=90,
        uuids=uuids or ("amd-0",),
        two_dies=two_dies,
        sensor=SimulatedSensor(step_s=step_s),
    )


def _names(amdsmi: SimulatedAmdSmi) -> list[str]:
    with AmdMeter(amdsmi) as meter:
        return [domain.name for domain in meter.domains()]


def test_the_accumulator_times_its_resolution_is_the_energy(tmp_path: Path) -> None:
    clock = VirtualClock()
    amdsmi = _amd(clock=clock)
    recorder = Recorder([AmdMeter(amdsmi, clock=clock)], clock=clock, directory=tmp_path)
    recorder.start(threaded=False)
    with clock.every(recorder.tick_s, recorder.poll):
        clock.sleep(10)
        recorder.stop()
    trace = recorder.trace()
    series = trace.series["gpu:amd-0", "energy"]
    seconds = (series.t_before_ns[-1] - series.t_before_ns[0]) * 1e-9
    joules = (series.raw[-1] - series.raw[0]) * series.quantity.scale
    assert joules == pytest.approx(90 * seconds, abs=0.2)
    assert trace.domain("gpu:amd-0").resolution_j == pytest.approx(15.3e-6)
    assert np.all(trace.series["gpu:amd-0", "power_average"].raw == 90)


def test_a_board_without_a_calibration_has_bounds() -> None:
    with AmdMeter(_amd()) as meter:
        (domain,) = meter.domains()
    assert domain.systematic_gain is not None
    assert domain.systematic_gain[0] < 1 < domain.systematic_gain[1]
    assert domain.systematic_offset_w is not None


def test_early_versions_of_the_library_and_both_generations_are_read() -> None:
    for key in ("energy_accumulator", "power"):
        for kind in ("MI200", "MI300"):
            amdsmi = _amd()
            amdsmi.energy_key, amdsmi.kind = key, kind
            with AmdMeter(amdsmi) as meter:
                read = {one.quantity: one.raw for one in meter.sample()}
            assert read["power_average"] == 90
            assert read["energy"] > 0


def test_the_die_that_reads_0_is_no_domain() -> None:
    assert _names(_amd("a0", "a1", "b0", "b1", two_dies=True)) == ["gpu:a0", "gpu:b0"]


def test_a_guest_has_power_only_and_a_board_that_says_nothing_is_refused() -> None:
    amdsmi = _amd()
    amdsmi.guest = True
    with AmdMeter(amdsmi) as meter:
        assert [quantity.name for quantity in meter.domains()[0].quantities] == ["power_average"]
    amdsmi.fails["amdsmi_get_power_info"] = NOT_SUPPORTED
    amdsmi.gpus[0].fails["amdsmi_get_power_info"] = NOT_SUPPORTED
    assert "neither energy nor power" in (AmdMeter(amdsmi).why_unavailable() or "")


def test_a_board_that_is_lost_leaves_a_reason_and_the_others_alone() -> None:
    amdsmi = _amd("a", "b")
    with AmdMeter(amdsmi) as meter:
        amdsmi.gpus[0].fails_with = NO_PERMISSION
        assert {one.domain for one in meter.sample()} == {"gpu:b"}
        with pytest.raises(EnergyError, match="reports nothing of gpu:a"):
            meter.parts()[0].sample()


def test_visible_devices_are_those_of_both_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    amdsmi = _amd("a", "b", "c", "d")
    monkeypatch.setenv("ROCR_VISIBLE_DEVICES", "3,1,0")
    assert _names(amdsmi) == ["gpu:d", "gpu:b", "gpu:a"]
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "1,2")
    assert _names(amdsmi) == ["gpu:b", "gpu:a"]
    with AmdMeter(amdsmi, gpus=["c"]) as meter:
        assert [domain.name for domain in meter.domains()] == ["gpu:c"]
    with pytest.raises(EnergyError, match="'x' means no GPU"), AmdMeter(amdsmi, gpus=["x"]):
        pass


def test_without_the_compute_driver_the_library_is_not_even_imported(tmp_path: Path) -> None:
    assert "does not exist" in (AmdMeter(kfd=tmp_path / "kfd").why_unavailable() or "")
    (tmp_path / "kfd").touch()
    assert "amdsmi can't be loaded" in (AmdMeter(kfd=tmp_path / "kfd").why_unavailable() or "")


def test_a_library_that_does_not_start_is_a_reason() -> None:
    amdsmi = _amd()
    amdsmi.fails["amdsmi_init"] = 34
    assert "AMD's driver can't be used" in (AmdMeter(amdsmi).why_unavailable() or "")


def test_a_lost_board_is_named_and_the_others_are_read() -> None:
    amdsmi = _amd("amd-a", "amd-b")
    amdsmi.gpus[0].fails_with = NO_PERMISSION
    with AmdMeter(amdsmi, gpus="all") as meter:
        assert [domain.name for domain in meter.domains()] == ["gpu:amd-b"]
        assert list(meter.unread) == ["gpu:unknown-0"]
    with AmdMeter(amdsmi, gpus=["1"]) as meter:
        assert meter.unread == {}
    with pytest.raises(EnergyError, match="gpu:unknown-0"), AmdMeter(amdsmi, gpus=["0"]):
        pass


def test_a_die_that_its_neighbour_counts_is_not_missing() -> None:
    with AmdMeter(_amd("amd-0", "amd-1", two_dies=True), gpus="all") as meter:
        assert [domain.name for domain in meter.domains()] == ["gpu:amd-0"]
        assert meter.unread == {}
