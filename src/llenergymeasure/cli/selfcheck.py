"""`llem selfcheck`: which times and loads can be believed that this machine measures at a server?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from llenergymeasure.cli._errors import reported
from llenergymeasure.cli._layout import row_lines
from llenergymeasure.cli._streams import filled, print_json, print_lines
from llenergymeasure.doctor.selfcheck import Check, checks, measure_client
from llenergymeasure.records.figures import plain
from llenergymeasure.results.summary import Row


def selfcheck(*, as_json: bool, verbose: bool) -> None:
    with reported(verbose=verbose):
        found = measure_client()
    judged = checks(found)
    if as_json:
        print_json(asdict(found) | {"checks": [asdict(one) | {"ok": one.ok} for one in judged]})
    else:
        print_lines(_lines(judged))


def _lines(judged: Sequence[Check]) -> Iterator[str]:
    yield from filled("llem's client against a server on this machine that knows when it sent each token")
    yield ""
    for lines in row_lines(map(_row, judged)):
        yield from lines
    yield ""
    if all(one.ok for one in judged):
        yield from filled("The client adds nothing that matters to what it measures at a server.")
        return
    yield from filled(
        "Times of servers below the figures that are high, and loads above those that are low, are the "
        "client's own. Other work on these processors does that too: run it again on a quiet machine, and "
        "leave the client a processor of its own beside the server."
    )


def _row(one: Check) -> Row:
    limit = f"{'at least' if one.is_least else 'at most'} {plain(one.limit, one.unit)}"
    verdict = "good" if one.ok else "low" if one.is_least else "high"
    return Row(one.what, plain(one.figure, one.unit), f"{verdict} ({limit})")
