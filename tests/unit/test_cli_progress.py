"""One line on a terminal while a run goes on."""

from __future__ import annotations

import io
import time
from unittest.mock import MagicMock

import pytest
from tqdm import tqdm

from llenergymeasure.cli import _progress
from llenergymeasure.cli._progress import Shown, following, line, remark

PASSES = Shown("3 passes", total=15.0, step=5, steps=8, run=2, runs=3, left_s=100.0)


def at(shown: Shown, elapsed: float, *, since: float | None = None, width: int = 80) -> str:
    return line(shown, elapsed, since=elapsed if since is None else since, width=width)


def test_a_step_shows_where_in_the_plan_it_is_and_the_time_left() -> None:
    text = at(PASSES, 6.0)
    for said in ("run 2 of 3", "step 5 of 8", "3 passes", "[####......]", "6 of 15 s", "94 s left"):
        assert said in text


def test_a_step_over_its_time_says_by_how_much_and_what_still_runs() -> None:
    warming = Shown("warming up", total=30.0, run=1, runs=1, note="batch 1", left_s=60.0)
    assert at(warming, 95.0).startswith("warming up, cap 30 s, 95 s so far, batch 1")
    assert "expected 15 s, 20 s so far" in at(PASSES, 20.0)


def test_a_step_over_its_time_takes_none_of_that_of_the_steps_to_come() -> None:
    assert "85 s left" in at(PASSES, 15.0)
    assert "85 s left" in at(PASSES, 60.0)
    assert "1.7 min left" in at(PASSES, 60.0, since=5.0)
    assert "0 s left" in at(Shown("loading", left_s=5.0), 60.0)


def test_a_single_run_is_not_numbered_and_an_unknown_length_has_no_bar() -> None:
    assert at(Shown("loading", run=1, runs=1), 3.0) == "loading, 3 s so far"


@pytest.mark.parametrize("width", [80, 60, 40, 20, 10])
def test_a_line_fits_the_terminal_and_keeps_what_runs(width: int) -> None:
    text = at(Shown("warming up", 30.0, 5, 8, 2, 3, 100.0, "batch 1"), 95.0, width=width)
    assert len(text) < width
    assert text.startswith("warm") or "warming up" in text


def test_which_pass_runs_is_by_its_time_and_never_beyond_the_last() -> None:
    block = Shown("3 passes of prefill", total=15.0, passes=3)
    shown = [at(block, seconds).partition(" of prefill")[0] for seconds in (0.0, 4.9, 5.1, 14.9, 15.5)]
    assert shown == [f"≈ pass {n} of 3" for n in (1, 1, 2, 3, 3)]
    assert at(Shown("1 pass", total=5.0, passes=1), 1.0).startswith("1 pass [")


def test_what_is_known_now_is_asked_each_time_and_the_power_is_the_last_to_go() -> None:
    watts = iter(range(400, 500))
    live = Shown("loading", run=2, runs=3, live=lambda: f"{next(watts)} W, ± 4 % so far", left_s=9.0)
    assert at(live, 1.0).endswith("400 W, ± 4 % so far, 8 s left")
    assert at(live, 1.0).endswith("401 W, ± 4 % so far, 8 s left")
    narrow = at(live, 1.0, width=55)
    assert "402 W" in narrow
    assert "±" not in narrow
    assert at(Shown("loading", live=lambda: None), 1.0) == "loading, 1 s so far"


class Clock:
    def __init__(self) -> None:
        self.s = 100.0

    def __call__(self) -> float:
        return self.s


def test_a_step_heard_of_again_goes_on_and_another_begins_at_0() -> None:
    clock, bar = Clock(), MagicMock(disable=False)
    with following(bar, now=clock) as progress:
        progress("warming up", total=30.0, note="batch 1")
        clock.s += 4.0
        progress("warming up", total=30.0, note="batch 2")
        assert bar.n == 4.0
        progress("3 passes", total=15.0)
        assert bar.n == 0.0
        progress("3 passes", done=7.0, total=15.0)
        assert (bar.n, bar.total) == (7.0, 15.0)


def _without_terminal(capsys: pytest.CaptureFixture[str], *, quiet: bool) -> list[str]:
    clock = Clock()
    with tqdm(total=None, disable=True) as bar, following(bar, quiet=quiet, now=clock) as progress:
        for second in range(5):
            clock.s = 100.0 + second
            progress("warming up", done=float(second), step=4, steps=7, run=1, runs=3, left_s=150.0)
        progress("3 passes", total=15.0, step=5, steps=7, run=1, runs=3, left_s=40.0)
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def test_without_a_terminal_each_step_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = _without_terminal(capsys, quiet=False)
    assert first == "[0 s] run 1 of 3, step 4 of 7: warming up, about 2.5 min left"
    assert second.startswith("[4 s] run 1 of 3, step 5 of 7: 3 passes")


def test_without_a_terminal_a_step_that_is_far_over_its_time_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_progress, "TICK_S", 0.001)
    clock = Clock()
    with tqdm(total=None, disable=True) as bar, following(bar, now=clock) as progress:
        progress("warming up", total=30.0, step=4, steps=7, note="batch 1")
        for clock.s in (159.0, 160.0, 175.0, 190.0, 200.0):
            time.sleep(0.1)
    _, *reminders = capsys.readouterr().err.splitlines()
    assert reminders == [
        f"[{spent} s] step 4 of 7: warming up, cap 30 s, {spent} s so far, batch 1" for spent in (60, 90)
    ]


def test_nothing_is_written_when_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    assert _without_terminal(capsys, quiet=True) == []


def test_the_place_in_the_plan_stays_while_a_batch_warms_up() -> None:
    warming = Shown("warming up", 30.0, 4, 7, 1, 3, 150.0, "batch 2, last took 0.28 s")
    assert at(warming, 1.0).startswith("run 1 of 3, step 4 of 7: warming up, 1 of 30 s")


@pytest.mark.parametrize(("columns", "longest"), [("80", 80), ("40", 40)])
def test_a_remark_is_wrapped_between_words(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: str, longest: int
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    text = "100% of the processors were busy while idle; stop other load on this host and run again"
    with tqdm(total=None, disable=True) as bar:
        remark(bar, text)
    lines = capsys.readouterr().err.splitlines()
    assert max(map(len, lines)) <= longest
    assert " ".join(lines) == text


def test_a_bar_shows_the_line_at_once() -> None:
    stream = io.StringIO()
    with (
        tqdm(total=None, file=stream, mininterval=0.0, bar_format="{desc}") as bar,
        following(bar) as progress,
    ):
        progress("loading", run=2, runs=3, left_s=10.0)
    assert "run 2 of 3: loading" in stream.getvalue()
