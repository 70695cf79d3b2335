"""`llem record --ray-node`: the recorder on a node of a Ray cluster, with this command's input and output."""

from __future__ import annotations

from pathlib import Path

import typer

from llenergymeasure.cli._errors import reported
from llenergymeasure.exceptions import ConfigError
from llenergymeasure.study.ray_record import record_on


def record_on_ray(
    node: str,
    *,
    output: Path | None,
    pid: int | None,
    meter: str,
    gpus: list[str] | None,
    boundary: str,
    shared: bool,
) -> None:
    with reported(verbose=False):
        if output is not None or pid is not None:
            raise ConfigError("--output and --pid name what is on this machine, and --ray-node another one")
        arguments = ["--meter", meter, "--boundary", boundary]
        arguments += [word for gpu in gpus or () for word in ("--gpu", gpu)]
        raise typer.Exit(record_on(node, [*arguments, *(["--shared"] if shared else [])]))
