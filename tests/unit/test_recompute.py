"""The files of a run are enough to compute its numbers again, bit for bit."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks.virtual_run import VirtualRuns
from typer.testing import CliRunner
from virtual_result import config

from llenergymeasure.analysis.metrics import experiment_result, metrics
from llenergymeasure.cli import app
from llenergymeasure.exceptions import ResultError
from llenergymeasure.measure.repeats import repeat
from llenergymeasure.measure.replay import read_measurements, read_unsaved, write_measurement
from llenergymeasure.records import FailedRun, Measurement
from llenergymeasure.results.folder import RUNS
from llenergymeasure.results.models import ExperimentResult
from llenergymeasure.results.store import why_requests_differ

Stored = tuple[Path, ExperimentResult, tuple[Measurement, ...]]


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    """An experiment in virtual time."""
    with repeat(
        config(passes={"seconds": 2.0}, output_dir=str(tmp_path / "out")),
        origins={"n": "flag"},
        tell=lambda *_, **__: None,
        remark=lambda _: None,
        run=VirtualRuns(),
    ) as finished:
        measurements = tuple(one.measurement for one in finished.energies)
        result = experiment_result(finished.energies, failed=finished.failed)
        folder = result.save(tmp_path / "out")
    assert folder == finished.folder
    return folder, result, measurements


def test_the_numbers_of_a_fresh_experiment_are_the_same_bit_for_bit(stored: Stored) -> None:
    folder, result, _ = stored
    loaded = ExperimentResult.load(folder)
    again = metrics(read_measurements(folder, [run.index for run in loaded.measured]))
    assert again.as_json() == loaded.as_json() == result.as_json()
    assert json.dumps(again.as_json()) == json.dumps(json.loads((folder / "result.json").read_text()))
    assert again.origins == {"n": "flag"}


def test_every_fact_of_a_run_is_read_back(stored: Stored) -> None:
    folder, _, measurements = stored
    for before, after in zip(measurements, read_measurements(folder, [1, 2, 3]), strict=True):
        assert (after.index, after.idle, after.warm_up) == (before.index, before.idle, before.warm_up)
        assert tuple(after.blocks) == tuple(before.blocks)
        assert [block.before for block in after.blocks] == [block.before for block in before.blocks]
        assert after.config == before.config
        requests = folder / RUNS / str(after.index) / "requests.parquet"
        assert why_requests_differ(requests, after.blocks) is None


def test_only_the_runs_that_are_asked_for_are_read(stored: Stored) -> None:
    folder, _, _ = stored
    assert [one.index for one in read_measurements(folder, [1, 3])] == [1, 3]
    (two,) = read_measurements(folder, [2])
    lost = FailedRun(1, "crashed")
    assert [run.outcome for run in metrics([two], failed=[lost]).runs] == ["failed", "measured"]


@pytest.mark.parametrize(
    ("name", "says"), [("events.jsonl", "no events at"), ("power.parquet", "power.parquet")]
)
def test_a_run_whose_file_is_gone_is_named(stored: Stored, name: str, says: str) -> None:
    folder, _, _ = stored
    (folder / RUNS / "2" / name).unlink()
    with pytest.raises(ResultError, match=says) as caught:
        read_measurements(folder, [1, 2, 3])
    assert f"{RUNS}/2" in caught.value.message


def test_events_that_are_cut_short_or_torn_are_named(stored: Stored) -> None:
    folder, _, _ = stored
    events = folder / RUNS / "1" / "events.jsonl"
    whole = events.read_text()
    lines = whole.splitlines(keepends=True)
    for text, says in (
        ("", "is empty"),
        ("".join(lines[:-1]), "does not end with what was measured"),
        ("".join(lines[1:]), "holds 1 blocks, and 2 were measured"),
        (lines[0][:-20] + "\n" + "".join(lines[1:]), "is damaged in line 1"),
    ):
        events.write_text(text)
        with pytest.raises(ResultError, match=says):
            read_measurements(folder, [1])
    events.write_text(whole)
    assert len(read_measurements(folder, [1])) == 1


def test_a_result_of_an_older_method_is_told_what_changed_in_it() -> None:
    older = Path(__file__).parents[1] / "data" / "run-schema-1"
    said = CliRunner().invoke(app, ["recompute", str(older)])
    assert said.exit_code == 0
    lines = said.stdout.splitlines()
    assert [line for line in lines if line.startswith("why: ")]
    # Parts of the result, each with the number of its values that changed.
    count = int(re.findall(r": (\d+) of \d+ values differ", lines[0])[0])
    counted = [re.findall(r"(\d+) (?:changed|new|gone)", line) for line in lines[2:] if " → " not in line]
    assert count > 100
    assert sum(int(number) for numbers in counted for number in numbers) == count
    assert len(lines) < 25
    every = CliRunner().invoke(app, ["recompute", str(older), "-v"]).stdout.splitlines()
    assert len([line for line in every if " → " in line]) == count


def test_an_output_directory_without_a_result_is_computed_and_saved_on_demand(stored: Stored) -> None:
    folder, result, _ = stored
    (folder / "result.json").unlink()
    said = CliRunner().invoke(app, ["recompute", str(folder), "--json"])
    assert said.exit_code == 0
    assert json.loads(said.stdout) == result.as_json()
    assert not (folder / "result.json").exists()
    assert CliRunner().invoke(app, ["recompute", str(folder), "--save"]).exit_code == 0
    assert ExperimentResult.load(folder) == result


def test_a_part_counts_up_to_its_last_whole_block(stored: Stored) -> None:
    folder, _, measurements = stored
    (folder / "result.json").unlink()
    for number in (2, 3):
        shutil.rmtree(folder / RUNS / str(number))
    whole, part = folder / RUNS / "1", folder / RUNS / "1.part"
    whole.rename(part)
    events = part / "events.jsonl"
    full, prefill, last = events.read_text().splitlines(keepends=True)
    assert [block.kind for block in measurements[0].blocks] == ["full", "prefill"]
    early = replace(measurements[0], blocks=measurements[0].blocks[:1])
    events.write_text(full)
    write_measurement(part, early)
    by_then = events.read_text()
    events.write_text(by_then + prefill + last[:100])
    (found,), failed = read_unsaved(folder)
    assert (tuple(found.blocks), failed) == (tuple(early.blocks), ())
    assert [one.code for one in found.warnings] == ["interrupted"]
    assert read_unsaved(part)[0][0].blocks == found.blocks
    events.write_text(by_then + prefill + last)
    assert tuple(read_unsaved(folder)[0][0].blocks) == tuple(measurements[0].blocks)
    events.write_text(prefill + last)
    with pytest.raises(ResultError, match="block of passes"):
        read_unsaved(folder)
