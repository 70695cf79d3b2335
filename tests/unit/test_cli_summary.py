"""What a person reads of a result that is in doubt, in part missing, or has more to it than joules."""

from __future__ import annotations

from dataclasses import replace

import pytest
from example_result import GPU, example_result

from llenergymeasure.analysis.footprint import footprint
from llenergymeasure.cli._display import print_result_details, print_result_summary
from llenergymeasure.config.models import FootprintConfig
from llenergymeasure.records import Estimate
from llenergymeasure.results.models import ExperimentResult, Regression


def invalid_result() -> ExperimentResult:
    result = example_result(energy="measured")
    reasons = (f"gpu:{GPU}: counter_reset",)
    costs = [Estimate(value, "J/token", 0.9 * value, 1.1 * value) for value in (0.01, 0.5)]
    crossed = Regression(
        prefill=costs[0], decode=costs[1], batches=8, phases_prefill=costs[0], phases_decode=costs[1]
    )
    energy = result.energy.model_copy(update={"valid": False, "reasons": reasons, "regression": crossed})
    return result.model_copy(update={"energy": energy})


def test_energy_that_is_not_valid_says_so_first_and_shows_no_interval(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_result_summary(invalid_result())
    shown = capsys.readouterr().out
    energy = shown.split("\n\n")[1].splitlines()
    assert energy[0].split("  ")[1] == "Energy is not valid"
    assert energy[0].endswith("counter_reset")
    assert not any("±" in line or " to " in line for line in energy)
    rows = {line.strip().partition("  ")[0]: line for line in energy}
    for label, number in (
        ("Energy per output token", "(5.86 J/token)"),
        ("Energy, net of loaded idle", "(5.25 kJ)"),
        ("Energy, total", "(7.50 kJ)"),
    ):
        assert number in rows[label]
        assert "not valid" in rows[label]
    assert "(60.0 W)" in rows["Idle power, bare"]
    assert "51.2 ± 1.0 tokens/s" in shown


def test_the_details_of_energy_that_is_not_valid_show_no_interval_either(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_result_details(invalid_result())
    lines = capsys.readouterr().err.splitlines()
    (reading,) = [line for line in lines if "nvml.total_energy" in line]
    assert "(7.50 kJ)" in reading
    (crossed,) = [line for line in lines if "by the times of the phases" in line]
    assert crossed.endswith(": (10.0 mJ/token) and (500 mJ/token)")


def test_an_interval_that_is_a_lower_bound_says_so_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    result = example_result()
    cost = replace(result.energy.per_output_token, reason="the interval is a lower bound")
    energy = result.energy.model_copy(update={"per_output_token": cost})
    print_result_summary(result.model_copy(update={"energy": energy}))
    (line,) = [row for row in capsys.readouterr().out.splitlines() if "Energy per output token" in row]
    assert "± 2 mJ/token" in line
    assert line.endswith("estimated, not measured; the interval is a lower bound")


def test_latencies_are_named_as_medians(capsys: pytest.CaptureFixture[str]) -> None:
    print_result_summary(example_result())
    (line,) = [row for row in capsys.readouterr().out.splitlines() if "Time to first token" in row]
    assert "80.0 ± 1.6 ms" in line
    assert line.endswith("median, p95 112 ± 2 ms")


def test_counts_that_are_disputed_are_marked_beside_them(capsys: pytest.CaptureFixture[str]) -> None:
    result = example_result()
    print_result_summary(
        result.model_copy(update={"tokens": result.tokens.model_copy(update={"disputed": True})})
    )
    (line,) = [row for row in capsys.readouterr().out.splitlines() if row.startswith("  Tokens")]
    assert line.endswith("lengths pinned; counts disputed")


def test_prompts_that_were_cut_are_counted_beside_the_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    result = example_result()
    tokens = result.tokens.model_copy(update={"cut_prompts": 1})
    print_result_summary(result.model_copy(update={"tokens": tokens}))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  Tokens")]
    config = result.config
    assert line.endswith(f"lengths pinned; 1 prompt of {config.n} cut to {config.max_input_tokens}")


def test_carbon_and_cost_stand_below_the_energy_with_their_factors(
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = FootprintConfig(grid_g_per_kwh=360.0, pue=1.5, price_per_kwh=0.36, currency="EUR")
    result = example_result(energy="modelled")
    derived = footprint(asked, result.energy)  # 150 J
    config = result.config.model_copy(update={"footprint": asked})
    print_result_summary(result.model_copy(update={"config": config, "footprint": derived}))
    rows = [line.strip() for line in capsys.readouterr().out.splitlines()]
    (carbon,) = [row for row in rows if row.startswith("Carbon, total")]
    assert "≈ 0.0225 ± 0.0005 g" in carbon
    assert carbon.endswith("360 g/kWh, PUE 1.5, given in the configuration")
    (cost,) = [row for row in rows if row.startswith("Cost, total")]
    assert cost.endswith("0.36 EUR/kWh, PUE 1.5")
    assert "≈ 17.6 ± 0.4 g" in rows[rows.index(carbon) + 1]
    assert "≈ 0.0176 ± 0.0004 EUR" in rows[rows.index(cost) + 1]


def test_nothing_of_carbon_or_cost_is_shown_unasked(capsys: pytest.CaptureFixture[str]) -> None:
    print_result_summary(example_result())
    shown = capsys.readouterr().out
    assert "Carbon" not in shown
    assert "Cost" not in shown


def test_a_zone_without_a_table_is_a_dash_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    asked = FootprintConfig(zone="XXX")
    result = example_result()
    derived = footprint(asked, result.energy)
    config = result.config.model_copy(update={"footprint": asked})
    print_result_summary(result.model_copy(update={"config": config, "footprint": derived}))
    (row,) = [line for line in capsys.readouterr().out.splitlines() if "Carbon, total" in line]
    assert row.split()[2] == "–"
    assert "codecarbon" in row


def test_details_tell_the_signs_and_where_each_setting_comes_from(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_result_details(example_result())
    lines = capsys.readouterr().err.splitlines()
    assert [line[0] for line in lines[:4]] == ["±", "a", "≈", "–"]
    assert "from flag --model: model" in lines
    assert not any("max_output_tokens" in line for line in lines)


@pytest.mark.parametrize(
    ("cycles", "unit"), [(1, "passes in one process"), (5, "cycles, a fresh process each")]
)
def test_details_tell_what_the_interval_speaks_of(
    capsys: pytest.CaptureFixture[str], cycles: int, unit: str
) -> None:
    result = example_result()
    passes = tuple(
        one.model_copy(update={"cycle": number % cycles}) for number, one in enumerate(result.window.passes)
    )
    print_result_details(
        result.model_copy(update={"window": result.window.model_copy(update={"passes": passes})})
    )
    assert unit in capsys.readouterr().err.splitlines()[0]


def test_where_the_passes_do_not_tell_their_process_the_cycles_asked_for_count(
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = example_result()
    assert {one.cycle for one in result.window.passes} == {None}
    config = result.config.model_copy(update={"cycles": 5})
    print_result_details(result.model_copy(update={"config": config}))
    assert "cycles, a fresh process each" in capsys.readouterr().err.splitlines()[0]
