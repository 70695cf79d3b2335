"""`llem show`: what does a stored result say, and what makes up its uncertainty?"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from itertools import chain
from pathlib import Path

from pydantic import JsonValue

from llenergymeasure.analysis.imported import Imported, read_any
from llenergymeasure.cli import study
from llenergymeasure.cli._display import (
    print_any,
    print_result_details,
)
from llenergymeasure.cli._errors import reported
from llenergymeasure.cli._layout import fitting, row_lines
from llenergymeasure.cli._streams import filled, print_json, print_lines, say
from llenergymeasure.config.flat import leaves
from llenergymeasure.exceptions import ConfigError, ResultError
from llenergymeasure.records import Estimate
from llenergymeasure.records.figures import amount, percent, plain, scale_for, span, two_figures
from llenergymeasure.results import ExperimentResult
from llenergymeasure.results.budget import combine_terms, halves
from llenergymeasure.results.find import find, is_study
from llenergymeasure.results.models import Energy, Term, Uncertainty
from llenergymeasure.results.study import StudyResult
from llenergymeasure.results.summary import MISSING, Row, is_modelled
from llenergymeasure.results.windows import WindowsResult, load_any

NOTES = (
    "type: A from repetition, B from knowledge of the sensor or the method (JCGM 100)",
    "degrees: degrees of freedom, where they are few",
    "common: the same in all passes and runs, so that repetition does not narrow it",
    "cancels: in the ratio of two results of the same sensors",
    "combined: common errors added, the others in quadrature; * is part of random and not added again",
)


def show(  # noqa: PLR0913  the options of the command
    named: Path,
    *,
    directory: Path | None,
    field: str | None,
    uncertainty: bool,
    as_json: bool,
    form: str | None,
    sort: str | None,
    holds: str | None,
    verbose: bool,
) -> None:
    with reported(verbose=verbose):
        result = find(named, directory)
        if field is not None:
            if uncertainty or any(one is not None for one in (form, sort, holds)):
                raise ConfigError(
                    "--field prints one value, and goes with none of --uncertainty, --format, --sort, --holds"
                )
            _show_field(result, field)
            return
        if is_study(result):
            if uncertainty:
                raise ConfigError(
                    f"--uncertainty is for one result, and {result} is a study",
                    hint="give the folder of one of its experiments",
                )
            study.show_stored(result, form="json" if as_json else form, sort=sort, holds=holds)
            return
        if any(one is not None for one in (form, sort, holds)):
            raise ConfigError(
                "--format, --sort and --holds are for the table of a study", hint=f"{result} is one result"
            )
        _show_result(result, uncertainty=uncertainty, as_json=as_json, verbose=verbose)


def _show_result(result: Path, *, uncertainty: bool, as_json: bool, verbose: bool) -> None:
    stored, *others = read_any(result)
    if isinstance(stored, Imported):
        if uncertainty:
            raise ResultError(f"{result} has no uncertainty budget: it is of {stored.tool}")
        _show_imported([stored, *(one for one in others if isinstance(one, Imported))], as_json=as_json)
        return
    if isinstance(stored, WindowsResult):
        if uncertainty:
            raise ResultError(
                f"{result} has no uncertainty budget: it is of windows or a command",
                hint="each of its windows has independent_j and common_j: --json",
            )
        print_any(stored, as_json=as_json)
        return
    budget = _budget(stored, result) if uncertainty else None
    if verbose and not uncertainty:
        print_result_details(stored)
    if budget is None:
        print_any(stored, as_json=as_json)
    elif as_json:
        print_json(budget)
    else:
        print_lines(budget_lines(stored.energy, budget))


def _show_field(path: Path, key: str) -> None:
    """The value alone: a text as it is, all else as JSON. Where it is null the reason goes to stderr."""
    stored = StudyResult.load(path) if is_study(path) else load_any(path)
    whole = stored.as_json()
    steps = re.sub(r"\[(\d+)\]", r".\1", key).split(".")
    value: JsonValue = whole
    above: JsonValue = None
    for step in steps:
        above = value
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            raise ResultError(f"{path} has no field {key}", hint=_near_fields(whole, key))
    if value is None and isinstance(above, dict) and isinstance(why := above.get("reason"), str):
        say(f"{key} is null: {why}")
    if isinstance(value, dict | list):
        print_json(value)
    else:
        print_lines([value if isinstance(value, str) else json.dumps(value)])


def _near_fields(whole: dict[str, JsonValue], key: str) -> str:
    """The fields most like it: by the whole path, then by the last word."""
    known: dict[str, None] = {}
    for leaf, _ in leaves(whole, lists=True, empty=True):
        parts = re.sub(r"\[(\d+)\]", r".\1", leaf).split(".")
        known |= dict.fromkeys(".".join(parts[:count]) for count in range(1, len(parts) + 1))
    last = key.rpartition(".")[2]
    near = [one for one in known if one.rpartition(".")[2] == last and not re.search(r"\.\d+\.", one)]
    near += get_close_matches(key, known, n=3, cutoff=0.6)
    near += get_close_matches(last, known, n=3, cutoff=0.6)
    if near:
        return f"did you mean {', '.join(list(dict.fromkeys(near))[:5])}?"
    return f"the result has {', '.join(whole)}"


def _show_imported(found: Sequence[Imported], *, as_json: bool) -> None:
    """What another tool measured, in llem's metrics, and what of it has no such meaning."""
    if as_json:
        print_json(found)
        return
    for one in found:
        facts = (f"{key}: {value}" for key, value in one.row().items() if value not in {None, one.name})
        print_lines([one.name, *filled("; ".join(facts), indent="  "), ""])
        rows = [Row(name, amount(estimate)) for name, estimate in one.metrics.items()]
        rows += [Row(name, MISSING, why) for name, why in one.left_out.items()]
        print_lines([*chain(*row_lines(rows)), ""])


