"""What does a person read of windows in their own code, or of a command, on a screen and in a notebook?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from itertools import chain

from llenergymeasure.records import Estimate
from llenergymeasure.records.figures import amount, duration, led_by_range, plain, span
from llenergymeasure.results.summary import MISSING, Row, columns
from llenergymeasure.results.windows import NamedWindows, WindowsResult

# More names than that nobody reads one by one.
MOST_NAMES = 50


def heading(result: WindowsResult) -> str:
    what = " ".join(result.program) or "a program"
    head = what if result.kind == "command" else f"windows in {what}"
    return f"{head[:200]} · {duration(result.duration_s)} recorded · boundary {result.boundary or 'none'}"


def sections(result: WindowsResult) -> Iterator[tuple[str, list[Row]]]:
    """A head and rows for each name, or for those that cost most, and for the whole recording."""
    shown: Sequence[NamedWindows] = result.windows
    if len(shown) > MOST_NAMES:
        shown = sorted(shown, key=lambda one: (-(one.energy.value or 0.0), -one.duration_s))[:MOST_NAMES]
    for one in shown:
        yield _head(one, result), list(_rows(one, result))
    if left := len(result.windows) - len(shown):
        yield f"{left:,} more names, which cost or took less: all are in the result's file", []
    sources = ", ".join(sorted({reading.source for reading in result.readings}))
    note = f"{result.method} by {sources}" if sources else ""
    if result.kind == "windows":
        yield "Whole recording", [_joules("Energy", result.energy, result, note)]


def _head(one: NamedWindows, result: WindowsResult) -> str:
    unit = "run" if result.kind == "command" else "block" if one.silent else "window"
    parts = [f"{one.count} {unit}{'s' if one.count != 1 else ''}"]
    if one.failed:
        parts.append(f"{one.failed} failed")
    if one.overlapping:
        parts.append("some overlap: their time counts once")
    return f"{one.name}: {', '.join(parts)}"


def _rows(one: NamedWindows, result: WindowsResult) -> Iterator[Row]:
    each = "run" if result.kind == "command" else "block" if one.silent else "window"
    yield _joules(f"Energy per {each}", one.energy_each, result, strong=True)
    for within in one.boundaries:
        if within.boundary != result.boundary:
            sources = ", ".join(sorted({reading.source for reading in within.readings}))
            by = f"{within.method} by {sources}"
            yield _joules(f"  within {within.boundary}", within.energy_each, result, by)
    yield Row(f"Time per {each}", amount(one.seconds_each), one.seconds_each.reason or "")
    if one.output_tokens is not None:
        yield _joules("Energy per output token", one.per_output_token, result)
        counted = f"{one.prompt_tokens:,} in, " if one.prompt_tokens is not None else ""
        yield Row("Tokens", f"{counted}{one.output_tokens:,} out")
    if one.power.value is not None and one.energy_each.value is not None:
        yield _joules("Power", one.power, result)
    if result.kind == "command":
        yield Row("Peak memory", amount(one.peak_bytes), one.peak_bytes.reason or _seen(one.peak_bytes))
    if one.count > 1 and one.energy.value is not None:
        yield _joules("Energy, all of them", one.energy, result, f"in {_time(one.duration_s)}")
    if one.least_s is not None and one.duration_s / one.count < one.least_s:
        yield Row("Single windows", "", f"known to ± 10 % from {plain(one.least_s, 's')} on")


def _seen(peak: Estimate) -> str:
    if peak.systematic is None:
        return "largest process of each run"
    return f"as seen now and then; below {plain(peak.systematic[1], 'bytes')}"


def _time(seconds: float) -> str:
    return duration(seconds) if seconds >= 1 else plain(seconds, "s")


def _joules(
    label: str, estimate: Estimate, result: WindowsResult, note: str = "", *, strong: bool = False
) -> Row:
    if estimate.value is None:
        return Row(label, MISSING, estimate.reason or "", strong)
    modelled = result.method in {"modelled", "mixed"}
    limits = None if led_by_range(estimate) else span(estimate)
    parts = [
        "estimated, not measured" if modelled and strong else "",
        note,
        f"{limits} systematic" if limits else "",
        estimate.reason or "",
    ]
    shown = amount(estimate, modelled=modelled)
    return Row(label, shown if result.valid else f"({shown})", "; ".join(filter(None, parts)), strong)


def as_text(result: WindowsResult) -> str:
    """The whole summary, without a terminal's width or marks."""
    lines = [heading(result)]
    lines += [f"Energy is not valid: {reason}" for reason in result.reasons]
    for head, rows in sections(result):
        lines += ["", head, *columns((f"  {row.label}", row.value, row.note) for row in rows)]
    lines += [f"Warning: {one.message} ({one.code}); {one.remedy}" for one in result.warnings]
    return "\n".join(lines)


def as_html(result: WindowsResult) -> str:
    left = "style='text-align:left'"
    body = chain.from_iterable(
        [
            f"<tr><th colspan='3' {left}>{escape(head)}</th></tr>",
            *(
                f"<tr><td {left}>{escape(row.label)}</td><td {left}>{escape(row.value)}</td>"
                f"<td {left}>{escape(row.note)}</td></tr>"
                for row in rows
            ),
        ]
        for head, rows in sections(result)
    )
    notes = "".join(f"<p>Warning: {escape(f'{one.message}: {one.remedy}')}</p>" for one in result.warnings)
    caption = escape(heading(result))
    return f"<table><caption>{caption}</caption><tbody>{''.join(body)}</tbody></table>{notes}"
