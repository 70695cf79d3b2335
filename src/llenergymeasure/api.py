"""What the command line calls and a notebook imports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from weakref import finalize

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
    leaves too little for an interval is a ConfigError. Nothing is stored until `result.save(directory)`.

    Raises PreFlightError (every reason why this machine can't, before anything is loaded), ConfigError,
    EnergyError, BackendError, and ExperimentError with a `failure` when the run itself ended badly. A run
    that fails after another was measured is named in `result.runs`.
    """
    from llenergymeasure.analysis.metrics import metrics
    from llenergymeasure.measure.repeats import repeat

    with repeat(
        config,
        origins=origins or {},
        tell=progress or _silent,
        remark=remark or _unheard,
        strict=strict,
    ) as finished:
        files = finished.files
        result = metrics(finished.measurements, failed=finished.failed).attach(files.keep())
        # The folder stays locked for as long as the result may still be saved.
        finalize(result, files.release)
        return result


def _silent(description: str, **_: object) -> None:
    pass


def _unheard(text: str) -> None:
    pass
