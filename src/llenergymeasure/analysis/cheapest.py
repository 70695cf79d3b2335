"""Which of several configurations is the cheapest, and over which of the others is that shown?"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from llenergymeasure.analysis.compare import ENERGY, WITHHELD
from llenergymeasure.analysis.judge import ratio
from llenergymeasure.analysis.statistics import t_tail
from llenergymeasure.exceptions import ConfigError
from llenergymeasure.records import Estimate, WarningCode
from llenergymeasure.results.study import StudyResult, StudyRow
from llenergymeasure.results.summary import some

ALPHA = 0.05


@dataclass(frozen=True, slots=True)
class Candidate:
    """What each run of one configuration cost; `comparable` are those whose systematic errors cancel.

    `visits` say for each run in which repeat it was made, and by which server, None where that was its own.
    `withheld` are the warnings that leave its cost without a verdict.
    """

    label: str
    costs: tuple[float, ...]
    comparable: str
    visits: tuple[tuple[int, str | None], ...] = ()
    withheld: tuple[WarningCode, ...] = ()

    @property
    def replicates(self) -> tuple[float, ...]:
        """One cost for each server that several runs shared, and for each run that had its own."""
        shared: dict[object, list[float]] = {}
        for at, cost in enumerate(self.costs):
            server = self.visits[at][1] if self.visits else None
            shared.setdefault(at if server is None else server, []).append(cost)
        return tuple(fmean(each) for each in shared.values())


@dataclass(frozen=True, slots=True)
class Cheapest:
    """`ahead` are the labels that it is shown to be cheaper than, `open` those where no difference is shown,
    `few` those with too few runs to show one, `incomparable` those whose systematic errors do not cancel, all
    in rising order of cost. `paired` are the ones that were compared within the servers that both were
    visited on, which were so many. `withheld` are those that it is not judged against, by `codes` of theirs
    or its own.
    """

    label: str
    ahead: tuple[str, ...]
    open: tuple[str, ...]
    incomparable: tuple[str, ...]
    few: tuple[str, ...] = ()
    paired: tuple[str, ...] = ()
    servers: int = 0
    withheld: tuple[str, ...] = ()
    codes: tuple[WarningCode, ...] = ()


def cheapest(candidates: Sequence[Candidate]) -> Cheapest | None:
    """The one of the lowest mean cost against each other, by Welch's t of the logarithms' difference; by the
    paired t where both were visited on the same servers, whose own differences then cancel.

    The chance of one false lead among all is at most 5 % (Holm 1979, over all pairs: which one is the lowest
    is known from the same data). Fewer than three runs on a side show nothing. None where fewer than two have
    a cost.
    """
    known = [one for one in candidates if one.costs and fmean(one.costs) > 0]
    if len(known) < 2:
        return None
    best, *others = sorted(known, key=lambda one: fmean(one.costs))
    related = [one for one in others if one.comparable == best.comparable]
    alike = [one for one in related if not (best.withheld or one.withheld)]
    left = [one for one in related if one not in alike]
    pairs_of = {one.label: _pairs(best, one) for one in alike}
    chances = {
        one.label: _paired(found) if (found := pairs_of[one.label]) else _welch(best, one) for one in alike
    }
    judged = {label: chance for label, chance in chances.items() if chance is not None}
    pairs = len(known) * (len(known) - 1) // 2
    ahead: set[str] = set()
    for number, label in enumerate(sorted(judged, key=judged.__getitem__)):
        if judged[label] > ALPHA / (pairs - number):
            break
        ahead.add(label)
    return Cheapest(
        best.label,
        tuple(label for label in judged if label in ahead),
        tuple(label for label in judged if label not in ahead),
        tuple(one.label for one in others if one.comparable != best.comparable),
        tuple(label for label in chances if label not in judged),
        tuple(label for label, found in pairs_of.items() if found),
        len({server for found in pairs_of.values() for server, _ in found}),
        tuple(one.label for one in left),
        tuple(dict.fromkeys(code for one in (best, *left) for code in one.withheld)),
    )


def _pairs(low: Candidate, high: Candidate) -> list[tuple[str, float]]:
    """The logarithm of high / low in each repeat in which one server answered both, and that server."""
    known = dict(zip(low.visits, low.costs, strict=False))
    return [
        (server, math.log(cost / known[number, server]))
        for (number, server), cost in zip(high.visits, high.costs, strict=False)
        if server is not None and (number, server) in known and min(cost, known[number, server]) > 0
    ]


def _paired(pairs: Sequence[tuple[str, float]]) -> float | None:
    """The two-sided chance of so large a mean where there is no difference; None of fewer than three."""
    apart = [log for _, log in pairs]
    if len(apart) < 3:
        return None
    if (error := stdev(apart) / math.sqrt(len(apart))) == 0:
        return 0.0 if abs(fmean(apart)) > 1e-9 else 1.0
    return 2 * t_tail(abs(fmean(apart)) / error, len(apart) - 1)


def _welch(below: Candidate, above: Candidate) -> float | None:
    """The two-sided chance of so large a ratio where there is no difference; None of fewer than three."""
    low, high = below.replicates, above.replicates
    if min(len(low), len(high)) < 3:
        return None
    parts = [(stdev(side) ** 2 / len(side) / fmean(side) ** 2, len(side) - 1) for side in (low, high)]
    whole = sum(part for part, _ in parts)
    apart = math.log(fmean(high) / fmean(low))
    if whole == 0:
        return 0.0 if apart > 1e-9 else 1.0
    degrees = whole**2 / sum(part**2 / count for part, count in parts)
    return 2 * t_tail(abs(apart) / math.sqrt(whole), degrees)


def cheapest_lines(study: StudyResult) -> Iterator[str]:
    """Which experiment takes the fewest joules per output token, and over which others that is shown."""
    candidates = [
        Candidate(
            row.label,
            tuple(costs),
            _kin(row),
            tuple(zip(row.numbers, row.servers, strict=False)),
            tuple(code for code in row.warnings if ENERGY in WITHHELD.get(code, ())),
        )
        for row in study.rows
        if row.valid and len(costs := _costs(row)) == row.runs > 0
    ]
    found = cheapest(candidates)
    if found is None:
        return
    yield f"Fewest joules per output token: {found.label}"
    if found.ahead:
        yield f"  shown to be fewer than those of {some(found.ahead)} (95 % for all together, Holm)"
    if found.open:
        yield f"  no difference shown to {some(found.open)}"
    if found.withheld:
        yield f"  no verdict, by {' and '.join(found.codes)}: {some(found.withheld)}"
    if found.few:
        yield f"  too few runs to judge, three of each are needed: {some(found.few)}"
    if found.paired:
        where = "another start of it may differ by more"
        if found.servers > 1:
            where = f"{found.servers} servers, each visited with all loads"
        within = "within one server" if found.servers == 1 else "by server"
        yield f"  paired {within} ({where}): {some(found.paired)}"
    if found.incomparable:
        yield f"  not comparable, as systematic errors differ there: {some(found.incomparable)}"


def _costs(row: StudyRow) -> list[float]:
    alone = [one.energy_per_output_token_j for one in row.figures]
    return [cost for cost in alone if cost is not None]


def _kin(row: StudyRow) -> str:
    """Where systematic errors cancel: on one sensor always, in a model of power for the same kind of work."""
    kind = f"modelled: {row.varied.get('backend')}, {row.varied.get('precision')}" if row.modelled else ""
    return f"{kind} {row.place}"


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
