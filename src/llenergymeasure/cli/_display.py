"""What is printed, and on which stream: data to stdout, talk to stderr."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import chain
from typing import TYPE_CHECKING, TextIO

import typer
from pydantic import JsonValue

from llenergymeasure.cli import _plan
from llenergymeasure.config.engines import FileMemory
from llenergymeasure.config.flat import leaves
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import ResultError
from llenergymeasure.records import MeasurementWarning
from llenergymeasure.records.figures import plain
from llenergymeasure.results import summary, windows_summary
from llenergymeasure.results.models import ExperimentResult
from llenergymeasure.results.summary import Row, columns
from llenergymeasure.results.windows import WindowsResult
from llenergymeasure.workload import load_prompts

if TYPE_CHECKING:
    from llenergymeasure.models.vram import VramEstimate

WIDTH = 100
UNBROKEN = 10_000
# A note narrower than this goes below its row rather than beside it.
NARROW = 36

# For a terminal that has no such signs.
_STAND_INS = {"±": "+/-", "≈": "~", "–": "-", "→": "->", "−": "-", "·": "-", "×": "x"}


def say(text: str) -> None:
    """Talk: a line on stderr."""
    _write(text, sys.stderr)


def print_experiment_header(config: ExperimentConfig) -> None:
    """What is about to be measured, on stderr."""
    dataset = getattr(config.dataset, "name", config.dataset)
    own = getattr(config, "engine", None)
    size = getattr(own, "static_batch", None)
    batch = "" if size is None else f", batch size {size}"
    target = f", results to {config.output_dir}" if config.output_dir is not None else ""
    # What a file holds, where an engine computes with that, the summary can tell.
    precision = "" if isinstance(getattr(own, "filed", None), FileMemory) else f", {config.precision}"
    _talk(f"{config.model} on {config.backend}{precision}{batch}")
    prompts = "1 prompt" if config.n == 1 else f"{config.n} prompts"
    _talk(
        f"{prompts} of {dataset}, up to {config.max_input_tokens} tokens in "
        f"and {config.max_output_tokens} out{target}"
    )


def _talk(text: str) -> None:
    for line in filled(text):
        say(line)


def print_result_summary(result: ExperimentResult) -> None:
    """The result as a person reads it, on stdout: what it cost first, what weakens it last."""
    energy, speed = summary.sections(result)
    table = list(_table([*energy, *speed]))
    lines = [*map(_strong, filled(summary.heading(result))), "", *chain(*table[: len(energy)])]
    for text in summary.legend(result.energy):
        lines += filled(text, indent="  ")
    lines += ["", *chain(*table[len(energy) :]), *_warning_lines(result.warnings)]
    _write("\n".join(lines), sys.stdout)


def print_windows_summary(result: WindowsResult) -> None:
    """The same of windows in somebody's own code, or of a command."""
    lines = [_strong(line) for line in filled(windows_summary.heading(result))]
    lines += [_strong(line) for reason in result.reasons for line in filled(f"Energy is not valid: {reason}")]
    for head, rows in windows_summary.sections(result):
        lines += ["", *filled(head), *chain(*_table(rows))]
    lines += _warning_lines(result.warnings)
    _write("\n".join(lines), sys.stdout)


def _warning_lines(warnings: Iterable[MeasurementWarning]) -> Iterator[str]:
    for warning in warnings:
        first, *more = filled(f"Warning: {warning.message} ({warning.code})")
        yield from ("", _strong(first), *map(_strong, more), *filled(f"→ {warning.remedy}", indent="  "))


