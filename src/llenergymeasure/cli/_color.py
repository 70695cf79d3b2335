"""Is text to have colour and links, and how does a command take `--color`?"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from typing import Annotated, Any, TextIO

import typer

_asked: list[str] = []
# Terminals that are known to follow OSC 8 links.
_LINKING = {"iTerm.app", "WezTerm", "vscode", "ghostty", "Hyper", "Tabby", "rio"}


class _Colored:
    """A command that takes `--color` beside its own options, which are looked at once Typer asks for them."""

    def __init__(self, command: Callable[..., Any]) -> None:
        functools.update_wrapper(self, command, assigned=("__module__", "__name__", "__doc__"))
        self._command = command

    def __call__(self, *arguments: Any, color: str = "auto", **more: Any) -> Any:
        _asked[:] = [color]
        return self._command(*arguments, **more)

    @property
    def __signature__(self) -> inspect.Signature:
        annotation = Annotated[
            str,
            typer.Option(
                "--color",
                metavar="WHEN",
                help="auto, always or never",
                callback=_known,
                autocompletion=_whens,
                show_default=False,
            ),
        ]
        own = inspect.signature(self._command, eval_str=True)
        option = inspect.Parameter(
            "color", inspect.Parameter.KEYWORD_ONLY, default="auto", annotation=annotation
        )
        return own.replace(parameters=[*own.parameters.values(), option])

    @property
    def __annotations__(self) -> dict[str, Any]:  # type: ignore[override]
        return {each.name: each.annotation for each in self.__signature__.parameters.values()}


def with_color(command: Callable[..., Any]) -> Callable[..., Any]:
    """The same command with an option `--color` more, which holds for all that it prints."""
    return _Colored(command)


def is_colored(stream: TextIO) -> bool:
    """By `--color`, else NO_COLOR, FORCE_COLOR (https://no-color.org, https://force-color.org), else whether
    it is a terminal that can.
    """
    asked = next(iter(_asked), "auto")
    if asked != "auto":
        return asked == "always"
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def is_linked(stream: TextIO) -> bool:
    """Whether the terminal is known to make links of OSC 8; what others print of it is unknown."""
    if not stream.isatty() or not is_colored(stream):
        return False
    vte = os.environ.get("VTE_VERSION", "")
    return (
        os.environ.get("TERM_PROGRAM") in _LINKING
        or os.environ.get("TERM", "").startswith(("xterm-kitty", "foot", "alacritty"))
        or "WT_SESSION" in os.environ
        or (vte.isdecimal() and int(vte) >= 5000)
    )


def _known(value: str) -> str:
    if value not in {"auto", "always", "never"}:
        raise typer.BadParameter(f"{value!r} is not one of auto, always, never")
    return value


def _whens(incomplete: str) -> list[str]:
    return [when for when in ("auto", "always", "never") if when.startswith(incomplete)]
