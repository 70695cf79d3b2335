"""What can be typed after `llem`?"""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from llenergymeasure import __version__
from llenergymeasure.cli import _commands


class _Group(TyperGroup):
    def get_help_option(self, ctx: Any) -> Any:
        """Off unless given: Typer loads pydantic to make sense of None."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.default = False
        return option


app = typer.Typer(
    name="llem",
    cls=_Group,
    no_args_is_help=True,
    # Typer's options for shell completion load pydantic: where a command is named it goes without.
    add_completion="_LLEM_COMPLETE" in os.environ or sys.argv[1:2] == [] or sys.argv[1].startswith("-"),
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"llem v{__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit")
    ] = False,
) -> None:
    """What LLM inference costs: joules, time, memory and arithmetic, with an interval on every number."""


app.command(name="run", help="Run an LLM efficiency experiment")(_commands.run)
app.command(name="exec", help="Measure any command", context_settings={"allow_interspersed_args": False})(
    _commands.execute
)
app.command(name="watch", help="Show what this machine draws now")(_commands.watch)
app.command(name="record", help="Record windows of any program, marked by lines on stdin")(_commands.record)
app.command(name="doctor", help="Show what this machine can measure")(_commands.doctor)
app.command(name="calibrate", help="Calibrate a GPU's sensor against a reference")(_commands.calibrate)
app.command(name="list", help="List the results and studies in a directory")(_commands.list_)
app.command(name="show", help="Show a stored result, its uncertainty budget, or a study")(_commands.show)
app.command(name="compare", help="Compare two results, B against A")(_commands.compare)
app.command(name="recompute", help="Compute a stored result again and list what changed")(_commands.recompute)
app.command(name="merge", help="Join the folders of one study from several machines")(_commands.merge)
