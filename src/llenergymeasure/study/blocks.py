"""Does B cost more than A, run in turns until that is known well enough?"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from llenergymeasure.analysis.compare import (
    Comparison,
    compare,
)
from llenergymeasure.analysis.judge import REPLICATES
from llenergymeasure.analysis.metrics import metrics
from llenergymeasure.config.models import ExperimentConfig, config_hash
from llenergymeasure.exceptions import ExperimentError
from llenergymeasure.measure.replay import read_measurements
from llenergymeasure.measure.runner import experiment_id, started_now
from llenergymeasure.measure.scratch import scratch
from llenergymeasure.records import FailedRun
from llenergymeasure.study import task
from llenergymeasure.study.executors import Executor
from llenergymeasure.study.run import MARGIN_S, pool

MOST_BLOCKS = 30


@dataclass(frozen=True, slots=True)
class Until:
    """When it is known well enough: when no difference is excluded, or one of `at_least` (a share) and more,
    or no further block fits `seconds`, and after `blocks` at the latest.
    """

    at_least: float | None = None
    seconds: float = math.inf
    blocks: int = MOST_BLOCKS


@dataclass(frozen=True, slots=True)
class Blocks:
    """What was found in how many blocks, why it ended there, and where both results are."""

    comparison: Comparison
    blocks: int
    why: str
    folders: tuple[Path, Path]


@dataclass
class _Side:
    name: str
    config: ExperimentConfig
    folder: Path
    measured: list[int] = field(default_factory=list)
    failed: list[FailedRun] = field(default_factory=list)


def run_in_blocks(
    configs: tuple[ExperimentConfig, ExperimentConfig],
    output: Path,
    *,
    until: Until,
    executor: Executor,
    allow: Collection[str] = (),
    tell: Callable[[str], None],
    remark: Callable[[str], None],
) -> Blocks:
    """A block is one run of each, in a process of its own; which comes first is drawn for every other block,
    and the next one has it the other way round (A B B A), so that what drifts weighs on both alike.

    Runs are stored in `output` as those of any experiment, and whatever ends it, each side's `result.json` is
    made of those that are there. ConfigError after the first block where the two can't be compared,
    ExperimentError where two runs in a row failed.
    """
    started = started_now()
    sides = [
        _Side(name, config, output / experiment_id(config, started))
        for name, config in zip("AB", configs, strict=True)
    ]
    clock = _Budget(until)
    found, why = None, ""
    try:
        with executor, scratch() as tasks:
            for block, order in enumerate(_orders(sides), 1):
                with clock.of_a_block():
                    for side in order:
                        _make(side, block, executor, tasks, tell=tell, remark=remark)
                if all(side.measured for side in sides):
                    found = _look(sides, allow)
                    tell(f"block {block}: {_in_words(found)}")
                if why := (found and _why_enough(found, until)) or clock.why_over(block) or "":
                    break
    finally:
        for side in sides:
            if side.measured:
                pool(side.folder, side.measured, side.failed, remark=remark)
    if found is None:
        raise ExperimentError("no block was measured on both sides", hint="the messages above say why")
    return Blocks(found, block, why, (sides[0].folder, sides[1].folder))


def _orders(sides: Sequence[_Side]) -> Iterator[list[_Side]]:
    draw = random.Random(" ".join(config_hash(side.config) for side in sides))  # noqa: S311  an order, no secret
    while True:
        order = list(sides)
        draw.shuffle(order)
        yield order
        yield order[::-1]


class _Budget:
    """What is left of it, by the longest block so far."""

    def __init__(self, until: Until) -> None:
        self._until, self._began, self._longest_s = until, time.monotonic(), 0.0

    @contextmanager
    def of_a_block(self) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._longest_s = max(self._longest_s, time.monotonic() - began)

    def why_over(self, block: int) -> str | None:
        if time.monotonic() - self._began + self._longest_s > self._until.seconds:
            return "the budget holds no further block"
        return f"no more than {block} blocks are made" if block >= self._until.blocks else None


def _make(
    side: _Side,
    block: int,
    executor: Executor,
    tasks: Path,
    *,
    tell: Callable[[str], None],
    remark: Callable[[str], None],
) -> None:
    """One run, whose number is that of its block. ExperimentError where it fails after another that did."""
    config, path = side.config, tasks / f"{side.name}-{block}-1.json"
    # The share of the budget that one of the configuration's own repeats has.
    share = max(1, config.repeats.count)
    passes, seconds = max(1, config.passes.budget.passes // share), config.passes.budget.seconds / share
    work = task.Task(
        side.folder.name, side.folder.absolute(), config, config.origins, block, block, passes, seconds
    )
    task.write_task(path, work)
    executor.start([path], limit_s=config.timeout_s + MARGIN_S)
    while not (ended := executor.ended()):
        pass
    ending = task.read_ending(path)
    if ending is not None and ending.cost is not None and not ended[0].timed_out:
        side.measured.append(block)
        tell(f"block {block}, {side.name}: measured in {ending.seconds:.3g} s")
        return
    message = ended[0].note if ending is None else ending.message
    side.failed.append(FailedRun(block, message))
    if block == 1 or (len(side.failed) > 1 and side.failed[-2].index == block - 1):
        raise ExperimentError(f"{side.name}: {message}", hint=None if ending is None else ending.hint)
    remark(f"block {block}, {side.name} failed, and the block does not count: {message}")


def _look(sides: Sequence[_Side], allow: Collection[str]) -> Comparison:
    a, b = (metrics(read_measurements(side.folder, side.measured), failed=side.failed) for side in sides)
    return compare(a, b, allow=allow, sequential=True)


def _why_enough(found: Comparison, until: Until) -> str | None:
    energy, ratio = found.ratios[0], found.ratios[0].ratio
    if min(found.a.runs, found.b.runs) < REPLICATES:
        return None
    if ratio.value is None or energy.withheld:
        # What withholds a verdict is about runs that were made: more of them don't take it back.
        return f"no further block can give a verdict: {ratio.reason}"
    if ratio.low is None or ratio.high is None:
        return None
    if energy.verdict != "no difference shown":
        return "a difference is shown"
    if until.at_least is not None and 1 / (1 + until.at_least) < ratio.low <= ratio.high < 1 + until.at_least:
        return f"a difference of {100 * until.at_least:g} % and more is excluded"
    return None


def _in_words(found: Comparison) -> str:
    ratio = found.ratios[0].ratio
    if ratio.value is None or ratio.low is None or ratio.high is None:
        return "" if ratio.value is None else f"B / A {ratio.value:.3f}"
    return f"B / A {ratio.value:.3f}, {ratio.low:.3f} to {ratio.high:.3f}"
