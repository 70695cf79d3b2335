"""What does a person read of an experiment and of its result?"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from itertools import chain
from typing import TYPE_CHECKING

from pydantic import JsonValue

from llenergymeasure.cli._layout import row_lines
from llenergymeasure.cli._streams import (
    WIDTH,
    bad,
    cautious,
    filled,
    print_json,
    print_lines,
    room,
    say,
    strong,
    talk,
)
from llenergymeasure.cli._vram import host_memory
from llenergymeasure.config.engines import FileMemory
from llenergymeasure.config.flat import leaves
from llenergymeasure.config.models import ENGINES, ExperimentConfig
from llenergymeasure.measure.forecast import Forecast, StepName, find_pace, forecast_at
from llenergymeasure.models.pasted import masked
from llenergymeasure.records import DatasetFacts, MeasurementWarning
from llenergymeasure.records.figures import about, duration, plain
from llenergymeasure.results import summary, windows_summary
from llenergymeasure.results.history import earlier_results
from llenergymeasure.results.models import ExperimentResult
from llenergymeasure.results.summary import Row
from llenergymeasure.results.windows import WindowsResult
from llenergymeasure.workload import load_prompts

if TYPE_CHECKING:
    from llenergymeasure.models.vram import Figures, VramEstimate


def print_experiment_header(config: ExperimentConfig) -> None:
    """What is about to be measured, on stderr: as much of it as the configuration, of any kind, offers."""

    def said(name: str, text: str) -> str:
        value = getattr(config, name, None)
        return "" if value is None else text.format(value)

    own = getattr(config, "engine", None)
    size = getattr(own, "static_batch", None)
    # What a file holds, where an engine computes with that, the summary can tell.
    filed = isinstance(getattr(own, "filed", None), FileMemory)
    what = (
        said("model", "{}") + said("backend", " on {}"),
        "" if filed else said("precision", "{}"),
        "" if size is None else f"batch size {size}",
    )
    dataset = getattr(config, "dataset", None)
    of = "" if dataset is None else f" of {getattr(dataset, 'name', dataset)}"
    longest = said("max_input_tokens", "{} tokens in"), said("max_output_tokens", "{} out")
    work = (
        said("n", "{} prompt" if getattr(config, "n", None) == 1 else "{} prompts") + of,
        f"up to {' and '.join(filter(None, longest))}" if any(longest) else "",
        said("output_dir", "results to {}"),
    )
    for parts in (what, work):
        talk(masked(", ".join(filter(None, parts))))


def print_result_summary(result: ExperimentResult) -> None:
    """The result as a person reads it, on stdout: what it cost first, what weakens it last."""
    energy, speed = summary.sections(result)
    table = list(row_lines([*energy, *speed]))
    lines = [*map(strong, filled(summary.heading(result))), "", *chain(*table[: len(energy)])]
    for text in summary.legend(result.energy):
        lines += filled(text, indent="  ")
    lines += ["", *chain(*table[len(energy) :]), *_warning_lines(result.warnings)]
    print_lines(lines)


def print_any(result: ExperimentResult | WindowsResult, *, as_json: bool) -> None:
    """A result of either kind on stdout, as its file or as a person reads it."""
    if as_json:
        print_json(result)
    elif isinstance(result, WindowsResult):
        print_windows_summary(result)
    else:
        print_result_summary(result)


def print_windows_summary(result: WindowsResult) -> None:
    """The same of windows in somebody's own code, or of a command."""
    lines = [strong(line) for line in filled(windows_summary.heading(result))]
    lines += [strong(line) for reason in result.reasons for line in filled(f"Energy is not valid: {reason}")]
    for head, rows in windows_summary.sections(result):
        lines += ["", *filled(head), *chain(*row_lines(rows))]
    lines += _warning_lines(result.warnings)
    print_lines(lines)


def _warning_lines(warnings: Iterable[MeasurementWarning]) -> Iterator[str]:
    for warning in warnings:
        first, *more = filled(f"Warning: {warning.message} ({warning.code})")
        yield from ("", cautious(first), *map(cautious, more), *filled(f"→ {warning.remedy}", indent="  "))


def print_result_details(result: ExperimentResult) -> None:
    """How to read the summary and what its sums are made of, on stderr."""
    for text in summary.explanation(result):
        talk(text)
    say("")


def print_dry_run(
    config: ExperimentConfig,
    vram: VramEstimate,
    *,
    gpu_vram_gb: float | None,
    origins: Mapping[str, str],
    as_json: bool = False,
) -> None:
    """What a run would do, on stdout; ConfigError where the dataset has too few prompts for it."""
    prompts = load_prompts(config).facts
    refused = _refused(config)
    plan = forecast_here(config, gpu=gpu_vram_gb is not None)
    if as_json:
        print_json(
            {
                "config": config.model_dump(mode="json"),
                "origins": dict(origins),
                "plan": plan_as_json(config, plan),
                "vram": asdict(vram),
                "gpu_vram_gb": gpu_vram_gb,
                "refused": "; ".join(refused) or None,
            }
        )
        return
    lines = [
        strong("Configuration"),
        *_configuration(config, origins),
        "",
        strong("Plan"),
        *chain(*row_lines([*plan_rows(config, plan), *_prompts(config, prompts)])),
        "",
        *([] if vram.model is None else [strong("Model"), *_model(vram.model), ""]),
        strong("Memory"),
        *_memory(vram, gpu_vram_gb if config.engine.uses_gpus is not False else None),
        "",
        *(bad(f"This run would be refused: {reason}") for reason in refused),
        *([""] if refused else []),
        "Nothing was loaded or measured.",
    ]
    print_lines(lines)


