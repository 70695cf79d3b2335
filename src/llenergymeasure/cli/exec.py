"""`llem exec`: what does a command cost, and does another one cost less?"""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import JsonValue, TypeAdapter
from tqdm import tqdm

from llenergymeasure.cli._comparison import comparison_lines
from llenergymeasure.cli._display import (
    print_json,
    print_lines,
    print_windows_summary,
    reader_may_leave,
    say,
)
from llenergymeasure.cli._errors import reported
from llenergymeasure.cli._progress import following
from llenergymeasure.exceptions import ConfigError
from llenergymeasure.results.windows import WindowsResult

if TYPE_CHECKING:
    from llenergymeasure.analysis.compare import Comparison


def execute(  # noqa: PLR0913  the signature is the command line
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND …", help="Run without a shell")],
    *,
    runs: Annotated[int, typer.Option("-n", "--runs", min=1, help="Runs, a fresh process each")] = 10,
    warmup: Annotated[int, typer.Option("--warmup", min=0, help="Runs before them that do not count")] = 0,
    prepare: Annotated[
        str | None, typer.Option("--prepare", metavar="CMD", help="Shell command before each run")
    ] = None,
    versus: Annotated[
        str | None,
        typer.Option("--vs", metavar="OTHER", help="Measure this command too, in turns, and compare"),
    ] = None,
    tokens: Annotated[
        str | None,
        typer.Option(
            "--tokens",
            metavar="REGEX",
            help="Its last match in the output, or that's first group, is the number of tokens produced",
        ),
    ] = None,
    ignore_failure: Annotated[
        bool, typer.Option("--ignore-failure", help="Measure runs that end with another code than 0")
    ] = False,
    meter: Annotated[str, typer.Option("--meter", help="auto, nvml, amd, rapl, apple or estimate")] = "auto",
    gpus: Annotated[
        list[str] | None,
        typer.Option("--gpu", help="A GPU that counts, by UUID or index, or all; by default those in use"),
    ] = None,
    shared: Annotated[
        bool, typer.Option("--shared", help="Read devices although another recorder does")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Directory to save the results in")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show tracebacks")] = False,
) -> None:
    """Measure a command: joules, seconds and peak memory of each run, with intervals over the runs."""
    with reported(verbose=verbose):
        from llenergymeasure.analysis.compare_windows import compare_windows
        from llenergymeasure.measure.command import Wanted, measure_commands
        from llenergymeasure.records import MeterChoice

        chosen: str | tuple[str, ...] = tuple(gpus or ()) or "auto"
        wanted = Wanted(
            commands=(tuple(command), *([_split(versus)] if versus is not None else [])),
            runs=runs,
            warmup=warmup,
            prepare=prepare,
            tokens=_pattern(tokens),
            ignore_failure=ignore_failure,
            shared=shared,
            energy=MeterChoice(meter, "all" if chosen == ("all",) else chosen),
            output_dir=output,
        )
        silent = quiet or sys.stderr is None or not sys.stderr.isatty()
        with (
            tqdm(total=None, desc="starting", file=sys.stderr, disable=silent) as bar,
            following(bar) as progress,
        ):
            done = measure_commands(wanted, progress)
        for _, folder in done:
            if folder is not None:
                say(f"Saved: {folder}")
        results = [result for result, _ in done]
        comparison = compare_windows(*results) if versus is not None else None
        with reader_may_leave():
            if as_json:
                print_json(_as_json(results, comparison))
            else:
                _print(results, comparison)


def _split(text: str) -> tuple[str, ...]:
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise ConfigError(f"--vs {text!r}: {error}", hint="close the quotes") from error
    if not words:
        raise ConfigError("--vs names no command", hint="--vs 'python other.py'")
    return words


def _pattern(text: str | None) -> re.Pattern[str] | None:
    try:
        return None if text is None else re.compile(text)
    except re.error as error:
        raise ConfigError(
            f"--tokens {text!r} is not a regular expression: {error}", hint=r"--tokens '(\d+) tokens'"
        ) from error


def _as_json(results: list[WindowsResult], comparison: Comparison | None) -> JsonValue:
    from llenergymeasure.analysis.compare import Comparison

    if comparison is None:
        return results[0].as_json()
    compared: JsonValue = TypeAdapter(Comparison).dump_python(comparison, mode="json")
    return {"a": results[0].as_json(), "b": results[1].as_json(), "comparison": compared}


def _print(results: list[WindowsResult], comparison: Comparison | None) -> None:
    for result in results:
        print_windows_summary(result)
        if comparison is not None:
            print_lines([""])
    if comparison is not None:
        print_lines(comparison_lines(comparison))
