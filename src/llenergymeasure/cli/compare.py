"""`llem compare`: how do two result files become ratios with intervals?"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import typer
from pydantic import JsonValue, TypeAdapter

from llenergymeasure.analysis import compare as analysis
from llenergymeasure.analysis.compare_windows import compare_windows
from llenergymeasure.cli._comparison import comparison_lines
from llenergymeasure.cli._errors import reported
from llenergymeasure.cli._streams import print_json, print_lines, reader_may_leave, say
from llenergymeasure.exceptions import ConfigError
from llenergymeasure.results.models import ExperimentResult
from llenergymeasure.results.windows import WindowsResult, load_any

REGRESSION = 4


def compare(
    a: Path,
    b: Path,
    *,
    allowed: Collection[str],
    fail_above: float | None,
    as_json: bool,
    verbose: bool,
) -> None:
    with reported(verbose=verbose):
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
    a: ExperimentResult | WindowsResult, b: ExperimentResult | WindowsResult, allowed: Collection[str]
) -> analysis.Comparison:
    if isinstance(a, WindowsResult) and isinstance(b, WindowsResult):
        return compare_windows(a, b, allow=allowed)
    if isinstance(a, ExperimentResult) and isinstance(b, ExperimentResult):
        return analysis.compare(a, b, allow=allowed)
    raise ConfigError(f"A is of kind {a.kind} and B of kind {b.kind}: they have nothing in common")
