"""What does a result of another tool say, in llem's metrics, and what of it can't be compared?

Each metric is taken where its definition is llem's own, and is left out with the reason where it is not.
Field names are those that the tools themselves write: vLLM's `bench serve`, guidellm 0.8, aiperf 0.13 (export
schema 1), llama-bench (JSON), optimum-benchmark 0.6, llenergymeasure 0.7 (bundle 2.0).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, TypeAlias

from llenergymeasure.analysis.statistics import t_half_width
from llenergymeasure.exceptions import ConfigError, ResultError
from llenergymeasure.records import Estimate
from llenergymeasure.results.models import ExperimentResult
from llenergymeasure.results.rows import METRICS, Metrics, Row
from llenergymeasure.results.store import parse, read_text
from llenergymeasure.results.windows import WindowsResult, from_data

Data: TypeAlias = Mapping[str, Any]

NO_INTERVAL = "the file gives no interval"
NEAREST = "its percentiles are by nearest rank, not interpolated"
CLIENT_COUNT = (
    "its tokens are counted by a tokenizer in the client; --use-server-token-count takes the server's"
)
_WAY = (
    "llem reads JSON of vllm bench serve, guidellm, aiperf, llama-bench, optimum-benchmark and "
    "llenergymeasure 0.7"
)
_UNITS = {
    "tokens_per_second": "token/s",
    "requests_per_second": "request/s",
    "per_request_j": "J/request",
    "per_prompt_token_j": "J/token",
    "_j": "J",
    "_s": "s",
}
# Fewer requests than that have no such percentile in llem either.
LEAST_FOR_P99 = 100


@dataclass(slots=True)
class Imported:
    """One measurement of another tool. `metrics` are named as the columns of `llem export`; `left_out` has
    the tool's own names with the reasons.
    """

    tool: str
    version: str | None
    name: str
    facts: Row = field(default_factory=dict)
    metrics: Metrics = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def take(self, name: str, value: Any, *, scale: float = 1.0, reason: str = NO_INTERVAL) -> None:
        """One metric, where the file has a number for it."""
        assert name in METRICS, name
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            self.metrics[name] = Estimate(value * scale, _unit(name), reason=reason)

    def take_times(
        self,
        name: str,
        found: Data,
        keys: Mapping[str, str],
        *,
        scale: float,
        count: int,
        reason: str = NO_INTERVAL,
    ) -> None:
        """A distribution of times: of `keys` each part of llem's with the file's name for it."""
        for part, key in keys.items():
            if part == "p99" and count < LEAST_FOR_P99:
                self.left_out[f"{name}_p99_s"] = f"p99 needs {LEAST_FOR_P99} requests, and there are {count}"
            else:
                self.take(f"{name}_{part}_s", found.get(key), scale=scale, reason=reason)

    def row(self) -> Row:
        """What it is, as the first columns of a row."""
        return {
            "experiment_id": self.name,
            "kind": self.tool,
            "program": f"{self.tool} {self.version or ''}".rstrip(),
            **self.facts,
        }


def read_any(path: Path) -> tuple[ExperimentResult | WindowsResult | Imported, ...]:
    """A result of llem, or the measurements in another tool's file. Errors as of `load_any`, `read_peer`."""
    file, text = read_text(path)
    data = parse(text, file)
    if any(is_its(data) for is_its, _ in _TOOLS.values()):
        return _measurements(data, file)
    return (from_data(data, text, file),)


def read_peer(path: Path) -> tuple[Imported, ...]:
    """The measurements in another tool's result file.

    ConfigError names the tool and its version where llem does not know that; ResultError says which field is
    missing, or that it is a file of nobody that it knows.
    """
    file, text = read_text(path)
    return _measurements(parse(text, file), file)


def _measurements(data: Any, file: Path) -> tuple[Imported, ...]:
    for tool, (is_its, read) in _TOOLS.items():
        if is_its(data):
            try:
                return tuple(read(data, file.stem))
            except ConfigError as error:
                raise ConfigError(f"{file}: {error.message}", hint=error.hint) from None
            except (KeyError, TypeError, IndexError, AttributeError, ZeroDivisionError) as error:
                raise ResultError(
                    f"{file} is a file of {tool} that llem can't read: {type(error).__name__}: {error}",
                    hint="its form may be of another version; see docs/guides/data.md",
                ) from error
    raise ResultError(f"{file} is not a result of llem, nor of another tool that it reads", hint=_WAY)


