"""`llem record`: how does a program of any language have windows measured?"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def record(
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Directory to keep the result and its trace in")
    ] = None,
    pid: Annotated[
        int | None,
        typer.Option("--pid", help="The process whose tree a model of power counts; by default the caller"),
    ] = None,
    meter: Annotated[str, typer.Option("--meter", help="auto, nvml, amd, rapl, apple or estimate")] = "auto",
    gpus: Annotated[
        list[str] | None,
        typer.Option("--gpu", help="A GPU that counts, by UUID or index, or all; by default those in use"),
    ] = None,
    shared: Annotated[
        bool, typer.Option("--shared", help="Read devices although another recorder does")
    ] = False,
) -> None:
    """Record, and hear marks as JSON lines on stdin; answers and the result are lines on stdout.

    Ends at {"do": "stop"} or when stdin is closed.
    """
    from llenergymeasure.measure.record import Settings, main
    from llenergymeasure.records import MeterChoice

    chosen: str | tuple[str, ...] = tuple(gpus or ()) or "auto"
    if chosen == ("all",):
        chosen = "all"
    owner = os.getppid() if pid is None else pid
    settings = Settings(owner, _command_line(owner), output, MeterChoice(meter, chosen), shared)
    raise typer.Exit(main(settings, commands=0, answers=1))


def _command_line(pid: int) -> tuple[str, ...]:
    import psutil

    try:
        return tuple(psutil.Process(pid).cmdline())
    except psutil.Error:
        return ()
