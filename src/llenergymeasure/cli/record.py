"""`llem record`: how does a program of any language have windows measured?"""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

import psutil
import typer

from llenergymeasure.cli._errors import format_error
from llenergymeasure.cli._streams import say
from llenergymeasure.exceptions import ConfigError
from llenergymeasure.measure.record import Settings, main
from llenergymeasure.records import BoundaryName, MeterChoice


def record(
    *,
    output: Path | None,
    pid: int | None,
    meter: str,
    gpus: list[str] | None,
    boundary: str,
    shared: bool,
) -> None:
    chosen: str | tuple[str, ...] = tuple(gpus or ()) or "auto"
    if chosen == ("all",):
        chosen = "all"
    owner = os.getppid() if pid is None else pid
    if pid is not None and not psutil.pid_exists(pid):
        say(format_error(ConfigError(f"there is no process {pid}", hint="ps -ef lists them")))
        raise typer.Exit(2)
    energy = MeterChoice(meter, chosen, boundary=cast("BoundaryName", boundary))
    settings = Settings(owner, _command_line(owner), output, energy, shared)
    raise typer.Exit(main(settings, commands=0, answers=1))


def _command_line(pid: int) -> tuple[str, ...]:
    try:
        return tuple(psutil.Process(pid).cmdline())
    except psutil.Error:
        return ()
