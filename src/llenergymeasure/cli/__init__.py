"""What can be typed after `llem`?"""

from __future__ import annotations

import os
import shutil
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from llenergymeasure import __version__
from llenergymeasure.cli import _commands, _complete
from llenergymeasure.cli._color import with_color
from llenergymeasure.cli._help import help_end


class _Command(TyperCommand):
    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        formatter.write(help_end(ctx.command_path))


class _Group(TyperGroup):
    def get_help_option(self, ctx: Any) -> Any:
        """Off unless given: Typer loads pydantic to make sense of None."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.default = False
        return option

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Alone it shows what can be typed, which is not a mistake."""
        return super().parse_args(ctx, args if args or ctx.resilient_parsing else ["--help"])

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        formatter.write(help_end(ctx.command_path))


class _App(typer.Typer):
    """Every command of it ends its help with examples, and takes --color."""

    def command(self, name: str | None = None, **more: Any) -> Any:
        register = super().command(name, cls=_Command, **more)
        return lambda function: register(with_color(function))


def _narrow() -> int | None:
    """Columns of a terminal that is narrower than what click makes help for."""
    columns = shutil.get_terminal_size().columns
    return max(columns - 2, 30) if columns < 52 else None


app = _App(
    name="llem",
    cls=_Group,
    # Typer's options for shell completion load pydantic: where a command is named it goes without.
    add_completion="_LLEM_COMPLETE" in os.environ or sys.argv[1:2] == [] or sys.argv[1].startswith("-"),
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "terminal_width": _narrow()},
)


_complete.join_words()


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
app.command(name="selfcheck", help="Check how fast and true llem's client of servers is here")(
    _commands.selfcheck
)
app.command(name="list", help="List the results and studies in a directory")(_commands.list_)
app.command(name="show", help="Show a stored result, its uncertainty budget, or a study")(_commands.show)
app.command(name="compare", help="Compare results or studies, B against A")(_commands.compare)
app.command(name="report", help="Make one page of results or a study")(_commands.report)
app.command(name="export", help="Write results as CSV, Parquet, LaTeX and other forms")(_commands.export)
app.command(name="recompute", help="Compute a stored result again and list what changed")(_commands.recompute)
app.command(name="merge", help="Join the folders of one study from several machines")(_commands.merge)
app.command(name="init", help="Write a first experiment that fits this machine")(_commands.init)

config = _App(cls=_Group, rich_markup_mode=None)
app.add_typer(config, name="config", help="Show, check and explain configurations")
config.command(name="show", help="Show each value and where it comes from")(_commands.config_show)
config.command(name="validate", help="Check files: every error at once")(_commands.config_validate)
config.command(name="schema", help="Print the JSON Schema that editors read")(_commands.config_schema)
config.command(name="keys", help="List every key: type, default, meaning")(_commands.config_keys)


def keep_only(name: str = "") -> None:
    """Only the command of that name, where there is one: to build the options of all others takes time."""
    if named := [command for command in app.registered_commands if command.name == name]:
        app.registered_commands[:] = named
        app.registered_groups.clear()
