"""What is a result as rows of a table: which columns, in which units?"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias, get_args

from llenergymeasure.config.models import identity
from llenergymeasure.records import Estimate
from llenergymeasure.results.models import ExperimentResult, Percentiles, Performance, Stored
from llenergymeasure.results.study import StudyResult
from llenergymeasure.results.study_table import figures, setting
from llenergymeasure.results.windows import NamedWindows, WindowsResult

Cell: TypeAlias = str | int | float | bool | None
Row: TypeAlias = dict[str, Cell]
Metrics: TypeAlias = dict[str, Estimate]

NO_INTERVAL = "a count or a size: it has no interval"
ENDS = ("low", "high", "systematic_low", "systematic_high")


def _has(annotation: object, kind: type) -> bool:
    return annotation is kind or kind in get_args(annotation)


# What a long row says of its result; the wide one has the rest.
LONG_FACTS = ("experiment_id", "window", "model", "backend", "method", "valid")

_SPEEDS = [name for name, field in Performance.model_fields.items() if _has(field.annotation, Estimate)]
_TIMES = [name for name, field in Performance.model_fields.items() if _has(field.annotation, Percentiles)]
_PARTS = [name for name, field in Percentiles.model_fields.items() if _has(field.annotation, Estimate)]

_ENERGY: Mapping[str, Callable[[ExperimentResult], Estimate]] = {
    "energy_total_j": lambda result: result.energy.total,
    "energy_net_j": lambda result: result.energy.net,
    "energy_per_output_token_j": lambda result: result.energy.per_output_token,
    "energy_per_total_token_j": lambda result: result.energy.per_total_token,
    "energy_per_request_j": lambda result: result.energy.per_request,
    "prefill_per_prompt_token_j": lambda result: result.energy.prefill,
    "decode_per_output_token_j": lambda result: result.energy.decode,
    "load_j": lambda result: result.energy.load,
    "idle_bare_w": lambda result: result.energy.idle.bare,
    "idle_loaded_w": lambda result: result.energy.idle.loaded,
    "idle_after_w": lambda result: result.energy.idle.after,
}
_WINDOW: Mapping[str, Callable[[NamedWindows], Estimate]] = {
    "energy_total_j": lambda one: one.energy,
    "energy_per_output_token_j": lambda one: one.per_output_token,
    "energy_per_total_token_j": lambda one: one.per_total_token,
    "energy_each_j": lambda one: one.energy_each,
    "seconds_each_s": lambda one: one.seconds_each,
    "power_w": lambda one: one.power,
}
# Of results of both kinds; what one of them does not have is None there.
METRICS: tuple[str, ...] = tuple(
    dict.fromkeys(
        [
            *_ENERGY,
            *_WINDOW,
            *_SPEEDS,
            *(f"{name.removesuffix('_s')}_{part}_s" for name in _TIMES for part in _PARTS),
            *("energy_per_good_request_j", "in_flight_mean", "schedule_lag_p50_s", "schedule_lag_p99_s"),
            *("server_output_tokens", "server_cache_hit_share", "server_acceptance_length"),
            *("accuracy", "energy_per_correct_answer_j", "carbon_g", "cost"),
            *("flops", "peak_bytes", "weights_bytes"),
        ]
    )
)
FACTS: Mapping[str, type[str | int | float | bool]] = {
    "experiment_id": str,
    "kind": str,
    "window": str,
    "llem": str,
    "started_at": str,
    "hostname": str,
    "cpu": str,
    "gpus": str,
    "simulated": bool,
    "model": str,
    "backend": str,
    "precision": str,
    "dataset": str,
    "n": int,
    "batch_size": int,
    "load": str,
    "device": str,
    "config": str,
    "config_hash": str,
    "workload_hash": str,
    "program": str,
    "boundary": str,
    "method": str,
    "valid": bool,
    "steady": bool,
    "warnings": str,
    "runs": int,
    "duration_s": float,
    "requests": int,
    "input_tokens": int,
    "output_tokens": int,
}


def parts(result: ExperimentResult | WindowsResult) -> Iterator[tuple[Row, Metrics]]:
    """What it is and what it cost: once for a model's run, for windows once each name."""
    facts = _common(result)
    if isinstance(result, ExperimentResult):
        yield facts | _facts(result), _metrics(result)
        return
    for one in result.windows:
        own: Row = {
            "window": one.name,
            "runs": one.count,
            "duration_s": one.duration_s,
            "input_tokens": one.prompt_tokens,
            "output_tokens": one.output_tokens,
        }
        found = {name: of(one) for name, of in _WINDOW.items()} | {"peak_bytes": one.peak_bytes}
        yield facts | own, found


def rows_of(stored: Stored) -> Iterator[Row]:
    """One row, of windows one for each name, of a study one for each experiment."""
    if isinstance(stored, StudyResult):
        return study_rows(stored)
    assert isinstance(stored, ExperimentResult | WindowsResult), stored
    return (wide(*one) for one in parts(stored))


def wide(facts: Row, metrics: Metrics) -> Row:
    """One row with all columns; the value, its interval and its systematic range have one each."""
    row: Row = dict.fromkeys(columns())
    row |= facts
    for name, one in metrics.items():
        row[name] = one.value
        row |= zip((f"{name}_{end}" for end in ENDS), _ends(one), strict=True)
    return row