def _prompts(config: ExperimentConfig, facts: DatasetFacts) -> Iterator[Row]:
    if notes := list(facts.notes()):
        yield Row("prompts", f"{facts.prompts} of {config.prompts_from}", "; ".join(notes))


def _refused(config: ExperimentConfig) -> tuple[str, ...]:
    # Meters import numpy, which no other command needs.
    from llenergymeasure.measure.preflight import reasons_against

    return reasons_against(config)


def _configuration(config: ExperimentConfig, origins: Mapping[str, str]) -> Iterator[str]:
    dumped = leaves(config.model_dump(mode="json"))
    values = {key: value if isinstance(value, str) else json.dumps(value) for key, value in dumped}
    given = [key for key in values if origins.get(key, "default") != "default"]
    yield from chain(*row_lines(Row(key, values[key], origins[key]) for key in given))
    sections: dict[str, list[str]] = {}
    for key, value in values.items():
        section, dot, name = key.partition(".")
        is_in_force = section == config.backend or section not in {*ENGINES, "options"}
        if key not in given and is_in_force:
            sections.setdefault(section if dot else "", []).append(f"{name or key}\u00a0=\u00a0{value}")
    if sections:
        yield "  by default:"
    for section, fields in sections.items():
        head = f"{section}: " if section else ""
        yield from filled(head + ", ".join(fields), indent="    ", width=min(WIDTH, room()))


def _model(model: Figures) -> Iterator[str]:
    rows = []
    if model.parameters is not None:
        beside = model.parameters - (model.text_parameters or model.parameters)
        note = (
            f"{model.text_parameters:,} of the text model, {beside:,} of its vision tower" if beside else ""
        )
        rows.append(Row("parameters", f"{model.parameters:,}", note))
    elif model.text_parameters is not None:
        rows.append(Row("parameters", f"{model.text_parameters:,}", f"of the text model: {model.reason}"))
    if model.active_parameters is not None:
        rows.append(
            Row("active", f"{model.active_parameters:,}", "that one token of text meets, tables included")
        )
    if model.kv_bytes_per_token is not None:
        rows.append(Row("KV per token", f"{model.kv_bytes_per_token:,} bytes", model.kv_layers or ""))
    if model.state_bytes:
        rows.append(Row("state", f"{model.state_bytes:,} bytes", "of one request, at any length"))
    context = "no length is stated" if model.context is None else f"{model.context:,} tokens"
    rows.append(Row("context", context, ""))
    yield from chain(*row_lines(rows))
    if model.family is None and model.reason:
        yield from filled(f"No FLOPs: {model.reason}", indent="  ")


def _memory(vram: VramEstimate, gpu_vram_gb: float | None) -> Iterator[str]:
    if vram.total_bytes is None:
        yield from filled(f"– {vram.reason}", indent="  ")
        return
    there, which = (None, "") if gpu_vram_gb is None else (gpu_vram_gb * 1e9, "the GPU's {}")
    if there is None:
        there, which = host_memory()
    against = "how much memory there is for it is unknown"
    if there is not None:
        share = vram.total_bytes / there
        fits = "fits" if share <= 1 else "does not fit"
        against = f"{plain(share, '1')} of {which.format(plain(there, 'B'))}: {fits}"
    rows = [Row(part.name, plain(part.bytes, "B"), part.formula) for part in vram.parts]
    rows.append(Row("total", plain(vram.total_bytes, "B"), against, strong=True))
    yield from chain(*row_lines(rows))
    yield from filled(f"total = {vram.formula}; shape from {vram.source}", indent="  ")


NAMES: Mapping[StepName, str] = {
    "cooling": "cooling",
    "bare": "idle, bare",
    "load": "load",
    "loaded": "idle, loaded",
    "warm_up": "warm-up",
    "full": "passes",
    "prefill": "prefill passes",
    "after": "idle, after",
}


def forecast_here(config: ExperimentConfig, *, gpu: bool) -> Forecast:
    """From what this machine did before, where the output directory has it."""
    return forecast_at(config, find_pace(config, earlier_results(config, socket.gethostname()), gpu=gpu))


def plan_rows(config: ExperimentConfig, plan: Forecast) -> Iterator[Row]:
    """The steps of one run, how often they are repeated, and what that comes to."""
    for step in plan.steps:
        most = f"{about(step.most_s)} at most" if step.most_s > step.seconds else ""
        yield Row(
            NAMES[step.name], f"about {about(step.seconds)}", "; ".join(filter(None, (most, step.note)))
        )
    asked, budget = config.repeats, config.passes.budget
    runs = f"{plan.runs} run{'' if plan.runs == 1 else 's'}"
    note = "each in a fresh process" if plan.runs > 1 else "a single process"
    if plan.runs < asked.count:
        limits = f"{budget.passes} passes, {duration(budget.seconds)}"
        note += f"; the budget ({limits}) is too small for {asked.count} by this forecast"
    if plan.most_runs > plan.runs and asked.target is not None:
        note += f"; up to {plan.most_runs} for ± {asked.target * 100:.3g} %"
    yield Row("repeats", runs, note)
    ends = [f"a run times out after {duration(config.timeout_s)} (timeout_s)"]
    if plan.most_s > plan.seconds:
        ends.insert(0, f"{about(plan.most_s)} at most")
    yield Row("expected", f"about {about(plan.seconds)}", "; ".join(ends), strong=True)
    yield Row("", "", f"Expected times are {plan.source}")


def plan_as_json(config: ExperimentConfig, plan: Forecast) -> dict[str, JsonValue]:
    return {
        "steps": [asdict(step) for step in plan.steps],
        "runs": plan.runs,
        "most_runs": plan.most_runs,
        "expected_s": [plan.seconds, max(plan.seconds, plan.most_s)],
        "source": plan.source,
        "timeout_s": config.timeout_s,
    }
