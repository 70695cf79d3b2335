"""How does a command end: what is said of an error, and with which exit code?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn, Protocol

import typer
from pydantic import ValidationError

from llenergymeasure.cli._display import say
from llenergymeasure.cli._errors import format_bug, format_error, format_traceback, format_validation_error
from llenergymeasure.cli._interrupt import interruptible
from llenergymeasure.exceptions import LLEMError


class Explains(Protocol):
    def __call__(self, error: LLEMError, *, verbose: bool = False) -> str: ...


@contextmanager
def reported(
    *,
    verbose: bool,
    explain: Explains = format_error,
    explain_validation: Callable[[ValidationError], str] = format_validation_error,
) -> Iterator[None]:
    """Around the whole of a command: an exception becomes lines on stderr and an exit code."""
    with interruptible():
        try:
            yield
        except typer.Exit:
            raise
        except ValidationError as error:
            if verbose:
                say(format_traceback(error))
            _end(explain_validation(error), 2)
        except LLEMError as error:
            _end(explain(error, verbose=verbose), error.exit_code)
        except KeyboardInterrupt:
            _end("Interrupted", 130)
        except Exception as error:  # noqa: BLE001  the last stop: a bug gets one line and a log, not a traceback
            _end(format_bug(error, verbose=verbose), 1)


def _end(text: str, code: int) -> NoReturn:
    say(text)
    raise typer.Exit(code)
