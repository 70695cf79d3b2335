"""Which experiments of a study are as accurate as asked for, and which of them is the cheapest?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from llenergymeasure.analysis.cheapest import cheapest_lines
from llenergymeasure.analysis.compare import ratio
from llenergymeasure.exceptions import ConfigError
from llenergymeasure.records import Estimate
from llenergymeasure.results.study import StudyResult, StudyRow

_RULE = re.compile(r"accuracy\s*>=\s*(\d+(?:\.\d+)?)\s*%")


@dataclass(frozen=True, slots=True)
class Holding:
    """The rows of a study whose accuracy is at least `share` of the `baseline`'s.

    `by_interval`: the 95 % interval of the ratio lies above it, as that of the baseline itself does; it takes
    the answers of both for independent, so that it is rather too wide for the same questions. `by_value`: the
    ratio does, and its interval reaches below, or there is none. `below` does not hold, and `unjudged` has no
    accuracy.
    """

    share: float
    baseline: str
    by_interval: tuple[StudyRow, ...]
    by_value: tuple[StudyRow, ...]
    below: tuple[str, ...]
    unjudged: tuple[str, ...]

    @property
    def rows(self) -> tuple[StudyRow, ...]:
        return self.by_interval + self.by_value


def holding(study: StudyResult, rule: str) -> Holding:
    """By `accuracy>=95%` of the first row that has an accuracy. ConfigError where the rule has another form,
    or no row has an accuracy.
    """
    found = _RULE.fullmatch(rule.strip())
    if found is None:
        raise ConfigError(f"{rule!r} is not a rule of the form accuracy>=95%", hint="quote it in a shell")
    known = [(row, row.accuracy) for row in study.rows if row.accuracy and row.accuracy.value is not None]
    if not known:
        raise ConfigError(
            "no experiment of this study has an accuracy",
            hint="give records a reference answer (dataset.answer) and set output_length to natural",
        )
    share, (first, base) = float(found[1]) / 100, known[0]
    against = [(row, one, _of_baseline(base, one, is_it=row is first)) for row, one in known]
    surely = [row for row, _, apart in against if apart.low is not None and apart.low >= share]
    holds = [row for row, one, _ in against if (one.value or 0.0) >= share * (base.value or 0.0)]
    return Holding(
        share,
        first.label,
        tuple(surely),
        tuple(row for row in holds if row not in surely),
        tuple(row.label for row, _ in known if row not in holds),
        tuple(row.label for row in study.rows if row not in [one for one, _ in known]),
    )


def _of_baseline(base: Estimate, one: Estimate, *, is_it: bool) -> Estimate:
    return Estimate(1.0, "1", 1.0, 1.0) if is_it else ratio(base, one)


def holding_lines(study: StudyResult, held: Holding) -> Iterator[str]:
    """Which rows hold, and on what grounds; then the cheapest of them and what is shown of it."""
    least = f"{100 * held.share:g} % of the accuracy of {held.baseline}"
    yield f"At least {least}: {len(held.rows)} of {len(study.rows)} experiments"
    for names, grounds in (
        ([row.label for row in held.by_interval], "by the 95 % interval of the ratio"),
        ([row.label for row in held.by_value], "by value only; the interval reaches below"),
        (held.below, "below"),
        (held.unjudged, "without an accuracy"),
    ):
        if names:
            yield f"  {grounds}: {', '.join(names)}"
    kinds = (("", held.rows), (" that hold by interval", held.by_interval))
    for of, rows in kinds if held.by_value else kinds[:1]:
        lines = list(cheapest_lines(study.model_copy(update={"rows": rows})))
        if not lines and len(rows) == 1:
            lines = [f"The only one: {rows[0].label}"]
        if of and lines:
            yield f"Of those{of}:"
        yield from (f"  {line}" if of else line for line in lines)
