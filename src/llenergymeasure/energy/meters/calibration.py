"""What was found out about a board's sensor before this run?"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import platformdirs

from llenergymeasure.config.places import cache_dir
from llenergymeasure.exceptions import ConfigError
from llenergymeasure.records import Domain, Quantity

_APP = "llenergymeasure"
_TIMES = ("step_ns", "window_ns", "lag_ns")


@dataclass(frozen=True, slots=True)
class Calibration:
    """True energy = `gain` × read + `offset_w` × duration, found at `when` `against` some reference."""

    gain: float
    offset_w: float
    when: str
    against: str


@dataclass(frozen=True, slots=True)
class Characteristics:
    """A power field's update period, averaging window and lag; None where that was not found."""

    step_ns: int | None = None
    window_ns: int | None = None
    lag_ns: int | None = None


@dataclass(frozen=True, slots=True)
class SensorFiles:
    """Where both are kept; None is the user's own place for it."""

    calibration: Path | None = None
    characteristics: Path | None = None

    @property
    def calibration_path(self) -> Path:
        return self.calibration or platformdirs.user_config_path(_APP) / "calibration.json"

    @property
    def characteristics_path(self) -> Path:
        return self.characteristics or cache_dir() / "sensors.json"


def calibrations(files: SensorFiles | None = None) -> Mapping[str, Calibration]:
    """Every calibration by UUID, from a file such as

        {"GPU-5b3…": {"gain": 1.03, "offset_w": -4.0, "when": "2026-05-01", "against": "Yokogawa WT310"}}

    Empty where there is no file. ConfigError naming file and key for anything that can't be applied: a
    calibration that is passed over in silence would be worse than none.
    """
    path = (files or SensorFiles()).calibration_path
    return {uuid: _calibration(path, uuid, entry) for uuid, entry in _read(path).items()}


def _calibration(path: Path, uuid: str, entry: Any) -> Calibration:
    if not isinstance(entry, dict):
        raise ConfigError(f"{path}: {uuid!r} should be an object with gain and offset_w")
    if unknown := sorted(set(entry) - {"gain", "offset_w", "when", "against"}):
        raise ConfigError(f"{path}: {uuid!r} has an unknown key {unknown[0]!r}")
    gain, offset_w = (_number(path, uuid, entry, key) for key in ("gain", "offset_w"))
    if gain <= 0:
        raise ConfigError(f"{path}: {uuid!r}: gain must be positive, got {gain}")
    when, against = (entry.get(key, "") for key in ("when", "against"))
    if not isinstance(when, str) or not isinstance(against, str):
        raise ConfigError(f"{path}: {uuid!r}: when and against should be text")
    return Calibration(gain, offset_w, when, against)


def _number(path: Path, uuid: str, entry: Mapping[str, Any], key: str) -> float:
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"{path}: {uuid!r}: {key} should be a finite number, got {value!r}")
    return float(value)


def calibrated(domain: Domain, known: Calibration | None) -> Domain:
    """The domain with its calibration in place of the bounds that hold for an unknown board."""
    if known is None:
        return domain
    return replace(
        domain, gain=known.gain, offset_w=known.offset_w, systematic_gain=None, systematic_offset_w=None
    )


def recall(uuid: str, driver: str, *, files: SensorFiles | None = None) -> Mapping[str, Characteristics]:
    """What `remember` was told of this board under this driver, by quantity; empty where nothing.

    The same field has changed its meaning from one driver to the next, so that another version's facts do
    not count. ConfigError naming the file where it can't be read.
    """
    path = (files or SensorFiles()).characteristics_path
    boards = _read(path)
    entry = boards.get(uuid, {})
    found = entry.get(driver, {}) if isinstance(entry, dict) else None
    if not isinstance(found, dict):
        raise _damaged(path, f"{uuid}, {driver}")
    return {name: _characteristics(path, f"{uuid}, {driver}, {name}", times) for name, times in found.items()}


def _characteristics(path: Path, where: str, times: Any) -> Characteristics:
    if not isinstance(times, dict) or set(times) - set(_TIMES):
        raise _damaged(path, where)
    values = [times.get(name) for name in _TIMES]
    if not all(value is None or (type(value) is int and value >= 0) for value in values):
        raise _damaged(path, where)
    return Characteristics(*values)


def remember(
    uuid: str, driver: str, found: Mapping[str, Characteristics], *, files: SensorFiles | None = None
) -> Path:
    """Keep what was found of a board's power fields, in place of what was known; returns the file.

    ConfigError where the file can't be read or written.
    """
    path = (files or SensorFiles()).characteristics_path
    boards = dict(_read(path))
    entry = boards.get(uuid)
    boards[uuid] = {
        **(entry if isinstance(entry, dict) else {}),
        driver: {name: asdict(one) for name, one in found.items()},
    }
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(json.dumps(boards, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        raise ConfigError(f"{path} can't be written: {error}") from error
    return path


def characterised(quantity: Quantity, known: Mapping[str, Characteristics]) -> Quantity:
    """The quantity with what is known of its sensor."""
    found = known.get(quantity.name)
    if found is None:
        return quantity
    return replace(quantity, step_ns=found.step_ns, window_ns=found.window_ns, lag_ns=found.lag_ns)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} can't be read: {error}", hint="correct it, or remove it") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} should hold an object by UUID", hint="correct it, or remove it")
    return content


def _damaged(path: Path, where: str) -> ConfigError:
    return ConfigError(
        f"{path}: {where}: should be whole nanoseconds by step_ns, window_ns and lag_ns",
        hint="remove the file and run llem doctor --characterise again",
    )
