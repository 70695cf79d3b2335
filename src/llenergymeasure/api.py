"""What the command line calls and a notebook imports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from weakref import finalize

from llenergymeasure.config.loader import load_experiment_config
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import ConfigError
from llenergymeasure.records import Progress
from llenergymeasure.results import ExperimentResult


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
    of its values came from and is stored with the result; `progress` is told of every phase, and `remark`
    what a user should read on the way. With `strict` a budget that leaves too little for an interval is a
    ConfigError. Nothing is stored until `result.save(directory)`.

    Raises ConfigError, or pydantic's ValidationError where a value is not allowed, PreFlightError (every
    reason why this machine can't, before anything is loaded), EnergyError, BackendError, and ExperimentError
    with a `failure` when the run itself ended badly. A run that fails after another was measured is named in
    `result.runs`.
    """
    from llenergymeasure.analysis.metrics import metrics
    from llenergymeasure.measure.repeats import repeat

    valid = _validated(config)
    with repeat(
        valid,
        origins=valid.origins if origins is None else origins,
        tell=progress or _silent,
        remark=remark or _unheard,
        strict=strict,
    ) as finished:
        files = finished.files
        result = metrics(finished.measurements, failed=finished.failed).attach(files.keep())
        # The folder stays locked for as long as the result may still be saved.
        finalize(result, files.release)
        return result


def _validated(config: ExperimentConfig | Mapping[str, object] | str | Path) -> ExperimentConfig:
    """One that holds no value that is not allowed: `model_copy` and `model_construct` check none."""
    match config:
        case ExperimentConfig():
            values = config.model_dump(warnings=False)
            return ExperimentConfig.model_validate(values).with_origins(config.origins)
        case str() | Path():
            return load_experiment_config(config)
        case Mapping():
            return ExperimentConfig.model_validate(dict(config))
    raise ConfigError(
        f"run_experiment was given {type(config).__name__}, not a configuration",
        hint="give an ExperimentConfig, a mapping of its keys, or the path of a YAML file",
    )


def _silent(description: str, **_: object) -> None:
    pass


def _unheard(text: str) -> None:
    pass
