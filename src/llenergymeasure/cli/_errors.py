"""How does a command end where something goes wrong: with which text, which way out and which exit code?"""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from textwrap import indent
from types import FrameType
from typing import Any, NoReturn

import platformdirs
import typer
from pydantic import ValidationError

from llenergymeasure.cli._streams import bad, filled, printable, room, say, strong
from llenergymeasure.config.suggest import RENAMED, known_keys, nearest, nearest_key
from llenergymeasure.exceptions import ExperimentError, LLEMError
from llenergymeasure.results.folder import OF_THE_DISK

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def interruptible() -> Iterator[None]:
    """The first Ctrl-C raises KeyboardInterrupt; later ones only say so and leave the clean-up alone.

    SIGTERM and SIGHUP (a scheduler's time limit, a closed terminal) also clean up and exit with 128 +
    their number. The handlers of before are put back on leaving. Outside the main thread, where none can be
    set, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stopping = False

    def stop(number: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        if stopping:
            # not through sys.stderr, which the interrupted code may be in the middle of writing to
            os.write(2, b"already stopping\n")
            return
        stopping = True
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        os.write(2, f"Ended by {signal.Signals(number).name}\n".encode())
        raise SystemExit(128 + number)

    # What a caller has ignored (nohup does so with SIGHUP) stays ignored.
    heard = [number for number in _ENDING if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def format_error(error: BaseException, *, verbose: bool = False) -> str:
    """`ClassName: message`, then `hint: …`; with `verbose` the output of the worker and the traceback.

    Further lines of a message are indented, so that none of them passes for a hint or another error.
    """
    lines = [_indented(f"{type(error).__name__}: {error}".rstrip(": ")), *getattr(error, "__notes__", ())]
    failure = error.failure if isinstance(error, ExperimentError) else None
    if isinstance(error, LLEMError) and error.hint:
        lines.append(_indented(f"hint: {error.hint}"))
    if failure is not None and not verbose and (failure.log_tail or failure.traceback):
        lines.append("hint: -v shows the output of the worker")
    if verbose:
        if failure is not None:
            lines += [indent(text.rstrip(), "  ") for text in (failure.log_tail, failure.traceback) if text]
        lines.append(indent(format_traceback(error), "  "))
    return "\n".join(lines)


def format_validation_error(error: ValidationError) -> str:
    """`Config validation failed (n errors):`, then a line per error with its path."""
    lines = validation_lines(error)
    return "\n".join([f"Config validation failed ({errors(len(lines))}):", *(f"  {line}" for line in lines)])


def validation_lines(error: ValidationError) -> list[str]:
    """A line for each value that is not allowed, with where it comes from."""
    places = dict(note.split(": ", 1) for note in getattr(error, "__notes__", ()))
    lines = dict.fromkeys(_placed(details, places) for details in error.errors(include_url=False))
    return [printable(line) for line in lines]


def errors(count: int) -> str:
    return "1 error" if count == 1 else f"{count} errors"


def format_bug(error: BaseException, *, verbose: bool = False) -> str:
    """One line for an exception that nobody foresaw, and where its traceback is kept."""
    text = format_traceback(error)
    head = f"unexpected {type(error).__name__}: {_one_line(str(error))}; this is a bug in llem"
    if verbose:
        return f"{head}\n{indent(text, '  ')}"
    folder = platformdirs.user_log_path("llenergymeasure")
    log = folder / f"crash-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{os.getpid()}.log"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        log.write_text(text + "\n", encoding="utf-8")
    except OSError as problem:
        return f"{head}; its log could not be written ({problem.strerror}), -v shows it"
    return f"{head}; please report it with {log}"


def _why_short(error: BaseException) -> str | None:
    """Of an exception that only says that the system gives this process no more of something."""
    if isinstance(error, OSError) and error.errno in {errno.EMFILE, errno.ENFILE}:
        what, way = "open files", "ulimit -n 1024"
    elif (
        isinstance(error, MemoryError)
        or getattr(error, "errno", None) == errno.ENOMEM
        or "failed to map segment" in str(error)
    ):
        what, way = "memory", "ulimit -v unlimited, or a larger memory limit of the container"
    elif "can't start new thread" in str(error) or getattr(error, "errno", None) == errno.EAGAIN:
        what, way = "threads or processes", "ulimit -u, ulimit -v, or the container's limit of pids"
    else:
        return None
    said = _one_line(str(error)) or "refused"
    return f"this process may have no more {what}: {said}\nhint: raise the limit: {way}"


def _why_outside(error: BaseException) -> str | None:
    """Of an exception in which the system refuses a file: that is for the user to grant."""
    if not isinstance(error, OSError) or not isinstance(error.filename, str | os.PathLike):
        return None
    if isinstance(error, PermissionError):
        way = "run as a user who may, or have its owner grant it: chmod, chown"
    elif error.errno in OF_THE_DISK:
        way = "free space there, or name a place on another disk"
    else:
        return None
    return f"{error.filename}: {error.strerror}\nhint: {way}"


def format_traceback(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)).rstrip()


def _placed(details: Mapping[str, Any], places: Mapping[str, str]) -> str:
    """The line of an error, with where the value comes from, as the loader noted it."""
    place = places.get(".".join(map(str, details["loc"])))
    return _line(details) + (f" ({place})" if place else "")


def _line(details: Mapping[str, Any]) -> str:
    loc = tuple(details["loc"])
    # pydantic appends the branch of a union, such as literal['auto']; a user knows only field names
    path = ".".join(str(part) for part in loc if not re.search(r"[\[(]", str(part))) or "configuration"
    kind, given = details["type"], details["input"]
    if kind == "extra_forbidden":
        if path in RENAMED:
            return f"{path} is now {RENAMED[path]}"
        meant = nearest_key(path)
        return f"{path}: unknown key" + (f". Did you mean: {meant}?" if meant else "")
    if kind == "model_type":
        inside = next((f", such as {key}" for key in known_keys() if key.startswith(f"{path}.")), "")
        kind, said = "missing", f"is a section, and takes no single value; give one of its keys{inside}"
    else:
        said = "required, but not given"
    if kind == "missing":
        return f"{path}: {said}"
    message = _one_line(details["msg"].removeprefix("Value error, ").removeprefix("Input ").rstrip("."))
    if given == "":
        message = "should not be empty (is a variable of the command unset?)"
    elif kind in {"int_parsing", "float_parsing"}:
        message = message.partition(", unable")[0]
        if re.fullmatch(r"[-+\d.]+\s*[^\W\d_]+", str(given)):
            message += f" without its unit (llem config keys {path} says which)"
    if kind in {"literal_error", "unknown_name"}:
        choices = re.findall(r"'([^']*)'", str(details["ctx"]["expected"]))
        meant = nearest(given, choices) if isinstance(given, str) else None
        question = f" Did you mean: {meant}?" if meant else ""
        return f"{path}: {_shown(given)} is not valid.{question} Valid values: {', '.join(choices)}"
    if isinstance(given, str | int | float) or given is None:
        return f"{path}: {message}, got {_shown(given)}"
    return f"{path}: {message}"


def _shown(value: object) -> str:
    """As it was given, but for what may be a secret in a URL."""
    if isinstance(value, str) and "://" in value:
        value = re.sub(r"(?<=[?#]).+", "***", re.sub(r"(?<=://)[^/\s]*@", "***@", value))
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _indented(text: str) -> str:
    return re.sub(r"\n(?! )", "\n  ", text)


def _one_line(text: str) -> str:
    return " ".join(text.split())


@contextmanager
def reported(
    *,
    verbose: bool,
    explain: Callable[..., str] = format_error,
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
        except (KeyboardInterrupt, SystemExit) as error:
            _end_by_signal(error)
        except (OSError, MemoryError, RuntimeError, ImportError) as error:
            known = _why_short(error) or _why_outside(error)
            if known and verbose:
                say(format_traceback(error))
            _end(known or format_bug(error, verbose=verbose), 1)
        except Exception as error:  # noqa: BLE001  the last stop: a bug gets one line and a log, not a traceback
            _end(format_bug(error, verbose=verbose), 1)


def _end_by_signal(error: KeyboardInterrupt | SystemExit) -> NoReturn:
    """With what became of its requests; another signal has been reported already."""
    account = getattr(error, "__notes__", ())
    if isinstance(error, KeyboardInterrupt):
        # Python keeps in mind that one left an exec of text, as where a dataclass is made, and under -m would
        # end itself by SIGINT in place of this code. Another exec makes it forget.
        exec("")  # noqa: S102
        _end("\n".join(["Interrupted", *account]), 130)
    if account:
        say_filled("\n".join(account))
    raise error


def say_filled(text: str) -> None:
    """Lines of an error on stderr, each broken where the terminal ends."""
    for number, line in enumerate(text.splitlines()):
        head, colon, rest = line.partition(": ")
        if colon and (number == 0 or head == "hint"):
            line = f"{bad(head) if number == 0 else strong(head)}: {rest}"  # noqa: PLW2901  the line as shown
        say("\n".join(filled(line, hang="  ", width=room(sys.stderr))))


def _end(text: str, code: int) -> NoReturn:
    say_filled(text)
    raise typer.Exit(code)
