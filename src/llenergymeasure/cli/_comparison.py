"""What does a person read of a comparison?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from llenergymeasure.cli._layout import fitting
from llenergymeasure.cli._streams import filled
from llenergymeasure.records.figures import amount, plain
from llenergymeasure.results.summary import columns

if TYPE_CHECKING:
    from pydantic import JsonValue

    from llenergymeasure.analysis.compare import Comparison, MethodName, Ratio, Side
    from llenergymeasure.analysis.differences import FigureName

_VERBS: dict[FigureName, str] = {
    "energy_per_output_token": "uses",
    "output_tokens_per_second": "gives",
    "ttft_s": "takes",
    "tpot_s": "takes",
    "peak_bytes": "takes",
    "energy_per_window": "uses",
    "seconds_per_window": "takes",
}
_METHODS: dict[MethodName, str] = {
    "welch_satterthwaite": "Intervals: 95 %, Welch-Satterthwaite over runs, each a process of its own",
    "intervals": "Intervals: 95 %, from those of both figures",
    "within_process": "Intervals: 95 % within single processes; another run may differ by more",
    "too_few_runs": "For intervals and verdicts run each three times: --set repeats.count=3",
}


def comparison_lines(comparison: Comparison) -> Iterator[str]:
    """The warnings of both sides, each figure with its verdict, then what the verdicts rest on."""
    sides = {"A": comparison.a, "B": comparison.b}
    yield from columns((name, side.experiment_id, _runs(side.runs)) for name, side in sides.items())
    yield ""
    if warnings := list(_warnings(sides)):
        yield from (*warnings, "")
    rows = [("", "A", "B")]
    for one in comparison.ratios:
        joules = one.name.startswith("energy")
        rows.append(
            (
                one.label,
                amount(one.a, modelled=comparison.a.modelled and joules),
                amount(one.b, modelled=comparison.b.modelled and joules),
            )
        )
    head, *figures = fitting(rows, indent="")
    yield from head
    for lines, one in zip(figures, comparison.ratios, strict=True):
        yield from (*lines, *filled(_sentence(one), indent="  "))
    yield ""
    for note in _notes(comparison):
        yield from filled(note)


def _warnings(sides: dict[str, Side]) -> Iterator[str]:
    """Each warning once, with the sides that it is about."""
    seen = {
        (warning.code, warning.message): [name for name, side in sides.items() if warning in side.warnings]
        for side in sides.values()
        for warning in side.warnings
    }
    for (code, message), names in seen.items():
        yield from filled(f"Warning, {' and '.join(names)}: {message} ({code})")


def _sentence(one: Ratio) -> str:
    """`B uses 12 % less, 9.3 to 15 %`, or why there is no such statement."""
    found, verb = one.ratio, _VERBS[one.name]
    if found.value is None:
        return f"no ratio: {found.reason}"
    if one.verdict is None or found.low is None or found.high is None:
        few = one.method is not None and one.method.name == "too_few_runs"
        withheld = "no verdict: " if one.withheld and not few else ""
        return f"B / A {found.value:.3f}, {withheld}{found.reason}{_systematic(one)}"
    within = ""
    if one.method is not None and one.method.name == "within_process":
        within = ", within one process each"
    if one.verdict == "no difference shown":
        shown = f"no difference shown: B / A {found.value:.3f}, {found.low:.3f} to {found.high:.3f}"
    else:
        shown = f"B {verb} {_change(found.value, found.low, found.high)}"
    if one.verdict == "within systematic uncertainty":
        shown = f"no verdict: {shown}"
    return f"{shown}{within}{_systematic(one)}"


def _change(value: float, low: float, high: float) -> str:
    if value >= 2:  # as percentages these are easily misread
        return f"{value:.3g} times as much, {low:.3g} to {high:.3g}"
    if value >= 1:
        return f"{_percent(value - 1)} % more, {_percent(low - 1)} to {_percent(high - 1)} %"
    return f"{_percent(1 - value)} % less, {_percent(1 - high)} to {_percent(1 - low)} %"


def _percent(share: float) -> str:
    percent = 100 * share
    return f"{percent:.0f}" if percent >= 9.95 else f"{percent:.2g}"


def _systematic(one: Ratio) -> str:
    """What the systematic errors of both allow, where they do not cancel."""
    if one.ratio.systematic is None:
        return ""
    low, high = one.ratio.systematic
    return f"; systematic range of B / A {low:.3f} to {high:.3f}"


def _notes(comparison: Comparison) -> Iterator[str]:
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
    for name in dict.fromkeys(one.method.name for one in comparison.ratios if one.method is not None):
        yield _METHODS[name]


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"


def _shown(name: str, value: JsonValue) -> str:
    if name.endswith("_bytes") and isinstance(value, int):
        return plain(value, "B")
    return value if isinstance(value, str) else json.dumps(value)
