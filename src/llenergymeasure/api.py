"""What the command line calls and a notebook imports."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.records import Progress
from llenergymeasure.results import ExperimentResult


def run_experiment(
    config: ExperimentConfig,
    *,
    origins: Mapping[str, str] | None = None,
    progress: Progress | None = None,
    remark: Callable[[str], None] | None = None,
    strict: bool = False,
) -> ExperimentResult:
    """Measure one experiment, each run in a process of its own, and return what it cost.

    `origins` says where each value of the configuration came from and is stored with the result; `progress`
    is told of every phase, and `remark` what a user should read on the way. With `strict` a budget that
    leaves too little for an interval is a ConfigError.

    With `output_dir` the files of the runs and the result are stored in it. Without one nothing is: the
    traces are temporary, and the result says so. An interruption (Ctrl-C, SystemExit) after a run was
    measured is raised again once the runs before it are stored.

    Raises PreFlightError (every reason why this machine can't, before anything is loaded), ConfigError,
    EnergyError, BackendError, and ExperimentError with a `failure` when the run itself ended badly. A run
    that fails after another was measured is named in `result.runs`. ResultError, with the `result`, where it
    can't be stored.
    """
    from llenergymeasure.analysis.metrics import experiment_result
    from llenergymeasure.measure.repeats import repeat
    from llenergymeasure.results.store import save_or_rescue, untraced

    remark = remark or _unheard
    with repeat(
        config,
        origins=origins or {},
        tell=progress or _silent,
        remark=remark,
        strict=strict,
    ) as finished:
        result = experiment_result(finished.energies, failed=finished.failed)
    if config.output_dir is None:
        result = untraced(result)
    else:
        folder = save_or_rescue(result, config.output_dir)
    if finished.ended_by is not None:
        count = f"{len(result.measured)} of {config.repeats.count} runs"
        if config.output_dir is None:
            remark(f"Discarded what was measured ({count}); to keep it next time: --output results")
        else:
            remark(f"Saved: {folder} ({count})")
        raise finished.ended_by
    return result


def _silent(description: str, **_: object) -> None:
    pass


def _unheard(text: str) -> None:
    pass