def _budget(stored: ExperimentResult, path: Path) -> Uncertainty:
    if stored.energy.uncertainty is None:
        why = "; ".join(stored.energy.reasons) if stored.energy.total.value is None else ""
        raise ResultError(
            f"{path} has no uncertainty budget: {why or f'llem v{stored.environment.llem} wrote none'}",
            hint=None if why else f"llem recompute {path} --json computes it again from the trace",
        )
    return stored.energy.uncertainty


def budget_lines(energy: Energy, budget: Uncertainty) -> Iterator[str]:
    """A table for joules per output token and one for the total, then the sums that should agree."""
    for reason in () if energy.valid else energy.reasons:
        yield from filled(f"Energy is not valid: {reason}")
    for label, estimate, terms in (
        ("Energy per output token", energy.per_output_token, budget.per_output_token),
        ("Energy, total", energy.total, budget.total),
    ):
        yield from filled(f"{label}: {amount(estimate, modelled=is_modelled(energy))}")
        if estimate.value is None:
            yield from filled(estimate.reason or "", indent="  ")
        else:
            yield from chain(*fitting(list(_rows(estimate.value, estimate.unit, terms))))
        yield ""
    if budget.closures:
        yield "Sums that should agree"
        sums = [
            (
                one.name,
                plain(one.parts_j, "J"),
                plain(one.whole_j, "J"),
                "" if one.apart is None else percent(one.apart),
            )
            for one in budget.closures
        ]
        yield from chain(*fitting([("", "parts", "whole", "apart"), *sums]))
        yield ""
    for note in NOTES:
        yield from filled(note)


def _rows(value: float, unit: str, terms: Sequence[Term]) -> Iterator[Sequence[str]]:
    """A row for each source, then all of them together, as they are and in a ratio."""
    scale = scale_for(value, unit)

    def size(below: float, above: float) -> tuple[str, str]:
        if not math.isclose(below, above):
            ends = span(Estimate(value, unit, reason="a range", systematic=(value - below, value + above)))
            return (ends or "").removesuffix(scale.unit).rstrip(), ""
        share = percent(above / abs(value)) if value else ""
        return f"± {two_figures(above / 10**scale.exponent)}", share

    yield "", f"95 %, {scale.unit}", "relative", "type", "degrees", "common", "cancels"
    for term in terms:
        yield (
            f"{term.name}{'*' if term.within_chance else ''}",
            *size(*halves(value, term)),
            term.kind,
            _degrees(term.degrees),
            _yes(term.common),
            _yes(term.cancels_in_ratio),
        )
    left = [term for term in terms if not term.cancels_in_ratio]
    for name, counted in (("combined", terms), ("  in a ratio", left)):
        whole = combine_terms(value, counted)
        yield name, *size(whole.below, whole.above), "", _degrees(whole.degrees)


def _degrees(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _yes(value: bool) -> str:
    return "yes" if value else "no"
