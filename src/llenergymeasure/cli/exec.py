"""`llem exec`: what does a command cost, and does another one cost less?"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from llenergymeasure.analysis.compare import Comparison
from llenergymeasure.analysis.compare_windows import compare_windows
from llenergymeasure.cli._comparison import comparison_lines
from llenergymeasure.cli._display import print_windows_summary
from llenergymeasure.cli._errors import reported
from llenergymeasure.cli._progress import steps_shown
from llenergymeasure.cli._streams import print_json, print_lines, say, say_saved
from llenergymeasure.exceptions import ConfigError
from llenergymeasure.measure.command import Wanted, measure_commands
from llenergymeasure.records import BoundaryName, MeterChoice
from llenergymeasure.results.windows import WindowsResult


def execute(  # noqa: PLR0913  as the command line has them
    command: list[str],
    *,
    runs: int,
    warmup: int,
    prepare: str | None,
    versus: str | None,
    tokens: str | None,
    ignore_failure: bool,
    meter: str,
    gpus: list[str] | None,
    boundary: str,
    shared: bool,
    output: Path | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    with reported(verbose=verbose):
        chosen: str | tuple[str, ...] = tuple(gpus or ()) or "auto"
        wanted = Wanted(
            commands=(tuple(command), *([_split(versus)] if versus is not None else [])),
            runs=runs,
            warmup=warmup,
            prepare=prepare,
            tokens=_pattern(tokens),
            ignore_failure=ignore_failure,
            shared=shared,
            energy=MeterChoice(
                meter, "all" if chosen == ("all",) else chosen, boundary=cast("BoundaryName", boundary)
            ),
            output_dir=output,
        )
        with steps_shown(quiet=quiet) as progress:
            results = measure_commands(wanted, progress, lambda folder: None if quiet else say_saved(folder))
        if tokens is not None and not quiet:
            _tell_no_tokens(tokens, results)
        comparison = compare_windows(*results) if versus is not None else None
        if not as_json:
            _print(results, comparison)
        elif comparison is None:
            print_json(results[0])
        else:
            print_json({"a": results[0], "b": results[1], "comparison": comparison})


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


def _tell_no_tokens(pattern: str, results: Sequence[WindowsResult]) -> None:
    for one in (named for result in results for named in result.windows):
        without = sum(occurrence.output_tokens is None for occurrence in one.occurrences)
        if without:
            say(
                f"Warning: --tokens '{pattern}' found no number in the output of {without} of {one.count} "
                f"runs of {one.name}: there are no joules per token"
            )


def _print(results: Sequence[WindowsResult], comparison: Comparison | None) -> None:
    for result in results:
        print_windows_summary(result)
        if comparison is not None:
            print_lines([""])
    if comparison is not None:
        print_lines(comparison_lines(comparison))
