"""`llem run`: how do flags become a measured result, and errors an exit code?"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import typer
from pydantic import JsonValue, ValidationError
from tqdm import tqdm

from llenergymeasure.api import run_experiment
from llenergymeasure.cli._display import (
    print_dry_run,
    print_experiment_header,
    print_result_details,
    print_result_summary,
)
from llenergymeasure.cli._errors import format_error, format_validation_error, reported
from llenergymeasure.cli._progress import following, remark
from llenergymeasure.cli._streams import print_json, print_lines, say_saved, talk
from llenergymeasure.cli._vram import get_gpu_vram_gb
from llenergymeasure.config.loader import (
    by_section,
    load_experiment_config,
    parse_assignments,
)
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.config.study import is_study, several, study_text
from llenergymeasure.config.yaml import read_mapping
from llenergymeasure.exceptions import ConfigError, ResultError
from llenergymeasure.models.vram import estimate_vram
from llenergymeasure.results import ExperimentResult
from llenergymeasure.results.summary import failures


@dataclass(frozen=True, slots=True)
class How:
    dry_run: bool
    quiet: bool
    verbose: bool
    as_json: bool
    strict: bool


def run(
    path: Path | None,
    flags: Mapping[str, JsonValue],
    assignments: list[str],
    *,
    how: How,
    of_study: Mapping[str, object] | None = None,
) -> None:
    """`flags` are those given of the flags that stand for a key, by that key; `of_study` those given of the
    flags that are for studies.
    """
    with reported(verbose=how.verbose, explain=format_error, explain_validation=format_validation_error):
        _run_impl(path, flags, assignments, how=how, of_study=of_study or {})


def _run_impl(
    path: Path | None,
    flags: Mapping[str, JsonValue],
    assignments: list[str],
    *,
    how: How,
    of_study: Mapping[str, object],
) -> None:
    settings = parse_assignments(assignments)
    if twice := flags.keys() & settings.keys():
        raise ConfigError(f"{', '.join(sorted(twice))}: given twice, by a flag of its own and by --set")
    overrides = {**flags, **settings}
    if path is not None and _holds_study(path):
        from llenergymeasure.cli import study

        study.run(path, overrides, of_study, how=how)
        return
    if of_study:
        raise ConfigError(
            f"{', '.join(of_study)}: for a study, and this is one experiment",
            hint="a study file has sweep: or experiments:",
        )
    config = _one_experiment(path, overrides)

    if how.dry_run:
        vram = estimate_vram(config)
        print_dry_run(
            config, vram, gpu_vram_gb=get_gpu_vram_gb(), origins=config.origins, as_json=how.as_json
        )
        return
    _measure(config, how)


def _holds_study(path: Path) -> bool:
    try:
        return is_study(read_mapping(path))
    except ConfigError:
        return False  # what is wrong with it is said where it is loaded


def _one_experiment(path: Path | None, overrides: Mapping[str, JsonValue]) -> ExperimentConfig:
    """ConfigError with the study file that would do it, where a key is given several values."""
    found = several(overrides)
    first = {key: values[0] for key, values in (found or {}).items() if isinstance(values, list)}
    try:
        config = load_experiment_config(path=path, cli_overrides={**overrides, **first})
        if not found:
            return config
    except ValidationError as error:
        if (found := several(by_section(path, overrides), error)) is None:
            raise
    print_lines(study_text(path, by_section(path, overrides), found).splitlines())
    raise ConfigError(
        f"{', '.join(found)}: several values are a study, and this is one experiment",
        hint="save the lines on stdout as study.yaml, then: llem run study.yaml --output results",
    )


def _measure(config: ExperimentConfig, how: How) -> None:
    if not how.quiet:
        print_experiment_header(config)
    silent = how.quiet or sys.stderr is None or not sys.stderr.isatty()
    with (
        tqdm(total=None, file=sys.stderr, disable=silent, leave=False, bar_format="{desc}") as bar,
        following(bar, quiet=how.quiet) as progress,
    ):
        try:
            result = run_experiment(
                config,
                origins=config.origins,
                progress=progress,
                remark=None if how.quiet else partial(remark, bar),
                strict=how.strict,
            )
        except ResultError as error:
            # What was measured is shown even where it could not be written.
            if isinstance(error.result, ExperimentResult):
                _show(error.result, how)
            raise

    saved = None if config.output_dir is None else result.save(config.output_dir)
    if saved is not None and not how.quiet:
        say_saved(saved)
    elif not how.quiet:
        talk("Not saved; to keep the result and its trace: --output results")
    _show(result, how)
    if failures(result):
        raise typer.Exit(1)


def _show(result: ExperimentResult, how: How) -> None:
    if how.verbose:
        print_result_details(result)
    if how.as_json:
        print_json(result.as_json())
    else:
        print_result_summary(result)
