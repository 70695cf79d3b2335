"""How does a study look as a table: as text, Markdown, CSV, LaTeX?"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from html import escape
from typing import Literal, TypeAlias

from pydantic import JsonValue

from llenergymeasure.config.suggest import known_keys
from llenergymeasure.records import Estimate, WarningCode
from llenergymeasure.records.figures import amount, plain
from llenergymeasure.results.study import StudyResult, StudyRow
from llenergymeasure.results.summary import MISSING, columns

Format: TypeAlias = Literal["text", "markdown", "csv", "latex", "json"]
SIMULATED = " · simulated: no model ran, no sensor was read"
_OF_LOADS = ("requests", "per request", "goodput", "per good request", "ITL", "sent late (p99)")
# Of a load, of a search, and where answers were judged.
_SOMETIMES = (*_OF_LOADS, "good", "accuracy", "energy per correct answer")
HEADS = ("energy per token", "throughput", "TTFT", "TPOT", "memory", *_SOMETIMES, "runs", "warnings")
# Warnings that do not say that something is wrong with the numbers of a row.
_QUIET: frozenset[WarningCode] = frozenset({"energy_modelled"})
_LATEX = str.maketrans(
    {char: f"\\{char}" for char in "&%$#_{}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
)


def as_text(study: StudyResult, rows: Sequence[StudyRow] | None = None) -> str:
    return "\n".join([*columns(labelled(study, rows)), *marks(study), *searches(study), *account(study)])


def as_html(study: StudyResult) -> str:
    """The table with what its marks mean, for a notebook."""
    head, *body = labelled(study)
    rows = [
        "".join(f"<{tag} style='text-align:left'>{escape(cell)}</{tag}>" for cell in cells_)
        for tag, cells_ in (("th", head), *(("td", cells_) for cells_ in body))
    ]
    notes = "".join(f"<p>{escape(note)}</p>" for note in (*marks(study), *searches(study), *account(study)))
    caption = escape(f"{study.name or 'study'}{SIMULATED if study.simulated else ''}")
    return (
        f"<table><caption>{caption}</caption><thead><tr>{rows[0]}</tr></thead>"
        f"<tbody>{''.join(f'<tr>{row}</tr>' for row in rows[1:])}</tbody></table>{notes}"
    )


def labelled(study: StudyResult, rows: Sequence[StudyRow] | None = None) -> list[list[str]]:
    """The head and a row per experiment, named by its label; columns that hold nothing are left out."""
    shown = study.rows if rows is None else rows
    codes = _codes(study)
    return _without([["experiment", *HEADS], *(_cells(row, ["experiment"], codes) for row in shown)], HEADS)


def cells(study: StudyResult, rows: Sequence[StudyRow] | None = None) -> list[list[str]]:
    """The head and a row per experiment: the name or place that it has, what differs, then its figures."""
    keys, codes = varied(study), _codes(study)
    if "experiment" not in keys and _are_named(study.rows):
        keys = ["experiment", *keys]
    shown = study.rows if rows is None else rows
    head = [*(_last(key, keys) for key in keys), *HEADS]
    return _without([head, *(_cells(row, keys, codes) for row in shown)], _SOMETIMES)


def _without(rows: Sequence[Sequence[str]], heads: Sequence[str]) -> list[list[str]]:
    """Without those columns of `heads` that hold nothing."""
    kept = [
        at
        for at, head in enumerate(rows[0])
        if head not in heads or any(row[at] not in {"", MISSING} for row in rows[1:])
    ]
    return [[row[at] for at in kept] for row in rows]


def varied(study: StudyResult) -> list[str]:
    return list(dict.fromkeys(key for row in study.rows for key in row.varied)) or ["experiment"]


def marks(study: StudyResult) -> Iterator[str]:
    """What the marks of the table mean."""
    if any(not row.valid and _joules(row, row.energy_per_output_token) != MISSING for row in study.rows):
        yield "( )  energy is not valid: wrong by an unknown amount"
    if any(row.modelled for row in study.rows):
        yield "≈  energy is estimated by a model of power, not measured"
    for number, code in enumerate(_codes(study), 1):
        yield f"[{number}]  {code}"


def searches(study: StudyResult) -> Iterator[str]:
    """What each search found."""
    for one in study.searches:
        name = f"{one.over} ({one.label})" if one.label else one.over
        wanted = ", ".join(f"{key} ≤ {plain(limit, 's')}" for key, limit in one.objectives.items())
        rule = f"{_percent(one.share)} of the requests of every repeat keep {wanted}"
        low = MISSING if one.met is None else f"{one.met:g}"
        high = MISSING if one.not_met is None else f"{one.not_met:g}"
        found = f"highest {name} that meets the objectives: {low}; {high} does not"
        if not one.finished:
            found = f"{name}: the search has not ended; so far {low} meets the objectives and {high} does not"
        elif one.met is None:
            found = f"{name}: even the lowest, {high}, does not meet the objectives"
        elif one.not_met is None:
            found = f"{name}: even the highest, {low}, meets the objectives"
        server = "; within one server: another start of it may differ" if one.servers == 1 else ""
        yield f"{found} ({rule}; {one.probes} values tried{server})"


def account(study: StudyResult) -> Iterator[str]:
    """What is missing, and why."""
    for row in study.rows:
        for one in row.failures:
            tries = f" after {one.attempts} attempts" if one.attempts > 1 else ""
            yield f"{row.label}: run {one.repeat} failed{tries} ({one.kind}): {one.message}"
        if row.outcome == "pending":
            yield f"{row.label}: {f'{row.runs} of {row.planned} runs so far' if row.runs else 'not run yet'}"
        if row.outcome == "partial" and not row.failures:
            yield f"{row.label}: {row.runs} of {row.planned} runs: passes.budget left no room for more"
    yield from _without_energy(study)
    for kind in ("invalid", "excluded"):
        found = [gap for gap in study.left_out if gap.kind == kind]
        for gap in found if kind == "invalid" else ():
            yield f"{gap.label}: not run: {gap.reason}"
        if kind == "excluded" and found:
            yield f"{len(found)} point{'s' if len(found) > 1 else ''} excluded by rule"


def _without_energy(study: StudyResult) -> Iterator[str]:
    without: dict[str, list[tuple[str, str]]] = {}
    for row in study.rows:
        cost = row.energy_per_output_token
        if cost is not None and cost.value is None:
            reason = cost.reason or "unknown"
            # Other runs have other figures for the same.
            without.setdefault(re.sub(r"[\d.]+", "#", reason), []).append((row.label, reason))
    for (label, reason), *more in without.values():
        yield f"{label}{f' and {len(more)} more' if more else ''}: no energy per token: {reason}"


def table(study: StudyResult, form: Format, rows: Sequence[StudyRow] | None = None) -> str:
    """The study in one of the formats; CSV and JSON hold bare numbers in SI units."""
    if form == "text":
        return as_text(study, rows)
    if form == "json":
        ordered = study if rows is None else study.model_copy(update={"rows": tuple(rows)})
        return json.dumps(ordered.as_json(), indent=2, allow_nan=False)
    if form == "csv":
        return _csv(study, study.rows if rows is None else rows)
    head, *body = cells(study, rows)
    notes = [*marks(study), *searches(study), *account(study)]
    if form == "markdown":
        lines = markdown_table([list(map(markdown_text, cells_)) for cells_ in (head, *body)])
        return "\n".join([*lines, "", *(f"- {markdown_text(note)}" for note in notes)]).rstrip()
    return latex_table(head, body, notes=notes, left=head.index(HEADS[0]))


def markdown_table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Of cells that are safe as they are."""
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    yield from (head, "|" + "---|" * len(rows[0]), *body)


