"""`llem compare`: how do results, studies and globs become ratios with intervals, and an exit code?"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import typer

from llenergymeasure.analysis.compare import (
    Comparison,
    LeftOut,
)
from llenergymeasure.analysis.imported import Imported, read_any
from llenergymeasure.analysis.limits import Limit, limit_of, regressions
from llenergymeasure.analysis.many import (
    Item,
    Many,
    Pair,
    against,
    by_configuration,
    compare_many,
    compare_two,
)
from llenergymeasure.cli._comparison import comparison_lines, many_lines
from llenergymeasure.cli._comparison_table import Gate, csv_lines, github_lines, latex_lines, markdown_lines
from llenergymeasure.cli._errors import reported
from llenergymeasure.cli._streams import print_json, print_lines, say
from llenergymeasure.config.suggest import nearest
from llenergymeasure.exceptions import ConfigError, LLEMError, ResultError
from llenergymeasure.results.find import find, is_glob, is_study, matches, may_be_result, without_pages
from llenergymeasure.results.models import ExperimentResult
from llenergymeasure.results.study import StudyResult

REGRESSION = 4
Form: TypeAlias = Literal["text", "json", "markdown", "latex", "csv", "github"]


@dataclass(frozen=True, slots=True)
class Source:
    """What one argument stands for: a result, the experiments of a study, or all that a glob matches."""

    name: str
    path: Path
    kind: Literal["result", "study", "glob"]
    items: tuple[Item, ...]
    left_out: tuple[LeftOut, ...] = ()


def compare(
    names: Sequence[Path],
    *,
    directory: Path | None,
    baseline: str | None,
    allowed: Collection[str],
    limits: Sequence[str],
    form: str,
    verbose: bool,
) -> None:
    with reported(verbose=verbose):
        chosen, gates = form_of(form), [limit_of(text) for text in limits]
        found = compared(
            [source(one, directory) for one in without_pages(names)], baseline=baseline, allowed=allowed
        )
        show(found, chosen, judge_gates(found, gates))


def form_of(form: str) -> Form:
    for one in get_args(Form):
        if one == form:
            known: Form = one
            return known
    raise ConfigError(f"--format {form}: one of {', '.join(get_args(Form))}")


def compared(
    sources: Sequence[Source], *, baseline: str | None, allowed: Collection[str]
) -> Comparison | Many:
    """Two results, studies by their configurations, or everything against a baseline."""
    left_out = [one for each in sources for one in each.left_out]
    if len(sources) > 1 and all(one.kind == "study" for one in sources):
        return _studies(sources, baseline, left_out, allowed)
    items = [one for each in sources for one in each.items]
    if len(items) < 2:
        known = [f"  {one.name}: {one.reason}" for one in left_out]
        raise ConfigError(
            "\n".join([f"{len(items)} of the two results that a comparison needs", *known]),
            hint="llem compare A B",
        )
    first = items[0] if baseline is None else _named(baseline, items)
    others = [one for one in items if one is not first]
    if len(others) == 1 and not left_out:
        return compare_two(first.result, others[0].result, allow=allowed)
    # A glob may match the baseline too.
    others = [one for one in others if not _is_same(one, first)]
    return compare_many(against(first, others), baseline=first.name, left_out=left_out, allow=allowed)


def _studies(
    sources: Sequence[Source], baseline: str | None, left_out: list[LeftOut], allowed: Collection[str]
) -> Many:
    first = sources[0]
    if baseline is not None:
        known = {one.name: one for one in sources} | {str(one.path): one for one in sources}
        if baseline not in known:
            raise ConfigError(
                f"--baseline {baseline}: none of the studies", hint=f"one of: {', '.join(known)}"
            )
        first = known[baseline]
    others = [one for one in sources if one is not first]
    pairs: list[Pair] = []
    for one in others:
        found, missed = by_configuration((first.name, first.items), (one.name, one.items))
        several = len(others) > 1
        pairs += [Pair(f"{one.name}: {each.label}", each.a, each.b) if several else each for each in found]
        left_out += missed
    names = (first.name, *(one.name for one in others))
    return compare_many(pairs, baseline=None, studies=names, left_out=left_out, allow=allowed)


def _named(name: str, items: Sequence[Item]) -> Item:
    exact = [one for one in items if name in {one.name, one.id}]
    begin = exact or [one for one in items if name and one.id.startswith(name)]
    if not begin and os.path.lexists(name):
        named = {one.id for one in _items(Path(name))}
        begin = [one for one in items if one.id in named]
    if len(begin) != 1:
        near = nearest(name, [one.name for one in items])
        what = "none of the results" if not begin else f"{len(begin)} of the results"
        raise ConfigError(
            f"--baseline {name}: {what}",
            hint=f"did you mean {near}?" if near else f"one of: {', '.join(one.name for one in items[:10])}",
        )
    return begin[0]


def _is_same(one: Item, other: Item) -> bool:
    if isinstance(one.result, Imported) or isinstance(other.result, Imported):
        return one.result == other.result
    return one.id == other.id and one.result.started_at == other.result.started_at


def source(name: Path, directory: Path | None) -> Source:
    """ResultError for what is not a result; what a glob matches beside results is left out by name."""
    if is_glob(name):
        return _matched(str(name))
    path = find(name, directory)
    return _study(path) if is_study(path) else Source(_called(path), path, "result", _items(path))


def _matched(pattern: str) -> Source:
    items: list[Item] = []
    left_out: list[LeftOut] = []
    for path in without_pages(matches(pattern)):
        if is_study(path):
            study = _study(path)
            items += [Item(f"{study.name}: {one.name}", one.result) for one in study.items]
            left_out += study.left_out
        elif not may_be_result(path):
            left_out.append(LeftOut(str(path), "not a result", absent=True))
        else:
            try:
                items += _items(path)
            except (ConfigError, ResultError) as error:
                left_out.append(LeftOut(str(path), error.message))
    if not items:
        known = "".join(f"\n  {one.name}: {one.reason}" for one in left_out)
        raise ResultError(f"{pattern} matches no results{known}")
    return Source(pattern, Path(pattern), "glob", tuple(items), tuple(left_out))


def _items(path: Path) -> tuple[Item, ...]:
    """A result, or each measurement in a file of another tool."""
    return tuple(
        Item(one.name if isinstance(one, Imported) else one.experiment_id, one) for one in read_any(path)
    )


def _study(path: Path) -> Source:
    folder = path if path.is_dir() else path.parent
    study = StudyResult.load(folder)
    name = _called(folder)
    items: list[Item] = []
    left_out: list[LeftOut] = []
    for row in study.rows:
        if row.folder is None:
            why = row.failures[-1].message if row.failures else "not measured"
            left_out.append(LeftOut(f"{name}: {row.label}", why))
            continue
        try:
            items.append(Item(row.label, ExperimentResult.load(folder / row.folder)))
        except ResultError as error:
            left_out.append(LeftOut(f"{name}: {row.label}", error.message))
    return Source(name, folder, "study", tuple(items), tuple(left_out))


def _called(path: Path) -> str:
    return path.resolve().name


def judge_gates(found: Comparison | Many, limits: Sequence[Limit]) -> Gate:
    """What is worse than allowed, and why some of it can't be judged: that ends with an error, but nothing
    of what was found goes unsaid.
    """
    pairs = (
        [("B", found)]
        if isinstance(found, Comparison)
        else [(one.label, one.comparison) for one in found.pairs]
    )
    worse: list[str] = []
    unjudged: LLEMError | None = None
    for limit in limits:
        for who, one in pairs:
            try:
                worse += regressions(one, limit, who=who)
            except LLEMError as error:
                unjudged = unjudged or error
    missed = [] if isinstance(found, Comparison) else [one for one in found.left_out if not one.absent]
    if limits and unjudged is None and missed:
        lines = [f"  {one.name}: {one.reason}" for one in missed]
        unjudged = ConfigError("\n".join(["a limit cannot be judged of what was not compared:", *lines]))
    return Gate(tuple(one.text for one in limits), tuple(worse), unjudged)


def show(found: Comparison | Many, form: Form, gate: Gate) -> None:
    """Print it in that form, and end with 4 for a regression and with the error of what can't be judged."""
    if form == "json":
        print_json(found)
    else:
        print_lines(_lines(found, form, gate))
    for one in gate.worse:
        say(f"Regression: {one}")
    if gate.worse:
        raise typer.Exit(REGRESSION)
    if gate.unjudged is not None:
        raise gate.unjudged


def _lines(found: Comparison | Many, form: Form, gate: Gate) -> Iterator[str]:
    match form:
        case "markdown":
            return markdown_lines(found)
        case "latex":
            return latex_lines(found)
        case "csv":
            return csv_lines(found)
        case "github":
            return github_lines(found, gate)
    return comparison_lines(found) if isinstance(found, Comparison) else many_lines(found)
