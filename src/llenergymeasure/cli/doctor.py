"""`llem doctor`: what can this machine measure, and what kind of sensors does it have?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import chain

import typer

from llenergymeasure.cli._errors import reported
from llenergymeasure.cli._layout import row_lines
from llenergymeasure.cli._progress import steps_shown
from llenergymeasure.cli._streams import (
    bad,
    cautious,
    filled,
    good,
    print_json,
    print_lines,
    strong,
)
from llenergymeasure.doctor.characterise import (
    Characterised,
    FoundSensor,
    characterise_gpus,
    characterise_simulated,
)
from llenergymeasure.doctor.examine import Examination, examine, simulated_driver
from llenergymeasure.doctor.verdicts import State, Verdict, conclusion, verdicts
from llenergymeasure.records.figures import plain
from llenergymeasure.results.summary import Row


def doctor(*, characterise: bool, simulated: bool, as_json: bool, verbose: bool) -> None:
    with reported(verbose=verbose):
        if characterise:
            _characterise(simulated=simulated, as_json=as_json)
        else:
            _examine(simulated=simulated, as_json=as_json)


def _examine(*, simulated: bool, as_json: bool) -> None:
    found = examine(nvml=simulated_driver() if simulated else None)
    if as_json:
        more = {"measured": found.measured, "usable": found.usable, "verdicts": verdicts(found)}
        print_json(asdict(found) | more)
    else:
        print_lines(examination_lines(found))
    if not found.usable:
        raise typer.Exit(1)


def _characterise(*, simulated: bool, as_json: bool) -> None:
    if simulated:
        boards = characterise_simulated()
    else:
        with steps_shown() as progress:
            boards = characterise_gpus(progress)
    if as_json:
        print_json(boards)
    else:
        print_lines(sensor_lines(boards))
    if not any(one.characteristics for board in boards for one in board.sensors):
        raise typer.Exit(1)


_MARKS: Mapping[State, str] = {"ok": "✓", "limited": "!", "missing": "✗"}
_STYLES: Mapping[str, Callable[[str], str]] = {"✓": good, "!": cautious, "✗": bad}


def examination_lines(found: Examination) -> Iterator[str]:
    """The machine, what measures on it, what runs on it, and at the end what that comes to."""
    here = found.environment
    yield from filled(
        f"llem {here.llem} on {here.hostname}: {here.os}, kernel {here.kernel}, Python {here.python}"
    )
    cpus = f"{here.logical_cpus} processors"
    memory = "unknown memory" if here.memory_bytes is None else plain(here.memory_bytes, "B")
    if here.usable_cpus is not None and here.usable_cpus < here.logical_cpus:
        cpus += f" ({here.usable_cpus:.3g} for this process)"
    if here.memory_limit_bytes is not None:
        memory += f" ({plain(here.memory_limit_bytes, 'B')} for this process)"
    machine = [here.cpu or "unknown CPU", cpus, memory]
    if here.virtualization:
        machine.append(f"in a virtual machine ({here.virtualization})")
    if here.container:
        machine.append(f"in a container ({here.container})")
    yield from filled(", ".join(machine))
    told = verdicts(found)
    for topic in dict.fromkeys(one.topic for one in told):
        yield from _section(topic, chain(*(_rows(one) for one in told if one.topic == topic)))
    yield ""
    for line in conclusion(found):
        yield from filled(line)


def sensor_lines(boards: Sequence[Characterised]) -> Iterator[str]:
    """Each power field with what it turned out to be, and where that is kept."""
    for board in boards:
        yield from _section(
            f"Sensors of {board.gpu.name or board.gpu.uuid} ({board.gpu.uuid}), driver {board.gpu.driver}",
            [Row(one.source, "", _sensor(one)) for one in board.sensors],
        )
        yield "  " + ("not saved" if board.kept_in is None else f"saved in {board.kept_in}")


def _section(title: str, rows: Iterable[Row]) -> Iterator[str]:
    yield ""
    yield from filled(strong(title))
    for line in chain(*row_lines(rows)):
        style = _STYLES.get(line[2:3])
        yield line if style is None else f"  {style(line[2])}{line[3:]}"


def _rows(one: Verdict) -> Iterator[Row]:
    yield Row(f"{_MARKS[one.state]} {one.name}", one.value, one.text)
    yield from (Row("", "", text) for text in one.details)
    if one.way_out is not None:
        yield Row("", "", f"→ {one.way_out}")


def _sensor(one: FoundSensor) -> str:
    times = one.characteristics
    if times is None:
        return f"unknown: {one.reason}"
    parts = {"updates every": times.step_ns, "averages over": times.window_ns, "is late by": times.lag_ns}
    return ", ".join(
        f"{what} {'an unknown time' if ns is None else plain(ns / 1e9, 's')}" for what, ns in parts.items()
    )
