"""What becomes of the parts of a study that ran on several machines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import JsonValue
from typer.testing import CliRunner
from virtual_study import base, run_virtually

from llenergymeasure.analysis.cheapest import cheapest_lines
from llenergymeasure.cli import app
from llenergymeasure.cli.list import entries
from llenergymeasure.exceptions import ResultError
from llenergymeasure.report.page import report_of_study
from llenergymeasure.results import ExperimentResult
from llenergymeasure.results.study import StudyResult
from llenergymeasure.study import ledger
from llenergymeasure.study.merge import merge
from llenergymeasure.study.run import How

SEEDS: list[JsonValue] = [1, 2, 3]
STUDY: dict[str, JsonValue] = {**base(repeats={"count": 3}), "sweep": {"random_seed": SEEDS}}


def part(folder: Path, *only: str, machine: str = "left", study: dict[str, JsonValue] | None = None) -> Path:
    """What is brought home from a machine of that name where those experiments ran."""
    found = run_virtually(study or STUDY, folder, how=How(only=tuple(f"random_seed={one}" for one in only)))
    found.write(folder)
    for path in folder.glob("*/result.json"):
        data = json.loads(path.read_text())
        data["environment"]["hostname"] = machine
        path.write_text(json.dumps(data))
    return folder


def outcomes(study: StudyResult) -> list[tuple[str, str, int]]:
    return [(row.label, row.outcome, row.runs) for row in study.rows]


def test_parts_of_one_study_become_the_whole_one(tmp_path: Path) -> None:
    parts = [part(tmp_path / "a", "1", "3"), part(tmp_path / "b", "2")]
    study = merge(parts, tmp_path / "whole", accept_drift=False)
    assert outcomes(study) == [(f"random_seed={seed}", "done", 3) for seed in (1, 2, 3)]
    assert study.finished
    assert StudyResult.load(tmp_path / "whole") == study
    for row in study.rows:
        assert row.folder is not None
        assert ExperimentResult.load(tmp_path / "whole" / row.folder).config.random_seed in SEEDS
        assert len(list((tmp_path / "whole" / row.folder / "runs").iterdir())) == 3
    listed = {one.name: (one.kind, one.state, one.what) for one in entries(tmp_path)}
    assert listed["whole"][:2] == ("study", "done")
    assert "9 of 9 runs of 3 experiments" in listed["whole"][2]


def test_parts_from_unlike_machines_are_refused_by_name_and_nothing_is_written(tmp_path: Path) -> None:
    parts = [part(tmp_path / "a", "1"), part(tmp_path / "b", "2", machine="right")]
    with pytest.raises(ResultError) as caught:
        merge(parts, tmp_path / "whole", accept_drift=False)
    assert "left" in caught.value.message
    assert "right" in caught.value.message
    assert not (tmp_path / "whole").exists()


def test_unlike_machines_are_labelled_where_they_are_accepted_and_not_held_against_each_other(
    tmp_path: Path,
) -> None:
    parts = [part(tmp_path / "a", "1", "2", "3"), part(tmp_path / "b", "2", machine="right")]
    study = merge(parts, tmp_path / "whole", accept_drift=True)
    assert len(study.rows) == 4
    twice = [row for row in study.rows if row.label.startswith("random_seed=2 (")]
    assert [("left" in row.label, "right" in row.label) for row in twice] == [(True, False), (False, True)]
    folders = {row.folder for row in study.rows}
    assert len(folders) == 4
    hosts = {
        ExperimentResult.load(tmp_path / "whole" / str(row.folder)).environment.hostname for row in twice
    }
    assert hosts == {"left", "right"}
    assert any("systematic errors differ there" in line for line in cheapest_lines(study))


def test_an_experiment_in_several_parts_is_taken_from_the_one_with_most_runs(tmp_path: Path) -> None:
    few: dict[str, JsonValue] = {**STUDY, "repeats": {"count": 2}}
    parts = [part(tmp_path / "a", "1", study=few), part(tmp_path / "b", "1")]
    with pytest.raises(ResultError, match="not parts of one study"):
        merge(parts, tmp_path / "whole", accept_drift=False)
    study = merge(parts, tmp_path / "whole", accept_drift=True)
    assert ("random_seed=1", "done", 3) in outcomes(study)
    assert len(study.rows) == 3


@pytest.mark.parametrize("turned", [False, True])
def test_a_failure_in_one_part_is_not_hidden_by_a_part_that_did_not_run_it(
    tmp_path: Path, turned: bool
) -> None:
    broken = part(tmp_path / "a", "1")
    data = json.loads((broken / "study.json").read_text())
    data["rows"][1]["outcome"] = "failed"
    (broken / "study.json").write_text(json.dumps(data))
    parts = [broken, part(tmp_path / "b", "1")]
    study = merge(parts[::-1] if turned else parts, tmp_path / "whole", accept_drift=False)
    assert sorted(one[:2] for one in outcomes(study)) == [
        ("random_seed=1", "done"),
        ("random_seed=2", "failed"),
        ("random_seed=3", "pending"),
    ]


def test_what_is_there_is_not_written_over_and_what_is_missing_is_named(tmp_path: Path) -> None:
    parts = [part(tmp_path / "a", "1"), part(tmp_path / "b", "2")]
    with pytest.raises(ResultError, match="is there already"):
        merge(parts, parts[0], accept_drift=False)
    with pytest.raises(ResultError, match="nothing to join"):
        merge(parts[:1], tmp_path / "whole", accept_drift=False)
    (result,) = (tmp_path / "b").glob("*/result.json")
    result.unlink()
    with pytest.raises(ResultError, match=r"has no result\.json"):
        merge(parts, tmp_path / "whole", accept_drift=False)


def test_a_merged_study_is_not_gone_on_with(tmp_path: Path) -> None:
    parts = [part(tmp_path / "a", "1"), part(tmp_path / "b", "2")]
    merge(parts, tmp_path / "whole", accept_drift=False)
    with pytest.raises(ResultError, match="without its ledger"):
        run_virtually(STUDY, tmp_path / "whole", how=How(resume=True))
    assert not (tmp_path / "whole" / ledger.NAME).exists()
    assert len(list((tmp_path / "whole").glob("*/runs/*"))) == 6


def test_a_merged_study_has_its_report_and_is_whole_without_one(tmp_path: Path) -> None:
    parts = [part(tmp_path / "a", "1"), part(tmp_path / "b", "2", "3")]
    whole = tmp_path / "whole"
    outcome = CliRunner().invoke(app, ["merge", *map(str, parts), "--output", str(whole)])
    assert outcome.exit_code == 0, outcome.stderr
    page = (whole / "report.html").read_text()
    assert all(f"random_seed={seed}" in page for seed in (1, 2, 3))
    # What makes a report fail, be it a bug, is remarked.
    (whole / "report.html").unlink()
    (whole / "report.html").mkdir()
    remarks: list[str] = []
    report_of_study(whole, remarks.append)
    assert len(remarks) == 1
    assert StudyResult.load(whole).finished
