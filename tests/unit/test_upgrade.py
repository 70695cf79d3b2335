"""A run folder that version 0.8.0 wrote: it loads, its cycles are runs, and its joules are computed again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from llenergymeasure.analysis.compare import compare
from llenergymeasure.analysis.metrics import metrics
from llenergymeasure.analysis.run_energy import run_energy
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import ResultError
from llenergymeasure.measure.replay import read_measurements
from llenergymeasure.records import Estimate
from llenergymeasure.results.models import ExperimentResult
from llenergymeasure.results.schema import result_schema
from llenergymeasure.results.store import untraced
from llenergymeasure.results.upgrade import config_1_to_2

FOLDER = Path(__file__).parents[1] / "data" / "run-schema-1"
# Three cycles of two passes of a second each on the simulated board at 400 W.
CYCLES, PASSES = 3, 2


@pytest.fixture(scope="module")
def loaded() -> ExperimentResult:
    return ExperimentResult.load(FOLDER)


@pytest.fixture(scope="module")
def stored() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "result.json").read_text())
    return found


def test_sections_of_engines_that_did_not_run_and_that_llem_no_longer_has_are_left_out(
    loaded: ExperimentResult, stored: dict[str, Any]
) -> None:
    assert {"tensorrt", "options"} <= stored["config"].keys()
    assert not {"tensorrt", "options"} & json.loads(loaded.config.model_dump_json()).keys()


@pytest.mark.parametrize("kept", ["apart", "options"])
def test_the_options_of_an_engine_that_is_not_here_are_kept_under_its_name(
    stored: dict[str, Any], kept: str
) -> None:
    options = {"batch_size": 3, "threads": 2}
    config = config_1_to_2(stored["config"]) | {"backend": "apart", "simulated": {}, kept: options}
    for _ in range(2):
        read = ExperimentConfig.model_validate(config, context={"stored": True})
        config = read.model_dump(mode="json")
        assert config["apart"] == options
        assert read.batch_size == 3


def test_a_stored_configuration_with_a_key_that_no_version_had_is_refused(stored: dict[str, Any]) -> None:
    config = config_1_to_2(stored["config"]) | {"stray": 1}
    with pytest.raises(ValidationError, match="stray"):
        ExperimentConfig.model_validate(config, context={"stored": True})


def ends(estimate: Estimate) -> tuple[float, float]:
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.low, estimate.high


def test_its_cycles_are_runs_with_their_own_windows(loaded: ExperimentResult) -> None:
    assert loaded.schema_version == "2"
    assert [(run.index, run.outcome) for run in loaded.runs] == [
        (1, "measured"),
        (2, "measured"),
        (3, "measured"),
    ]
    windows = [run.window for run in loaded.runs if run.window is not None]
    assert [len(window.passes) for window in windows] == [PASSES] * CYCLES
    assert [window.start_ns for window in windows] == sorted(window.start_ns for window in windows)
    assert loaded.duration_s == pytest.approx(6.245443193)
    replicates = loaded.energy.replicates
    assert replicates is not None
    assert (replicates.unit, replicates.count) == ("run", CYCLES)


def test_its_figures_are_those_that_were_written(loaded: ExperimentResult) -> None:
    assert loaded.energy.total.value == 2486.630539344937
    assert ends(loaded.energy.per_output_token) == (0.7956743783484692, 0.8232257123708906)
    assert loaded.tokens.output == 3072
    assert [warning.code for warning in loaded.warnings] == ["window_too_short"]
    assert loaded.energy.uncertainty is None


def test_what_was_asked_for_is_told_in_the_words_of_today(loaded: ExperimentResult) -> None:
    repeats, passes = loaded.config.repeats, loaded.config.passes
    assert (repeats.count, repeats.target) == (CYCLES, 0.02)
    assert (passes.count, passes.prefill, passes.target, passes.budget.passes) == (PASSES, 0, None, 6)


@pytest.mark.parametrize(
    ("old", "count", "repeats_target", "passes_target"),
    [
        ({"cycles": 5, "passes": {"minimum": 2, "target": 0.05}}, 5, 0.05, None),
        ({"cycles": 2, "passes": {"target": 0.05}}, 2, None, None),  # two give no interval
        ({"passes": {"target": 0.05}}, 1, None, 0.05),
        ({}, 1, None, 0.02),  # what was the default
        ({"cycles": 100}, 100, 0.02, None),
    ],
)
def test_a_configuration_of_any_kind_of_run_is_one_that_can_be_asked_for(
    old: dict[str, object], count: int, repeats_target: float | None, passes_target: float | None
) -> None:
    new = ExperimentConfig.model_validate(
        config_1_to_2({"model": "any", "backend": "simulated", "n": 4, **old})
    )
    assert (new.repeats.count, new.repeats.target, new.passes.target) == (
        count,
        repeats_target,
        passes_target,
    )
    assert new.repeats.max >= count
    assert new.passes.prefill == 0


def test_it_is_stored_again_as_a_result_of_today(loaded: ExperimentResult, tmp_path: Path) -> None:
    folder = loaded.save(tmp_path)
    assert ExperimentResult.load(folder) == untraced(loaded)
    Draft202012Validator(result_schema()).validate(json.loads((folder / "result.json").read_text()))


def test_it_is_comparable_by_the_intervals_that_were_written(loaded: ExperimentResult) -> None:
    later = loaded.model_copy(update={"experiment_id": "later"})
    energy = next(one for one in compare(loaded, later).ratios if one.name == "energy_per_output_token")
    assert energy.ratio.value == 1.0
    assert ends(energy.ratio)[0] < 1 < ends(energy.ratio)[1]
    assert energy.verdict == "no difference shown"
    assert energy.method is not None
    assert (energy.method.name, energy.method.replicates) == ("intervals", (CYCLES, CYCLES))


def test_its_files_are_three_runs_whose_joules_agree_with_the_stored_ones(loaded: ExperimentResult) -> None:
    measurements = read_measurements(FOLDER, [run.index for run in loaded.measured])
    assert [(one.index, len(one.passes)) for one in measurements] == [(1, PASSES), (2, PASSES), (3, PASSES)]
    assert all(block.before is block.after is None for one in measurements for block in one.blocks)
    again = metrics(measurements).energy
    stored = loaded.energy
    for before, after in ((stored.total, again.total), (stored.per_output_token, again.per_output_token)):
        assert before.value is not None
        assert after.value is not None
        apart = abs(before.value - after.value)
        assert apart <= (before.half_width or 0) + (after.half_width or 0)
        assert (after.half_width or 0) < 0.1 * after.value
    joules = [run_energy(one).joules or 0 for one in measurements]
    assert sum(joules) == pytest.approx(again.total.value)
    assert joules == pytest.approx([400 * 2.08] * 3, rel=0.06)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda data: data.pop("window"), "'window' is missing"),
        (lambda data: data.pop("config"), "'config' is missing"),
        (lambda data: data["window"].pop("passes"), "'passes' is missing"),
        (lambda data: data.update(energy=5), "does not fit schema 1"),
        (lambda data: data.update(config=[]), "does not fit schema 1"),
    ],
)
def test_an_older_file_that_was_changed_is_named_with_what_is_wrong(
    stored: dict[str, object], tmp_path: Path, change: object, says: str
) -> None:
    data = json.loads(json.dumps(stored))
    change(data)  # type: ignore[operator]
    (tmp_path / "result.json").write_text(json.dumps(data))
    with pytest.raises(ResultError, match=says):
        ExperimentResult.load(tmp_path)


def test_events_that_hold_another_number_of_passes_than_were_measured_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(FOLDER, folder)
    events = (folder / "events.jsonl").read_text().splitlines(keepends=True)
    done = [number for number, line in enumerate(events) if '"say":"pass_done"' in line]
    assert len(done) == CYCLES * PASSES
    (folder / "events.jsonl").write_text(
        "".join(line for number, line in enumerate(events) if number != done[0])
    )
    with pytest.raises(ResultError, match="holds 5 passes, and 6 were measured"):
        read_measurements(folder, [1, 2, 3])