def _vllm(data: Data, name: str) -> list[Imported]:
    count = int(data["completed"])
    found = Imported("vllm bench serve", None, name, _facts(data["model_id"], data.get("backend"), count))
    found.facts |= {"input_tokens": data["total_input_tokens"], "output_tokens": data["total_output_tokens"]}
    found.facts["duration_s"] = data["duration"]
    for mine, theirs in (
        ("requests_per_second", "request_throughput"),
        ("output_tokens_per_second", "output_throughput"),
        ("total_tokens_per_second", "total_token_throughput"),
    ):
        found.take(mine, data[theirs])
    # Latencies are from when a request was sent, which llem takes for closed load only.
    queued = (
        data.get("request_rate") not in {None, "inf", math.inf} and data.get("max_concurrency") is not None
    )
    for mine, theirs in (("ttft", "ttft"), ("tpot", "tpot"), ("e2e", "e2el")):
        if queued and mine != "tpot":
            found.left_out[theirs] = (
                "the clock starts after the tool's own limit on concurrency, not when it was due"
            )
            continue
        keys = {"mean": f"mean_{theirs}_ms", "p50": f"median_{theirs}_ms"}
        keys |= {part: f"{part}_{theirs}_ms" for part in ("p90", "p95", "p99")}
        found.take_times(mine, data, keys, scale=1e-3, count=count)
    found.left_out["itl"] = "of chunks, which may hold several tokens"
    return [found]


def _guidellm(data: Data, name: str) -> list[Imported]:
    meta = data["metadata"]
    _known("guidellm", meta["guidellm_version"], ("0.8",), schema=meta["version"] == 2)
    results = []
    for number, one in enumerate(data["benchmarks"], start=1):
        of = one["metrics"]
        good = {
            key: value["successful"]
            for key, value in of.items()
            if isinstance(value, dict) and "successful" in value
        }
        count = int(of["request_totals"]["successful"])
        found = Imported(
            "guidellm", meta["guidellm_version"], f"{name}-{number}", _facts(_model(one), None, count)
        )
        found.facts |= {
            "input_tokens": round(good["prompt_token_count"]["total_sum"]),
            "output_tokens": round(good["output_token_count"]["total_sum"]),
        }
        for mine, theirs in (
            ("requests_per_second", "requests_per_second"),
            ("output_tokens_per_second", "output_tokens_per_second"),
            ("total_tokens_per_second", "tokens_per_second"),
        ):
            found.take(mine, good[theirs]["mean"])
        lengths = good["output_token_count"]
        for mine, theirs, scale in (
            ("ttft", "time_to_first_token_ms", 1e-3),
            ("tpot", "inter_token_latency_ms", 1e-3),
            ("e2e", "request_latency", 1.0),
        ):
            if mine == "tpot" and lengths["min"] != lengths["max"]:
                found.left_out[theirs] = "each request weighs by its tokens, and the lengths differ"
                continue
            spread = {**good[theirs]["percentiles"], "mean": good[theirs]["mean"]}
            found.take_times(
                mine, spread, _SAME, scale=scale, count=count, reason=f"{NO_INTERVAL}; {NEAREST}"
            )
        found.left_out |= {"time_per_output_token_ms": "it includes the time to the first token"}
        results.append(found)
    return results


