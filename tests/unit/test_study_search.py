"""How a search finds the highest load that meets the objectives, and what it says where there is none."""

from __future__ import annotations

import math
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pydantic import JsonValue
from virtual_study import VirtualExecutor, base, planned, run_virtually

from llenergymeasure.cli.list import entries
from llenergymeasure.config.study import Search, most_probes, study_from
from llenergymeasure.exceptions import ConfigError
from llenergymeasure.results.study import StudyResult
from llenergymeasure.results.study_table import searches, table
from llenergymeasure.study import ledger
from llenergymeasure.study.ledger import Begun
from llenergymeasure.study.run import How, Step
from llenergymeasure.study.search import bracket, next_probe
from llenergymeasure.study.task import Task

S = 10**9


@pytest.mark.parametrize("count", [1, 2, 3, 10, 87])
def test_the_bracket_is_found_wherever_it_is_in_few_steps(count: int) -> None:
    for highest in range(-1, count):
        met: list[bool | None] = [None] * count
        tried = []
        while (at := next_probe(met)) is not None:
            assert met[at] is None
            met[at] = at <= highest
            tried.append(at)
        assert tried[0] == 0
        assert len(tried) <= most_probes(count)
        low, high = bracket(met)
        assert low == (None if highest < 0 else highest)
        assert high == (highest + 1 if highest + 1 < count else None)


def test_a_search_whose_answers_contradict_each_other_ends() -> None:
    draw = random.Random(3)
    for _ in range(300):
        met: list[bool | None] = [None] * 40
        for _ in range(most_probes(40)):
            if (at := next_probe(met)) is None:
                break
            met[at] = draw.random() < 0.5
        assert next_probe(met) is None


def test_values_are_equally_spaced_on_a_log_scale_and_whole_where_the_key_wants_them() -> None:
    rates: Any = Search(over="load.rate", min=1, max=64, tolerance=0.05).values()
    assert (rates[0], rates[-1]) == (1, 64)
    ratios = [high / low for low, high in pairwise(rates)]
    assert max(ratios) <= 1.0505
    assert len(rates) == math.ceil(math.log(64) / math.log(1.05)) + 1
    users: Any = Search(over="load.concurrency", min=1, max=8, tolerance=0.05).values()
    assert users == [1, 2, 3, 4, 5, 6, 7, 8]
    assert all(isinstance(one, int) for one in users)


def searching(limit_s: float, *, repeats: int = 1, **more: JsonValue) -> dict[str, JsonValue]:
    """A batch of k takes 0.01 s for each of its requests until the first token."""
    return {
        **base(n=64, repeats={"count": repeats}),
        "simulated": {"prefill_s_per_token": 0.01 / 8, "decode_s_per_step": 0.001},
        "slo": {"ttft": limit_s},
        "search": {"over": "simulated.batch_size", "min": 1, "max": 32, "share": 1, "tolerance": 0.02},
        **more,
    }


@pytest.mark.parametrize(
    ("limit_s", "met", "not_met", "probes"), [(0.1055, 10, 11, 7), (0.005, None, 1, 1), (9.0, 32, None, 2)]
)
def test_the_highest_value_is_found_and_each_probe_is_a_run_on_record(
    limit_s: float, met: float | None, not_met: float | None, probes: int, tmp_path: Path
) -> None:
    steps: list[Step] = []
    folder = tmp_path / "study"
    study = run_virtually(searching(limit_s), folder, steps=steps)
    assert (steps[0].planned, steps[-1].done) == (most_probes(32), probes)
    (found,) = study.searches
    assert (found.met, found.not_met, found.probes, found.finished) == (met, not_met, probes, True)
    assert study.finished
    assert found.objectives == {"ttft": limit_s}
    begun = [one for one in ledger.read(folder) if isinstance(one, Begun)]
    assert len(begun) == probes == len(study.rows)
    for row in study.rows:
        good = [share for share in row.good if share is not None]
        assert (min(good) >= 1) is (row.varied.get("simulated.batch_size", 1) <= (met or 0))  # type: ignore[operator]
    (entry,) = entries(tmp_path)
    assert (entry.state, entry.what) == ("done", f"{probes} of {probes} runs of {probes} experiments")
    (line,) = searches(study)
    assert f"{probes} values tried" in line
    assert line in table(study, "markdown")
    assert StudyResult.load(study.write(folder)) == study


