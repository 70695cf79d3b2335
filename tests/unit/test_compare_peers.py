"""What another tool measured beside llem's own: which ratios, without verdicts, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from example_result import example_result
from typer.testing import CliRunner

from llenergymeasure.analysis.compare_peers import compare_peers
from llenergymeasure.analysis.imported import Imported, read_peer
from llenergymeasure.cli import app
from llenergymeasure.exceptions import ConfigError
from llenergymeasure.records import Estimate

PEERS = Path(__file__).parents[1] / "data" / "peers"
OURS = example_result(energy="measured", experiment_id="ours")


def llem(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [str(one) for one in arguments])


def peer(**metrics: Estimate) -> Imported:
    tokens = OURS.tokens
    facts: dict[str, Any] = {
        "input_tokens": tokens.input,
        "output_tokens": tokens.output,
        "requests": tokens.requests,
    }
    return Imported("tool", "1", "theirs", facts, metrics, {"itl": "of chunks"})


def test_a_ratio_has_an_interval_where_both_have_one_and_never_a_verdict() -> None:
    mean, speed = OURS.performance.tpot_s.mean, OURS.performance.output_tokens_per_second
    assert mean.value is not None
    assert speed.value is not None
    found = compare_peers(
        OURS,
        peer(
            tpot_mean_s=Estimate.around(mean.value * 2, "s", mean.value / 50),
            output_tokens_per_second=Estimate(speed.value * 3, "token/s", reason="none given"),
        ),
    )
    ratios = {one.name: one for one in found.ratios}
    assert ratios.keys() == {"tpot_mean_s", "output_tokens_per_second"}
    with_ends, without = ratios["tpot_mean_s"], ratios["output_tokens_per_second"]
    assert with_ends.ratio.value == pytest.approx(2)
    assert with_ends.ratio.low is not None
    assert 1.9 < with_ends.ratio.low < 2
    assert without.ratio.value == pytest.approx(3)
    assert without.ratio.low is None
    assert all(one.verdict is None and one.withheld for one in found.ratios)
    assert {one.name: one.reason for one in found.left_out} == {"itl of B": "of chunks"}


def test_unlike_tokens_are_refused_until_they_are_allowed() -> None:
    theirs = peer(ttft_mean_s=Estimate(1.0, "s", reason="none given"))
    theirs.facts["output_tokens"] = OURS.tokens.output + 8
    with pytest.raises(ConfigError, match="tokens per request"):
        compare_peers(OURS, theirs)
    assert [one.key for one in compare_peers(OURS, theirs, allow={"tokens"}).allowed] == ["tokens"]


def test_totals_of_unknown_work_and_joules_of_unknown_meters_are_refused() -> None:
    (theirs,) = read_peer(PEERS / "llenergymeasure-0.7.0.json")
    with pytest.raises(ConfigError) as caught:
        compare_peers(OURS, theirs)
    assert caught.value.hint == "to compare them anyway: --allow method --allow workload"


def test_a_simulated_result_is_no_match_for_a_real_tool() -> None:
    ours = OURS.model_copy(update={"simulated": True})
    with pytest.raises(ConfigError, match="simulated"):
        compare_peers(ours, peer(ttft_mean_s=Estimate(1.0, "s", reason="none given")))


def test_a_peers_file_is_named_like_a_result(tmp_path: Path) -> None:
    ours = OURS.save(tmp_path)
    outcome = llem("compare", ours, PEERS / "guidellm-0.8.1.json", "--allow", "tokens", "--json")
    assert outcome.exit_code == 0, outcome.stderr
    found = json.loads(outcome.stdout)
    assert found["b"]["experiment_id"] == "guidellm-0.8.1-1 (guidellm 0.8.1)"
    assert {one["name"] for one in found["ratios"]} >= {"output_tokens_per_second", "ttft_p50_s"}
    assert all(one["ratio"]["value"] > 0 and one["verdict"] is None for one in found["ratios"])
    for form in ("text", "markdown", "latex", "csv", "github"):
        more = ["--allow", "tokens", "--format", form]
        assert llem("compare", ours, PEERS / "guidellm-0.8.1.json", *more).exit_code == 0
    # Of several measurements in one file each is compared.
    outcome = llem("compare", ours, PEERS / "llama-bench.json", "--allow", "tokens", "--json")
    assert [one["label"] for one in json.loads(outcome.stdout)["pairs"]] == [
        "llama-bench-pp512",
        "llama-bench-tg128",
        "llama-bench-pp512+tg128",
    ]


def test_a_limit_is_not_judged_by_a_file_without_repeats(tmp_path: Path) -> None:
    limit = ["--allow", "tokens", "--fail-on-regression", "output_tokens_per_second>3%"]
    outcome = llem("compare", OURS.save(tmp_path), PEERS / "guidellm-0.8.1.json", *limit)
    assert outcome.exit_code == 1


@pytest.mark.parametrize("command", ["compare", "show", "export", "report"])
def test_an_unknown_version_is_refused_by_name_before_anything_is_printed(
    command: str, tmp_path: Path
) -> None:
    data = json.loads((PEERS / "guidellm-0.8.1.json").read_text())
    data["metadata"]["guidellm_version"] = "0.9.0"
    (tmp_path / "theirs.json").write_text(json.dumps(data))
    before = [OURS.save(tmp_path)] if command == "compare" else []
    outcome = llem(command, *before, tmp_path / "theirs.json")
    assert outcome.exit_code == 2
    assert outcome.stdout == ""
    assert "guidellm 0.9.0" in outcome.stderr


def test_a_report_leaves_another_tools_file_out_by_name(tmp_path: Path) -> None:
    ours = OURS.save(tmp_path)
    outcome = llem("report", ours, PEERS / "vllm-bench.json", "--format", "md")
    assert outcome.exit_code == 0
    assert "vllm bench serve" in outcome.stdout
    assert llem("report", PEERS / "vllm-bench.json", "--format", "md").exit_code == 1


def test_show_prints_what_another_tool_measured(tmp_path: Path) -> None:
    outcome = llem("show", PEERS / "aiperf-0.13.0.json", "--json")
    (found,) = json.loads(outcome.stdout)
    assert found["metrics"]["requests_per_second"]["unit"] == "request/s"
    assert llem("show", PEERS / "aiperf-0.13.0.json", "--uncertainty").exit_code == 1


def test_names_and_globs_stand_for_results_in_report_and_export(tmp_path: Path) -> None:
    for name in ("20260101-a", "20260102-b", "20260201-c"):
        OURS.model_copy(update={"experiment_id": name}).save(tmp_path / "results")
    (tmp_path / "results" / "20260101-notes").mkdir()
    place: list[str | Path] = ["--dir", tmp_path / "results"]
    outcome = llem("export", f"{tmp_path}/results/202601*", "--to", "jsonl")
    assert [json.loads(line)["experiment_id"] for line in outcome.stdout.splitlines()] == [
        "20260101-a",
        "20260102-b",
    ]
    assert "20260101-notes" in outcome.stderr
    assert "20260201-c" in llem("export", "last", *place, "--to", "jsonl").stdout
    assert llem("report", "20260102", *place).exit_code == 0
    assert (tmp_path / "results" / "20260102-b" / "report.html").exists()
    assert llem("report", "202601", *place).exit_code == 2
    assert llem("report", f"{tmp_path}/results/2025*").exit_code == 1
