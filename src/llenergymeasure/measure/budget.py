"""Which run comes next, how many passes does the budget leave for it, and is that enough for an interval?"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llenergymeasure.analysis.statistics import relative_half_width, stein_count
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import ConfigError
from llenergymeasure.records import BlockKind, WarmUp

if TYPE_CHECKING:
    # It brings numpy, which a plan does not need.
    from llenergymeasure.analysis.run_energy import RunEnergy

ENOUGH = 3
# No sensor says anything of less.
SHORTEST_S = 1.0


@dataclass(frozen=True, slots=True)
class Turn:
    """Run `number` of `runs` that are planned, and what is left of the budget before it.

    `remark` receives what a user should read; `strict` ends what can't give an interval.
    """

    number: int
    runs: int
    passes: int
    seconds: float
    remark: Callable[[str], None]
    strict: bool = False

    @classmethod
    def first(cls, config: ExperimentConfig, *, remark: Callable[[str], None], strict: bool) -> Turn:
        budget = config.passes.budget
        return cls(1, config.repeats.count, budget.passes, budget.seconds, remark, strict)

    def forewarn(self, config: ExperimentConfig, warm_up: WarmUp) -> None:
        """Before the first pass: say where the budget leaves too little for an interval; with `strict` stop
        there, by ConfigError.
        """
        if self.number > 1 or (found := why_too_few(config, warm_up)) is None:
            return
        message, hint = found
        if self.strict:
            raise ConfigError(f"{message} (--strict)", hint=hint)
        self.remark(f"{message}; {hint}")

    def less(self, *, passes: int, seconds: float) -> Turn:
        return replace(self, passes=self.passes - passes, seconds=self.seconds - seconds)


@dataclass(frozen=True, slots=True)
class RunCost:
    """What a run took of the budget, in passes and seconds, its joules, and its joules (or seconds, where no
    energy can be known) per output token; None is unknown.
    """

    passes: int
    seconds: float
    joules: float | None
    per_token: float | None

    @classmethod
    def of(cls, energy: RunEnergy) -> RunCost:
        passes = energy.measurement.passes
        seconds = sum(one.window.duration_s for one in passes)
        return cls(len(passes), seconds, energy.joules, energy.cost)


class Repeats:
    """Whose turn it is among the runs of one experiment, by what those so far have cost (None: it failed)."""

    def __init__(self, config: ExperimentConfig, *, remark: Callable[[str], None], strict: bool) -> None:
        self._config, self._turn = config, Turn.first(config, remark=remark, strict=strict)
        self._costs: list[RunCost | None] = []

    def next(self) -> Turn | None:
        """None once every run was made, the budget is used up, or two runs in a row have failed."""
        measured = self._measured
        if len(self._costs) >= 2 and self._costs[-2:] == [None, None]:
            return None
        limit_j, known_j = (
            self._config.passes.budget.joules,
            [one.joules for one in measured if one.joules is not None],
        )
        over = limit_j is not None and len(known_j) == len(measured) and math.fsum(known_j) >= limit_j
        turn = self._turn
        if turn.number > turn.runs or (measured and (turn.passes <= 0 or turn.seconds <= 0 or over)):
            return None
        return turn

    def add(self, cost: RunCost | None) -> None:
        """A run was made, or failed; a target may then ask for more of them (Stein's second stage)."""
        self._costs.append(cost)
        left = self._turn if cost is None else self._turn.less(passes=cost.passes, seconds=cost.seconds)
        self._turn = replace(left, number=left.number + 1)
        asked, measured = self._config.repeats, self._measured
        if cost is not None and len(measured) == asked.count >= 3 and asked.target is not None:
            known = [one.per_token for one in measured if one.per_token is not None]
            if len(known) == len(measured):
                wanted = stein_count(known, target=asked.target, minimum=asked.count)
                self._turn = replace(self._turn, runs=min(wanted, asked.max))

    @property
    def half_width(self) -> float | None:
        """Of the interval of the cost per output token over the runs so far, relative; None below three."""
        costs = [one.per_token for one in self._measured if one.per_token is not None]
        return relative_half_width(costs) if len(costs) == len(self._measured) else None

    @property
    def _measured(self) -> list[RunCost]:
        return [one for one in self._costs if one is not None]


def walks_in_pass(config: ExperimentConfig, walk_s: float) -> int:
    """A pass ends with the walk in which its time is up."""
    return max(1, math.ceil(config.passes.seconds / walk_s)) if walk_s > 0 else 1


def pass_seconds(config: ExperimentConfig, walk_s: float) -> float:
    if config.is_stream:
        return config.passes.seconds
    return max(config.passes.seconds, walks_in_pass(config, walk_s) * walk_s)


def expected_pass_s(config: ExperimentConfig, warm_up: WarmUp, kind: BlockKind = "full") -> float:
    """Seconds of one pass at the pace of the warm-up. A walk of prefill is shorter than a full one by an
    unknown amount: `passes.seconds` and a quarter of a walk more.
    """
    walk_s = warm_up.walk_s or 0.0
    return pass_seconds(config, walk_s) if kind == "full" else config.passes.seconds + walk_s / 4


def passes_that_fit(config: ExperimentConfig, warm_up: WarmUp, turn: Turn, *, most: int | None = None) -> int:
    """Passes of this run's block: `passes.count` or what its share of the budget leaves, at least 1."""
    runs_left = max(1, turn.runs - turn.number + 1)
    in_time = passes_in(turn.seconds / runs_left, expected_pass_s(config, warm_up))
    return max(1, min(most or config.passes.count, turn.passes // runs_left, in_time))


def passes_in(seconds: float, pass_s: float) -> int:
    return math.floor(seconds / pass_s + 1e-9)


def why_too_few(config: ExperimentConfig, warm_up: WarmUp) -> tuple[str, str] | None:
    """That the budget leaves fewer repeats (or passes of a single run) than an interval needs, and what would
    fit; None where it leaves enough, or fewer were asked for anyway.
    """
    single = config.repeats.count == 1
    asked = config.passes.count if single else config.repeats.count
    budget, pass_s = config.passes.budget, expected_pass_s(config, warm_up)
    in_time = math.floor(budget.seconds / pass_s) if single else math.ceil(budget.seconds / pass_s)
    units = min(asked, budget.passes, max(1, in_time))
    if units >= ENOUGH or asked < ENOUGH:
        return None
    what = "passes" if single else "repeats"
    a_pass = "a window of the load" if config.is_stream else f"a pass over the {config.n} prompts"
    message = (
        f"{a_pass} takes about {pass_s:.3g} s, so that the budget of "
        f"{budget.seconds:g} s and {budget.passes} passes leaves {units} of the {ENOUGH} {what} that an "
        "interval needs"
    )
    return message, _what_fits(config, warm_up) or f"raise passes.budget.passes to {ENOUGH}"


def _what_fits(config: ExperimentConfig, warm_up: WarmUp) -> str | None:
    """The settings with which a third of the budget holds a pass; None where time is not what is short."""
    budget, least_s, size = config.passes.budget, config.passes.seconds, config.batch_size
    if budget.passes < ENOUGH:
        return None
    share_s, walk_s = budget.seconds / ENOUGH, warm_up.walk_s or least_s
    longer = f"passes.budget.seconds={math.ceil(ENOUGH * expected_pass_s(config, warm_up))}"

    if config.is_stream:
        return f"passes.seconds={share_s:.3g} would fit, or {longer}" if share_s >= SHORTEST_S else longer

    def fits(part: float) -> bool:
        """Whether whole walks of that part of today's work make a pass that the share holds."""
        return math.ceil(least_s / (part * walk_s) - 1e-9) * part * walk_s <= share_s

    prompts = next((n for n in range(config.n // size * size, 0, -size) if fits(n / config.n)), None)
    if prompts is not None:
        return f"-n {prompts} would fit, or {longer}"
    asked = config.max_output_tokens
    tokens = next((tokens for tokens in range(asked - 1, 0, -1) if fits(tokens / asked)), None)
    if tokens is not None:
        return f"max_output_tokens={tokens} would fit, or {longer}"
    if walk_s <= share_s >= SHORTEST_S:
        return f"passes.seconds={math.floor(share_s / walk_s) * walk_s:.3g} would fit, or {longer}"
    return longer