def _aiperf(data: Data, name: str) -> list[Imported]:
    _known(
        "aiperf", data["aiperf_version"], ("0.13",), schema=str(data["schema_version"]).split(".")[0] == "1"
    )
    if data.get("is_complete") is False:
        raise ResultError(f"the aiperf run did not end: {data.get('incomplete_reason')}")
    asked = data.get("input_config") or {}
    endpoint = asked.get("endpoint") or {}
    count = int(data["request_count"]["avg"])
    found = Imported("aiperf", data["aiperf_version"], name, _facts(_aiperf_model(asked), None, count))
    found.take("requests_per_second", data["request_throughput"]["avg"])
    for mine, theirs in (("ttft", "time_to_first_token"), ("e2e", "request_latency")):
        if data.get(theirs):
            found.take_times(mine, data[theirs], _AIPERF, scale=1e-3, count=count)
    if endpoint.get("use_server_token_count") is True:
        found.take("output_tokens_per_second", data["output_token_throughput"]["avg"])
        if data.get("inter_token_latency"):
            found.take_times("tpot", data["inter_token_latency"], _AIPERF, scale=1e-3, count=count)
        if data.get("total_osl"):
            found.facts["output_tokens"] = round(data["total_osl"]["avg"])
    else:
        found.left_out |= dict.fromkeys(
            ("output_token_throughput", "inter_token_latency", "total_osl"), CLIENT_COUNT
        )
    return [found]


def _llama_bench(data: list[Data], name: str) -> list[Imported]:
    results = []
    for one in data:
        prompt, made, version = one["n_prompt"], one["n_gen"], f"b{one['build_number']}"
        test = "+".join([f"pp{prompt}"] * (prompt > 0) + [f"tg{made}"] * (made > 0))
        depth = one.get("n_depth", 0)
        label = f"{name}-{test}" + (f"@{depth}" if depth else "")
        found = Imported(
            "llama-bench", version, label, _facts(one["model_filename"], "llama.cpp", len(one["samples_ns"]))
        )
        seconds = [ns / 1e9 for ns in one["samples_ns"]]
        found.facts |= {"precision": one["model_type"]}
        found.facts |= {"input_tokens": prompt * len(seconds), "output_tokens": made * len(seconds)}
        if prompt and made:
            found.metrics["total_tokens_per_second"] = _scattered(
                [(prompt + made) / s for s in seconds], "token/s"
            )
            found.left_out["avg_ts"] = "taken as total_tokens_per_second: prompt and output together"
        elif made:
            found.metrics["tpot_mean_s"] = _scattered([s / made for s in seconds], "s")
            found.left_out["avg_ts"] = "tokens without their prompt are not a throughput of requests"
        else:
            found.left_out["avg_ts"] = "prompt tokens alone, without a first token, are not a metric of llem"
        found.metrics["weights_bytes"] = Estimate(one["model_size"], "bytes", reason=NO_INTERVAL)
        results.append(found)
    return results


def _optimum(data: Data, name: str) -> list[Imported]:
    config, report = data["config"], data["report"]
    version = str((config.get("environment") or {}).get("optimum_benchmark_version"))
    _known("optimum-benchmark", version, ("0.6",))
    scenario, backend = config["scenario"], config["backend"]
    shapes, lengths = scenario["input_shapes"], scenario.get("generate_kwargs") or {}
    batch, most = shapes["batch_size"], lengths.get("max_new_tokens")
    count = len(((report["generate"] or {}).get("latency") or {}).get("values") or ())
    found = Imported(
        "optimum-benchmark", version, name, _facts(backend["model"], backend["name"], count * batch)
    )
    found.facts |= {
        "batch_size": batch,
        "device": backend.get("device"),
        "precision": backend.get("torch_dtype") or backend.get("dtype"),
    }
    for mine, theirs in (("ttft", "prefill"), ("e2e", "generate")):
        if times := (report.get(theirs) or {}).get("latency"):
            found.take_times(mine, times, _SAME, scale=1.0, count=count * batch)
    generate = report["generate"]
    if speed := generate.get("throughput"):
        found.take("requests_per_second", speed["value"])
        if most is not None and most == lengths.get("min_new_tokens"):
            found.take("output_tokens_per_second", speed["value"], scale=most)
        else:
            found.left_out["generate.throughput"] = "lengths are not pinned, so that tokens are not known"
    for phase, mine, per in (
        ("generate", "energy_per_request_j", batch),
        ("prefill", "prefill_per_prompt_token_j", batch * shapes["sequence_length"]),
    ):
        energy = (report.get(phase) or {}).get("energy")
        if energy and energy["gpu"] > 0:
            found.facts |= {"boundary": "gpu", "method": "sampled"}
            found.take(mine, energy["gpu"], scale=3.6e6 / per)
        if energy:
            found.left_out[f"{phase}.energy.cpu"] = found.left_out[f"{phase}.energy.ram"] = (
                "codecarbon may have guessed it from a table, and the file does not say"
            )
    found.left_out["decode.energy"] = "a difference of two separate loops, which may be negative"
    found.left_out["per_token.latency"] = (
        "times between tokens of a whole batch, not the mean of each request"
    )
    return [found]


