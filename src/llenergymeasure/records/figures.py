"""How does a number look: a fitting prefix, its interval beside it, and no digit that is not known?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Context, Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llenergymeasure.records.measuring import Estimate

_PREFIXES = {-9: "n", -6: "µ", -3: "m", 0: "", 3: "k", 6: "M", 9: "G", 12: "T", 15: "P", 18: "E"}
# the largest power of ten whose prefix is customary with the unit; other units take none
_LARGEST = {"J": 9, "W": 9, "FLOP": 18, "B": 15, "s": 0}
_SMALLEST = {"J": -9, "W": -6, "FLOP": 0, "B": 0, "s": -9}
_NOTHING = 0.01
_THREE_FIGURES, _ALL_FIGURES = Context(prec=3), Context(prec=400)


@dataclass(frozen=True, slots=True)
class Scale:
    """A power of ten, a number of decimals (below 0: whole tens, hundreds) and a unit that numbers share."""

    exponent: int
    decimals: int
    unit: str
    scientific: bool = False

    def number(self, value: float) -> str:
        """The number without its unit, with a true minus sign and never a negative zero."""
        scaled = Decimal(value).scaleb(-self.exponent)
        if self.scientific:
            return f"{_THREE_FIGURES.create_decimal(scaled):.2e}".replace("-", "−")
        if self.decimals < 0:
            scaled = _ALL_FIGURES.quantize(scaled, Decimal(1).scaleb(-self.decimals))
        text = f"{scaled:,.{max(0, self.decimals)}f}"
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
    """`12.3 ± 0.4 mJ`, or `7.5 (6.4 to 8.1) kJ` where the systematic range is what limits the value.

    The value has no digit beyond the larger of the two; ≈ marks what a model of power gave, and `–` a
    missing value.
    """
    if estimate.value is None:
        return "–"
    scale = _scale(estimate.value, estimate)
    text = f"{'≈ ' if modelled else ''}{scale.number(estimate.value)}"
    half = half_width(estimate)
    if led_by_range(estimate):
        low, high = estimate.systematic or (0.0, 0.0)
        text += f" ({scale.number(low)} to {scale.number(high)})"
    elif half is not None:
        text += f" ± {scale.half_width(half)}"
    return f"{text} {scale.unit}".rstrip()


def span(estimate: Estimate) -> str | None:
    """`0.61 to 4.20 J`, the systematic range in the scale of the value; None without one that shows there."""
    if estimate.value is None or estimate.systematic is None:
        return None
    scale = _scale(estimate.value, estimate)
    low, high = (scale.number(end) for end in estimate.systematic)
    return None if low == high else f"{low} to {high} {scale.unit}".rstrip()


def led_by_range(estimate: Estimate) -> bool:
    """Whether the systematic range is so much wider than ± that ± would say a precision that is not there.

    From twice as wide on, both together are the range to within an eighth.
    """
    return _range_half(estimate) > 2 * (half_width(estimate) or 0.0)


def relative(estimate: Estimate) -> str | None:
    """`± 2 %`: the interval as a share of the value, None without it."""
    half = half_width(estimate)
    if not estimate.value or half is None:
        return None
    share = half / abs(estimate.value)
    return "± <0.1 %" if 0 < share < 0.0005 else f"± {percent(share)}"


def percent(share: float) -> str:
    return f"{two_figures(100 * share)} %"


def half_width(estimate: Estimate) -> float | None:
    """The longer half of the 95 % interval, None without one."""
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return None
    return max(estimate.high - estimate.value, estimate.value - estimate.low, 0.0)


def plain(value: float, unit: str) -> str:
    """A bare number with its unit."""
    scale = scale_for(value, unit)
    return f"{scale.number(value)} {scale.unit}".rstrip()


def two_figures(value: float) -> str:
    """With its first digit, or the first two below 3; never in scientific notation."""
    short = Decimal(f"{value:.1e}")
    short = short if short.as_tuple().digits[0] < 3 else Decimal(f"{value:.0e}")
    return f"{short.normalize():,f}".replace("-", "−")


def duration(seconds: float) -> str:
    """Seconds below two minutes, then minutes, then hours."""
    size, unit = (1, "s") if seconds < 120 else (60, "min") if seconds < 7200 else (3600, "h")
    return f"{seconds / size:.3g} {unit}"


def about(seconds: float) -> str:
    """The same with no more digits than a forecast has: `12 s`, `2.5 min`, `45 min`, `3 h`."""
    size, unit = (1, "s") if seconds < 99.5 else (60, "min") if seconds < 7170 else (3600, "h")
    return f"{float(f'{seconds / size:.2g}'):g} {unit}"


def _unit(unit: str, exponent: int) -> tuple[str, bool, int]:
    """How the unit is written, whether it takes a prefix, and the power of ten of that prefix."""
    if unit == "1":
        return "%", False, -2
    unit = unit.replace("bytes", "B")
    base, slash, rest = unit.partition("/")
    if base not in _LARGEST:
        return unit, False, 0
    prefix = min(max(exponent // 3 * 3, _SMALLEST[base]), _LARGEST[base])
    return f"{{}}{base}{slash}{rest}", True, prefix


def _range_half(estimate: Estimate) -> float:
    low, high = estimate.systematic or (0.0, 0.0)
    return (high - low) / 2


def _scale(value: float, estimate: Estimate) -> Scale:
    """The scale of the value, less the digits that the larger of its uncertainties makes meaningless.

    What is left is that uncertainty's first digit, or its first two where they are below 3 or where the range
    is shown in full (JCGM 100, 7.2.6), and at least one digit of the value, unless it is nothing beside its
    uncertainty: then the scale is that of the uncertainty.
    """
    widest = max(half_width(estimate) or 0.0, _range_half(estimate))
    if abs(value) < _NOTHING * widest:
        value = 0.0
    scale = scale_for(value or widest, estimate.unit)
    if scale.scientific or not widest:
        return scale
    known = Decimal(f"{widest:.1e}").scaleb(-scale.exponent)
    two = known.as_tuple().digits[0] < 3 or led_by_range(estimate)
    decimals = -known.adjusted() + (1 if two else 0)
    if value:
        decimals = max(decimals, -Decimal(f"{value:.0e}").scaleb(-scale.exponent).adjusted())
    return replace(scale, decimals=min(scale.decimals, decimals))