def print_result_details(result: ExperimentResult) -> None:
    """How to read the summary and what its sums are made of, on stderr."""
    for text in summary.explanation(result):
        _talk(text)
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
    """What a run would do, on stdout; ConfigError where the dataset has too few prompts for it."""
    load_prompts(config)
    refused = _refused(config)
    plan = _plan.forecast_here(config, gpu=gpu_vram_gb is not None)
    if as_json:
        print_json(
            {
                "config": config.model_dump(mode="json"),
                "origins": dict(origins),
                "plan": _plan.as_json(config, plan),
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
        *chain(*_table(_plan.plan_rows(config, plan))),
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
    # Meters import numpy, which no other command needs.
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
    dumped = leaves(config.model_dump(mode="json"))
    values = {key: value if isinstance(value, str) else json.dumps(value) for key, value in dumped}
    given = [key for key in values if origins.get(key, "default") != "default"]
    yield from chain(*_table(Row(key, values[key], origins[key]) for key in given))
    yield "  by default:"
    sections: dict[str, list[str]] = {}
    for key, value in values.items():
        if key not in given:
            section, dot, name = key.partition(".")
            sections.setdefault(section if dot else "", []).append(f"{name or key}\u00a0=\u00a0{value}")
    for section, fields in sections.items():
        head = f"{section}: " if section else ""
        yield from filled(head + ", ".join(fields), indent="    ", width=min(WIDTH, room()))


def _memory(vram: VramEstimate, gpu_vram_gb: float | None) -> Iterator[str]:
    if vram.total_bytes is None:
        yield from filled(f"– {vram.reason}", indent="  ")
        return
    against = "no GPU was found to compare it with"
    if gpu_vram_gb is not None:
        share = vram.total_bytes / (gpu_vram_gb * 1e9)
        fits = "fits" if share <= 1 else "does not fit"
        against = f"{share * 100:.3g} % of the GPU's {plain(gpu_vram_gb * 1e9, 'B')}: {fits}"
    rows = [Row(part.name, plain(part.bytes, "B"), part.formula) for part in vram.parts]
    rows.append(Row("total", plain(vram.total_bytes, "B"), against, strong=True))
    yield from chain(*_table(rows))
    yield from filled(f"total = {vram.formula}; shape from {vram.source}", indent="  ")


def _table(rows: Iterable[Row]) -> Iterator[list[str]]:
    """The lines of each row: one where that fits; else the note continues beside it or goes below."""
    rows, most = list(rows), room()
    labels = max((len(row.label) for row in rows), default=0)
    values = max((len(row.value) for row in rows), default=0)
    beside = 2 + labels + 2 + values + 2
    for row in rows:
        label = f"  {row.label.ljust(labels)}  "
        near = len(label) + (len(row.value) + 2 if row.value else 0)
        head = label + (_strong(row.value) if row.strong else row.value)
        padded = head + " " * (beside - len(label) - len(row.value))
        if beside + len(row.note) <= most and row.value:
            yield [f"{padded}{row.note}".rstrip()]
        elif near + len(row.note) <= most:
            yield [f"{head}{'  ' if row.value else ''}{row.note}".rstrip()]
        elif most - beside >= NARROW:
            first, *more = filled(row.note, width=most - beside)
            yield [padded + first, *(" " * beside + line for line in more)]
        else:
            fits = near - 2 <= most or not row.value
            above = [head.rstrip()] if fits else [f"  {row.label}", f"    {head.removeprefix(label)}"]
            yield [*filter(None, above), *filled(row.note, indent=" " * 6)]


def fitting(
    rows: Sequence[Sequence[str]], *, indent: str = "  ", width: int | None = None
) -> Iterator[list[str]]:
    """The lines of each row in columns below a row of heads; where that is too wide, `head: cell` by row."""
    width = width or room()
    lines = [f"{indent}{line}" for line in columns(rows)]
    if max(map(len, lines)) <= width:
        yield from ([line] for line in lines)
        return
    yield []
    for row in rows[1:]:
        cells = [f"{head}: {cell}" for head, cell in zip(rows[0][1:], row[1:], strict=False) if cell]
        yield [f"{indent}{row[0]}", *filled("; ".join(cells), indent=f"{indent}  ", width=width)]


def filled(text: str, *, indent: str = "", width: int | None = None) -> list[str]:
    """The text in lines that the terminal holds, broken between words, and not within `± 2 %`."""
    lines = textwrap.wrap(
        re.sub(r"(?<=[±≈]) | (?=%)", "\u00a0", text),
        width or room(),
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace("\u00a0", " ") for line in lines]


def room() -> int:
    """Columns of the terminal, or of COLUMNS; lines for a file or another program are not broken."""
    on_terminal = sys.stdout is not None and sys.stdout.isatty()
    if on_terminal:
        return max(40, shutil.get_terminal_size((WIDTH, 24)).columns)
    asked = os.environ.get("COLUMNS", "")
    return max(40, int(asked)) if asked.isdecimal() else UNBROKEN


def _strong(text: str) -> str:
    on_terminal = sys.stdout is not None and sys.stdout.isatty() and "NO_COLOR" not in os.environ
    return typer.style(text, bold=True) if on_terminal else text


def _write(text: str, stream: TextIO | None) -> None:
    """A stream that was closed before the program began is None, and nobody reads it."""
    if stream is None:
        return
    encoding = stream.encoding or "utf-8"
    for sign, stand_in in _STAND_INS.items():
        if sign.encode(encoding, "ignore") == b"":
            text = text.replace(sign, stand_in)
    print(text.encode(encoding, "replace").decode(encoding), file=stream)
