"""How do numbers stand in columns?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from llenergymeasure.results.figures import amount, duration, plain

__all__ = ["about", "amount", "columns", "duration", "plain"]


def columns(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Rows whose cells stand below each other; the last cell of a row is as long as it likes."""
    rows = list(rows)
    most = max((len(row) for row in rows), default=0)
    widths = [max((len(row[at]) for row in rows if at < len(row) - 1), default=0) for at in range(most)]
    for row in rows:
        padded = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)]
        yield "  ".join([*padded, row[-1]]).rstrip()


def about(seconds: float) -> str:
    """A time with no more digits than a forecast has: `12 s`, `2.5 min`, `45 min`, `3 h`."""
    size, unit = (1, "s") if seconds < 119.5 else (60, "min") if seconds < 7170 else (3600, "h")
    return f"{float(f'{seconds / size:.2g}'):g} {unit}"
