"""`llem run`: how do flags become a measured result, and errors an exit code?"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from pydantic import JsonValue
from tqdm import tqdm

from llenergymeasure import run_experiment
from llenergymeasure.cli._display import (
    print_dry_run,
    print_experiment_header,
    print_json,
    print_result_details,
    print_result_summary,
    reader_may_leave,
    say,
)
from llenergymeasure.cli._errors import format_error, format_validation_error, reported
from llenergymeasure.cli._progress import following
from llenergymeasure.cli._vram import get_gpu_vram_gb
from llenergymeasure.config.loader import (
    BATCH_SIZE,
    load_experiment_config,
    parse_assignments,
    resolve_origins,
)
from llenergymeasure.exceptions import ConfigError
from llenergymeasure.models.vram import estimate_vram
from llenergymeasure.results import ExperimentResult
from llenergymeasure.results.summary import failures


@dataclass(frozen=True, slots=True)
class _How:
    dry_run: bool
    quiet: bool
    verbose: bool
    as_json: bool
    strict: bool


def run(  # noqa: PLR0913  the signature is the command line
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG", help="YAML file that describes the experiment, or -")
    ] = None,
    *,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Hub id, directory, GGUF file, alias, or random:<shape>"),
    ] = None,
    backend: Annotated[
        str | None, typer.Option("--backend", "-b", help="Engine that runs the model, such as pytorch")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", "-d", help="mixed, synthetic, a JSON file, or hf:<name>")
    ] = None,
    n: Annotated[int | None, typer.Option("-n", help="Number of prompts")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Requests at once")] = None,
    precision: Annotated[
        str | None, typer.Option("--precision", "-p", help="fp32, fp16, bf16, int8 or int4")
    ] = None,
    preset: Annotated[
        str | None, typer.Option("--preset", help="smoke, quick, rigorous, ai-energy-score or mlperf-power")
    ] = None,
    meter: Annotated[
        str | None, typer.Option("--meter", help="auto, nvml, amd, rapl, apple or estimate")
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other dotted key; may be repeated"),
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Directory to save the result in")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show configuration, plan and memory; run nothing")
    ] = False,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help="Stop before the first pass where the budget is too small for an interval"
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No header and no progress")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Explain the result; show tracebacks")
    ] = False,
) -> None:
    """Measure one experiment, from a file, from flags, or from a file with flags on top."""
    flags = {
        "model": model,
        "backend": backend,
        "dataset": dataset,
        "n": n,
        BATCH_SIZE: batch_size,
        "precision": precision,
        "preset": preset,
        "energy.meter": meter,
        "output_dir": output,
    }
    given = {key: value for key, value in flags.items() if value is not None}
    with reported(verbose=verbose, explain=format_error, explain_validation=format_validation_error):
        _run_impl(config, given, assignments or [], how=_How(dry_run, quiet, verbose, as_json, strict))


def _run_impl(
    path: Path | None, flags: Mapping[str, JsonValue], assignments: list[str], *, how: _How
) -> None:
    settings = parse_assignments(assignments)
    if twice := flags.keys() & settings.keys():
        raise ConfigError(f"{', '.join(sorted(twice))}: given twice, by a flag of its own and by --set")
    overrides = {**flags, **settings}
    config = load_experiment_config(path=path, cli_overrides=overrides)
    origins = resolve_origins(path=path, cli_overrides=overrides)

    if how.dry_run:
        vram = estimate_vram(config)
        with reader_may_leave():
            print_dry_run(config, vram, gpu_vram_gb=get_gpu_vram_gb(), origins=origins, as_json=how.as_json)
        return

    if not how.quiet:
        print_experiment_header(config)
    silent = how.quiet or sys.stderr is None or not sys.stderr.isatty()
    with (
        tqdm(total=None, desc="starting", file=sys.stderr, disable=silent) as bar,
        following(bar) as progress,
    ):
        remark = say if silent else partial(tqdm.write, file=sys.stderr)
        result = run_experiment(config, origins=origins, progress=progress, remark=remark, strict=how.strict)

    try:
        if config.output_dir is not None:
            say(f"Saved: {result.save(config.output_dir)}")
        elif not how.quiet:
            say("Not saved; to keep the result and its trace: --output results")
    finally:
        # What was measured is shown even where it could not be written.
        _show(result, how)
    if failed := failures(result):
        text = "; ".join(failed)
        say(f"{text[0].upper()}{text[1:]}")
        raise typer.Exit(1)


def _show(result: ExperimentResult, how: _How) -> None:
    if how.verbose:
        print_result_details(result)
    with reader_may_leave():
        if how.as_json:
            print_json(result.as_json())
        else:
            print_result_summary(result)
