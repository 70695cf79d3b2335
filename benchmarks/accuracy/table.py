"""What did each tool say, how far was that from the truth, and is it near enough?"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One tool in one case. `mean`, `sd` and `worst` (the largest absolute value) are in `unit`.

    `covered` is the share of runs whose stated 95 % interval held the truth, `ratio` the stated half-width in
    95th percentiles of the errors. `target` says in words what was to be reached and `met` whether it was,
    None where nothing was asked. A row of no runs says why in `note`.
    """

    section: str
    case: str
    tool: str
    runs: int
    mean: float | None = None
    sd: float | None = None
    worst: float | None = None
    unit: str = "%"
    covered: float | None = None
    target: str | None = None
    met: bool | None = None
    note: str = ""
    ratio: float | None = None

    def __post_init__(self) -> None:
        if self.runs == 0 and not self.note:
            raise ValueError(f"a row of no runs needs a note that says why, got {self}")


def row_of_errors(
    where: tuple[str, str, str],
    errors: Sequence[float],
    *,
    limit: float | None = None,
    held: Sequence[bool] = (),
    note: str = "",
) -> Row:
    """The row of `where` (section, case, tool) for relative errors, such as 0.01 for 1 %.

    `limit` is the largest absolute error that is allowed; `held` says of each stated interval whether it
    held the truth.
    """
    section, case, tool = where
    if not errors:
        return Row(section, case, tool, 0, target=at_most(limit), note=note or "not run")
    worst = max(map(abs, errors))
    return Row(
        section,
        case,
        tool,
        len(errors),
        mean=100 * statistics.fmean(errors),
        sd=100 * statistics.stdev(errors) if len(errors) > 1 else None,
        worst=100 * worst,
        covered=statistics.fmean(held) if held else None,
        target=at_most(limit),
        met=None if limit is None else worst <= limit,
        note=note,
    )


def render(rows: Iterable[Row]) -> str:
    """The rows as Markdown, one table per section, in the order in which they come."""
    rows = tuple(rows)
    parts = []
    for section in dict.fromkeys(row.section for row in rows):
        cells = [_HEAD, *(_cells(row) for row in rows if row.section == section)]
        widths = [max(len(line[column]) for line in cells) for column in range(len(_HEAD))]
        lines = [_line(line, widths) for line in cells]
        rule = _line(["-" * width for width in widths], widths)
        parts.append("\n".join([f"### {section}", "", lines[0], rule, *lines[1:]]))
    return "\n\n".join(parts) + "\n"


BEGIN, END = "<!-- printed by python -m benchmarks.accuracy -->", "<!-- end of what was printed -->"


def put_into(page: str, printed: str) -> str:
    """`page` with `printed` between its two marks. ValueError where it lacks them."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page lacks the marks {BEGIN} and {END}")
    return f"{before}{begin}\n\n{printed.strip()}\n\n{end}{after}"


_HEAD = ("case", "tool", "runs", "mean", "sd", "worst", "interval held", "target", "met", "note")


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.case,
        row.tool,
        str(row.runs) if row.runs else "not run",
        _figure(row.mean, row.unit, sign=row.worst is not None),
        _figure(row.sd, row.unit),
        _figure(row.worst, row.unit),
        "" if row.covered is None else f"{row.covered:.1%}",
        row.target or "",
        {True: "yes", False: "no", None: ""}[row.met],
        row.note,
    )


def _figure(value: float | None, unit: str, *, sign: bool = False) -> str:
    if value is None:
        return ""
    if value == 0:
        return f"0 {unit}"
    decimals = min(4, max(0, 1 - math.floor(math.log10(abs(value)))))
    return f"{value:{'+' if sign else ''}.{decimals}f} {unit}"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell.replace("|", "/").ljust(width) for cell, width in zip(cells, widths, strict=True))
    return f"| {' | '.join(padded)} |"


def at_most(limit: float | None) -> str | None:
    """A target in words."""
    return None if limit is None else f"worst ≤ {100 * limit:g} %"
