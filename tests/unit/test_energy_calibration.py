from __future__ import annotations

import json
from pathlib import Path

import pytest

from llenergymeasure.energy.meters.calibration import (
    Calibration,
    Characteristics,
    SensorFiles,
    calibrations,
    recall,
    remember,
)
from llenergymeasure.exceptions import ConfigError


@pytest.fixture
def files(tmp_path: Path) -> SensorFiles:
    return SensorFiles(tmp_path / "config" / "calibration.json", tmp_path / "cache" / "sensors.json")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_without_files_nothing_is_known(files: SensorFiles) -> None:
    assert calibrations(files) == {}
    assert recall("GPU-a", "560.1", files=files) == {}


def test_a_calibration_is_read_by_uuid(files: SensorFiles) -> None:
    entry = {"gain": 1.04, "offset_w": -3, "when": "2026-05-01", "against": "WT310"}
    _write(files.calibration_path, json.dumps({"GPU-a": entry}))
    assert calibrations(files) == {"GPU-a": Calibration(1.04, -3.0, "2026-05-01", "WT310")}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "Invalid JSON"),
        ("[]", "should be an object"),
        ('{"GPU-a": 1}', "GPU-a: Input should be an object"),
        ('{"GPU-a": {"gain": NaN, "offset_w": 0}}', "GPU-a: gain: .*finite"),
        ('{"GPU-a": {"gain": 1, "offset_w": Infinity}}', "GPU-a: offset_w: .*finite"),
        ('{"GPU-a": {"gain": 1}}', "GPU-a: offset_w: .*required"),
        ('{"GPU-a": {"gain": "1", "offset_w": 0}}', "GPU-a: gain: .*number"),
        ('{"GPU-a": {"gain": true, "offset_w": 0}}', "GPU-a: gain: .*number"),
        ('{"GPU-a": {"gain": 0, "offset_w": 0}}', "GPU-a: gain: .*greater than 0"),
        ('{"GPU-a": {"gain": 1, "offset_w": 0, "offset_j": 1}}', "GPU-a: offset_j: Unexpected"),
        ('{"GPU-a": {"gain": 1, "offset_w": 0, "when": 2026}}', "GPU-a: when: .*string"),
    ],
)
def test_a_calibration_that_can_not_be_applied_is_refused_by_file_and_key(
    files: SensorFiles, text: str, named: str
) -> None:
    _write(files.calibration_path, text)
    with pytest.raises(ConfigError, match=named) as caught:
        calibrations(files)
    assert str(files.calibration_path) in caught.value.message


def test_what_was_remembered_is_recalled_for_its_board_and_driver_only(files: SensorFiles) -> None:
    found = {
        "power_instant": Characteristics(100, 25, None),
        "power_average": Characteristics(100, 1000, 910),
    }
    path = remember("GPU-a", "560.1", found, files=files)
    remember("GPU-a", "535.9", {"power_instant": Characteristics(50)}, files=files)
    remember("GPU-b", "560.1", {}, files=files)
    assert path == files.characteristics_path
    assert recall("GPU-a", "560.1", files=files) == found
    assert recall("GPU-a", "535.9", files=files) == {"power_instant": Characteristics(50, None, None)}
    assert recall("GPU-a", "570.0", files=files) == recall("GPU-c", "560.1", files=files) == {}
    remember("GPU-a", "560.1", {"power_instant": Characteristics(20)}, files=files)
    assert recall("GPU-a", "560.1", files=files) == {"power_instant": Characteristics(20)}
    assert [one.name for one in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        '{"GPU-a": 1}',
        '{"GPU-a": {"560.1": 1}}',
        '{"GPU-a": {"560.1": {"power_instant": {"step_ns": 1.5}}}}',
        '{"GPU-a": {"560.1": {"power_instant": {"step_ns": -1}}}}',
        '{"GPU-a": {"560.1": {"power_instant": {"step": 1}}}}',
    ],
)
def test_a_damaged_cache_is_named(files: SensorFiles, text: str) -> None:
    _write(files.characteristics_path, text)
    with pytest.raises(ConfigError, match=str(files.characteristics_path)):
        recall("GPU-a", "560.1", files=files)


def test_a_cache_that_can_not_be_written_is_an_error(files: SensorFiles) -> None:
    _write(files.characteristics_path.parent, "a file where the folder should be")
    with pytest.raises(ConfigError, match="can't be"):
        remember("GPU-a", "560.1", {}, files=files)
