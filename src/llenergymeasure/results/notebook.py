"""How does a result look in a notebook?"""

from __future__ import annotations

from html import escape
from itertools import chain

from llenergymeasure.results import summary
from llenergymeasure.results.models import ExperimentResult
from llenergymeasure.results.summary import Row

LEFT = "style='text-align:left'"


def as_html(result: ExperimentResult) -> str:
    """The rows of the summary as a table."""
    rows = [
        *chain(*summary.sections(result)),
        *[Row("Warning", "", f"{one.message}: {one.remedy}", strong=True) for one in result.warnings],
    ]
    body = "".join(
        f"<tr><th {LEFT}>{escape(row.label)}</th><td {LEFT}>{escape(row.value)}</td>"
        f"<td {LEFT}>{escape(row.note)}</td></tr>"
        for row in rows
    )
    notes = "".join(f"<p>{escape(text)}</p>" for text in summary.legend(result.energy))
    return f"<table><caption>{escape(summary.heading(result))}</caption><tbody>{body}</tbody></table>{notes}"
