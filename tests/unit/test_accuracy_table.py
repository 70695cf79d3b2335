from __future__ import annotations

import sys
from pathlib import Path

import pytest
from benchmarks.accuracy import cases, peers, picture, realclock
from benchmarks.accuracy.cases import Job, Timed
from benchmarks.accuracy.realclock import Measured, Tool
from benchmarks.accuracy.table import BEGIN, END, Row, put_into, render, row_of_errors
from benchmarks.boards.scenario import Board, Change

PYTHON = Path(sys.executable)

# A tool that knows the 100 W and says 1 % too much.
TOO_MUCH = """
import json, sys
for index, (begin_ns, length_ns, _) in enumerate(json.load(open(sys.argv[1]))):
    joules = 1.01 * 100 * length_ns / 1e9
    print(json.dumps({"index": index, "begin_ns": begin_ns, "end_ns": begin_ns + length_ns, "joules": joules,
                      "low": joules - 3, "high": joules + 3}))
"""
# A tool that says less and less, of the first of two windows only, and then breaks.
BREAKS = """
import json, sys
begin_ns, length_ns, _ = json.load(open(sys.argv[1]))[0]
print("talk that is no figure")
print(json.dumps({"index": 0, "begin_ns": begin_ns, "end_ns": begin_ns + length_ns, "joules": 50.0}),
      flush=True)
raise ValueError("no such thing")
"""


def _tool(directory: Path, name: str, code: str) -> Tool:
    script = directory / f"{name}.py"
    script.write_text(code)
    return Tool(name, "1.2", script, PYTHON)


def _job(tools: tuple[str, ...], *, measured: int | None = 0) -> Job:
    windows = (Timed("flat", 0.0, 1.0), Timed("flat", 1.0, 3.0))
    return Job("job", "section", (Board("GPU-1", 100.0),), windows, tools, measured=measured)


def _rows(directory: Path, job: Job, tools: dict[str, Tool], limit: float | None = None) -> list[Row]:
    found = realclock.measure([job], tools, directory=directory / "runs", at_once=2, start_s=0.0)
    return realclock.rows(found, tools, [job], {} if limit is None else {"flat": limit})


def test_each_tool_is_held_against_the_closed_form_over_its_own_windows(tmp_path: Path) -> None:
    tools = {"much": _tool(tmp_path, "much", TOO_MUCH)}
    (row,) = _rows(tmp_path, _job(("much",)), tools, limit=0.02)
    assert (row.tool, row.runs, row.met, row.note) == ("much 1.2", 2, True, "")
    assert row.mean == pytest.approx(1.0)
    assert row.sd == pytest.approx(0.0, abs=1e-6)
    assert row.worst == pytest.approx(1.0)
    assert row.covered == 1.0
    (row,) = _rows(tmp_path / "again", _job(("much",)), tools, limit=0.005)
    assert row.met is False


def test_a_tool_that_breaks_keeps_what_it_said_and_its_reason(tmp_path: Path) -> None:
    tools = {"breaks": _tool(tmp_path, "breaks", BREAKS)}
    (row,) = _rows(tmp_path, _job(("breaks",)), tools)
    assert row.runs == 1
    assert row.mean == pytest.approx(-50.0)
    assert row.note == "1 of 2 without a figure: ValueError: no such thing"


def test_a_window_without_a_figure_does_not_meet_a_target(tmp_path: Path) -> None:
    tools = {"breaks": _tool(tmp_path, "breaks", BREAKS)}
    (row,) = _rows(tmp_path, _job(("breaks",)), tools, limit=0.9)
    assert row.met is False


def test_a_window_that_was_missed_counts_for_nothing(tmp_path: Path) -> None:
    tools = {"late": _tool(tmp_path, "late", BREAKS.partition("raise")[0])}
    (row,) = _rows(tmp_path, _job(("late",)), tools, limit=0.9)
    assert (row.runs, row.met) == (1, True)
    assert row.note == "1 more missed, the tool had not started in time"


def test_a_tool_that_missed_every_window_was_not_run(tmp_path: Path) -> None:
    tools = {"never": _tool(tmp_path, "never", "")}
    (row,) = _rows(tmp_path, _job(("never",), measured=None), tools)
    assert (row.runs, row.met, row.note) == (0, None, "the tool had not started in time")


def test_a_peer_that_could_not_be_installed_is_a_row_with_the_reason(tmp_path: Path) -> None:
    tools = {
        "much": _tool(tmp_path, "much", TOO_MUCH),
        "gone": Tool("gone", "", tmp_path / "none.py", None, "gone==9 can't be installed: no network"),
    }
    rows = _rows(tmp_path, _job(("gone", "much")), tools)
    assert [(row.tool, row.runs, row.note) for row in rows] == [
        ("gone", 0, "gone==9 can't be installed: no network"),
        ("much 1.2", 2, ""),
    ]
    assert "not run" in render(rows)


