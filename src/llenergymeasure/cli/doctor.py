"""`llem doctor`: what can this machine measure, and what kind of sensors does it have?"""

from __future__ import annotations

import sys

import typer
from pydantic import JsonValue, TypeAdapter
from tqdm import tqdm

from llenergymeasure.cli._errors import reported
from llenergymeasure.cli._examination import examination_lines, sensor_lines
from llenergymeasure.cli._progress import following
from llenergymeasure.cli._streams import print_json, print_lines, reader_may_leave
from llenergymeasure.doctor.characterise import Characterised, characterise_gpus, characterise_simulated
from llenergymeasure.doctor.examine import Examination, examine, simulated_driver
from llenergymeasure.doctor.verdicts import Verdict, verdicts


def doctor(*, characterise: bool, simulated: bool, as_json: bool, verbose: bool) -> None:
    with reported(verbose=verbose):
        if characterise:
            _characterise(simulated=simulated, as_json=as_json)
        else:
            _examine(simulated=simulated, as_json=as_json)


def _examine(*, simulated: bool, as_json: bool) -> None:
    found = examine(nvml=simulated_driver() if simulated else None)
    with reader_may_leave():
        if as_json:
            value: dict[str, JsonValue] = TypeAdapter(Examination).dump_python(found, mode="json")
            told: JsonValue = TypeAdapter(tuple[Verdict, ...]).dump_python(verdicts(found), mode="json")
            print_json({**value, "measured": list(found.measured), "usable": found.usable, "verdicts": told})
        else:
            print_lines(examination_lines(found))
    if not found.usable:
        raise typer.Exit(1)


def _characterise(*, simulated: bool, as_json: bool) -> None:
    if simulated:
        boards = characterise_simulated()
    else:
        silent = not sys.stderr.isatty()
        with (
            tqdm(total=None, file=sys.stderr, disable=silent, leave=False, bar_format="{desc}") as bar,
            following(bar) as progress,
        ):
            boards = characterise_gpus(progress)
    with reader_may_leave():
        if as_json:
            value: JsonValue = TypeAdapter(tuple[Characterised, ...]).dump_python(boards, mode="json")
            print_json(value)
        else:
            print_lines(sensor_lines(boards))
    if not any(one.characteristics for board in boards for one in board.sensors):
        raise typer.Exit(1)
