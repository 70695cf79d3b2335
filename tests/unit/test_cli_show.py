"""`llem show`: a stored result, and what makes up its uncertainty."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from example_result import OUTPUT_TOKENS, EnergyKind, example_result
from typer.testing import CliRunner

from llenergymeasure.cli import app
from llenergymeasure.cli._display import print_result_summary
from llenergymeasure.results.budget import combine_terms
from llenergymeasure.results.models import ExperimentResult, Term


def show(folder: Path, *arguments: str) -> Any:
    return CliRunner().invoke(app, ["show", str(folder), *arguments])


def stored(folder: Path, energy: EnergyKind = "measured") -> Path:
    return example_result(energy=energy).save(folder)


def test_a_stored_result_is_shown_as_after_its_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = stored(tmp_path)
    print_result_summary(example_result(energy="measured"))
    outcome = show(folder)
    assert (outcome.exit_code, outcome.stdout) == (0, capsys.readouterr().out)
    assert show(folder / "result.json").stdout == outcome.stdout
    assert json.loads(show(folder, "--json").stdout) == ExperimentResult.load(folder).as_json()
    assert "2 of 8 prompts were cut" in show(folder, "-v").stderr


def test_the_budget_has_a_row_for_each_source_and_the_combined_one(tmp_path: Path) -> None:
    outcome = show(stored(tmp_path), "--uncertainty")
    assert outcome.exit_code == 0
    lines = [line.split() for line in outcome.stdout.splitlines()]
    # 22.5 kJ over 3,840 tokens; from chance ± 1.95 %, from gain and offset ± 5 %, from lag ± 0.05 %.
    assert ["random", "±", "0.11", "1.9", "%", "A", "2", "no", "no"] in lines
    assert ["gain", "and", "offset", "±", "0.29", "5", "%", "B", "yes", "yes"] in lines
    assert ["resolution*", "±", "0.006", "0.1", "%", "B", "no", "no"] in lines
    assert ["combined", "±", "0.4", "7", "%", "2"] in lines
    assert ["in", "a", "ratio", "±", "0.12", "2", "%", "2"] in lines
    assert ["idle", "+", "net", "against", "total", "22.5", "kJ", "22.5", "kJ", "0", "%"] in lines


def test_the_budget_as_json_is_that_part_alone(tmp_path: Path) -> None:
    shown = json.loads(show(stored(tmp_path), "--uncertainty", "--json").stdout)
    assert set(shown) == {"total", "per_output_token", "closures"}
    value = 22500.0 / OUTPUT_TOKENS
    assert shown["per_output_token"][2]["half_width"] == pytest.approx(0.0195 * value)


def test_a_result_without_a_budget_says_so(tmp_path: Path) -> None:
    result = example_result(energy="measured")
    energy = result.energy.model_copy(update={"uncertainty": None})
    older = result.model_copy(update={"energy": energy}).save(tmp_path)
    outcome = show(older, "--uncertainty")
    assert (outcome.exit_code, outcome.stdout) == (1, "")
    assert "no uncertainty budget" in outcome.stderr
    none = show(stored(tmp_path / "none", "missing"), "--uncertainty")
    assert none.exit_code == 1
    assert "no meter could be read" in none.stderr


def test_what_is_no_result_is_an_error(tmp_path: Path) -> None:
    assert show(tmp_path).exit_code == 1


@pytest.mark.parametrize("columns", [40, 80])
def test_the_budget_fits_the_terminal(columns: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = stored(tmp_path)
    monkeypatch.setenv("COLUMNS", str(columns))
    outcome = show(folder, "--uncertainty")
    assert max(map(len, outcome.stdout.splitlines())) <= columns
    assert "0.11" in outcome.stdout


def term(**changes: Any) -> Term:
    return Term.model_validate(
        {"name": "x", "kind": "B", "common": False, "cancels_in_ratio": False} | changes
    )


def test_independent_errors_add_in_quadrature_and_common_ones_linearly() -> None:
    terms = [
        term(half_width=3.0),
        term(half_width=4.0),
        term(half_width=1.0, common=True),
        term(half_width=2.0, common=True),
        term(half_width=100.0, within_chance=True),
    ]
    whole = combine_terms(50.0, terms)
    assert (whole.below, whole.above, whole.degrees) == (8.0, 8.0, None)


def test_an_uneven_range_counts_on_each_side() -> None:
    whole = combine_terms(50.0, [term(low=40.0, high=80.0, common=True), term(half_width=1.0)])
    assert (whole.below, whole.above) == (11.0, 31.0)


def test_the_degrees_of_freedom_are_those_of_welch_and_satterthwaite() -> None:
    alike = [term(half_width=2.0, degrees=4.0), term(half_width=2.0, degrees=4.0)]
    assert combine_terms(50.0, alike).degrees == pytest.approx(8.0)
    known = [term(half_width=2.0, degrees=4.0), term(half_width=2.0)]
    assert combine_terms(50.0, known).degrees == pytest.approx(16.0)
    assert combine_terms(50.0, []).degrees is None
