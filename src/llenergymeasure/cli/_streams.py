"""How does text reach a terminal, with nothing in it that steers it: data on stdout, talk on stderr?"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from llenergymeasure.cli._color import is_colored, is_linked
from llenergymeasure.exceptions import ResultError

# For a terminal that has no such signs.
_STAND_INS = {"±": "+/-", "≈": "~", "–": "-", "→": "->", "−": "-", "·": "-", "×": "x", "✓": "+", "✗": "-"}
# Around what has a style until it is known where it goes: code points that Unicode keeps for such inner use.
_STYLES = {
    "\ufdd0": "\x1b[1m",
    "\ufdd1": "\x1b[0m",
    "\ufdd2": "\x1b[31m",
    "\ufdd3": "\x1b[33m",
    "\ufdd4": "\x1b[32m",
}
_BOLD, _PLAIN, _RED, _YELLOW, _GREEN = _STYLES
_SPACES = "\u00a0\u202f"
WIDTH = 100
UNBROKEN = 10_000


def say(text: str) -> None:
    """Talk: lines on stderr."""
    # Where stderr can't be written there is nowhere to say so.
    with suppress(OSError):
        _write(printable(text, keep="\n\t"), sys.stderr)


def talk(text: str) -> None:
    """One paragraph on stderr, in lines that fit."""
    for line in filled(text, width=room(sys.stderr)):
        say(line)


def filled(text: str, *, indent: str = "", hang: str = "", width: int | None = None) -> list[str]:
    """The text in lines that the terminal holds, broken between words, and not within `± 2 %` or `15 s`.
    Spaces before it indent every line, and `hang` all but the first.
    """
    indent += text[: len(text) - len(text.lstrip(" "))]
    lines = textwrap.wrap(
        re.sub(r"(?<=[±≈]) | (?=%)|(?<=\d) (?=[a-zA-Zµ°/]{1,3}\b)", "\u00a0", text.strip(" ")),
        width or room(),
        initial_indent=indent,
        subsequent_indent=indent + hang,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace("\u00a0", " ") for line in lines]


def room(stream: TextIO | None = None) -> int:
    """Columns of the terminal behind stdout or `stream`, or of COLUMNS; lines for a file are not broken."""
    stream = stream or sys.stdout
    if stream is not None and stream.isatty():
        return max(40, shutil.get_terminal_size((WIDTH, 24)).columns)
    asked = os.environ.get("COLUMNS", "")
    return max(40, int(asked)) if asked.isdecimal() else UNBROKEN


def print_lines(lines: Iterable[str]) -> None:
    """Data that a person reads, on stdout."""
    text = "\n".join(map(printable, lines))
    with reader_may_leave():
        _write(text, sys.stdout)


def print_json(value: object) -> None:
    """A value of the models or a dataclass, or one made of these, on stdout as the JSON that files hold."""
    from pydantic_core import to_jsonable_python

    text = json.dumps(to_jsonable_python(value), indent=2, allow_nan=False)
    with reader_may_leave():
        _write(text, sys.stdout)


def strong(text: str) -> str:
    """Bold, where it is printed on a terminal."""
    return f"{_BOLD}{text}{_PLAIN}"


def bad(text: str) -> str:
    """For an error or what is not there: bold and red."""
    return f"{_BOLD}{_RED}{text}{_PLAIN}"


def cautious(text: str) -> str:
    """For a warning or what is there in part: bold and yellow."""
    return f"{_BOLD}{_YELLOW}{text}{_PLAIN}"


def good(text: str) -> str:
    """Green."""
    return f"{_GREEN}{text}{_PLAIN}"


def say_saved(path: Path) -> None:
    """Where something was written: a link, where the terminal makes links."""
    text = printable(f"Saved: {path}")
    if sys.stderr is not None and is_linked(sys.stderr):
        text = f"Saved: \x1b]8;;{path.absolute().as_uri()}\x1b\\{printable(str(path))}\x1b]8;;\x1b\\"
    with suppress(OSError):
        _write(text, sys.stderr)


def printable(text: str, *, keep: str = "") -> str:
    """With control characters and what reorders text escaped: a file, a result or an engine may hold some."""
    if text.isprintable():
        return text
    kept = keep + _SPACES + "".join(_STYLES)
    return "".join(
        sign if sign.isprintable() or sign in kept else sign.encode("unicode_escape").decode()
        for sign in text
    )


@contextmanager
def reader_may_leave() -> Iterator[None]:
    """Around what writes to stdout: where its reader has gone, end with 1 and no traceback.

    ResultError where stdout can't be written for another reason.
    """
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        # The interpreter flushes once more on its way out and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            sys.exit(1)
        raise ResultError(f"stdout can't be written: {error.strerror}") from error


def _write(text: str, stream: TextIO | None) -> None:
    """A stream that was closed before the program began is None, and nobody reads it."""
    if stream is None:
        return
    colored = is_colored(stream)
    for mark, escape in _STYLES.items():
        text = text.replace(mark, escape if colored else "")
    encoding = stream.encoding or "utf-8"
    for sign, stand_in in _STAND_INS.items():
        if sign.encode(encoding, "ignore") == b"":
            text = text.replace(sign, stand_in)
    # In one piece, or a reader such as `head` may leave between two.
    stream.write(text.encode(encoding, "replace").decode(encoding) + "\n")
