"""How does a comparison look as Markdown, LaTeX and CSV, and in the summary of a CI job?"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llenergymeasure.analysis.compare import Comparison
from llenergymeasure.analysis.many import Compared, Many
from llenergymeasure.cli._comparison import (
    many_notes,
    many_warnings,
    notes,
    sides_of,
    tables,
    warnings_of_both,
)
from llenergymeasure.cli._streams import printable
from llenergymeasure.exceptions import LLEMError
from llenergymeasure.records.dataset import counted
from llenergymeasure.results.study_table import latex_table, markdown_table, markdown_text


@dataclass(frozen=True, slots=True)
class Gate:
    """The limits that were given, what is worse than they allow, and why some of it can't be judged."""

    limits: tuple[str, ...]
    worse: tuple[str, ...]
    unjudged: LLEMError | None


def markdown_lines(found: Comparison | Many) -> Iterator[str]:
    yield from _tables(found)
    yield from (f"- {_safe(note)}" for note in (*_warnings(found), *_notes(found)))


def github_lines(found: Comparison | Many, gate: Gate) -> Iterator[str]:
    """For $GITHUB_STEP_SUMMARY: what was decided, the figures, and below a fold what they rest on."""
    if gate.worse:
        yield "### ❌ Regression"
    elif gate.unjudged is not None:
        yield "### ⚠️ Not judged"
    elif gate.limits:
        yield "### ✅ No regression"
    else:
        yield "### Comparison"
    yield ""
    yield from (f"- {_safe(one)}" for one in gate.worse)
    if gate.unjudged is not None:
        yield from (f"- {_safe(line.strip())}" for line in gate.unjudged.message.splitlines())
    if gate.limits:
        yield f"- Limits: {_safe(', '.join(gate.limits))}"
        yield ""
    if isinstance(found, Comparison):
        for name, side in (("A", found.a), ("B", found.b)):
            yield f"- {name}: {_safe(side.experiment_id)}, {counted(side.runs, 'run')}"
        yield ""
    else:
        yield from (*(f"- {_safe(line)}" for line in sides_of(found)), "")
    yield from _tables(found)
    warnings = list(_warnings(found))
    count = f" ({counted(len(warnings), 'warning')})" if warnings else ""
    yield from (f"<details><summary>What this rests on{count}</summary>", "")
    yield from (f"- {_safe(note)}" for note in (*warnings, *_notes(found)))
    yield from ("", "</details>")


def latex_lines(found: Comparison | Many) -> Iterator[str]:
    for label, rows in _rows(found):
        head, *body = [list(map(printable, row)) for row in rows]
        yield from latex_table(head, body, notes=[printable(label)] if label else []).splitlines()
    yield from (f"% {printable(note)}" for note in (*_warnings(found), *_notes(found)))


def csv_lines(found: Comparison | Many) -> Iterator[str]:
    """A row for each figure of each pair, bare numbers in SI units."""
    pairs = _pairs(found)
    ends = ("", "_low", "_high", "_systematic_low", "_systematic_high")
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        ["label", "a", "b", "figure", "name", "unit", "runs_a", "runs_b"]
        + [f"{name}{end}" for name in ("of_a", "of_b", "ratio") for end in ends]
        + ["difference", "difference_low", "difference_high"]
        + ["verdict", "method", "withheld"]
    )
    for pair in pairs:
        for one in pair.comparison.ratios:
            apart = one.difference
            numbers = [
                number
                for of in (one.a, one.b, one.ratio)
                for number in (of.value, of.low, of.high, *(of.systematic or (None, None)))
            ]
            numbers += [None] * 3 if apart is None else [apart.value, apart.low, apart.high]
            writer.writerow(
                [pair.label, pair.a, pair.b, one.name, one.label, one.a.unit]
                + [pair.comparison.a.runs, pair.comparison.b.runs]
                + ["" if number is None else repr(number) for number in numbers]
                + [one.verdict or "", one.method.name if one.method else "", "; ".join(one.withheld)]
            )
    return iter(file.getvalue().splitlines())


def _tables(found: Comparison | Many) -> Iterator[str]:
    for label, rows in _rows(found):
        if label:
            yield from (f"**{_safe(label)}**", "")
        yield from markdown_table([list(map(_safe, row)) for row in rows])
        yield ""


def _rows(found: Comparison | Many) -> Iterator[tuple[str, Sequence[Sequence[str]]]]:
    """Of two results one table with a row for each figure; of many a table for each figure."""
    if isinstance(found, Many):
        yield from tables(found)
        return
    of_each = list(tables(Many(None, tuple(_pairs(found)), ())))
    yield "", [of_each[0][1][0], *([label, *rows[1][1:]] for label, rows in of_each)]


def _pairs(found: Comparison | Many) -> Sequence[Compared]:
    if isinstance(found, Many):
        return found.pairs
    return [Compared(found.b.experiment_id, found.a.experiment_id, found.b.experiment_id, found)]


def _warnings(found: Comparison | Many) -> Iterator[str]:
    if isinstance(found, Many):
        return many_warnings(found)
    return warnings_of_both({"A": found.a, "B": found.b})


def _notes(found: Comparison | Many) -> Iterator[str]:
    return many_notes(found) if isinstance(found, Many) else notes(found)


def _safe(text: str) -> str:
    """As plain text in a cell or a line: a model's name may hold markup and control characters."""
    return markdown_text(printable(text))
