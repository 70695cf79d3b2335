"""What the command line calls and a notebook imports."""

from __future__ import annotations

from collections.abc import Mapping
from weakref import finalize

from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.records import Progress
from llenergymeasure.results import ExperimentResult


def run_experiment(
    config: ExperimentConfig,
    *,
    origins: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> ExperimentResult:
    """Measure one experiment in a process of its own and return what it cost.

    `origins` says where each value of the configuration came from and is stored with the result; `progress`
    is told of every phase. Nothing is stored until `result.save(directory)`.

    Raises PreFlightError (every reason why this machine can't, before anything is loaded), ConfigError,
    EnergyError, BackendError, and ExperimentError with a `failure` when the run itself ended badly.
    """
    from llenergymeasure.analysis.metrics import metrics
    from llenergymeasure.measure.runner import run

    with run(config, origins=origins or {}, progress=progress) as finished:
        files = finished.files
        result = metrics(finished.measurement).attach(files.keep())
        # The folder stays locked for as long as the result may still be saved.
        finalize(result, files.release)
        return result
