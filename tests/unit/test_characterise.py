"""What `llem doctor --characterise` finds out of a simulated board, and where it keeps that."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llenergymeasure.cli import app
from llenergymeasure.cli.doctor import sensor_lines
from llenergymeasure.doctor.characterise import Characterised, FoundSensor, characterise_simulated, kept
from llenergymeasure.energy.meters.calibration import Characteristics, SensorFiles, recall
from llenergymeasure.energy.sensor import NO_STEP
from llenergymeasure.measure.gpus import gpu_facts
from llenergymeasure.simulation.device import SimulatedNvml
from llenergymeasure.simulation.sensor import SimulatedSensor


def by_name(boards: Sequence[Characterised]) -> dict[str, Characteristics]:
    (board,) = boards
    return {one.quantity: one.characteristics for one in board.sensors if one.characteristics is not None}


@pytest.mark.parametrize(
    ("sensor", "window_s"),
    [
        (SimulatedSensor(step_s=0.1, window_s=0.1, lag_s=0.25), 0.1),
        (SimulatedSensor(step_s=0.1, window_s=0.025, lag_s=0.08, gain=0.9, offset_w=-10.0), 0.025),
        (SimulatedSensor(step_s=0.02, window_s=0.01, lag_s=0.06, phase_s=0.013), 0.01),
    ],
)
def test_a_board_is_recognised_by_steps_of_its_power(sensor: SimulatedSensor, window_s: float) -> None:
    found = by_name(characterise_simulated(sensor))
    instant, average = found["power_instant"], found["power_average"]
    assert instant.step_ns == pytest.approx(sensor.step_s * 1e9, rel=0.1)
    assert instant.window_ns == pytest.approx(window_s * 1e9, abs=0.2 * sensor.step_s * 1e9)
    assert instant.lag_ns == pytest.approx(sensor.lag_s * 1e9, abs=0.3 * sensor.step_s * 1e9)
    assert average.window_ns == pytest.approx(1e9, rel=0.1)


def test_a_sensor_that_shows_no_step_is_unknown_and_nothing_of_it_is_kept(tmp_path: Path) -> None:
    files = SensorFiles(characteristics=tmp_path / "sensors.json")
    (gpu,) = gpu_facts(SimulatedNvml(time, idle_w=60.0))
    flat = FoundSensor("gpu:GPU-simulated-0", "power_instant", "nvml.power.instant", None, NO_STEP)
    board = kept(gpu, (flat,), files=files)
    assert board.kept_in is None
    assert list(tmp_path.iterdir()) == []
    shown = "\n".join(sensor_lines([board]))
    assert f"unknown: {NO_STEP}" in shown
    assert "not saved" in shown


def test_what_was_found_is_kept_for_that_board_under_that_driver(tmp_path: Path) -> None:
    files = SensorFiles(characteristics=tmp_path / "sensors.json")
    (simulated,) = characterise_simulated()
    board = kept(simulated.gpu, simulated.sensors, files=files)
    assert board.kept_in == str(tmp_path / "sensors.json")
    assert recall("GPU-simulated-0", "simulated", files=files) == by_name([board])
    assert recall("GPU-simulated-0", "575.51", files=files) == {}
    assert recall("GPU-other", "simulated", files=files) == {}


def test_the_command_characterises_the_simulated_board(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLEM_CACHE_DIR", str(tmp_path))
    shown = CliRunner().invoke(app, ["doctor", "--characterise", "--simulated"])
    done = CliRunner().invoke(app, ["doctor", "--characterise", "--simulated", "--json"])
    assert (shown.exit_code, done.exit_code) == (0, 0)
    assert "averages over 1.00 s" in shown.stdout
    (board,) = json.loads(done.stdout)
    assert board["gpu"]["uuid"] == "GPU-simulated-0"
    assert {one["quantity"] for one in board["sensors"]} == {"power_instant", "power_average"}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(bool(gpu_facts()), reason="this machine has a GPU, which would be put under load")
def test_without_a_gpu_the_command_says_why_not() -> None:
    done = CliRunner().invoke(app, ["doctor", "--characterise"])
    assert done.exit_code == 1
    assert "there is no power sensor to characterise: " in done.stderr
    assert "--simulated" in done.stderr