def test_each_point_of_the_grid_has_a_search_of_its_own(tmp_path: Path) -> None:
    study = run_virtually(
        searching(0.1055, sweep={"simulated.prefill_s_per_token": [0.01 / 8, 0.02 / 8]}), tmp_path
    )
    assert [(one.met, one.not_met) for one in study.searches] == [(10, 11), (5, 6)]
    assert len({one.label for one in study.searches}) == 2


def test_one_repeat_that_does_not_meet_is_enough(tmp_path: Path) -> None:
    scattered = searching(
        0.1055, repeats=4, simulated={"prefill_s_per_token": 0.01 / 8, "scatter": 0.2}
    )  # fmt: skip
    study = run_virtually(scattered, tmp_path)
    (found,) = study.searches
    assert found.met is None or found.met < 10
    assert all(row.runs == 4 for row in study.rows)


def test_a_probe_that_fails_does_not_meet(tmp_path: Path) -> None:
    def fault(task: Task, _attempt: int) -> str | None:
        return "oom" if task.config.batch_size > 6 else None

    study = run_virtually(searching(9.0), tmp_path, executor=VirtualExecutor(fault=fault))
    (found,) = study.searches
    assert (found.met, found.not_met) == (6, 7)
    assert {row.outcome for row in study.rows} == {"done", "failed"}


def test_a_search_that_was_ended_goes_on_without_doing_anything_twice(tmp_path: Path) -> None:
    def fault(task: Task, _attempt: int) -> str | None:
        if task.config.batch_size == 12:
            raise KeyboardInterrupt
        return None

    with pytest.raises(KeyboardInterrupt):
        run_virtually(searching(0.1055), tmp_path, executor=VirtualExecutor(fault=fault))
    executor = VirtualExecutor()
    study = run_virtually(searching(0.1055), tmp_path, executor=executor, how=How(resume=True))
    (found,) = study.searches
    assert (found.met, found.not_met, found.probes) == (10, 11, 7)
    whole = VirtualExecutor()
    run_virtually(searching(0.1055), tmp_path / "whole", executor=whole)
    assert executor.started == whole.started[-len(executor.started) :]
    assert len(executor.started) == 3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"slo": {}}, "objectives"),
        ({"sweep": {"simulated.batch_size": [1, 2]}}, "searched for"),
        ({"search": {"over": "simulated.batch_size", "min": 4, "max": 4}}, "not below"),
        ({"search": {"over": "simulated.batch", "min": 1, "max": 4}}, "unknown key"),
        ({"search": {"over": "repeats.count", "min": 1, "max": 4}}, "can't be swept"),
        ({"search": {"over": "simulated.batch_size", "min": 1, "max": 4, "share": 2}}, "search.share"),
        ({"search": {"over": "simulated.batch_size", "max": 4}}, "search.min"),
        ({"search": "load.rate"}, "search"),
        ({"search": {"over": "load.rate", "min": 1, "max": 4, "tolerance": 1e-12}}, "search.tolerance"),
        ({"search": {"over": "random_seed", "min": 1, "max": 10**30, "tolerance": 0.001}}, "points"),
    ],
)
def test_a_search_that_has_no_meaning_is_refused(changes: dict[str, JsonValue], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        planned(searching(0.1) | changes)


def test_values_that_are_no_experiment_are_one_line_and_the_search_is_over_the_others(tmp_path: Path) -> None:
    study = run_virtually({**searching(9.0), "n": 8}, tmp_path)
    (gap,) = study.left_out
    assert gap.kind == "invalid"
    (found,) = study.searches
    assert (found.met, found.not_met) == (8, None)


def test_a_file_with_a_search_alone_is_a_study() -> None:
    assert study_from(searching(0.1)).size == len(
        Search(over="simulated.batch_size", min=1, max=32, tolerance=0.02).values()
    )
