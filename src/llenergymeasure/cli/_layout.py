"""How do rows of labels, values and notes fit the width of a terminal?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from llenergymeasure.cli._streams import filled, room, strong
from llenergymeasure.results.summary import Row, columns

# A note narrower than this goes below its row rather than beside it.
NARROW = 36


def row_lines(rows: Iterable[Row]) -> Iterator[list[str]]:
    """The lines of each row: one where that fits; else the note continues beside it or goes below."""
    rows, most = list(rows), room()
    labels = max((len(row.label) for row in rows), default=0)
    values = max((len(row.value) for row in rows), default=0)
    beside = 2 + labels + 2 + values + 2
    for row in rows:
        label = f"  {row.label.ljust(labels)}  "
        near = len(label) + (len(row.value) + 2 if row.value else 0)
        head = label + (strong(row.value) if row.strong and row.value else row.value)
        padded = head + " " * (beside - len(label) - len(row.value))
        if beside + len(row.note) <= most and (row.value or not row.label):
            yield [f"{padded}{row.note}".rstrip()]
        elif near + len(row.note) <= most and (most - beside < NARROW or not row.value):
            yield [f"{head}{'  ' if row.value else ''}{row.note}".rstrip()]
        elif most - beside >= NARROW:
            first, *more = filled(row.note, width=most - beside)
            yield [padded + first, *(" " * beside + line for line in more)]
        else:
            fits = near - 2 <= most or not row.value
            above = [head.rstrip()] if fits else [f"  {row.label}", f"    {head.removeprefix(label)}"]
            yield [*filter(None, above), *filled(row.note, indent=" " * 6)]


def fitting(rows: Sequence[Sequence[str]], *, indent: str = "  ") -> Iterator[list[str]]:
    """The lines of each row in columns below a row of heads; where that is too wide, `head: cell` by row."""
    lines = [f"{indent}{line}" for line in columns(rows)]
    if max(map(len, lines)) <= room():
        yield from ([line] for line in lines)
        return
    yield []
    for row in rows[1:]:
        named = zip(rows[0][1:], row[1:], strict=False)
        cells = [f"{head}: {cell}" if head else cell for head, cell in named if cell]
        yield [f"{indent}{row[0]}", *filled("; ".join(cells), indent=f"{indent}  ")]
