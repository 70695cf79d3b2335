"""`llem compare`: how do two result files become ratios with intervals?"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import typer
from pydantic import JsonValue, TypeAdapter

from llenergymeasure.analysis import compare as analysis
from llenergymeasure.cli._comparison import comparison_lines
from llenergymeasure.cli._errors import reported
from llenergymeasure.cli._streams import print_json, print_lines, reader_may_leave, say
from llenergymeasure.results import ExperimentResult

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
        comparison = analysis.compare(ExperimentResult.load(a), ExperimentResult.load(b), allow=allowed)
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
