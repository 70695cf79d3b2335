"""What the command line calls and a notebook imports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pydantic import JsonValue

from llenergymeasure.config.loader import load_experiment_config, read_sources, resolve
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import ConfigError
from llenergymeasure.records import Progress
from llenergymeasure.results import ExperimentResult
from llenergymeasure.results.study import StudyResult

if TYPE_CHECKING:
    from llenergymeasure.study.run import How, Step


def run_experiment(
    config: ExperimentConfig | Mapping[str, object] | str | Path,
    *,
    origins: Mapping[str, str] | None = None,
    progress: Progress | None = None,
    remark: Callable[[str], None] | None = None,
    strict: bool = False,
) -> ExperimentResult:
    """Measure one experiment, each run in a process of its own, and return what it cost.

    `config` is a configuration, a mapping of its keys, or the path of a YAML file. `origins` says where each
    of its values came from and is stored with the result; `progress` is called in every phase, and `remark`
    what a user should read on the way. With `strict` a budget that leaves too little for an interval is a
    ConfigError.

    With `output_dir` the files of the runs and the result are stored in it. Without one nothing is: the
    traces are temporary, and the result says so. An interruption (Ctrl-C, SystemExit) after a run was
    measured is raised again once the runs before it are stored.

    Raises ConfigError, or pydantic's ValidationError where a value is not allowed, PreFlightError (every
    reason why this machine can't, before anything is loaded), EnergyError, BackendError, and ExperimentError
    with a `failure` when the run itself ended badly. A run that fails after another was measured is named in
    `result.runs`. ResultError, with the `result`, where it can't be stored.
    """
    from llenergymeasure.analysis.metrics import experiment_result
    from llenergymeasure.measure.repeats import repeat
    from llenergymeasure.results.store import save_or_rescue, untraced

    remark, valid = remark or _unheard, _validated(config)
    with repeat(
        valid,
        origins=valid.origins if origins is None else origins,
        tell=progress or _silent,
        remark=remark,
        strict=strict,
    ) as finished:
        result = experiment_result(finished.energies, failed=finished.failed)
    if valid.output_dir is None:
        result = untraced(result)
    else:
        folder = save_or_rescue(result, valid.output_dir)
    if finished.ended_by is not None:
        count = f"{len(result.measured)} of {valid.repeats.count} runs"
        if valid.output_dir is None:
            remark(f"Discarded what was measured ({count}); to keep it next time: --output results")
        else:
            remark(f"Saved: {folder} ({count})")
        raise finished.ended_by
    return result


def run_study(
    study: str | Path | Mapping[str, JsonValue],
    *,
    output_dir: str | Path | None = None,
    how: How | None = None,
    progress: Callable[[Step], None] | None = None,
    remark: Callable[[str], None] | None = None,
    overrides: Mapping[str, JsonValue] | None = None,
    execution: Mapping[str, JsonValue] | None = None,
) -> StudyResult:
    """Run every experiment of a study, a file or a mapping of its keys, and return a row for each.

    Results go to a folder that is named after the study, in `output_dir`, else in that of the file. `how`
    says whether to go on with a study that is there; `progress` is called before and after each run, and
    `remark` with what a user should read. `overrides` are dotted keys for every experiment, `execution` those
    of the file's section of that name. Failed runs are in the result and raise nothing; Ctrl-C and SystemExit
    are raised again once the study's file is written.

    Raises ConfigError where the study has no meaning, and ResultError where its folder is another study's,
    another process's, or can't be written.
    """
    from llenergymeasure.study import start

    planned = start.planned(study, overrides=overrides, execution=execution)
    return start.run(
        planned,
        start.folder_of(planned, output_dir),
        how=how,
        tell=progress or _no_step,
        remark=remark or _unheard,
    )


def _no_step(step: Step) -> None:
    pass


def _validated(config: ExperimentConfig | Mapping[str, object] | str | Path) -> ExperimentConfig:
    """One that holds no value that is not allowed: `model_copy` and `model_construct` check none."""
    match config:
        case ExperimentConfig():
            values = config.model_dump(warnings=False)
            return ExperimentConfig.model_validate(values).with_origins(config.origins)
        case "":
            raise ConfigError(
                "run_experiment was given an empty path; is the variable that it comes from set?"
            )
        case str() | Path():
            return load_experiment_config(config)
        case Mapping():
            # As a file that holds it: presets, suggestions and refusals are the same.
            return resolve(read_sources(content=cast("Mapping[str, JsonValue]", config), origin="mapping"))
    raise ConfigError(
        f"run_experiment was given {type(config).__name__}, not a configuration",
        hint="give an ExperimentConfig, a mapping of its keys, or the path of a YAML file",
    )


def _silent(description: str, **_: object) -> None:
    pass


def _unheard(text: str) -> None:
    pass