def test_where_there_is_no_device_any_figure_is_wrong(tmp_path: Path) -> None:
    zero = TOO_MUCH.replace("1.01 *", "0 *")
    tools = {
        "zero": _tool(tmp_path, "zero", zero),
        "refuses": _tool(tmp_path, "refuses", "import sys; sys.exit('there is no GPU')"),
    }
    said, refused = _rows(tmp_path, _job(("zero", "refuses"), measured=None), tools)
    assert (said.met, said.note) == (False, "said 0 J")
    assert (refused.met, refused.note) == (True, "there is no GPU")
    assert said.mean is refused.mean is None


def test_an_interval_that_misses_the_truth_lowers_the_coverage() -> None:
    def one(low: float, high: float) -> Measured:
        return Measured("s", "c", "j", "t", 0, 1, 100.0, 100.0, low, high, None)

    tools = {"t": Tool("t", "", Path("t.py"), PYTHON)}
    job = Job("j", "s", (), (Timed("c", 0, 1),), ("t",))
    (row,) = realclock.rows([one(99, 101), one(100, 100), one(101, 102), one(90, 99)], tools, [job], {})
    assert row.covered == 0.5


def test_a_row_of_errors_has_their_mean_sd_and_worst_case() -> None:
    row = row_of_errors(("s", "c", "t"), [0.01, -0.03, 0.02], limit=0.025)
    assert row.mean == pytest.approx(0.0, abs=1e-12)
    assert row.sd == pytest.approx(2.6457513)
    assert row.worst == pytest.approx(3.0)
    assert row.met is False
    assert row.target == "worst ≤ 2.5 %"


def test_a_row_of_no_runs_must_say_why() -> None:
    assert row_of_errors(("s", "c", "t"), []).note == "not run"
    with pytest.raises(ValueError, match="says why"):
        Row("s", "c", "t", 0)


def test_the_table_has_a_part_per_section_and_keeps_the_columns_in_line() -> None:
    rows = [
        Row("first", "a case", "llem", 3, mean=-0.1234, sd=0.00004, worst=12.3, target="≤ 1 %", met=False),
        Row("second", "other", "zeus", 1, mean=0.5, unit="% of a core", met=True, covered=0.951),
    ]
    first, second = render(rows).split("\n\n### second")
    assert "| -0.12 % | 0.0000 % | 12 % " in first
    assert "| no " in first
    assert "0.50 % of a core" in second
    assert "95.1%" in second
    for part in (first, second):
        assert len({len(line) for line in part.splitlines() if line.startswith("|")}) == 1


def test_every_limit_belongs_to_a_case_that_is_measured() -> None:
    jobs = [
        *cases.accuracy_jobs(steps_s=(0.1,), counts={1.0: 1, 5.0: 1, 10.0: 1}, seed=1),
        *cases.fault_jobs(),
    ]
    assert set(cases.LIMITS) <= {window.case for job in jobs for window in job.windows}


def test_between_idle_stretches_the_load_lies_within_the_windows() -> None:
    jobs = cases.accuracy_jobs(steps_s=(0.02,), counts={1.0: 3}, seed=4)
    (edges,) = [job for job in jobs if job.name.startswith("edges")]
    for window, change in zip(edges.windows, edges.boards[0].power, strict=True):
        assert isinstance(change, Change)
        assert change.until_s is not None
        assert window.begin_s < change.at_s < change.until_s < window.end_s


def test_what_can_not_be_installed_says_what_pip_said(tmp_path: Path) -> None:
    found = peers.install(tmp_path, {"nothing": f"{tmp_path}/nowhere.whl"})
    assert found["nothing"].python is None
    assert "nowhere.whl" in (found["nothing"].reason or "")


def test_the_picture_is_drawn_and_says_when_there_is_nothing_to_draw(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra `bench` is not installed")
    found = [
        Measured("s", f"load, {length}", "j", tool, 0, 1, 100.0, joules, None, None, None)
        for length in ("1 s", "5 s")
        for tool in ("llem", "zeus")
        for joules in (99.0, 100.0, 103.0)
    ]
    picture.draw(tmp_path / "a.png", found, {"load, 1 s": 0.02}, section="s")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="nothing"):
        picture.draw(tmp_path / "b.png", [], {}, section="s")


def test_what_was_printed_goes_between_the_marks_of_a_page() -> None:
    page = f"text\n{BEGIN}\nold\n{END}\nmore\n"
    once = put_into(page, "| new |\n")
    assert once == f"text\n{BEGIN}\n\n| new |\n\n{END}\nmore\n"
    assert put_into(once, "| new |\n") == once
    with pytest.raises(ValueError, match="lacks the marks"):
        put_into("text", "| new |")
