"""Which of many results cost more than what they are compared with, with one error of 5 % for all of them?"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pydantic import JsonValue

from llenergymeasure.analysis.compare import (
    Comparison,
    LeftOut,
    compare,
)
from llenergymeasure.analysis.compare_peers import compare_peers
from llenergymeasure.analysis.compare_windows import compare_windows
from llenergymeasure.analysis.differences import configured
from llenergymeasure.analysis.imported import Imported
from llenergymeasure.analysis.judge import (
    ALPHA,
    Ratio,
    ends,
)
from llenergymeasure.analysis.statistics import holm
from llenergymeasure.exceptions import ConfigError
from llenergymeasure.results.models import ExperimentResult
from llenergymeasure.results.windows import WindowsResult


@dataclass(frozen=True, slots=True)
class Item:
    """A result, or what another tool measured, and what it is called here."""

    name: str
    result: ExperimentResult | WindowsResult | Imported

    @property
    def id(self) -> str:
        return self.result.name if isinstance(self.result, Imported) else self.result.experiment_id


@dataclass(frozen=True, slots=True)
class Pair:
    """`label` is what both have in common, or the name of B where all have one A."""

    label: str
    a: Item
    b: Item


@dataclass(frozen=True, slots=True)
class Compared:
    label: str
    a: str
    b: str
    comparison: Comparison


@dataclass(frozen=True, slots=True)
class Many:
    """`baseline` is the name of the one A of all, None where each pair has its own; `studies` are then those
    that A and B are of.

    For each figure the verdicts of all pairs hold together: the chance that any of them is false is 5 % at
    most (Holm). The intervals too hold together with 95 % (each with 1 − 5 % / their number, Bonferroni); one
    that Holm's rule shows to differ although such an interval would just include 1 is cut there.
    """

    baseline: str | None
    pairs: tuple[Compared, ...]
    left_out: tuple[LeftOut, ...]
    studies: tuple[str, ...] = ()


def compare_two(
    a: ExperimentResult | WindowsResult | Imported,
    b: ExperimentResult | WindowsResult | Imported,
    *,
    allow: Collection[str] = (),
    family: int = 1,
) -> Comparison:
    """ConfigError as `compare` has it, and for results of unlike kinds."""
    if isinstance(a, Imported) or isinstance(b, Imported):
        return compare_peers(a, b, allow=allow, family=family)
    if isinstance(a, WindowsResult) and isinstance(b, WindowsResult):
        return compare_windows(a, b, allow=allow, family=family)
    if isinstance(a, ExperimentResult) and isinstance(b, ExperimentResult):
        return compare(a, b, allow=allow, family=family)
    raise ConfigError(f"A is of kind {a.kind} and B of kind {b.kind}: they have nothing in common")


def compare_many(
    pairs: Sequence[Pair],
    *,
    baseline: str | None,
    studies: tuple[str, ...] = (),
    left_out: Sequence[LeftOut] = (),
    allow: Collection[str] = (),
) -> Many:
    """Each pair whose conditions are alike; the others are left out by name. ConfigError where none is."""
    missed, kept, hints = list(left_out), [], []
    for pair in pairs:
        try:
            compare_two(pair.a.result, pair.b.result, allow=allow)
        except ConfigError as error:
            first, *more = error.message.splitlines()
            missed.append(LeftOut(pair.label, "; ".join(line.strip() for line in more) or first))
            hints += [error.hint] if error.hint else []
        else:
            kept.append(pair)
    if not kept:
        lines = [f"  {one.name}: {one.reason}" for one in missed]
        raise ConfigError(
            "\n".join(["none of these can be compared:", *lines]), hint=hints[0] if hints else None
        )
    found = [
        Compared(
            pair.label,
            pair.a.name,
            pair.b.name,
            compare_two(pair.a.result, pair.b.result, allow=allow, family=len(kept)),
        )
        for pair in kept
    ]
    return Many(baseline, tuple(judged_together(found)), tuple(missed), studies)


def judged_together(pairs: Sequence[Compared]) -> Iterator[Compared]:
    """With the verdicts that Holm's rule allows. Pairs whose verdict is withheld have none to be false."""
    chances: dict[str, list[tuple[float, int]]] = {}
    for at, pair in enumerate(pairs):
        for one in pair.comparison.ratios:
            if one.chance is not None:
                chances.setdefault(one.label, []).append((one.chance, at))
    shown = {
        (label, at)
        for label, found in chances.items()
        for (_, at), rejected in zip(found, holm([one for one, _ in found], alpha=ALPHA), strict=True)
        if rejected
    }
    for at, pair in enumerate(pairs):
        ratios = tuple(
            _shown(one) if (one.label, at) in shown and one.verdict == "no difference shown" else one
            for one in pair.comparison.ratios
        )
        yield replace(pair, comparison=replace(pair.comparison, ratios=ratios))


