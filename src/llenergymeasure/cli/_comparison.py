"""What does a person read of a comparison, of two results or of many?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING

from llenergymeasure.analysis.compare import Comparison
from llenergymeasure.analysis.judge import ALPHA
from llenergymeasure.cli._layout import fitting, row_lines
from llenergymeasure.cli._streams import filled
from llenergymeasure.records.figures import amount, plain
from llenergymeasure.results.study_table import share
from llenergymeasure.results.summary import MISSING, Row, columns, some

if TYPE_CHECKING:
    from pydantic import JsonValue

    from llenergymeasure.analysis.compare import Side
    from llenergymeasure.analysis.judge import (
        MethodName,
        Ratio,
    )
    from llenergymeasure.analysis.many import Many
    from llenergymeasure.records import Estimate

_VERBS: dict[str, str] = {
    "energy_per_output_token": "uses",
    "output_tokens_per_second": "gives",
    "ttft_s": "takes",
    "tpot_s": "takes",
    "peak_bytes": "takes",
    "energy_per_correct_answer": "uses",
    "energy_per_window": "uses",
    "seconds_per_window": "takes",
}
_METHODS: dict[MethodName, str] = {
    "welch_satterthwaite": "Intervals: {}, Welch-Satterthwaite over runs, each a process of its own",
    "paired_blocks": "Intervals: {}, over blocks of runs in turn or of one server",
    "sequential_blocks": "Intervals: {} at every look, over blocks of runs in turn or of one server",
    "intervals": "Intervals: {}, from those of both figures",
    "within_process": "Intervals: {} within single processes; another run may differ by more",
    "too_few_runs": "For intervals and verdicts run each three times: --set repeats.count=3",
}


def comparison_lines(comparison: Comparison) -> Iterator[str]:
    """The warnings of both sides, each figure with its verdict, then what the verdicts rest on."""
    sides = {"A": comparison.a, "B": comparison.b}
    yield from columns((name, side.experiment_id, _runs(side.runs)) for name, side in sides.items())
    yield ""
    if warnings := list(warnings_of_both(sides)):
        for line in warnings:
            yield from filled(line)
        yield ""
    rows = [("", "A", "B"), *((one.label, *_amounts(comparison, one)) for one in comparison.ratios)]
    head, *figures = fitting(rows, indent="")
    yield from head
    for lines, one in zip(figures, comparison.ratios, strict=True):
        yield from (*lines, *filled(sentence(one), indent="  "))
    yield ""
    for note in notes(comparison):
        yield from filled(note)


def many_lines(many: Many) -> Iterator[str]:
    """A table for each figure, then what the verdicts rest on."""
    for line in sides_of(many):
        yield from filled(line)
    yield ""
    if warnings := list(many_warnings(many)):
        for line in warnings:
            yield from filled(line)
        yield ""
    for label, (head, *rows) in tables(many):
        yield label
        if len({row[-1] for row in rows if row[-1]}) == 1 and all(row[-2] == MISSING for row in rows):
            yield from filled(rows[-1][-1], indent="  ")
        else:
            figures = list(columns([head[1:-1], *(row[1:-1] for row in rows)]))
            shown = [Row(row[0], text, row[-1]) for row, text in zip(rows, figures[1:], strict=True)]
            if many.baseline is None:
                shown = [Row("", figures[0]), *shown]
            yield from chain(*row_lines(shown))
        yield ""
    for note in many_notes(many):
        yield from filled(note)


def sides_of(many: Many) -> Iterator[str]:
    """What A and B stand for."""
    if many.baseline is not None:
        sides = (f"{many.baseline}, the baseline", "each of the others")
    else:
        sides = (many.studies[0], ", ".join(many.studies[1:]))
    yield from columns(zip("AB", sides, strict=True))


def tables(many: Many) -> Iterator[tuple[str, list[list[str]]]]:
    """For each figure its name, then head and rows: what is compared, its figure or both, and the verdict."""
    labels = dict.fromkeys(one.label for pair in many.pairs for one in pair.comparison.ratios)
    for label in labels:
        found = [(pair, one) for pair in many.pairs for one in pair.comparison.ratios if one.label == label]
        shown = [(pair, one, _amounts(pair.comparison, one)) for pair, one in found]
        if many.baseline is None:
            rows = [["", "A", "B", "B against A"]]
            rows += [[pair.label, *both, sentence(one, who="")] for pair, one, both in shown]
        else:
            rows = [
                ["", "figure", "against the baseline"],
                [f"{many.baseline} (baseline)", shown[0][2][0], ""],
            ]
            rows += [[pair.label, both[1], sentence(one, who="")] for pair, one, both in shown]
        yield label, rows


def _amounts(comparison: Comparison, one: Ratio) -> tuple[str, str]:
    if one.difference is not None:
        return share(one.a), share(one.b)
    joules = one.name.startswith("energy")
    return (
        amount(one.a, modelled=comparison.a.modelled and joules),
        amount(one.b, modelled=comparison.b.modelled and joules),
    )


def many_warnings(many: Many) -> Iterator[str]:
    """Each warning once, with the results that it is about."""
    about: dict[tuple[str, str], dict[str, None]] = {}
    for pair in many.pairs:
        names = (many.baseline or f"A of {pair.label}", pair.label if many.baseline else f"B of {pair.label}")
        for name, side in zip(names, (pair.comparison.a, pair.comparison.b), strict=True):
            for one in side.warnings:
                about.setdefault((one.code, one.message), {})[name] = None
    all_of_them = len(many.pairs) + 1 if many.baseline else 2 * len(many.pairs)
    for (code, message), of in about.items():
        yield f"Warning, {'all' if len(of) == all_of_them else some(list(of))}: {message} ({code})"


def many_notes(many: Many) -> Iterator[str]:
    """What is the same for all pairs once, and what is not with the names of those."""
    by_note: dict[str, list[str]] = {}
    for pair in many.pairs:
        for note in notes(pair.comparison):
            by_note.setdefault(note, []).append(pair.label)
    common = {note for note, labels in by_note.items() if len(labels) == len(many.pairs)}
    yield from (f"{some(labels)}: {note}" for note, labels in by_note.items() if note not in common)
    yield from (note for note in by_note if note in common)
    count = len(many.pairs)
    if count > 1:
        yield (
            f"{count} comparisons: for each figure, the chance of any false verdict among them is 5 % at "
            f"most (Holm); their intervals hold together with 95 % (each {100 * (1 - ALPHA / count):.4g} %)"
        )
    for one in many.left_out:
        yield f"Not compared, {one.name}: {one.reason}"


def warnings_of_both(sides: dict[str, Side]) -> Iterator[str]:
    """Each warning once, with the sides that it is about."""
    seen = {
        (warning.code, warning.message): [name for name, side in sides.items() if warning in side.warnings]
        for side in sides.values()
        for warning in side.warnings
    }
    for (code, message), names in seen.items():
        yield f"Warning, {' and '.join(names)}: {message} ({code})"


def sentence(one: Ratio, *, who: str = "B") -> str:
    """`B uses 12 % less, 9.3 to 15 %`, or why there is no such statement."""
    if one.difference is not None:
        return _points(one, one.difference, who)
    found, verb, ratio = one.ratio, _VERBS.get(one.name, "has"), "B / A" if who else "ratio"
    if found.value is None:
        return f"no ratio: {found.reason}"
    if one.verdict is None or found.low is None or found.high is None:
        few = one.method is not None and one.method.name == "too_few_runs"
        withheld = "no verdict: " if one.withheld and not few else ""
        ends = "" if found.low is None else f", {found.low:.3f} to {found.high:.3f}"
        why = found.reason or "; ".join(one.withheld)
        return f"{ratio} {found.value:.3f}{ends}, {withheld}{why}{_systematic(one)}"
    within = ""
    if one.method is not None and one.method.name == "within_process":
        within = ", within one process each"
    if one.verdict == "no difference shown":
        shown = f"no difference shown: {ratio} {found.value:.3f}, {found.low:.3f} to {found.high:.3f}"
    else:
        shown = f"{who} {verb} {_change(found.value, found.low, found.high)}".lstrip()
    if one.verdict == "within systematic uncertainty":
        shown = f"no verdict: {shown}"
    return f"{shown}{within}{_systematic(one)}"


def _points(one: Ratio, apart: Estimate, who: str) -> str:
    """`B is right less often, by 12 points, 5.1 to 19`."""
    if apart.value is None:
        return f"no difference known: {apart.reason}"
    if apart.low is None or apart.high is None:
        return f"{100 * apart.value:+.1f} points, no verdict: {apart.reason}"
    if one.verdict == "no difference shown":
        ends = f"{100 * apart.low:+.1f} to {100 * apart.high:+.1f}"
        return f"no difference shown: {100 * apart.value:+.1f} points, {ends}"
    low, high = sorted((abs(apart.low), abs(apart.high)))
    word = "more" if one.verdict == "higher" else "less"
    points = f"{100 * abs(apart.value):.1f} points, {100 * low:.1f} to {100 * high:.1f}"
    return f"{who} is right {word} often, by {points}".lstrip()


def _change(value: float, low: float, high: float) -> str:
    if value >= 2:  # as percentages these are easily misread
        return f"{value:.3g} times as much, {low:.3g} to {high:.3g}"
    if value >= 1:
        return f"{_percent(value - 1)} % more, {_percent(low - 1)} to {_percent(high - 1)} %"
    return f"{_percent(1 - value)} % less, {_percent(1 - high)} to {_percent(1 - low)} %"


def _percent(share: float) -> str:
    percent = 100 * share
    return f"{percent:.0f}" if percent >= 9.95 else f"{percent:.1f}" if percent >= 0.995 else f"{percent:.2g}"


def _systematic(one: Ratio) -> str:
    """What the systematic errors of both allow, where they do not cancel and it shows."""
    if one.ratio.systematic is None:
        return ""
    low, high = (f"{end:.3f}" for end in one.ratio.systematic)
    return "" if low == high else f"; systematic range {low} to {high}"


def notes(comparison: Comparison) -> Iterator[str]:
    for setting in comparison.settings:
        both = " against ".join(_shown(setting.name, value) for value in (setting.a, setting.b))
        yield f"They differ in {setting.name}: {both}"
    for difference in comparison.allowed:
        yield f"Allowed difference, {difference.key}: {difference.a} against {difference.b}"
    modelled = [name for name, side in (("A", comparison.a), ("B", comparison.b)) if side.modelled]
    if modelled:
        yield f"≈ The energy of {' and '.join(modelled)} is estimated, not measured"
    if comparison.cancels and modelled:
        yield "Both energies are from the same model of power: its error cancels in the ratio"
    elif comparison.cancels:
        yield "Both energies are from the same sensors: their gain cancels in the ratio"
    elif comparison.cancels is not None:
        why = (
            "engine, precision or machine differ" if modelled else "the energies come from different sensors"
        )
        yield f"The systematic errors do not cancel: {why}"
    if any(one.difference is not None for one in comparison.ratios):
        level = f"{100 * (1 - ALPHA / comparison.family):.4g} %"
        yield f"Accuracy: {level} of the difference, Newcombe, as if the questions were not the same for both"
    if comparison.one_server:
        yield "All runs were answered by one start of a server: another start of it may differ"
    for name in dict.fromkeys(one.method.name for one in comparison.ratios if one.method is not None):
        yield _METHODS[name].format(f"{100 * (1 - ALPHA / comparison.family):.4g} %")
    yield from (f"Not compared, {one.name}: {one.reason}" for one in comparison.left_out)


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"


def _shown(name: str, value: JsonValue) -> str:
    if name.endswith("_bytes") and isinstance(value, int):
        return plain(value, "B")
    return value if isinstance(value, str) else json.dumps(value)
