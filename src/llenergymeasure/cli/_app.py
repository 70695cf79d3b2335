"""How is a command of `llem` declared, so that its help ends with examples and it takes --color?"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from llenergymeasure import __version__
from llenergymeasure.cli import _complete
from llenergymeasure.cli._color import with_color
from llenergymeasure.cli._help import help_end

_Function = TypeVar("_Function", bound=Callable[..., Any])


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

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Point from a command to the group that has it: `llem validate` to `llem config validate`."""
        word = args[0]
        if self.get_command(ctx, word) is None and not ctx.resilient_parsing:
            for name, group in self.commands.items():
                if word in getattr(group, "commands", {}):
                    ctx.fail(f"No such command '{word}'. Did you mean '{name} {word}'?")
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Alone it shows what can be typed, which is not a mistake."""
        return super().parse_args(ctx, args if args or ctx.resilient_parsing else ["--help"])

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        formatter.write(help_end(ctx.command_path))


class _App(typer.Typer):
    """Every command of it ends its help with examples, and takes --color."""

    def command(self, name: str | None = None, **more: Any) -> Callable[[_Function], _Function]:
        register = super().command(name, cls=_Command, **more)

        def declared(function: _Function) -> _Function:
            register(with_color(function))
            return function

        return declared


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


config = _App(cls=_Group, rich_markup_mode=None)
app.add_typer(config, name="config", help="Show, check and explain configurations")


def keep_only(name: str = "") -> None:
    """Only the command of that name, where there is one: to build the options of all others takes time."""
    if named := [command for command in app.registered_commands if command.name == name]:
        app.registered_commands[:] = named
        app.registered_groups.clear()