def latex_table(
    head: Sequence[str], body: Sequence[Sequence[str]], *, notes: Sequence[str] = (), left: int = 1
) -> str:
    """A table of the package booktabs; the first `left` columns and the last hold text."""
    rows = [" & ".join(map(_latex, cells_)) + r" \\" for cells_ in (head, *body)]
    rows.insert(1, r"\midrule")
    spec = "l" * left + "r" * (len(head) - left - 1) + "l"
    return "\n".join(
        [
            *(f"% {note}" for note in notes),
            rf"\begin{{tabular}}{{{spec}}}",
            r"\toprule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
        ]
    )


def _codes(study: StudyResult) -> list[WarningCode]:
    """The warnings that are marked, in the order of their numbers."""
    return sorted({code for row in study.rows for code in row.warnings} - _QUIET)


def _cells(row: StudyRow, keys: Sequence[str], codes: Sequence[WarningCode]) -> list[str]:
    of = [row.label if key == "experiment" else setting(row.varied.get(key)) for key in keys]
    if row.energy_per_output_token is None:
        return [*of, *(MISSING,) * (len(HEADS) - 2), f"0 of {row.planned}", row.outcome]
    figures = [
        _joules(row, row.energy_per_output_token),
        _amount(row.output_tokens_per_second),
        _amount(row.ttft_s),
        _amount(row.tpot_s),
        MISSING if row.peak_bytes is None else plain(row.peak_bytes, "B"),
        _amount(row.requests_per_second),
        _joules(row, row.energy_per_request)
        if row.load is not None or any(map(_is_of_load, row.varied))
        else MISSING,
        _amount(row.goodput_per_s),
        _joules(row, row.energy_per_good_request),
        _amount(row.itl_s),
        MISSING if row.schedule_lag_p99_s is None else plain(row.schedule_lag_p99_s, "s"),
        _percent(min(good)) if (good := [one for one in row.good if one is not None]) else MISSING,
        share(row.accuracy),
        _joules(row, row.energy_per_correct_answer),
    ]
    runs = f"{row.runs}" if row.runs >= row.planned else f"{row.runs} of {row.planned}"
    marked = [f"[{number}]" for number, code in enumerate(codes, 1) if code in row.warnings]
    return [*of, *figures, runs, " ".join(marked)]


