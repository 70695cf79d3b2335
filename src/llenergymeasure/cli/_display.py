"""What is printed, and on which stream: data to stdout, talk to stderr."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, TextIO

import typer
from pydantic import JsonValue

from llenergymeasure.cli import _plan, _summary
from llenergymeasure.cli._format import duration, plain
from llenergymeasure.cli._summary import Row
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import ResultError
from llenergymeasure.results.models import ExperimentResult
from llenergymeasure.workload import load_prompts

if TYPE_CHECKING:
    from llenergymeasure.models.vram import VramEstimate

WIDTH = 100

# For a terminal that has no such signs.
_STAND_INS = {"±": "+/-", "≈": "~", "–": "-", "→": "->", "−": "-", "·": "-", "×": "x"}


def say(text: str) -> None:
    """Talk: a line on stderr."""
    _write(text, sys.stderr)


def print_experiment_header(config: ExperimentConfig) -> None:
    """What is about to be measured, on stderr."""
    dataset = getattr(config.dataset, "name", config.dataset)
    batch = f", batch size {config.pytorch.batch_size}" if config.backend == "pytorch" else ""
    target = f", results to {config.output_dir}" if config.output_dir is not None else ""
    # llama.cpp computes with what the file holds, which the summary can tell.
    precision = "" if config.backend == "llamacpp" else f", {config.precision}"
    say(f"{config.model} on {config.backend}{precision}{batch}")
    prompts = "1 prompt" if config.n == 1 else f"{config.n} prompts"
    say(
        f"{prompts} of {dataset}, up to {config.max_input_tokens} tokens in "
        f"and {config.max_output_tokens} out{target}"
    )


def print_result_summary(result: ExperimentResult) -> None:
    """The result as a person reads it, on stdout: what it cost first, what weakens it last."""
    lines = [_strong(_summary.heading(result)), ""]
    energy = [*_summary.energy_rows(result.energy), *_summary.footprint_rows(result)]
    speed = list(_summary.speed_rows(result))
    widths = _widths([*energy, *speed])
    lines += [*_table(energy, widths), "", *_table(speed, widths)]
    for warning in result.warnings:
        lines += ["", f"{_strong(f'Warning: {warning.message}')} ({warning.code})", f"  → {warning.remedy}"]
    _write("\n".join(lines), sys.stdout)


def print_result_details(result: ExperimentResult) -> None:
    """How to read the summary and what its sums are made of, on stderr."""
    for line in _summary.explanation(result):
        say(line)
    say("")


def print_lines(lines: Iterable[str]) -> None:
    """Data that a person reads, on stdout."""
    _write("\n".join(lines), sys.stdout)


def print_json(value: JsonValue) -> None:
    """One JSON object on stdout."""
    _write(json.dumps(value, indent=2, allow_nan=False), sys.stdout)


def print_dry_run(
    config: ExperimentConfig,
    vram: VramEstimate,
    *,
    gpu_vram_gb: float | None,
    origins: Mapping[str, str],
    as_json: bool = False,
) -> None:
    """What a run would do, on stdout: configuration with origins, plan, expected time and memory.

    ConfigError where the dataset can't serve it.
    """
    load_prompts(config)
    refused = _refused(config)
    if as_json:
        print_json(
            {
                "config": config.model_dump(mode="json"),
                "origins": dict(origins),
                "plan": _plan.as_json(config),
                "vram": asdict(vram),
                "gpu_vram_gb": gpu_vram_gb,
                "refused": "; ".join(refused) or None,
            }
        )
        return
    lines = [
        _strong("Configuration"),
        *_configuration(config, origins),
        "",
        _strong("Plan"),
        *_planned(config),
        "",
        _strong("Memory"),
        *_memory(vram, gpu_vram_gb),
        "",
        *(_strong(f"This run would be refused: {reason}") for reason in refused),
        *([""] if refused else []),
        "Nothing was loaded or measured.",
    ]
    _write("\n".join(lines), sys.stdout)


def _refused(config: ExperimentConfig) -> tuple[str, ...]:
    # Meters bring numpy along, which no other command line has to wait for.
    from llenergymeasure.measure.preflight import reasons_against

    return reasons_against(config)


@contextmanager
def reader_may_leave() -> Iterator[None]:
    """For what prints to stdout: where its reader, such as `head`, has gone, end with 1 and no traceback.

    ResultError where stdout can't be written for another reason.
    """
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        # the interpreter flushes once more on its way out and would complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise typer.Exit(1) from None
        raise ResultError(f"stdout can't be written: {error.strerror}") from error


def _configuration(config: ExperimentConfig, origins: Mapping[str, str]) -> Iterator[str]:
    values = dict(_flat(config.model_dump(mode="json")))
    given = [key for key in values if origins.get(key, "default") != "default"]
    rows = [Row(key, values[key], origins[key]) for key in given]
    yield from _table(rows, _widths(rows))
    yield "  by default:"
    sections: dict[str, list[str]] = {}
    for key, value in values.items():
        if key not in given:
            section, dot, name = key.partition(".")
            sections.setdefault(section if dot else "", []).append(f"{name or key}\u00a0=\u00a0{value}")
    for section, fields in sections.items():
        head = f"{section}: " if section else ""
        text = textwrap.fill(
            head + ", ".join(fields),
            WIDTH,
            initial_indent="    ",
            subsequent_indent="      ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        yield text.replace("\u00a0", " ")


def _planned(config: ExperimentConfig) -> Iterator[str]:
    rows = [Row(step.name, _range(step.low_s, step.high_s), step.note) for step in _plan.steps(config)]
    low, high = _plan.expected_s(config)
    limit = f"ended after {duration(config.timeout_s)} (timeout_s)"
    rows.append(Row("expected", _range(low, high), limit, strong=True))
    yield from _table(rows, _widths(rows))


def _memory(vram: VramEstimate, gpu_vram_gb: float | None) -> Iterator[str]:
    if vram.total_bytes is None:
        yield f"  – {vram.reason}"
        return
    against = "no GPU was found to compare it with"
    if gpu_vram_gb is not None:
        share = vram.total_bytes / (gpu_vram_gb * 1e9)
        fits = "fits" if share <= 1 else "does not fit"
        against = f"{share * 100:.3g} % of the GPU's {plain(gpu_vram_gb * 1e9, 'B')}: {fits}"
    rows = [Row(part.name, plain(part.bytes, "B"), part.formula) for part in vram.parts]
    rows.append(Row("total", plain(vram.total_bytes, "B"), against, strong=True))
    yield from _table(rows, _widths(rows))
    yield f"  total = {vram.formula}; shape from {vram.source}"


def _flat(value: Mapping[str, JsonValue], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, inner in value.items():
        if isinstance(inner, dict):
            yield from _flat(inner, f"{prefix}{key}.")
        else:
            yield prefix + key, inner if isinstance(inner, str) else json.dumps(inner)


def _range(low: float, high: float) -> str:
    if low == high:
        return duration(low)
    if low == 0:
        return f"up to {duration(high)}"
    first, last = duration(low), duration(high)
    same = first.partition(" ")[2] == last.partition(" ")[2]
    return f"{first.partition(' ')[0] if same else first} to {last}"


def _widths(rows: Iterable[Row]) -> tuple[int, int]:
    rows = list(rows)
    return max((len(row.label) for row in rows), default=0), max((len(row.value) for row in rows), default=0)


def _table(rows: Iterable[Row], widths: tuple[int, int]) -> Iterator[str]:
    for row in rows:
        label, value = row.label.ljust(widths[0]), row.value.ljust(widths[1])
        text = f"  {label}  {_strong(value) if row.strong else value}  {row.note}"
        yield text.rstrip()


def _strong(text: str) -> str:
    on_terminal = sys.stdout is not None and sys.stdout.isatty() and "NO_COLOR" not in os.environ
    return typer.style(text, bold=True) if on_terminal else text


def _write(text: str, stream: TextIO | None) -> None:
    """A stream that was closed before the program began is None, and nobody reads it."""
    if stream is None:
        return
    encoding = stream.encoding or "utf-8"
    for sign, stand_in in _STAND_INS.items():
        if not _known(sign, encoding):
            text = text.replace(sign, stand_in)
    print(text.encode(encoding, "replace").decode(encoding), file=stream)


def _known(sign: str, encoding: str) -> bool:
    try:
        sign.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True
