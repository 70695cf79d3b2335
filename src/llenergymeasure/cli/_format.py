"""How does a number look: three significant figures, a fitting prefix, and its interval beside it?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal

from llenergymeasure.records import Estimate

_PREFIXES = {-9: "n", -6: "µ", -3: "m", 0: "", 3: "k", 6: "M", 9: "G", 12: "T", 15: "P", 18: "E"}
# the largest power of ten whose prefix is customary with the unit; other units take none
_LARGEST = {"J": 9, "W": 9, "FLOP": 18, "B": 15, "s": 0}
_SMALLEST = {"J": -9, "W": -6, "FLOP": 0, "B": 0, "s": -9}
_THREE_FIGURES = Context(prec=3)


@dataclass(frozen=True, slots=True)
class Scale:
    """A power of ten, a number of decimals and a unit that several numbers share."""

    exponent: int
    decimals: int
    unit: str
    scientific: bool = False

    def number(self, value: float) -> str:
        """The number without its unit, with a true minus sign and never a negative zero."""
        scaled = Decimal(value).scaleb(-self.exponent)
        if self.scientific:
            return f"{_THREE_FIGURES.create_decimal(scaled):.2e}".replace("-", "−")
        text = f"{scaled:,.{self.decimals}f}"
        return text.replace("-", "−" if text.strip("-0,.") else "")

    def half_width(self, value: float) -> str:
        """The same for what follows ±: a width that rounds to nothing is shown as below the last digit."""
        text = self.number(value)
        if value > 0 and not self.scientific and not text.strip("0."):
            return f"<{Decimal(1).scaleb(-self.decimals):f}"
        return text


def scale_for(value: float, unit: str) -> Scale:
    """The scale that shows `value` with three significant figures; "1" is shown in percent."""
    exponent = 0 if value == 0 else _THREE_FIGURES.create_decimal(Decimal(value)).adjusted()
    shown, base, prefix = _unit(unit, exponent)
    decimals = max(0, 2 - (exponent - prefix))
    if decimals > 9 or exponent - prefix > 11:
        return Scale(prefix, 2, shown.format(_PREFIXES.get(prefix, "")) if base else shown, scientific=True)
    return Scale(prefix, decimals, shown.format(_PREFIXES[prefix]) if base else shown)


def amount(estimate: Estimate, *, modelled: bool = False) -> str:
    """`12.3 ± 0.4 mJ`, with ≈ before what a model gave; `–` where there is no value."""
    if estimate.value is None:
        return "–"
    scale = scale_for(estimate.value, estimate.unit)
    text = f"{'≈ ' if modelled else ''}{scale.number(estimate.value)}"
    if estimate.low is not None and estimate.high is not None:
        half = max(estimate.high - estimate.value, estimate.value - estimate.low, 0.0)
        text += f" ± {scale.half_width(half)}"
    return f"{text} {scale.unit}".rstrip()


def span(estimate: Estimate) -> str | None:
    """`0.61 to 4.20 J`: what can't be excluded by repeating, in the scale of the value; None without it."""
    if estimate.value is None or estimate.systematic is None:
        return None
    scale = scale_for(estimate.value, estimate.unit)
    low, high = estimate.systematic
    return f"{scale.number(low)} to {scale.number(high)} {scale.unit}".rstrip()


def plain(value: float, unit: str) -> str:
    """A bare number with its unit."""
    scale = scale_for(value, unit)
    return f"{scale.number(value)} {scale.unit}".rstrip()


def columns(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Rows whose cells stand below each other; the last cell of a row is as long as it likes."""
    rows = list(rows)
    most = max((len(row) for row in rows), default=0)
    widths = [max((len(row[at]) for row in rows if at < len(row) - 1), default=0) for at in range(most)]
    for row in rows:
        padded = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)]
        yield "  ".join([*padded, row[-1]]).rstrip()


def duration(seconds: float) -> str:
    """Seconds below two minutes, then minutes, then hours."""
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min")):
        if seconds < limit:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 3600:.3g} h"


def _unit(unit: str, exponent: int) -> tuple[str, bool, int]:
    """How the unit is written, whether it takes a prefix, and the power of ten that it stands for."""
    if unit == "1":
        return "%", False, -2
    unit = unit.replace("bytes", "B")
    base, slash, rest = unit.partition("/")
    if base not in _LARGEST:
        return unit, False, 0
    prefix = min(max(exponent // 3 * 3, _SMALLEST[base]), _LARGEST[base])
    return f"{{}}{base}{slash}{rest}", True, prefix
