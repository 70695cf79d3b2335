"""Good requests keep every objective that is stated, and the joules of the others are theirs to carry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from math import sqrt
from typing import Any

import pytest
from virtual_result import failing, virtual_result

from llenergymeasure.analysis.latency import goodput, is_good
from llenergymeasure.config.load import SloConfig
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.records import Completion, Generation, Pass, Window
from llenergymeasure.results import summary

S = 1_000_000_000
# Due at 0, sent at 1 s, first token after 0.2 s, nine more in 0.9 s.
DONE = Completion(0, 0, 0, 8, 10, 0, S, S + S // 5, 2 * S + S // 10, "length")
ALONE = replace(DONE, output_tokens=1, t_end_ns=S + S // 5)


def config(slo: dict[str, float], load: object = None) -> ExperimentConfig:
    return ExperimentConfig.model_validate(
        {"model": "any", "backend": "simulated", "slo": slo, "load": load}, context={"stored": True}
    )


def walked(*groups: Sequence[Completion], seconds: int = 2) -> list[list[Pass]]:
    """A pass for each, of 2 s."""
    return [[Pass(Window(0, seconds * S), 1, Generation(tuple(done)))] for done in groups]


@pytest.mark.parametrize(
    ("done", "slo", "good"),
    [
        (DONE, {}, True),
        (DONE, {"ttft": 0.2, "tpot": 0.1, "e2e": 1.1}, True),
        (DONE, {"ttft": 0.199}, False),
        (DONE, {"tpot": 0.0999}, False),
        (DONE, {"e2e": 1.0999}, False),
        (ALONE, {"ttft": 0.2, "tpot": 1e-9, "e2e": 0.2}, True),
        (replace(DONE, output_tokens=0, t_first_ns=None), {"tpot": 9}, False),
        (replace(DONE, t_first_ns=None), {"ttft": 9}, False),
        (replace(DONE, t_first_ns=None), {"e2e": 9}, True),
        (replace(DONE, finish="error"), {}, False),
        (replace(DONE, finish="error"), {"ttft": 9, "tpot": 9, "e2e": 9}, False),
    ],
)
def test_an_answer_is_good_where_it_keeps_all(done: Completion, slo: dict[str, float], good: bool) -> None:
    assert is_good(done, SloConfig(**slo), from_due=False) is good


def test_where_requests_are_due_their_wait_for_the_client_counts() -> None:
    groups = walked(*[[DONE]] * 3)
    for slo, load in product(({"ttft": 1.0}, {"e2e": 2.0}), (None, {"concurrency": 3})):
        assert goodput(groups, config(slo, load)).value == 0.5  # type: ignore[union-attr]
    for slo in ({"ttft": 1.0}, {"e2e": 2.0}):
        late = goodput(groups, config(slo, {"arrivals": "poisson", "rate": 1}))
        assert late is not None
        assert late.value == 0
    in_time = goodput(groups, config({"ttft": 1.2}, {"arrivals": "poisson", "rate": 1}))
    assert in_time is not None
    assert in_time.value == 0.5


def test_goodput_is_good_requests_per_second_with_student_s_interval_over_passes() -> None:
    bad = replace(DONE, finish="error")
    found = goodput(walked([DONE] * 9, [DONE] * 10 + [bad], [DONE] * 11), config({"ttft": 0.2}))
    assert found is not None
    # 30 good ones in 6 s; 4.5, 5 and 5.5 a second have a standard deviation of 0.5.
    assert found.value == pytest.approx(5)
    assert found.half_width == pytest.approx(4.302653 * 0.5 / sqrt(3), rel=1e-6)
    assert found.unit == "request/s"


def test_windows_of_a_running_load_that_are_all_alike_may_still_have_one_more_at_the_edges_of_each_run() -> (
    None
):
    groups = walked([DONE] * 8, [DONE] * 8, [DONE] * 8)
    for runs, half in ((1, 4 / 24), (3, 4 * sqrt(3) / 24)):
        found = goodput(groups, config({"e2e": 9}, {"concurrency": 3}), runs=runs)
        assert found is not None
        assert found.value == 4
        assert found.half_width == pytest.approx(half)
    walks = goodput(groups, config({"e2e": 9}))
    assert walks is not None
    assert walks.half_width == 0


def test_without_objectives_there_is_none_and_without_first_tokens_it_is_unknown() -> None:
    silent = walked([replace(DONE, t_first_ns=None)])
    assert goodput(silent, config({})) is None
    for slo in ({"ttft": 9.0}, {"tpot": 9.0}):
        found = goodput(silent, config(slo))
        assert found is not None
        assert found.value is None
        assert "first-token" in str(found.reason)
    ended = goodput(silent, config({"e2e": 9}))
    assert ended is not None
    assert ended.value == 0.5


class TestResult:
    """Whole runs of four requests a walk, one of which fails."""

    def figures(self, **slo: float) -> Any:
        return virtual_result(bend=failing(2), slo=slo)

    def test_three_of_four_are_good_and_carry_all_joules(self) -> None:
        result = self.figures(e2e=100.0)
        good = result.performance.goodput_per_s
        assert good.value == pytest.approx(result.performance.requests_per_second.value)
        sent = result.tokens.requests + result.tokens.failed
        assert result.energy.per_good_request.value == pytest.approx(
            result.energy.total.value / (0.75 * sent), rel=1e-9
        )
        assert result.energy.per_good_request.low is not None
        assert result.energy.per_good_request.systematic is not None
        rows = {row.label: row for part in summary.sections(result) for row in part}
        assert "e2e" in rows["Goodput"].note
        assert "Energy per good request" in rows

    def test_none_is_good_where_the_objective_is_out_of_reach(self) -> None:
        result = self.figures(e2e=1e-6)
        assert result.performance.goodput_per_s.value == 0
        assert result.energy.per_good_request.value is None
        assert "objective" in result.energy.per_good_request.reason

    def test_without_objectives_nothing_is_said(self) -> None:
        result = self.figures()
        assert result.performance.goodput_per_s is None
        assert result.energy.per_good_request is None
        labels = {row.label for part in summary.sections(result) for row in part}
        assert not labels & {"Goodput", "Energy per good request"}
