"""What can be typed after `llem`?"""

from __future__ import annotations

from typing import Annotated

import typer

from llenergymeasure import __version__
from llenergymeasure.cli.compare import compare
from llenergymeasure.cli.doctor import doctor
from llenergymeasure.cli.exec import execute
from llenergymeasure.cli.recompute import recompute
from llenergymeasure.cli.record import record
from llenergymeasure.cli.run import run
from llenergymeasure.cli.show import show
from llenergymeasure.cli.watch import watch

app = typer.Typer(
    name="llem",
    no_args_is_help=True,
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


app.command(name="run", help="Run an LLM efficiency experiment")(run)
app.command(name="doctor", help="Say what this machine can measure")(doctor)
app.command(name="show", help="Show a stored result, or its uncertainty budget")(show)
app.command(name="compare", help="Compare two results, B against A")(compare)
app.command(name="exec", help="Measure any command", context_settings={"allow_interspersed_args": False})(
    execute
)
app.command(name="watch", help="Show what this machine draws now")(watch)
app.command(name="record", help="Record windows of any program, marked by lines on stdin")(record)
app.command(name="recompute", help="Compute a stored result again and list what changed")(recompute)
