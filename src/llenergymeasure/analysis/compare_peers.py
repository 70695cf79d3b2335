"""How do figures that another tool measured compare with llem's own, as far as both mean the same?"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from llenergymeasure.analysis.compare import (
    Comparison,
    LeftOut,
    Side,
    refuse_differences,
)
from llenergymeasure.analysis.differences import UNKNOWN, Difference, Setting
from llenergymeasure.analysis.imported import Imported
from llenergymeasure.analysis.judge import (
    ALPHA,
    Figure,
    Ratio,
    judge,
)
from llenergymeasure.exceptions import ConfigError
from llenergymeasure.results.models import ExperimentResult
from llenergymeasure.results.rows import METRICS, Metrics, Row, parts
from llenergymeasure.results.summary import is_modelled
from llenergymeasure.results.windows import WindowsResult

Any: TypeAlias = ExperimentResult | WindowsResult | Imported

# What may be called otherwise by every tool, so that a difference is named and refuses nothing.
_NAMED = ("model", "backend", "precision", "batch_size", "device")
_SENSED = {"counter": "measured", "sampled": "measured"}


@dataclass(frozen=True, slots=True)
class _Figures:
    side: Side
    facts: Row
    metrics: Metrics
    left_out: Mapping[str, str]
    tool: str | None = None


def compare_peers(a: Any, b: Any, *, allow: Collection[str] = (), family: int = 1) -> Comparison:
    """B against A, one of them at least from another tool: the ratio of each metric that both have, with an
    interval where both have one, and no verdict, since other tools' files hold no replicates.

    ConfigError for a result of windows, where the two have no metric in common, and for unlike conditions as
    as the file tells them: simulated, the method of energies, tokens per request, of totals all tokens.
    """
    of_a, of_b = _figures("A", a), _figures("B", b)
    common = [
        name
        for name in METRICS
        if name in of_a.metrics
        and name in of_b.metrics
        and None not in (of_a.metrics[name].value, of_b.metrics[name].value)
    ]
    found = tuple(_differences(of_a, of_b, common))
    id_a, id_b = ((one.side.experiment_id, one.tool) for one in (of_a, of_b))
    refuse_differences(id_a, id_b, found, allow)
    left_out = tuple(_left_out(of_a, of_b, common))
    if not common:
        why = "; ".join(f"{one.name}: {one.reason}" for one in left_out)
        raise ConfigError(f"no metric means the same in A and B{': ' if why else ''}{why}")
    tools = " and ".join(one.tool for one in (of_a, of_b) if one.tool is not None)
    return Comparison(
        a=of_a.side,
        b=of_b.side,
        allowed=found,
        settings=tuple(
            Setting(key, of_a.facts[key], of_b.facts[key])
            for key in _NAMED
            if None not in (of_a.facts.get(key), of_b.facts.get(key)) and of_a.facts[key] != of_b.facts[key]
        ),
        cancels=None,
        ratios=tuple(_ratio(name, of_a.metrics, of_b.metrics, tools, family) for name in common),
        family=family,
        left_out=left_out,
    )


def _figures(which: str, one: Any) -> _Figures:
    if isinstance(one, Imported):
        called = f"{one.name} ({one.row()['program']})"
        return _Figures(Side(called, 1, False, ()), one.facts, one.metrics, one.left_out, one.tool)
    if isinstance(one, WindowsResult):
        raise ConfigError(f"{which} is of kind {one.kind}: it has nothing in common with another tool's file")
    ((facts, metrics),) = parts(one)
    side = Side(one.experiment_id, len(one.measured), is_modelled(one.energy), one.warnings)
    return _Figures(side, facts, metrics, {})


def _differences(a: _Figures, b: _Figures, common: Collection[str]) -> Iterator[Difference]:
    kinds = ["simulated" if one.facts.get("simulated") else "a real run" for one in (a, b)]
    if kinds[0] != kinds[1]:
        yield Difference("simulated", *kinds)
    if any(name.endswith("_j") for name in common):
        methods = [str(one.facts.get("method") or UNKNOWN) for one in (a, b)]
        sensed = [_SENSED.get(one, one) for one in methods]
        if sensed[0] != sensed[1]:
            yield Difference("method", *sensed)
    if "energy_total_j" in common:
        sums = [_sums(one.facts) for one in (a, b)]
        if None in sums or sums[0] != sums[1]:
            yield Difference("workload", *(one or "an unknown number of tokens" for one in sums))
    tokens = [_tokens_each(one.facts) for one in (a, b)]
    if None not in tokens and tokens[0] != tokens[1]:
        yield Difference("tokens", *map(str, tokens))


def _sums(facts: Row) -> str | None:
    read, made = facts.get("input_tokens"), facts.get("output_tokens")
    return None if read is None or made is None else f"{read} tokens in, {made} out"


def _tokens_each(facts: Row) -> str | None:
    counts = [facts.get(key) for key in ("input_tokens", "output_tokens", "requests")]
    read, made, requests = (one if isinstance(one, int) else None for one in counts)
    if read is None or made is None or not requests:
        return None
    return f"{read / requests:.12g} in, {made / requests:.12g} out"


def _ratio(name: str, a: Metrics, b: Metrics, tools: str, family: int) -> Ratio:
    found = judge(
        name, name, Figure(a[name]), Figure(b[name]), cancels=False, single=True, alpha=ALPHA / family
    )
    return replace(
        found, verdict=None, chance=None, withheld=(f"a file of {tools} holds no independent repeats",)
    )


def _left_out(a: _Figures, b: _Figures, common: Collection[str]) -> Iterator[LeftOut]:
    for which, one, other, against in (("A", a, b, "B"), ("B", b, a, "A")):
        if one.tool is None:
            continue
        yield from (LeftOut(f"{theirs} of {which}", why) for theirs, why in one.left_out.items())
        for name in one.metrics:
            if name not in common:
                lacking = other.metrics.get(name)
                why = None if lacking is None else lacking.reason
                yield LeftOut(f"{name} of {which}", f"{against} does not have it{f': {why}' if why else ''}")
