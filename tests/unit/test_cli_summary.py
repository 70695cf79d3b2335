"""What a person reads of a result that is in doubt, in part missing, or has more to it than joules."""

from __future__ import annotations

from dataclasses import replace

import pytest
from example_result import GPU, EnergyKind, example_result

from llenergymeasure.analysis.footprint import footprint
from llenergymeasure.cli._display import print_result_details, print_result_summary
from llenergymeasure.config.models import FootprintConfig
from llenergymeasure.records import Estimate
from llenergymeasure.results.models import ExperimentResult, Replicates, RunPart
from llenergymeasure.results.summary import failures


def invalid_result() -> ExperimentResult:
    result = example_result(energy="measured")
    reasons = (f"gpu:{GPU}: counter_reset",)
    energy = result.energy.model_copy(update={"valid": False, "reasons": reasons})
    return result.model_copy(update={"energy": energy})


def test_energy_that_is_not_valid_says_so_first_and_shows_no_interval(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_result_summary(invalid_result())
    shown = capsys.readouterr().out
    energy = shown.split("\n\n")[1].splitlines()
    assert energy[0].strip().startswith("Energy is not valid")
    assert energy[0].endswith("counter_reset")
    assert not any("±" in line or " to " in line for line in energy)
    rows = {line.strip().partition("  ")[0]: line for line in energy}
    for label, number in (
        ("Energy per output token", "(5.86 J/token)"),
        ("Energy, net of loaded idle", "(15.7 kJ)"),
        ("Energy, total", "(22.5 kJ)"),
    ):
        assert number in rows[label]
        assert "not valid" in rows[label]
    assert "(60.0 W)" in rows["Idle power, bare"]
    assert "51.2 ± 1.0 token/s" in shown


def test_the_details_of_energy_that_is_not_valid_show_no_interval_either(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_result_details(invalid_result())
    lines = capsys.readouterr().err.splitlines()
    (reading,) = [line for line in lines if "nvml.total_energy" in line]
    assert "(22.5 kJ)" in reading
    assert "±" not in reading


def test_an_interval_that_is_a_lower_bound_says_so_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    result = example_result()
    cost = replace(result.energy.per_output_token, reason="the interval is a lower bound")
    energy = result.energy.model_copy(update={"per_output_token": cost})
    print_result_summary(result.model_copy(update={"energy": energy}))
    (line,) = [row for row in capsys.readouterr().out.splitlines() if "Energy per output token" in row]
    assert line.endswith("± 2 % between runs; the interval is a lower bound")


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


def test_windows_in_which_no_request_ended_say_nothing_of_lengths(capsys: pytest.CaptureFixture[str]) -> None:
    result = example_result()
    none = result.tokens.model_copy(update={"requests": 0, "output": 0, "pinned_ok": None})
    print_result_summary(result.model_copy(update={"tokens": none}))
    (line,) = [row for row in capsys.readouterr().out.splitlines() if row.startswith("  Tokens")]
    assert "0 requests in" in line
    assert "lengths" not in line


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
    derived = footprint(asked, result.energy)  # 450 J
    config = result.config.model_copy(update={"footprint": asked})
    print_result_summary(result.model_copy(update={"config": config, "footprint": derived}))
    rows = [line.strip() for line in capsys.readouterr().out.splitlines()]
    (carbon,) = [row for row in rows if row.startswith("Carbon, total")]
    assert "≈ 0.067 (0.040 to 0.094) g" in carbon
    assert "360 g/kWh, PUE 1.5, given in the configuration" in carbon
    (cost,) = [row for row in rows if row.startswith("Cost, total")]
    assert "0.36 EUR/kWh, PUE 1.5" in cost
    assert "≈ 17.6 (10.5 to 24.6) g" in rows[rows.index(carbon) + 1]
    assert "≈ 0.0176 (0.0105 to 0.0246) EUR" in rows[rows.index(cost) + 1]


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
    assert [line[0] for line in lines[:4]] == ["±", "(", "≈", "–"]
    assert "from flag --model: model" in lines
    assert not any("max_output_tokens" in line for line in lines)


def rows_of(result: ExperimentResult, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    print_result_summary(result)
    lines = capsys.readouterr().out.splitlines()
    return {line.strip().partition("  ")[0]: line for line in lines}


def of_one_process(result: ExperimentResult) -> ExperimentResult:
    energy = result.energy.model_copy(
        update={"replicates": Replicates(unit="pass", count=5), "repeats_for_2_percent": None}
    )
    return result.model_copy(update={"runs": result.runs[:1], "energy": energy})


def with_a_failure(result: ExperimentResult) -> ExperimentResult:
    failed = RunPart(index=2, outcome="failed", reason="the worker was killed for memory")
    return result.model_copy(update={"runs": (result.runs[0], failed, result.runs[2])})


@pytest.mark.parametrize("kind", ["modelled", "measured"])
def test_what_passes_of_a_single_process_say_stands_beside_their_interval(
    kind: EnergyKind, capsys: pytest.CaptureFixture[str]
) -> None:
    result = example_result(energy=kind)
    single = rows_of(of_one_process(result), capsys)
    several = rows_of(result, capsys)
    for label in ("Energy per output token", "Output throughput"):
        assert "within this process" in single[label]
        assert "within this process" not in several[label]
    assert "1 run of 5 passes" in single["Runs"]
    print_result_details(of_one_process(result))
    assert "repeats.count=3" in capsys.readouterr().err.splitlines()[0]


def test_runs_say_how_many_repeats_a_narrower_interval_would_take(capsys: pytest.CaptureFixture[str]) -> None:
    result = example_result()
    row = rows_of(result, capsys)["Runs"]
    assert "3 runs of 5 passes" in row
    assert "± 2 % would take about 5 repeats" in row
    enough = result.energy.model_copy(update={"repeats_for_2_percent": 3})
    assert "would take" not in rows_of(result.model_copy(update={"energy": enough}), capsys)["Runs"]


def test_a_run_that_failed_is_named_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    result = with_a_failure(example_result())
    assert failures(result) == ["run 2 of 3 failed: the worker was killed for memory"]
    print_result_summary(result)
    assert failures(result)[0] in capsys.readouterr().out
    assert failures(example_result()) == []


def test_a_run_that_was_interrupted_is_one_of_those_that_were_asked_for() -> None:
    result = with_a_failure(example_result())
    cut = result.model_copy(update={"runs": result.runs[:2]})
    assert failures(cut)[0].startswith("run 2 of 3 ")


def test_power_that_the_engine_draws_while_it_waits_stands_beside_net(
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = example_result(energy="measured")
    idle = result.energy.idle.model_copy(update={"spinning": Estimate(12.0, "W", 11.0, 13.0)})
    energy = result.energy.model_copy(update={"idle": idle})
    print_result_summary(result.model_copy(update={"energy": energy}))
    lines = capsys.readouterr().out.splitlines()
    at = next(number for number, line in enumerate(lines) if "net of loaded idle" in line)
    assert "12.0 ± 1.0 W" in lines[at + 1]


def test_details_hold_a_row_for_each_run(capsys: pytest.CaptureFixture[str]) -> None:
    print_result_details(with_a_failure(example_result(energy="measured")))
    lines = capsys.readouterr().err.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("run "))
    first, second, third = (line.split() for line in lines[at + 1 : at + 4])
    assert first[:3] == ["1", "5.81", "J/token"]
    assert second[0] == "2"
    assert " ".join(second).endswith("killed for memory")
    assert third[:3] == ["3", "5.91", "J/token"]


def test_prefill_and_decode_have_rows_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    result = example_result(energy="measured")
    energy = result.energy.model_copy(update={"prefill": Estimate(0.0123, "J/token", 0.0119, 0.0127)})
    rows = rows_of(result.model_copy(update={"energy": energy}), capsys)
    assert "12.3 ± 0.4 mJ/token" in rows["Prefill, per prompt token"]
    assert "passes.prefill is 0" in rows["Decode, per output token"]


def test_what_this_machine_cannot_have_takes_one_line_and_its_reasons_come_when_asked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = example_result()
    unknown = Estimate.missing("1", "no published peak")
    speed = result.performance.model_copy(update={"mfu": unknown, "mbu": unknown})
    result = result.model_copy(update={"performance": speed})
    print_result_summary(result)
    print_result_details(result)
    shown = capsys.readouterr()
    (line,) = [row for row in shown.out.splitlines() if "utilisation" in row]
    assert line.endswith("FLOP utilisation, Bandwidth utilisation: no published peak")
    assert sum("no published peak" in row for row in shown.err.splitlines()) == 2


def test_a_reason_that_several_intervals_are_missing_for_is_written_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = example_result()
    bare = Estimate(1.0, "s", reason="too few of them")
    speed = result.performance.model_copy(
        update={"output_tokens_per_second": bare, "requests_per_second": bare}
    )
    print_result_summary(result.model_copy(update={"performance": speed}))
    assert capsys.readouterr().out.count("too few of them") == 1
