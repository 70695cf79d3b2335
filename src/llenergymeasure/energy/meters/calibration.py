"""What was found out about a board's sensor before this run?"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import platformdirs
from annotated_types import Ge, Gt, Lt

from llenergymeasure.config.places import cache_dir
from llenergymeasure.exceptions import ConfigError
from llenergymeasure.records import CalibratedBy, Domain, DomainKind, Quantity

if TYPE_CHECKING:
    from pydantic import ConfigDict, TypeAdapter

# Yang et al., arXiv 2312.02741: over about 19 boards the sensor showed gain × true + offset with a gain of
# 0.873 to 1.065 and an offset of −24 to +16 W. A domain states the way back, true = gain × read + offset:
# 1 / gain, and −offset / gain, each at the ends that reach furthest.
SYSTEMATIC_GAIN = (1 / 1.065, 1 / 0.873)
SYSTEMATIC_OFFSET_W = (-16 / 0.873, 24 / 0.873)

T = TypeVar("T")

_APP = "llenergymeasure"
_STRICT: ConfigDict = {"extra": "forbid", "strict": True, "allow_inf_nan": False}


@dataclass(frozen=True, slots=True)
class Calibration:
    """True energy = `gain` × read + `offset_w` × duration, found at `when` `against` some reference.

    `accuracy` is the reference's own as it is stated (95 %, relative), and the last three are variances and
    covariance of gain and offset (in W): all four, as `llem calibrate` finds them, or none.
    """

    __pydantic_config__ = _STRICT

    gain: Annotated[float, Gt(0)]
    offset_w: float
    when: str = ""
    against: str = ""
    accuracy: Annotated[float, Ge(0), Lt(1)] | None = None
    gain_variance: Annotated[float, Ge(0)] | None = None
    offset_variance: Annotated[float, Ge(0)] | None = None
    covariance: float | None = None

    def __post_init__(self) -> None:
        missing = [one is None for one in self._left_open]
        if any(missing) and not all(missing):
            raise ValueError("accuracy, gain_variance, offset_variance and covariance belong together")

    @property
    def _left_open(self) -> tuple[float | None, ...]:
        return self.accuracy, self.gain_variance, self.offset_variance, self.covariance

    @property
    def calibrated_by(self) -> CalibratedBy | None:
        accuracy, gain, offset, both = self._left_open
        if accuracy is None or gain is None or offset is None or both is None:
            return None
        return CalibratedBy(self.when, self.against, accuracy, gain, offset, both)


@dataclass(frozen=True, slots=True)
class Characteristics:
    """A power field's update period, averaging window and lag; None where that was not found.

    Of a counter the window is that of the sensor which feeds it, where that looks at a part of the time only.
    """

    __pydantic_config__ = _STRICT

    step_ns: Annotated[int, Ge(0)] | None = None
    window_ns: Annotated[int, Ge(0)] | None = None
    lag_ns: Annotated[int, Ge(0)] | None = None


# Built once a file is there to be read.
@cache
def _calibrations() -> TypeAdapter[dict[str, Calibration]]:
    from pydantic import TypeAdapter

    return TypeAdapter(dict[str, Calibration])


@cache
def _characteristics() -> TypeAdapter[dict[str, dict[str, dict[str, Characteristics]]]]:
    """By UUID, driver and quantity."""
    from pydantic import TypeAdapter

    return TypeAdapter(dict[str, dict[str, dict[str, Characteristics]]])


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
    return _read((files or SensorFiles()).calibration_path, _calibrations, hint="correct it, or remove it")


def board_domain(
    key: str,
    kind: DomainKind,
    quantities: Sequence[Quantity],
    known: Mapping[str, Calibration],
    *,
    flags: tuple[str, ...] = (),
) -> Domain:
    """The domain of a board, `gpu:<UUID>` or `module:<UUID>`, with its calibration if there is one under its
    UUID (or, of a module, its name), else with the bounds that hold for an unknown board.
    """
    domain = Domain(
        f"{kind}:{key}",
        kind,
        tuple(quantities),
        resolution_j=next((one.scale for one in quantities if one.unit == "J"), None),
        systematic_gain=SYSTEMATIC_GAIN,
        systematic_offset_w=SYSTEMATIC_OFFSET_W,
        flags=flags,
    )
    found = known.get(key if kind == "gpu" else domain.name)
    if found is None:
        return domain
    return replace(
        domain,
        gain=found.gain,
        offset_w=found.offset_w,
        systematic_gain=None,
        systematic_offset_w=None,
        calibrated=found.calibrated_by,
    )


def keep_calibration(key: str, found: Calibration, *, files: SensorFiles | None = None) -> Path:
    """Under a board's UUID, in place of what was known; returns the file. ConfigError as above."""
    path = (files or SensorFiles()).calibration_path
    return _write(path, _calibrations().dump_json({**calibrations(files), key: found}, indent=2))


def recall(uuid: str, driver: str, *, files: SensorFiles | None = None) -> Mapping[str, Characteristics]:
    """What `remember` kept of this board under this driver, by quantity; empty where nothing.

    The same field has changed its meaning from one driver to the next, so that another version's facts do
    not count. ConfigError naming the file where it can't be read.
    """
    return _remembered((files or SensorFiles()).characteristics_path).get(uuid, {}).get(driver, {})


def remember(
    uuid: str, driver: str, found: Mapping[str, Characteristics], *, files: SensorFiles | None = None
) -> Path:
    """Keep what was found of a board's power fields, in place of what was known; returns the file.

    ConfigError where the file can't be read or written.
    """
    path = (files or SensorFiles()).characteristics_path
    boards = _remembered(path)
    boards.setdefault(uuid, {})[driver] = dict(found)
    return _write(path, _characteristics().dump_json(boards, indent=2))


def _write(path: Path, text: bytes) -> Path:
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(text)
        aside.replace(path)
    except OSError as error:
        raise ConfigError(f"{path} can't be written: {error}") from error
    return path


def characterised(quantity: Quantity, known: Mapping[str, Characteristics]) -> Quantity:
    """The quantity with what is known of its sensor."""
    found = known.get(quantity.name)
    if found is None:
        return quantity
    if quantity.unit == "J":
        # When it steps is seen better in each run.
        return replace(quantity, window_ns=found.window_ns, lag_ns=found.lag_ns)
    return replace(quantity, step_ns=found.step_ns, window_ns=found.window_ns, lag_ns=found.lag_ns)


def _remembered(path: Path) -> dict[str, dict[str, dict[str, Characteristics]]]:
    return _read(path, _characteristics, hint="remove it and run llem doctor --characterise again")


def _read(path: Path, form: Callable[[], TypeAdapter[dict[str, T]]], *, hint: str) -> dict[str, T]:
    """What the file holds by UUID; nothing where there is no file."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error}", hint=hint) from error
    from pydantic import ValidationError

    try:
        return form().validate_json(text)
    except ValidationError as error:
        (first, *_) = error.errors(include_url=False)
        where = "".join(f"{part}: " for part in first["loc"])
        raise ConfigError(f"{path}: {where}{first['msg']}", hint=hint) from error
