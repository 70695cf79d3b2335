"""Which boards are there and what do they draw when, so that every process sees the same of them?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from llenergymeasure.exceptions import ConfigError
from llenergymeasure.records import Clock
from llenergymeasure.simulation.clock import VirtualClock
from llenergymeasure.simulation.device import SimulatedNvml, SimulatedSensor
from llenergymeasure.simulation.nvml_names import Code
from llenergymeasure.simulation.waveform import Serving, Waveform

# nvmlDeviceArchitecture_t
PASCAL, VOLTA, AMPERE, HOPPER = 4, 5, 7, 9


@dataclass(frozen=True, slots=True)
class Change:
    """`Waveform`'s method `do`, called for a time that counts from the scenario's start, with `given`.

    A `serve` takes the figures of `Serving` beside its `seed`.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    do: Literal["set", "ramp", "drift", "burst", "square", "serve", "walk"]
    at_s: float
    until_s: float | None = None
    given: Mapping[str, int | float | tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Board:
    """One GPU: its name to the driver, its sensor, and its power from the start of the scenario on.

    `lacks` names the driver's functions that it does not support.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    uuid: str
    idle_w: float
    power: tuple[Change, ...] = ()
    sensor: SimulatedSensor = field(default_factory=SimulatedSensor)
    name: str = "Simulated GPU"
    architecture: int = HOPPER
    lacks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Scenario:
    """Boards and the CLOCK_MONOTONIC time at which what they do begins.

    `init_fails_with` is the driver's return code where there is no driver to speak to.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    start_ns: int
    boards: tuple[Board, ...] = ()
    init_fails_with: int | None = None


_FORMAT = TypeAdapter(Scenario)


def write_scenario(path: Path, scenario: Scenario) -> None:
    path.write_bytes(_FORMAT.dump_json(scenario, indent=1))


def read_scenario(path: Path) -> Scenario:
    """ConfigError where the file can't be read or is not a scenario."""
    try:
        return _FORMAT.validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"the scenario {path} can't be read: {error.strerror}") from error
    except ValidationError as error:
        raise ConfigError(f"{path} is not a scenario: {error}") from error


def waveform(board: Board, start_ns: int) -> Waveform:
    """The true power of `board`. ConfigError where a change is not a call that `Waveform` knows."""
    power = Waveform(board.idle_w)
    for number, change in enumerate(board.power):
        at_ns = start_ns + round(change.at_s * 1e9)
        given = dict[str, object](change.given)
        if change.until_s is not None:
            given["until_ns"] = start_ns + round(change.until_s * 1e9)
        try:
            if change.do == "serve":
                figures = {key: given.pop(key) for key in change.given if key != "seed"}
                given["serving"] = Serving(**figures)  # type: ignore[arg-type]  # checked by the call itself
            getattr(power, change.do)(at_ns, **given)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"board {board.uuid}, change {number} ({change.do}): {error}") from error
    return power


def play(scenario: Scenario, *, clock: Clock) -> SimulatedNvml:
    """The boards on `clock`. What they show is a function of its time alone, in whichever process."""
    # Their counters begin where the scenario does.
    start = VirtualClock(scenario.start_ns)
    nvml = SimulatedNvml(start, idle_w=0.0, uuids=[board.uuid for board in scenario.boards])
    for gpu, board in zip(nvml.gpus, scenario.boards, strict=True):
        gpu.name, gpu.sensor = board.name, board.sensor
        gpu.power = waveform(board, scenario.start_ns)
        gpu.fails = dict.fromkeys(board.lacks, Code.NOT_SUPPORTED)
        if board.sensor.counter_stuck:
            gpu.stick_counter()
    if scenario.init_fails_with is not None:
        nvml.fails["nvmlInit"] = scenario.init_fails_with
    nvml.move_to(clock)
    return nvml