def _llem_0_7(data: Data, _name: str) -> list[Imported]:
    version = data.get("llenergymeasure_version")
    _known("llenergymeasure", str(version), ("0.7",), schema=data["bundle_version"] == "2.0")
    found = Imported(
        "llenergymeasure", version, data["experiment_id"], _facts(data["model_name"], data["engine"], None)
    )
    found.facts["duration_s"] = data["total_inference_time_sec"]
    found.take("energy_total_j", data["total_energy_j"], reason="version 0.7 gives no interval")
    why = "padding counts as output there (310 tokens for 40)"
    found.left_out |= dict.fromkeys(("output_tokens", "avg_tokens_per_second", "avg_energy_per_token_j"), why)
    found.left_out["total_flops"] = "gated feed-forward layers count as two matrices there, not three"
    return [found]


_PARTS = ("mean", "p50", "p90", "p95", "p99")
_SAME = {part: part for part in _PARTS}
_AIPERF = {"mean": "avg", **{part: part for part in _PARTS[1:]}}


def _has(*keys: str) -> Callable[[object], bool]:
    return lambda data: isinstance(data, dict) and all(key in data for key in keys)


_TOOLS: Mapping[str, tuple[Callable[[Any], bool], Callable[[Any, str], list[Imported]]]] = {
    "vllm bench serve": (_has("endpoint_type", "tokenizer_id", "request_throughput"), _vllm),
    "guidellm": (
        lambda data: _has("benchmarks", "metadata")(data) and "guidellm_version" in (data["metadata"] or ()),
        _guidellm,
    ),
    "aiperf": (_has("aiperf_version", "schema_version"), _aiperf),
    "llama-bench": (
        lambda data: (
            isinstance(data, list) and bool(data) and all(map(_has("build_commit", "n_gen", "avg_ts"), data))
        ),
        _llama_bench,
    ),
    "optimum-benchmark": (
        lambda data: _has("config", "report")(data) and "scenario" in (data["config"] or ()),
        _optimum,
    ),
    "llenergymeasure 0.7": (_has("bundle_version", "experiment_id", "total_energy_j"), _llem_0_7),
}


def _known(tool: str, version: str, known: tuple[str, ...], *, schema: bool = True) -> None:
    if not schema or not any(version == one or version.startswith(f"{one}.") for one in known):
        raise ConfigError(
            f"the file is of {tool} {version}, whose form llem does not know",
            hint=f"measure with {tool} {' or '.join(known)}",
        )


def _facts(model: Any, backend: Any, requests: int | None) -> Row:
    return {
        "model": None if model is None else str(model),
        "backend": None if backend is None else str(backend),
        "requests": requests,
    }


def _model(benchmark: Data) -> Any:
    config = benchmark.get("config") or {}
    return (config.get("backend") or {}).get("model")


def _aiperf_model(asked: Data) -> Any:
    models = asked.get("models") or {}
    items = models.get("items") if isinstance(models, dict) else models
    first = items[0] if items else None
    return first.get("name") if isinstance(first, dict) else first


def _unit(name: str) -> str:
    return next(unit for end, unit in _UNITS.items() if name.endswith(end))


def _scattered(values: list[float], unit: str) -> Estimate:
    """The mean of repetitions in one process, with Student's interval from three on."""
    if len(values) < 3:
        return Estimate(fmean(values), unit, reason=f"{len(values)} repetitions: an interval needs 3")
    return Estimate.around(fmean(values), unit, t_half_width(values))
