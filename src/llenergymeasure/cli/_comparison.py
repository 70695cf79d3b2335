"""What does a person read of a comparison?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from llenergymeasure.cli._format import amount, columns, plain
from llenergymeasure.records import Estimate

if TYPE_CHECKING:
    from pydantic import JsonValue

    from llenergymeasure.analysis.compare import Comparison, Ratio


def comparison_lines(comparison: Comparison) -> Iterator[str]:
    """Both columns and B / A with its interval, then what the ratios hold in spite of."""
    yield f"A  {comparison.a}"
    yield f"B  {comparison.b}"
    yield ""
    rows = [("", "A", "B", "B / A")]
    modelled = any("modelled" in (one.a, one.b) for one in comparison.allowed if one.key == "method")
    rows += [(one.label, amount(one.a), amount(one.b), _ratio(one)) for one in comparison.ratios]
    yield from columns(rows)
    yield ""
    for setting in comparison.settings:
        both = " against ".join(_shown(setting.name, value) for value in (setting.a, setting.b))
        yield f"They differ in {setting.name}: {both}"
    for difference in comparison.allowed:
        yield f"In spite of {difference.key}: {difference.a} against {difference.b}"
    if modelled:
        yield "One of the energies is estimated, not measured: their ratio is no measurement"
    if comparison.same_board:
        yield "The same sensors gave both energies: their own error cancels in the ratio"
    else:
        yield "Different sensors gave the energies: what each may hide is not in the interval"
    for reason in comparison.not_valid:
        yield f"Energy is not valid: {reason}"


def _shown(name: str, value: JsonValue) -> str:
    if name.endswith("_bytes") and isinstance(value, int):
        return plain(value, "B")
    return value if isinstance(value, str) else json.dumps(value)


def _ratio(one: Ratio) -> str:
    found = one.ratio
    if found.value is None:
        return f"–  {found.reason}"
    if found.low is None or found.high is None:
        return f"{found.value:.3f}  {found.reason}"
    words = {
        "higher": f"B is {found.value - 1:.1%} higher",
        "lower": f"B is {1 - found.value:.1%} lower",
        "no difference shown": "no difference shown",
        "within the sensors' doubt": f"within what the sensors may hide {_span(found)}",
        "unknown": "",
    }
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})  {words[one.verdict]}"


def _span(found: Estimate) -> str:
    return "" if found.systematic is None else f"({found.systematic[0]:.2f} to {found.systematic[1]:.2f})"
