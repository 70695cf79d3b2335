"""How does a report read as Markdown, in an issue or a repository?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from llenergymeasure.report.content import Content
from llenergymeasure.results.study_table import table


def as_markdown(content: Content) -> str:
    """Warnings first, then the summary in words, the table, and the environment."""
    return "\n".join(_lines(content)).rstrip() + "\n"


def _lines(content: Content) -> Iterator[str]:
    yield f"# {_plain(content.title)}"
    yield ""
    for alert in content.alerts:
        yield _alert(alert)
    if content.alerts:
        yield ""
    yield from (f"- {_plain(line)}" for line in content.words)
    if content.study.rows:
        yield from ("", "## Experiments", "", *map(_safe, table(content.study, "markdown").splitlines()))
    apart = content.details[len(content.study.rows) :]
    alone = content.details if len(content.details) == 1 else apart
    for detail in alone:
        yield from _detail(detail or {})
    for machine in content.environments:
        rows: Any = machine["rows"]
        yield from _table(f"Environment: {machine['host'] or 'unnamed host'}", rows)
    yield from ("", f"Made by {content.made}.")


def _alert(alert: dict[str, Any]) -> str:
    whose = "; ".join(map(_plain, alert["of"][:3]))
    more = alert["count"] - 3
    more_text = f" and {more} more" if more > 0 else ""
    of = f" — {whose}{more_text}" if whose else ""
    code = f" (`{alert['code']}`)" if alert["code"] else ""
    return f"- **{alert['level'].capitalize()}**: {_plain(alert['title'])}{code}: {_plain(alert['text'])}{of}"


def _detail(detail: dict[str, Any]) -> Iterator[str]:
    yield from ("", f"## {_plain(detail.get('heading', ''))}")
    for group in detail.get("groups", ()):
        yield from _table(group["title"], [row[:3] for row in group["rows"]], level=3)
    yield from ("", *(f"- {_plain(note)}" for note in detail.get("notes", ())))


def _table(title: str, rows: list[list[str]], *, level: int = 2) -> Iterator[str]:
    if not rows:
        return
    width = len(rows[0])
    yield from ("", f"{'#' * level} {_plain(title)}", "", "|" + "  |" * width, "|" + "---|" * width)
    yield from ("| " + " | ".join(_plain(cell).replace("|", r"\|") for cell in row) + " |" for row in rows)


def _plain(text: str) -> str:
    """One line in which nothing is markup."""
    return re.sub(r"([\\`*_\[\]#])", r"\\\1", _safe(" ".join(str(text).split())))


def _safe(text: str) -> str:
    """Without HTML, and without what steers a terminal."""
    shown = "".join(sign if sign.isprintable() else " " for sign in text)
    return shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