def _are_named(rows: Sequence[StudyRow]) -> bool:
    """Whether a label says more than the settings in which its row differs, which begin with a key."""
    keys = {row.label.partition("=")[0] if "=" in row.label else "" for row in rows}
    of_settings = all(any(f".{known}".endswith(f".{key}") for known in known_keys()) for key in keys)
    return not of_settings or any(row.place is not None for row in rows)


def _is_of_load(key: str) -> bool:
    return key.startswith("load.")


def _percent(share: float) -> str:
    """Rounded down: almost all is not all."""
    return f"{math.floor(share * 1000 + 1e-9) / 10:g} %"


def _joules(row: StudyRow, estimate: Estimate | None) -> str:
    if estimate is None or estimate.value is None:
        return MISSING
    energy = amount(estimate, modelled=row.modelled)
    return energy if row.valid else f"({energy})"


def _amount(estimate: Estimate | None) -> str:
    return MISSING if estimate is None else amount(estimate)


def share(estimate: Estimate | None) -> str:
    """`62 % [52 to 71]`: an interval that is not symmetric by its ends."""
    if estimate is None or estimate.value is None or estimate.low is None or estimate.high is None:
        return MISSING
    return f"{100 * estimate.value:.3g} % [{100 * estimate.low:.3g} to {100 * estimate.high:.3g}]"


def setting(value: JsonValue) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _last(key: str, keys: Sequence[str]) -> str:
    last = key.rpartition(".")[2]
    return last if sum(other.rpartition(".")[2] == last for other in keys) == 1 else key


_FIGURES: Mapping[str, Callable[[StudyRow], Estimate | None]] = {
    "energy_per_output_token_j": lambda row: row.energy_per_output_token,
    "energy_per_request_j": lambda row: row.energy_per_request,
    "prefill_j": lambda row: row.prefill,
    "decode_j": lambda row: row.decode,
    "energy_total_j": lambda row: row.energy_total,
    "output_tokens_per_second": lambda row: row.output_tokens_per_second,
    "ttft_s": lambda row: row.ttft_s,
    "tpot_s": lambda row: row.tpot_s,
    "requests_per_second": lambda row: row.requests_per_second,
    "goodput_per_s": lambda row: row.goodput_per_s,
    "energy_per_good_request_j": lambda row: row.energy_per_good_request,
    "itl_s": lambda row: row.itl_s,
    "accuracy": lambda row: row.accuracy,
    "energy_per_correct_answer_j": lambda row: row.energy_per_correct_answer,
}


def figures(row: StudyRow) -> Iterator[tuple[str, Estimate]]:
    """Its figures as columns of data. An interval by Student's t may reach below 0, where no rate or cost
    can be: it begins at 0 there, except that of decode, which is a difference.
    """
    for name, of in _FIGURES.items():
        one = of(row) or Estimate.missing("1", "not measured")
        below = one.low is not None and one.low < 0 <= (one.value or 0.0)
        yield name, replace(one, low=0.0) if below and name != "decode_j" else one


def _csv(study: StudyResult, rows: Sequence[StudyRow]) -> str:
    keys = varied(study)
    ends = ("", "_low", "_high", "_systematic_low", "_systematic_high")
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        ["label", *keys, "outcome", "runs", "modelled", "valid", "warnings", "peak_bytes"]
        + [f"{name}{end}" for name in _FIGURES for end in ends]
    )
    for row in rows:
        numbers: list[float | None] = []
        for _, one in figures(row):
            numbers += [one.value, one.low, one.high, *(one.systematic or (None, None))]
        settings = [row.label if key == "experiment" else setting(row.varied.get(key)) for key in keys]
        facts = [row.outcome, row.runs, row.modelled, row.valid, " ".join(row.warnings), row.peak_bytes]
        writer.writerow(
            [row.label, *settings, *facts, *("" if one is None else repr(one) for one in numbers)]
        )
    return file.getvalue().rstrip("\n")


def markdown_text(text: str) -> str:
    """Text that is shown as it is, whatever Markdown or HTML it holds."""
    return re.sub(
        r"[\\|`*]|<(?=[A-Za-z/!?])|&(?=#?\w+;)|\](?=[(:\[])|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", text
    )


def _latex(text: str) -> str:
    return (
        text.translate(_LATEX)
        .replace("±", r"$\pm$")
        .replace("≈", r"$\approx$")
        .replace("–", "--")
        .replace("µ", r"$\mu$")
    )