def _shown(one: Ratio) -> Ratio:
    """The ratio of one that is shown to differ, although its own interval includes 1."""
    found = one.ratio
    if one.difference is not None:
        apart = one.difference
        assert apart.value is not None
        cut = replace(apart, low=0.0) if apart.value > 0 else replace(apart, high=0.0)
        return replace(one, difference=cut, verdict="higher" if apart.value > 0 else "lower")
    assert found.value is not None
    assert found.low is not None
    assert found.high is not None
    higher = found.value > 1
    cut = replace(found, low=1.0) if higher else replace(found, high=1.0)
    low, high = ends(cut)
    hidden = found.systematic is not None and low is not None and high is not None and low < 1 < high
    return replace(
        one,
        ratio=cut,
        verdict="within systematic uncertainty" if hidden else "higher" if higher else "lower",
    )


def against(baseline: Item, others: Sequence[Item]) -> list[Pair]:
    return [Pair(one.name, baseline, one) for one in others]


def by_configuration(
    a: tuple[str, Sequence[Item]], b: tuple[str, Sequence[Item]]
) -> tuple[list[Pair], list[LeftOut]]:
    """The experiments of two studies, each with the one that has the same in all that varies within a study.

    What is the same throughout A, and throughout B, may differ between them: that is what they are compared
    in. Where one study has several of the same, such as from several machines, the machine has to be the same
    too. ConfigError where the studies have nothing in common.
    """
    sides = [[(one, _settings(one)) for one in items] for _, items in (a, b)]
    keys = sorted({key for side in sides for key in _varying([of for _, of in side])})
    keyed = [_keyed(side, keys) for side in sides]
    if any(len(found) < len(side) for found, side in zip(keyed, sides, strict=True)):
        keys.append(_HOST)
        keyed = [_keyed(side, keys) for side in sides]
    for name, found, side in zip((a[0], b[0]), keyed, sides, strict=True):
        if len(found) < len(side):
            raise ConfigError(f"{name} has several experiments of the same configuration on one machine")
    of_a, of_b = keyed
    pairs = [
        Pair(_common(one, of_b[key], keys), one[0], of_b[key][0]) for key, one in of_a.items() if key in of_b
    ]
    missed = [
        LeftOut(one.name, f"only in {a[0]}", absent=True) for key, (one, _) in of_a.items() if key not in of_b
    ]
    missed += [
        LeftOut(one.name, f"only in {b[0]}", absent=True) for key, (one, _) in of_b.items() if key not in of_a
    ]
    if not pairs:
        raise ConfigError(
            f"{a[0]} and {b[0]} have no experiment in common, by {', '.join(keys) or 'any setting'}",
            hint="llem show lists what each of them holds",
        )
    return pairs, missed


_HOST = "hostname"
Settings = Mapping[str, JsonValue]


def _settings(one: Item) -> Settings:
    assert not isinstance(one.result, Imported), "a study holds llem's own results"
    host: Settings = {_HOST: one.result.environment.hostname}
    return host if isinstance(one.result, WindowsResult) else {**configured(one.result, options=True), **host}


def _varying(settings: Sequence[Settings]) -> set[str]:
    keys = {key for one in settings for key in one} - {_HOST}
    return {key for key in keys if len({json.dumps(one.get(key)) for one in settings}) > 1}


def _keyed(
    side: Sequence[tuple[Item, Settings]], keys: Sequence[str]
) -> dict[tuple[str, ...], tuple[Item, Settings]]:
    return {tuple(json.dumps(of.get(key)) for key in keys): (one, of) for one, of in side}


def _common(a: tuple[Item, Settings], b: tuple[Item, Settings], keys: Sequence[str]) -> str:
    """What the study calls it, where both do; else the settings."""
    if a[0].name == b[0].name or not keys:
        return a[0].name
    shown = {key.rpartition(".")[2]: a[1].get(key) for key in keys}
    return " ".join(f"{key}={one if isinstance(one, str) else json.dumps(one)}" for key, one in shown.items())
