"""What is the uncertainty of an energy made of? A budget in the manner of the GUM (JCGM 100:2008)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from llenergymeasure.analysis.run_energy import RunEnergy
from llenergymeasure.analysis.statistics import relative_half_width
from llenergymeasure.energy.joules.spent import combined
from llenergymeasure.records import Estimate
from llenergymeasure.results.models import Closure, Term, Uncertainty

# What a calibration left open of gain and offset together, which it knows better than each alone.
CALIBRATION = "calibration"


def uncertainty(
    energies: Sequence[RunEnergy],
    gross: Estimate,
    per_token: Estimate,
    costs: Sequence[float] | None,
    *,
    first_stage: int | None = None,
) -> Uncertainty | None:
    """The budget of the total and of the cost of an output token, whose replicates cost `costs`; None where
    there is no energy.

    The scatter of the replicates holds what is independent of the sensor's errors, so that of the two the
    larger counts and the other is marked. `first_stage` replicates give the scatter of Stein's rule.
    """
    if gross.value is None:
        return None
    whole = [*_sensor_terms(energies), *_systematic_terms(energies, gross.value)]
    tokens: list[Term] = []
    if per_token.value is not None and gross.value:
        factor = per_token.value / gross.value
        chance = None if costs is None else relative_half_width(costs, first_stage=first_stage)
        independent = math.hypot(*(term.half_width or 0.0 for term in whole if not term.common))
        within = chance is not None and chance * abs(gross.value) >= independent
        tokens = [_scaled(term, factor, within=within) for term in whole]
        if chance is not None and costs is not None:
            stage = first_stage if first_stage is not None and first_stage >= 3 else len(costs)
            tokens.append(
                Term(
                    name="random",
                    kind="A",
                    half_width=abs(per_token.value) * chance,
                    degrees=min(stage, len(costs)) - 1,
                    common=False,
                    cancels_in_ratio=False,
                    within_chance=not within,
                )
            )
    return Uncertainty(
        total=tuple(whole), per_output_token=tuple(tokens), closures=(_closure(energies, gross.value),)
    )


def _sensor_terms(energies: Sequence[RunEnergy]) -> Iterator[Term]:
    """What the sensors leave open of these windows."""
    spent = [part for one in energies for part in one.spent("full")]
    for term in combined([part.terms for part in spent]):
        yield Term(
            name=term.name,
            kind="B",
            half_width=term.half_width_j,
            degrees=term.degrees,
            common=term.common,
            cancels_in_ratio=False,
        )


def _systematic_terms(energies: Sequence[RunEnergy], gross_j: float) -> Iterator[Term]:
    """The range of the total by what no repetition narrows: gain and offset of sensors, a model's width."""
    ranges = dict.fromkeys(("gain", "offset", CALIBRATION, "model of power"), (0.0, 0.0))
    for one in energies:
        for domain in one.domains:
            for block in one.of("full"):
                spent = block.spent[domain.name]
                if spent.joules is None or spent.systematic is None:
                    continue
                hidden = [end - spent.joules for end in spent.systematic]
                by_gain = [(end - 1) * spent.joules for end in domain.systematic_gain or (1.0, 1.0)]
                rest = [end - part for end, part in zip(hidden, by_gain, strict=True)]
                sensor = {"gain": by_gain, "offset": rest}
                whole = CALIBRATION if domain.calibrated is not None else "model of power"
                found = sensor if domain.model is None and domain.calibrated is None else {whole: hidden}
                for name, (low, high) in found.items():
                    ranges[name] = (ranges[name][0] + low, ranges[name][1] + high)
    for name, ends in ranges.items():
        if any(ends):
            yield Term(
                name=name,
                kind="B",
                low=gross_j + min(ends),
                high=gross_j + max(ends),
                common=True,
                cancels_in_ratio=name != "offset",
            )


def _scaled(term: Term, factor: float, *, within: bool) -> Term:
    """A term of the total as one of the cost; `within`: replicates already scatter by what is independent."""

    def times(value: float | None) -> float | None:
        return None if value is None else value * factor

    return term.model_copy(
        update={
            "half_width": times(term.half_width),
            "low": times(term.low),
            "high": times(term.high),
            "within_chance": within and not term.common,
        }
    )


def _closure(energies: Sequence[RunEnergy], gross_j: float) -> Closure:
    """What the domains of all blocks took against the total, which is pooled from the readings. Passes sum to
    their block by construction, and so do prefill and decode.
    """
    parts_j = math.fsum(part.joules or 0.0 for one in energies for part in one.spent("full"))
    apart = abs(parts_j - gross_j) / abs(gross_j) if gross_j else None
    return Closure(name="sum of domains against total", parts_j=parts_j, whole_j=gross_j, apart=apart)
