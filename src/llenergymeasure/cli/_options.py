"""Which arguments and options do several commands take?"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from llenergymeasure.cli import _complete


def to_path(text: str) -> Path:
    # An empty one comes of a shell variable that is not set, and would stand for the working directory.
    if not text:
        raise typer.BadParameter("it is empty; is the variable that it comes from set?")
    return Path(text)


def to_number(text: str) -> str | int:
    """A whole number; several of them, which are a study, stay as they are."""
    try:
        return int(text)
    except ValueError as error:
        if re.fullmatch(r"\[?\d+([-,].*)?", text):
            return text.strip("[]")
        raise typer.BadParameter(f"{text!r} is not a whole number") from error


NAMED = "result.json, the folder that holds one, the beginning of an id, or last"
Directory: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--dir", metavar="DIR", parser=to_path, help="Where ids are looked for; results when absent"
    ),
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text")]
Tracebacks: TypeAlias = Annotated[bool, typer.Option("--verbose", "-v", help="Show tracebacks")]
Gpus: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--gpu", help="A GPU that counts, by UUID or index, or all; by default those in use"),
]
Shared: TypeAlias = Annotated[
    bool, typer.Option("--shared", help="Read devices although another recorder does")
]
Paths: TypeAlias = Annotated[
    list[Path],
    typer.Argument(
        metavar="PATH…",
        parser=to_path,
        help="Results or studies, by path, id, last, or a glob in quotes; directories that hold some",
        autocompletion=_complete.results,
    ),
]
Explained: TypeAlias = Annotated[
    bool, typer.Option("--verbose", "-v", help="Explain the result; show tracebacks")
]
Assignments: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Any other key, such as passes.seconds=10; may be repeated; llem config keys lists them",
        autocompletion=_complete.assignments,
    ),
]
METER = typer.Option(
    "--meter",
    help="auto, nvml, amd, rapl, apple, hwmon, battery, ipmi, redfish, wall, estimate, or a plug-in's",
    autocompletion=_complete.meters,
)
BOUNDARY = typer.Option("--boundary", help="What the joules take in: auto, gpu, gpu+cpu+dram, host or wall")
