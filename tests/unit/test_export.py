"""`llem export`: what others read of a result, and which of them are skipped or refused."""

from __future__ import annotations

import csv
import io
import json
import math
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from example_result import GPU, example_result
from recordings import at, made, seen_by
from typer.testing import CliRunner
from virtual_study import VirtualExecutor, base, run_virtually

from llenergymeasure.cli import app
from llenergymeasure.config.load import LoadConfig
from llenergymeasure.records import EnergyReading, Estimate, RequestCounts
from llenergymeasure.report.export import TEXT_FORMS, Export, Item
from llenergymeasure.report.protocols import gpu_energy, summary_lines
from llenergymeasure.results.models import ExperimentResult, RunPart, ServerPart
from llenergymeasure.results.rows import parts, wide
from llenergymeasure.results.study import ResultHead, StudyResult, row_of
from llenergymeasure.results.study_table import labelled
from llenergymeasure.simulation.waveform import Waveform


def export(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A measured result, a modelled one, one without energy, and one of windows."""
    for kind in ("measured", "modelled", "missing"):
        example_result(energy=kind, experiment_id=kind).save(tmp_path)
    made(seen_by(Waveform(100.0), poll_ms=50), [at("x", 20, 5), at("y", 30, 5)]).save(tmp_path)
    return tmp_path


def test_a_row_holds_values_in_si_units_with_their_intervals(results: Path) -> None:
    found = {row["experiment_id"] + row["window"]: row for row in rows_of(export(results).stdout)}
    result = ExperimentResult.load(results / "measured")
    row, cost = found["measured"], result.energy.per_output_token
    assert cost.systematic is not None
    ends = ["", "_low", "_high", "_systematic_low", "_systematic_high"]
    assert [float(row[f"energy_per_output_token_j{end}"]) for end in ends] == [
        cost.value,
        cost.low,
        cost.high,
        *cost.systematic,
    ]
    assert float(row["ttft_p50_s"]) == result.performance.ttft_s.p50.value
    assert (row["peak_bytes"], row["warnings"]) == ("512000000", " ".join(w.code for w in result.warnings))
    assert json.loads(row["config"]) == {"max_output_tokens": 32, "model": "smollm2-135m", "n": 8}
    assert found["missing"]["energy_total_j"] == ""
    assert found["modelled"]["method"] == "modelled"
    windows = [row for row in found.values() if row["kind"] == "windows"]
    assert [row["window"] for row in windows] == ["x", "y"]
    assert [float(row["energy_each_j"]) for row in windows] == pytest.approx([500, 500], rel=0.05)
    assert windows[0]["ttft_p50_s"] == windows[0]["model"] == ""


def test_every_table_holds_the_same(results: Path) -> None:
    lines = [json.loads(line) for line in export(results, "--to", "jsonl").stdout.splitlines()]
    assert export(results, "--to", "parquet", "-o", results / "x.parquet").exit_code == 0
    assert pq.read_table(results / "x.parquet").to_pylist() == lines
    assert list(lines[0]) == list(rows_of(export(results).stdout)[0])
    assert {type(row["n"]) for row in lines} == {int, type(None)}


def test_the_long_table_says_why_a_value_is_missing(results: Path) -> None:
    lines = [json.loads(line) for line in export(results, "--to", "jsonl", "--long").stdout.splitlines()]
    total = next(
        row for row in lines if (row["experiment_id"], row["metric"]) == ("missing", "energy_total_j")
    )
    assert (total["value"], total["unit"]) == (None, "J")
    assert total["reason"]
    assert all(row["value"] is not None or row["reason"] for row in lines)
    assert export(results, "--to", "parquet", "--long", "-o", results / "x.parquet").exit_code == 0
    assert pq.read_table(results / "x.parquet").to_pylist() == lines


def test_a_study_is_its_results_with_what_differs_and_names_what_is_missing(tmp_path: Path) -> None:
    def fault(task: Any, attempt: int) -> str | None:
        return "oom" if task.config.max_output_tokens == 128 else None

    study = run_virtually(
        {**base(), "sweep": {"max_output_tokens": [8, 16, 128]}},
        tmp_path,
        executor=VirtualExecutor(fault=fault),
    )
    study.write(tmp_path)
    outcome = export(tmp_path)
    rows = rows_of(outcome.stdout)
    assert [(row["label"], row["max_output_tokens"]) for row in rows] == [
        ("max_output_tokens=8", "8"),
        ("max_output_tokens=16", "16"),
    ]
    assert "max_output_tokens=128" in outcome.stderr
    assert export(tmp_path / "study.json").stdout == outcome.stdout
    assert export(tmp_path, "--to", "latex").stdout.count(r" \\") == 3


def test_openmetrics_text_passes_the_parser_of_prometheus(results: Path) -> None:
    parser = pytest.importorskip("prometheus_client.openmetrics.parser", reason="needs prometheus-client")
    hostile = example_result(energy="measured", experiment_id="hostile")
    config = hostile.config.model_copy(update={"model": 'a"b\\c{d}, e="f'})
    hostile.model_copy(update={"config": config}).save(results)
    families = {
        one.name: one
        for one in parser.text_string_to_metric_families(export(results, "--to", "openmetrics").stdout)
    }
    costs = families["llem_energy_per_output_token_joules"]
    assert costs.unit == "joules"
    assert {one.labels["experiment_id"] for one in costs.samples} == {"measured", "modelled", "hostile"}
    assert {one.labels.get("model") for one in families["llem_result"].samples} >= {'a"b\\c{d}, e="f'}
    low = families["llem_ttft_p50_low_seconds"].samples[0]
    assert (
        low.value == ExperimentResult.load(results / low.labels["experiment_id"]).performance.ttft_s.p50.low
    )


def test_a_row_of_ai_energy_score_counts_the_gpus_alone(results: Path) -> None:
    outcome = export(results, "--to", "ai-energy-score")
    rows = {row["date"] + row["gpus"]: row for row in rows_of(outcome.stdout)}
    result = ExperimentResult.load(results / "measured")
    (gpu,) = [row for row in rows.values() if row["gpus"]]
    per_request = result.energy.per_request.value
    assert per_request is not None
    assert float(gpu["gpu_energy_wh_per_1000_queries"]) == pytest.approx(per_request / 3.6)
    assert gpu["follows_protocol"] == "False"
    assert "n is 8, not 1000" in gpu["deviations"]
    assert "x" not in {row["model"] for row in rows.values()}
    assert "is of windows" in outcome.stderr
    half = EnergyReading(
        "cpu:0", "rapl", "counter", result.energy.readings[0].window, Estimate(1.0, "J", reason="one")
    )
    total = result.energy.total
    assert total.value is not None
    both = result.energy.model_copy(
        update={"readings": (*result.energy.readings, half), "total": total.times(2, "J")}
    )
    alone = gpu_energy(result.model_copy(update={"energy": both})).value
    assert alone == pytest.approx(per_request / 3.6 / 2)
    assert GPU in result.energy.readings[0].domain


def test_a_summary_is_valid_only_where_the_rules_are_kept() -> None:
    result = example_result(energy="measured")
    said = list(summary_lines(result))
    assert "Result is : INVALID" in said
    assert "  Min duration satisfied : No" in said
    assert f"Tokens per second: {result.performance.output_tokens_per_second.value:.6g}" in said

    def longer(run: RunPart) -> RunPart:
        assert run.window is not None
        return run.model_copy(update={"window": run.window.model_copy(update={"duration_s": 600.0})})

    tokens = result.tokens.model_copy(update={"requests": 3 * 24_576})
    kept = result.model_copy(update={"runs": tuple(map(longer, result.runs)), "tokens": tokens})
    assert "Result is : VALID" in summary_lines(kept)
    modelled = kept.energy.model_copy(update={"method": "modelled"})
    assert "Result is : INVALID" in summary_lines(kept.model_copy(update={"energy": modelled}))


def test_mlflow_holds_a_run_for_each_row(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip(
        "mlflow", reason="needs mlflow-skinny: pip install 'llenergymeasure[mlflow]'"
    )
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    at_ = f"file:{results / 'tracked'}"
    assert export(results, "--to", "mlflow", "-o", at_).exit_code == 0
    runs = mlflow.MlflowClient(at_).search_runs(
        ["0", *[one.experiment_id for one in mlflow.MlflowClient(at_).search_experiments()]]
    )
    found = {run.info.run_name: run.data for run in runs}
    assert len(found) == 5
    cost = ExperimentResult.load(results / "measured").energy.per_output_token
    assert found["measured"].metrics["energy_per_output_token_j"] == cost.value
    assert found["measured"].params["max_output_tokens"] == "32"
    assert "energy_total_j" not in found["missing"].metrics


def test_what_can_not_be_read_is_skipped_below_a_directory_and_refused_where_it_is_named(
    results: Path,
) -> None:
    broken = results / "measured" / "result.json"
    broken.write_text(broken.read_text()[:500])
    nan = results / "modelled" / "result.json"
    nan.write_text(nan.read_text().replace('"steady": true', '"steady": NaN'))
    outcome = export(results)
    assert outcome.exit_code == 0
    assert {row["experiment_id"] for row in rows_of(outcome.stdout) if row["kind"] == "inference"} == {
        "missing"
    }
    assert str(broken) in outcome.stderr
    assert "NaN" in outcome.stderr
    assert export(broken.parent).exit_code == 1
    empty = results / "empty"
    empty.mkdir()
    assert export(empty).exit_code == export(results / "absent").exit_code == 1
    assert export(results, "--to", "xml").exit_code == export(results, "--to", "parquet").exit_code == 2
    assert export(results, "--to", "latex", "--long").exit_code == 2


def test_a_file_that_can_not_be_written_leaves_nothing(results: Path) -> None:
    outcome = export(results, "-o", results / "absent" / "x.csv")
    assert (outcome.exit_code, "hint: " in outcome.stderr) == (1, True)
    assert not (results / "absent").exists()


def test_no_text_of_a_result_steers_the_terminal(results: Path) -> None:
    result = example_result(energy="measured", experiment_id="evil")
    gpus = (result.environment.gpus[0].__class__("GPU-0", 0, "\x1b[2J\x07", None, None, None),)
    odd = result.environment.__class__(
        **{name: getattr(result.environment, name) for name in result.environment.__slots__} | {"gpus": gpus}
    )
    result.model_copy(update={"environment": odd}).save(results)
    for form in TEXT_FORMS:
        assert "\x1b" not in export(results / "evil", "--to", form).stdout


@pytest.mark.parametrize("form", TEXT_FORMS)
def test_no_more_than_a_few_results_are_in_memory_at_once(form: str) -> None:
    refs: list[weakref.ref[ExperimentResult]] = []
    most = 0

    def items() -> Iterator[Item]:
        nonlocal most
        for number in range(20):
            result = example_result(energy="measured", experiment_id=f"r{number}")
            refs.append(weakref.ref(result))
            most = max(most, sum(one() is not None for one in refs))
            yield {}, result

    to = io.StringIO()
    TEXT_FORMS[form](Export(items(), {}, is_long=False, skip=print), to)
    assert most <= 3
    assert to.getvalue()


def test_no_number_is_infinite(results: Path) -> None:
    for line in export(results, "--to", "jsonl").stdout.splitlines():
        numbers = [value for value in json.loads(line).values() if isinstance(value, float)]
        assert all(map(math.isfinite, numbers))


def under_load() -> ExperimentResult:
    whole = example_result(energy="measured", experiment_id="loaded")
    load = LoadConfig(arrivals="poisson", rate=2.5)
    good = Estimate(1.25, "request/s", 1.2, 1.3)
    gaps = whole.performance.tpot_s
    speed = {"goodput_per_s": good, "itl_s": gaps, "in_flight_mean": 3.5, "in_flight_most": 6}
    speed["latencies_from"] = "due"
    cost = Estimate(240.0, "J/request", 230.0, 250.0)
    counted: dict[str, Any] = dict.fromkeys(ServerPart.model_fields)
    counted |= {"output_tokens": 64, "cache_hit_share": 0.25, "client": RequestCounts()}
    return whole.model_copy(
        update={
            "config": whole.config.model_copy(update={"load": load}),
            "performance": whole.performance.model_copy(update=speed),
            "energy": whole.energy.model_copy(update={"per_good_request": cost}),
            "overhead": whole.overhead.model_copy(update={"schedule_lag_p99_s": 0.004}),
            "server": ServerPart.model_validate(counted),
        }
    )


def test_what_a_load_gave_is_in_its_row_and_in_a_study_s() -> None:
    result = under_load()
    ((facts, metrics),) = parts(result)
    row = wide(facts, metrics)
    assert row["load"] == "poisson, 2.5 requests/s"
    assert (row["goodput_per_s"], row["goodput_per_s_low"]) == (1.25, 1.2)
    assert (row["energy_per_good_request_j"], row["in_flight_mean"]) == (240.0, 3.5)
    assert (row["schedule_lag_p99_s"], row["schedule_lag_p50_s"]) == (0.004, None)
    counted = [row[f"server_{name}"] for name in ("output_tokens", "cache_hit_share", "acceptance_length")]
    assert counted == [64, 0.25, None]
    # A study reads no more of a result than it needs, and gets the same.
    head = ResultHead.model_validate_json(result.model_dump_json())
    assert row_of(head) == row_of(result)
    study = StudyResult.load(Path(__file__).parents[1] / "data" / "study-schema-1")
    plain = study.rows[0].model_copy(update=row_of(example_result(energy="measured")))
    loaded = study.rows[0].model_copy(update=row_of(result))
    assert "goodput" not in labelled(study.model_copy(update={"rows": (plain,)}))[0]
    head_of, row_of_load = labelled(study.model_copy(update={"rows": (loaded,)}))
    shown = dict(zip(head_of, row_of_load, strict=True))
    assert shown["goodput"] == "1.25 ± 0.05 request/s"
    assert shown["sent late (p99)"] == "4.00 ms"
    assert {"requests", "per request", "per good request", "ITL"} <= shown.keys()


@pytest.mark.parametrize(
    ("load", "words"),
    [
        ({}, "closed, 1 user"),
        ({"concurrency": 8}, "closed, 8 users"),
        ({"arrivals": "gamma", "rate": 2, "burstiness": 0.5}, "gamma, 2 requests/s"),
        ({"arrivals": "ramp", "rate": 1, "end_rate": 9, "ramp_s": 5}, "ramp, 1 to 9 requests/s"),
        ({"arrivals": "trace", "trace": "a.csv", "speed": 2}, "trace a.csv, 2 times as fast"),
    ],
)
def test_a_load_in_words(load: dict[str, Any], words: str) -> None:
    assert LoadConfig.model_validate(load).in_words == words