def long(facts: Row, metrics: Metrics) -> Iterator[Row]:
    """One row each metric, with the reason where its value or its interval is missing."""
    named = {key: facts.get(key) for key in LONG_FACTS}
    for name, one in metrics.items():
        ends = dict(zip(ENDS, _ends(one), strict=True))
        yield {**named, "metric": name, "unit": one.unit, "value": one.value, **ends, "reason": one.reason}


def long_columns() -> tuple[str, ...]:
    """The columns of `long`."""
    return (*LONG_FACTS, "metric", "unit", "value", *ENDS, "reason")


def columns() -> tuple[str, ...]:
    """The columns of `wide`, whatever the result is."""
    return (*FACTS, *(column for name in METRICS for column in (name, *(f"{name}_{end}" for end in ENDS))))


def study_rows(study: StudyResult) -> Iterator[Row]:
    """A row an experiment: what differs, what became of it, and its figures."""
    for row in study.rows:
        found: Row = {"label": row.label}
        found |= {key: cell(value) for key, value in row.varied.items()}
        found |= {"outcome": row.outcome, "place": row.place, "runs": row.runs, "planned": row.planned}
        found |= {"modelled": row.modelled, "valid": row.valid, "warnings": " ".join(row.warnings)}
        found |= {"folder": row.folder, "hash": row.hash, "peak_bytes": row.peak_bytes}
        for name, one in figures(row):
            found[name] = one.value
            found |= zip((f"{name}_{end}" for end in ENDS), _ends(one), strict=True)
        yield found


def _common(result: ExperimentResult | WindowsResult) -> Row:
    here = result.environment
    return {
        "experiment_id": result.experiment_id,
        "kind": result.kind,
        "llem": here.llem,
        "started_at": result.started_at.utc,
        "hostname": here.hostname,
        "cpu": here.cpu,
        "gpus": ", ".join(gpu.name or gpu.uuid for gpu in here.gpus) or None,
        "warnings": " ".join(dict.fromkeys(one.code for one in result.warnings)),
        **(
            {"boundary": result.boundary, "method": result.method, "valid": result.valid}
            | {"program": " ".join(result.program)}
            if isinstance(result, WindowsResult)
            else {}
        ),
    }


def _facts(result: ExperimentResult) -> Row:
    config, tokens, energy = result.config, result.tokens, result.energy
    return {
        "simulated": result.simulated,
        "model": config.model,
        "backend": config.backend,
        "precision": config.precision,
        "dataset": config.dataset.name,
        "n": config.n,
        "batch_size": config.batch_size,
        "load": None if config.load is None else config.load.in_words,
        "device": result.session.device,
        "config": json.dumps(identity(config), sort_keys=True),
        "config_hash": result.config_hash,
        "workload_hash": result.workload_hash,
        "boundary": energy.boundary,
        "method": energy.method,
        "valid": energy.valid,
        "steady": result.steady,
        "runs": len(result.measured),
        "duration_s": result.duration_s,
        "requests": tokens.requests,
        "input_tokens": tokens.input,
        "output_tokens": tokens.output,
    }


def _metrics(result: ExperimentResult) -> Metrics:
    speed, memory, derived = result.performance, result.memory, result.footprint
    server = result.server
    found = {name: of(result) for name, of in _ENERGY.items()}
    found |= {name: one for name in _SPEEDS if (one := getattr(speed, name)) is not None}
    for name in _TIMES:
        times = getattr(speed, name)
        for part in _PARTS if times is not None else ():
            if (one := getattr(times, part)) is not None:
                found[f"{name.removesuffix('_s')}_{part}_s"] = one
    found["flops"] = Estimate(speed.flops.total, "FLOP", reason=speed.flops.reason or NO_INTERVAL)
    found["peak_bytes"] = _size(memory.peak_bytes, memory.reason)
    found["weights_bytes"] = _size(memory.weights_bytes, "the engine does not say")
    if result.energy.per_good_request is not None:
        found["energy_per_good_request_j"] = result.energy.per_good_request
    for name, unit, value in (
        ("in_flight_mean", "requests", speed.in_flight_mean),
        ("schedule_lag_p50_s", "s", result.overhead.schedule_lag_p50_s),
        ("schedule_lag_p99_s", "s", result.overhead.schedule_lag_p99_s),
        ("server_output_tokens", "tokens", None if server is None else server.output_tokens),
        ("server_cache_hit_share", "1", None if server is None else server.cache_hit_share),
        ("server_acceptance_length", "tokens", None if server is None else server.acceptance_length),
    ):
        if value is not None:
            found[name] = Estimate(value, unit, reason="over all passes together: it has no interval")
    if result.quality is not None:
        found["accuracy"] = result.quality.accuracy
    if result.energy.per_correct_answer is not None:
        found["energy_per_correct_answer_j"] = result.energy.per_correct_answer
    if derived is not None:
        found |= {"carbon_g": derived.carbon_g, "cost": derived.cost}
    return found


def _size(count: int | None, why_none: str | None) -> Estimate:
    return Estimate(count, "bytes", reason=(why_none or "unknown") if count is None else NO_INTERVAL)


def _ends(one: Estimate) -> tuple[float | None, ...]:
    return one.low, one.high, *(one.systematic or (None, None))


def cell(value: Any) -> Cell:
    return value if value is None or isinstance(value, str | int | float) else setting(value)
