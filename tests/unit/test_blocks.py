"""Two experiments in turns, in virtual time: the order, when it ends, and what is kept whatever ends it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from virtual_study import VirtualExecutor, base

from llenergymeasure.cli.compare_running import seconds_of, share_of
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import ConfigError, ExperimentError
from llenergymeasure.results.models import ExperimentResult
from llenergymeasure.study.blocks import Blocks, Until, run_in_blocks
from llenergymeasure.study.task import Task, read_task


def config(watts: float, seed: int, **more: Any) -> ExperimentConfig:
    return ExperimentConfig.model_validate(
        {
            **base(passes={"seconds": 5.0, "count": 2, "prefill": 0}, warmup={"min_batches": 3}),
            "random_seed": seed,
            "simulated": {"active_w": watts, "run_scatter": 0.01},
            **more,
        }
    )


def compared(
    output: Path,
    *,
    watts: tuple[float, float] = (300.0, 330.0),
    until: Until | None = None,
    executor: VirtualExecutor | None = None,
    heard: list[str] | None = None,
    allow: Sequence[str] = ("workload",),
    **more: Any,
) -> Blocks:
    return run_in_blocks(
        (config(watts[0], 1), config(watts[1], 2, **more)),
        output,
        until=until or Until(),
        executor=executor or VirtualExecutor(),
        allow=allow,
        tell=lambda _: None,
        remark=(lambda _: None) if heard is None else heard.append,
    )


def stored(output: Path) -> list[ExperimentResult]:
    """In the order of their power: A before B."""
    found = [ExperimentResult.load(one) for one in output.iterdir()]
    return sorted(found, key=lambda one: one.config.simulated.active_w)


def test_it_ends_once_a_difference_is_shown_and_both_results_are_kept(tmp_path: Path) -> None:
    found = compared(tmp_path)
    energy = found.comparison.ratios[0]
    assert energy.verdict == "higher"
    assert energy.method is not None
    assert energy.method.name == "sequential_blocks"
    assert energy.ratio.low is not None
    assert 1 < energy.ratio.low < 1.1
    assert 4 <= found.blocks < 10
    assert [len(one.measured) for one in stored(tmp_path)] == [found.blocks, found.blocks]
    assert {one.experiment_id for one in stored(tmp_path)} == {folder.name for folder in found.folders}


def test_the_runs_of_every_second_block_are_those_of_the_one_before_turned_round(tmp_path: Path) -> None:
    executor = VirtualExecutor()
    found = compared(tmp_path, watts=(300.0, 300.0), until=Until(blocks=6), executor=executor)
    assert found.blocks == 6
    names = [name for name, _ in executor.started]
    blocks = [names[at : at + 2] for at in range(0, 12, 2)]
    for first, second in zip(blocks[::2], blocks[1::2], strict=True):
        assert second == first[::-1]
        assert len(set(first)) == 2
    assert [number for _, number in executor.started] == [at // 2 + 1 for at in range(12)]


def test_it_ends_once_a_difference_of_that_size_is_excluded(tmp_path: Path) -> None:
    found = compared(tmp_path, watts=(300.0, 300.0), until=Until(at_least=0.05))
    ratio = found.comparison.ratios[0].ratio
    assert found.comparison.ratios[0].verdict == "no difference shown"
    assert ratio.low is not None
    assert ratio.high is not None
    assert 1 / 1.05 < ratio.low < ratio.high < 1.05
    assert found.blocks < 30


def test_a_budget_that_is_used_up_ends_it_after_the_first_block(tmp_path: Path) -> None:
    found = compared(tmp_path, until=Until(seconds=0.0))
    assert found.blocks == 1
    assert found.comparison.ratios[0].verdict is None


def failing(*runs: tuple[int, float]) -> VirtualExecutor:
    """These runs, by their number and the power of their side, have no energy to give: they crash."""

    def fault(task: Task, _attempt: int) -> str | None:
        return "error" if (task.number, task.config.simulated.active_w) in runs else None

    return VirtualExecutor(fault=fault)


def test_a_block_with_a_run_that_failed_does_not_count(tmp_path: Path) -> None:
    heard: list[str] = []
    found = compared(tmp_path, executor=failing((3, 330.0)), heard=heard)
    assert len(heard) == 1
    a, b = stored(tmp_path)
    assert (len(a.measured), len(b.measured)) == (found.blocks, found.blocks - 1)
    assert [(run.index, run.outcome) for run in b.runs if run.outcome != "measured"] == [(3, "failed")]
    energy = found.comparison.ratios[0]
    assert energy.method is not None
    assert energy.method.degrees == pytest.approx(found.blocks - 2, rel=0.2)


def test_two_runs_in_a_row_that_failed_end_it_and_the_others_are_kept(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="B: made to fail"):
        compared(tmp_path, executor=failing((3, 330.0), (4, 330.0)))
    a, b = stored(tmp_path)
    assert len(b.measured) == 2
    assert len(a.measured) in {3, 4}


def test_a_first_run_that_failed_ends_it(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="A: made to fail"):
        compared(tmp_path, executor=failing((1, 300.0)))


@dataclass
class InterruptedExecutor(VirtualExecutor):
    after: int = 5
    numbers: list[int] = field(default_factory=list)

    def start(self, tasks: Sequence[Path], *, limit_s: float) -> None:
        self.numbers += [read_task(one).number for one in tasks]
        if len(self.numbers) > self.after:
            raise KeyboardInterrupt
        super().start(tasks, limit_s=limit_s)


def test_an_interruption_keeps_what_was_measured(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        compared(tmp_path, executor=InterruptedExecutor())
    assert sorted(len(one.measured) for one in stored(tmp_path)) == [2, 3]


def test_what_cannot_be_compared_is_refused_after_the_first_block(tmp_path: Path) -> None:
    executor = VirtualExecutor()
    with pytest.raises(ConfigError, match="tokens per request"):
        compared(tmp_path, executor=executor, max_output_tokens=16)
    assert len(executor.started) == 2
    assert [len(one.measured) for one in stored(tmp_path)] == [1, 1]


def test_a_warning_that_withholds_the_verdict_ends_it(tmp_path: Path) -> None:
    # Passes of less than a second have no joules.
    found = compared(tmp_path, passes={"seconds": 0.2, "count": 1, "prefill": 0})
    assert found.blocks == 3
    assert found.comparison.ratios[0].verdict is None
    assert found.why.startswith("no further block can give a verdict")


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30min", 1800), ("1.5h", 5400)])
def test_a_budget_has_a_unit(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["30", "30m", "-3s", "s", "1e3s"])
def test_a_budget_without_one_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        seconds_of(text)


@pytest.mark.parametrize("text", ["3", "0%", "-3%", "x%"])
def test_a_share_is_in_percent(text: str) -> None:
    assert share_of("3%") == 0.03
    with pytest.raises(ConfigError):
        share_of(text)
