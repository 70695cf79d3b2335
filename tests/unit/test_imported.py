"""Result files of other tools: each metric by its definition, and what is left out with the reason.

Those of guidellm, aiperf and vLLM are what these tools wrote against a stub server; the others hold the
fields that the own code of the tools writes.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from example_result import example_result
from typer.testing import CliRunner

from llenergymeasure.analysis.imported import CLIENT_COUNT, Imported, read_peer
from llenergymeasure.cli import app
from llenergymeasure.exceptions import ConfigError, ResultError
from llenergymeasure.results.rows import METRICS

PEERS = Path(__file__).parents[1] / "data" / "peers"
FILES = sorted(path.name for path in PEERS.iterdir())


def one(name: str) -> Imported:
    (found,) = read_peer(PEERS / name)
    return found


def stored(name: str) -> Any:
    return json.loads((PEERS / name).read_text())


def value(found: Imported, metric: str) -> float | None:
    return found.metrics[metric].value


@pytest.mark.parametrize("name", FILES)
def test_every_metric_is_one_of_llems_and_states_why_it_has_no_interval(name: str) -> None:
    for found in read_peer(PEERS / name):
        assert set(found.metrics) <= set(METRICS)
        assert all(
            one.value is not None and (one.low is not None or one.reason) for one in found.metrics.values()
        )
        assert all(found.left_out.values())


def test_vllm_bench_in_seconds_and_with_its_own_counts() -> None:
    found, data = one("vllm-bench.json"), stored("vllm-bench.json")
    assert value(found, "output_tokens_per_second") == data["output_throughput"]
    assert value(found, "ttft_p50_s") == pytest.approx(data["median_ttft_ms"] / 1000)
    assert value(found, "tpot_mean_s") == pytest.approx(data["mean_tpot_ms"] / 1000)
    assert value(found, "e2e_p95_s") == pytest.approx(data["p95_e2el_ms"] / 1000)
    assert found.facts["requests"] == data["completed"] == 12
    assert "ttft_p99_s" not in found.metrics
    assert "needs 100 requests" in found.left_out["ttft_p99_s"]


def test_latencies_of_vllm_bench_are_left_out_where_its_own_limit_delays_what_was_due(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps({**stored("vllm-bench.json"), "request_rate": 5.0, "max_concurrency": 2}))
    (found,) = read_peer(path)
    assert not {name for name in found.metrics if name.startswith(("ttft", "e2e"))}
    assert {"ttft", "e2el"} <= set(found.left_out)
    assert "tpot_p50_s" in found.metrics


def test_guidellms_time_per_output_token_is_left_out_and_its_inter_token_latency_is_llems() -> None:
    found, data = one("guidellm-0.8.1.json"), stored("guidellm-0.8.1.json")
    of = data["benchmarks"][0]["metrics"]
    assert value(found, "tpot_mean_s") == of["inter_token_latency_ms"]["successful"]["mean"] / 1000
    assert "first token" in found.left_out["time_per_output_token_ms"]
    assert value(found, "e2e_p50_s") == of["request_latency"]["successful"]["percentiles"]["p50"]
    assert (found.facts["requests"], found.facts["output_tokens"]) == (12, 192)


def test_guidellms_latencies_that_weigh_by_tokens_are_left_out_where_lengths_differ(tmp_path: Path) -> None:
    data = stored("guidellm-0.8.1.json")
    data["benchmarks"][0]["metrics"]["output_token_count"]["successful"]["min"] = 3.0
    path = tmp_path / "x.json"
    path.write_text(json.dumps(data))
    (found,) = read_peer(path)
    assert "tpot_mean_s" not in found.metrics
    assert "lengths differ" in found.left_out["inter_token_latency_ms"]


def test_aiperf_counts_only_where_the_server_did(tmp_path: Path) -> None:
    found, data = one("aiperf-0.13.0.json"), stored("aiperf-0.13.0.json")
    assert value(found, "output_tokens_per_second") == data["output_token_throughput"]["avg"]
    assert value(found, "ttft_p50_s") == pytest.approx(data["time_to_first_token"]["p50"] / 1000)
    data["input_config"]["endpoint"]["use_server_token_count"] = False
    path = tmp_path / "x.json"
    path.write_text(json.dumps(data))
    (counted,) = read_peer(path)
    assert not {"output_tokens_per_second", "tpot_mean_s"} & set(counted.metrics)
    assert counted.left_out["output_token_throughput"] == CLIENT_COUNT
    assert "ttft_p50_s" in counted.metrics


def test_llama_bench_has_a_row_a_test_with_an_interval_from_its_repetitions() -> None:
    prompt, made, both = read_peer(PEERS / "llama-bench.json")
    assert [found.name for found in (prompt, made, both)] == [
        "llama-bench-pp512",
        "llama-bench-tg128",
        "llama-bench-pp512+tg128",
    ]
    assert set(prompt.metrics) == {"weights_bytes"}
    each = made.metrics["tpot_mean_s"]
    assert each.value == pytest.approx(1 / 45.1, rel=1e-3)
    assert each.low is not None
    assert value(both, "total_tokens_per_second") == pytest.approx(80.5)


def test_optimum_benchmark_gives_the_gpus_energy_and_not_what_may_be_guessed() -> None:
    found = one("optimum-benchmark-0.6.0.json")
    # 2e-5 kWh for two requests; 4e-7 kWh for 32 prompt tokens.
    assert value(found, "energy_per_request_j") == pytest.approx(36.0)
    assert value(found, "prefill_per_prompt_token_j") == pytest.approx(0.045)
    assert value(found, "output_tokens_per_second") == pytest.approx(200.0)
    assert {"generate.energy.cpu", "decode.energy", "per_token.latency"} <= set(found.left_out)


def test_version_0_7_counts_padding_so_that_only_its_total_is_taken() -> None:
    found = one("llenergymeasure-0.7.0.json")
    assert set(found.metrics) == {"energy_total_j"}
    assert "padding" in found.left_out["avg_energy_per_token_j"]


def _as(name: str, change: Callable[[Any], Any]) -> Any:
    data = stored(name)
    change(data)
    return data


@pytest.mark.parametrize(
    ("name", "change", "says", "code"),
    [
        (
            "guidellm-0.8.1.json",
            lambda d: d["metadata"].update(guidellm_version="0.9.0"),
            "guidellm 0.9.0",
            2,
        ),
        (
            "guidellm-0.8.1.json",
            lambda d: d["metadata"].update(version=3),
            "whose form llem does not know",
            2,
        ),
        ("aiperf-0.13.0.json", lambda d: d.update(aiperf_version="1.0"), "aiperf 1.0", 2),
        ("aiperf-0.13.0.json", lambda d: d.update(schema_version="2.0"), "whose form", 2),
        ("aiperf-0.13.0.json", lambda d: d.update(is_complete=False), "did not end", 1),
        (
            "optimum-benchmark-0.6.0.json",
            lambda d: d["config"].pop("environment"),
            "optimum-benchmark None",
            2,
        ),
        ("llenergymeasure-0.7.0.json", lambda d: d.update(bundle_version="3.0"), "whose form", 2),
        (
            "vllm-bench.json",
            lambda d: d.pop("completed"),
            "vllm bench serve that llem can't read.*completed",
            1,
        ),
        ("vllm-bench.json", lambda d: d.pop("tokenizer_id"), "nor of another tool", 1),
        ("llama-bench.json", lambda d: d[0].pop("samples_ns"), "llama-bench that llem can't read", 1),
    ],
)
def test_an_unknown_version_or_form_is_named_and_refused(
    name: str, change: Callable[[Any], Any], says: str, code: int, tmp_path: Path
) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(_as(name, change)))
    with pytest.raises(ConfigError if code == 2 else ResultError, match=says) as caught:
        read_peer(path)
    assert caught.value.exit_code == code


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", "5", '{"metadata": null, "benchmarks": 1}', "[1]", "{"]
)
def test_what_is_nobodys_file_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ResultError):
        read_peer(path)


def test_a_peers_file_stands_beside_llems_own_results_in_an_export(tmp_path: Path) -> None:
    example_result(energy="measured").save(tmp_path)
    outcome = CliRunner().invoke(app, ["export", str(tmp_path), *(str(PEERS / name) for name in FILES)])
    assert outcome.exit_code == 0
    rows = list(csv.DictReader(io.StringIO(outcome.stdout)))
    assert {row["kind"] for row in rows} >= {"inference", "guidellm", "vllm bench serve", "llama-bench"}
    assert len(rows) == 1 + len(FILES) + 2
    assert "time_per_output_token_ms of guidellm-0.8.1-1" in outcome.stderr
    latex = CliRunner().invoke(app, ["export", str(PEERS / "vllm-bench.json"), "--to", "latex"])
    assert "token/s" in latex.stdout
    broken = tmp_path / "broken.json"
    broken.write_text('{"a": 1}')
    assert CliRunner().invoke(app, ["export", str(broken)]).exit_code == 1
