"""One line on a terminal while a run goes on."""

from __future__ import annotations

import io
from unittest.mock import MagicMock

import pytest
from tqdm import tqdm

from llenergymeasure.cli._progress import Shown, following, line
from llenergymeasure.cli.run import _beside_bar

PASSES = Shown("3 passes", total=15.0, step=5, steps=8, run=2, runs=3, left_s=100.0)


def at(shown: Shown, elapsed: float, *, since: float | None = None, width: int = 80) -> str:
    return line(shown, elapsed, since=elapsed if since is None else since, width=width)


def test_a_step_shows_where_in_the_plan_it_is_and_the_time_left() -> None:
    text = at(PASSES, 6.0)
    for said in ("run 2 of 3", "step 5 of 8", "3 passes", "[####......]", "6 of 15 s", "94 s left"):
        assert said in text


def test_a_step_over_its_time_says_by_how_much_and_what_still_runs() -> None:
    warming = Shown("warming up", total=30.0, run=1, runs=1, note="batch 1 still running", left_s=60.0)
    assert at(warming, 95.0).startswith("warming up, cap 30 s, 95 s so far, batch 1 still running")
    assert "expected 15 s, 20 s so far" in at(PASSES, 20.0)


def test_a_step_over_its_time_takes_none_of_that_of_the_steps_to_come() -> None:
    assert "85 s left" in at(PASSES, 15.0)
    assert "85 s left" in at(PASSES, 60.0)
    assert "100 s left" in at(PASSES, 60.0, since=5.0)
    assert "0 s left" in at(Shown("loading", left_s=5.0), 60.0)


def test_a_single_run_is_not_numbered_and_an_unknown_length_has_no_bar() -> None:
    assert at(Shown("loading", run=1, runs=1), 3.0) == "loading, 3 s so far"


@pytest.mark.parametrize("width", [80, 60, 40, 20, 10])
def test_a_line_fits_the_terminal_and_keeps_what_runs(width: int) -> None:
    text = at(Shown("warming up", 30.0, 5, 8, 2, 3, 100.0, "batch 1 still running"), 95.0, width=width)
    assert len(text) < width
    assert text.startswith("warm") or "warming up" in text


class Clock:
    def __init__(self) -> None:
        self.s = 100.0

    def __call__(self) -> float:
        return self.s


def test_a_step_heard_of_again_goes_on_and_another_begins_at_0() -> None:
    clock, bar = Clock(), MagicMock(disable=True)
    with following(bar, now=clock) as progress:
        progress("warming up", total=30.0, note="batch 1")
        clock.s += 4.0
        progress("warming up", total=30.0, note="batch 2")
        assert bar.n == 4.0
        progress("3 passes", total=15.0)
        assert bar.n == 0.0
        progress("3 passes", done=7.0, total=15.0)
        assert (bar.n, bar.total) == (7.0, 15.0)


def test_nothing_is_written_where_it_is_switched_off() -> None:
    stream = io.StringIO()
    with tqdm(total=None, file=stream, disable=True) as bar, following(bar) as progress:
        progress("loading", run=1, runs=3, left_s=10.0)
    assert stream.getvalue() == ""


def test_a_bar_shows_the_line_at_once() -> None:
    stream = io.StringIO()
    with tqdm(total=None, file=stream, mininterval=0.0) as bar, following(bar) as progress:
        progress("loading", run=2, runs=3, left_s=10.0)
    assert "run 2 of 3: loading" in stream.getvalue()


def test_a_remark_beside_the_bar_is_broken_between_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    _beside_bar(
        "100% of the processors were busy while idle; stop other load on this host and run again\x1b[2J"
    )
    assert capsys.readouterr().err.splitlines() == [
        "100% of the processors were busy while",
        "idle; stop other load on this host and",
        "run again\\x1b[2J",
    ]
