"""`llem compare`: how do two result files become ratios with intervals?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import JsonValue, TypeAdapter

from llenergymeasure.cli._comparison import comparison_lines
from llenergymeasure.cli._display import print_json, print_lines, reader_may_leave, say
from llenergymeasure.cli._errors import reported
from llenergymeasure.exceptions import ConfigError
from llenergymeasure.results.models import ExperimentResult
from llenergymeasure.results.windows import WindowsResult, load_any

if TYPE_CHECKING:
    from llenergymeasure.analysis.compare import Comparison

REGRESSION = 4


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="result.json, or the folder that holds one")],
    b: Annotated[Path, typer.Argument(metavar="B", help="The one that is measured against A")],
    *,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            "--allow",
            metavar="KEY",
            help="Compare although they differ in this: unit, simulated, method, boundary, model, "
            "workload, tokens, driver, power_limit or clocks; or single_process: judge by the intervals "
            "within single processes; may be repeated",
        ),
    ] = None,
    allow_mixed: Annotated[
        bool, typer.Option("--allow-mixed", help="Compare modelled with measured energy (--allow method)")
    ] = False,
    fail_above: Annotated[
        float | None,
        typer.Option(
            "--fail-above",
            metavar="PERCENT",
            min=0,
            help="End with exit code 4 where B uses over PERCENT more joules per output token, beyond "
            "the interval and systematic errors; needs three runs of each",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show tracebacks")] = False,
) -> None:
    """Compare two results: B / A with its interval, or why they cannot be compared."""
    with reported(verbose=verbose):
        from llenergymeasure.analysis import compare as analysis

        allowed = {*(allow or []), *(["method"] if allow_mixed else [])}
        comparison = _compared(load_any(a), load_any(b), allowed)
        with reader_may_leave():
            if as_json:
                adapter = TypeAdapter(analysis.Comparison)
                value: JsonValue = adapter.dump_python(comparison, mode="json")
                print_json(value)
            else:
                print_lines(comparison_lines(comparison))
        worse = None if fail_above is None else analysis.regression(comparison, fail_above)
        if worse is not None:
            say(f"Regression: {worse}")
            raise typer.Exit(REGRESSION)


def _compared(
    a: ExperimentResult | WindowsResult, b: ExperimentResult | WindowsResult, allowed: set[str]
) -> Comparison:
    from llenergymeasure.analysis.compare import compare as models
    from llenergymeasure.analysis.compare_windows import compare_windows

    if isinstance(a, WindowsResult) and isinstance(b, WindowsResult):
        return compare_windows(a, b, allow=allowed)
    if isinstance(a, ExperimentResult) and isinstance(b, ExperimentResult):
        return models(a, b, allow=allowed)
    raise ConfigError(f"A is of kind {a.kind} and B of kind {b.kind}: they have nothing in common")
