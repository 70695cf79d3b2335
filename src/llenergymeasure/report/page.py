"""How does the content become one HTML file that needs nothing else?"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from string import Template

from pydantic import JsonValue

from llenergymeasure.exceptions import LLEMError, ResultError
from llenergymeasure.records.figures import scale_for
from llenergymeasure.report.content import FIGURES, Content, Figure, content, text_of
from llenergymeasure.results.folder import replace_text, unwritable
from llenergymeasure.results.study import StudyRow

REPORT_FILE = "report.html"
_MADE_BY = '<meta name="generator" content="llem report">'
# Inside a script element nothing may end it or begin another, and two line ends are none in JSON.
_ESCAPED = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}


def as_html(found: Content) -> str:
    """All text of results is in the page's data, which the page's script puts in as text. A policy lets no
    other script run and no address be fetched.
    """
    shipped = files(__package__)
    scripts = [
        (shipped / name).read_text(encoding="utf-8").replace("</script", "<\\/script")
        for name in ("plotly-basic.min.js", "page.js")
    ]
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    return Template((shipped / "page.html").read_text(encoding="utf-8")).substitute(
        made_by=_MADE_BY,
        policy=f"default-src 'none'; style-src 'unsafe-inline'; script-src {hashes}; img-src data: blob:",
        title=html.escape(found.title),
        style=(shipped / "page.css").read_text(encoding="utf-8"),
        data=_json(_data(found)),
        plotly=scripts[0],
        script=scripts[1],
    )


def report_of_study(folder: Path, remark: Callable[[str], None]) -> None:
    """`report.html` in the folder of a study that has ended; a reason for none is remarked, not raised."""
    try:
        write(as_html(content([folder])), folder / REPORT_FILE, own=True)
    # Whatever is wrong with the report: the study is whole, and what it ended with is not to be lost.
    except Exception as error:  # noqa: BLE001
        why = error.message if isinstance(error, LLEMError) else f"{type(error).__name__}: {error}"
        remark(f"The report of the study could not be written: {why}")


def write(text: str, file: Path, *, own: bool) -> None:
    """The whole file or as it was. A file that was named is replaced; one that llem chose (`own`) only where
    a report is there. ResultError where it can't be written.
    """
    if own and file.exists() and _MADE_BY not in file.read_text(encoding="utf-8", errors="replace")[:2000]:
        raise ResultError(
            f"{file} is there and is not a report of llem", hint="name another file: --output FILE"
        )
    try:
        replace_text(file, text)
    except OSError as error:
        raise unwritable("the report", file, error, hint="name another file: --output FILE") from error


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _json(value: JsonValue) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":")).translate(_ESCAPED)


def _data(found: Content) -> dict[str, JsonValue]:
    rows = found.study.rows
    figures = [figure for figure in FIGURES if any(_known(figure, row) is not None for row in rows)]
    keys = list(dict.fromkeys(key for row in rows for key in row.varied))
    return {
        "title": found.title,
        "made": found.made,
        "words": list(found.words),
        "alerts": list(found.alerts),
        "simulated": found.study.simulated,
        "figures": [
            {
                "key": figure.key,
                "label": figure.label,
                "energy": figure.energy,
                "more": figure.more_is_better,
                **_axis(figure, rows),
            }
            for figure in figures
        ],
        "settings": [*keys],
        "rows": [_row(row, figures, keys) for row in rows],
        "details": list(found.details),
        "environments": list(found.environments),
        "thinned": list(found.thinned),
    }


def _known(figure: Figure, row: StudyRow) -> float | None:
    found = figure.of(row)
    return None if found is None else found.value


def _axis(figure: Figure, rows: tuple[StudyRow, ...]) -> dict[str, JsonValue]:
    """The unit that all values of a figure share on an axis, and by what an SI value is divided for it."""
    known = [
        (found.value, found.unit) for row in rows if (found := figure.of(row)) and found.value is not None
    ]
    value, unit = sorted(known)[len(known) // 2]
    scale = scale_for(value, unit)
    return {"unit": scale.unit, "size": 10.0**scale.exponent}


def _row(row: StudyRow, figures: list[Figure], keys: list[str]) -> dict[str, JsonValue]:
    """Of each figure its text, value, interval and systematic range, in SI units."""
    values: list[JsonValue] = []
    for figure in figures:
        found = figure.of(row)
        if found is None or found.value is None:
            values.append([None if found is None else found.reason])
            continue
        numbers: list[float | None] = [found.value, found.low, found.high, *(found.systematic or ())]
        values.append([text_of(figure, row), *(None if one is None else _short(one) for one in numbers)])
    return {
        "label": row.label,
        "varied": [row.varied.get(key) for key in keys],
        "outcome": row.outcome,
        "runs": f"{row.runs}" if row.runs >= row.planned else f"{row.runs} of {row.planned}",
        "valid": row.valid,
        "modelled": row.modelled,
        "warnings": list(row.warnings),
        "values": values,
    }


def _short(value: float) -> float:
    return float(f"{value:.6g}")
