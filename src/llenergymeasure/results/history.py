"""What did this machine do before with the same model?"""

from __future__ import annotations

from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import ResultError
from llenergymeasure.results.models import ExperimentResult

# The newest results that are looked at; reading one takes a few milliseconds.
MOST = 20


def earlier_results(config: ExperimentConfig, hostname: str) -> tuple[ExperimentResult, ...]:
    """Results in the output directory of the same model and backend on this host, the newest first.

    What can't be read is passed over: a forecast is not worth an error.
    """
    try:
        found = [] if config.output_dir is None else list(config.output_dir.glob("*/result.json"))
        newest = sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)[:MOST]
    except OSError:
        return ()
    alike = []
    for path in newest:
        try:
            result = ExperimentResult.load(path)
        except ResultError:
            continue
        same = (result.config.model, result.config.backend) == (config.model, config.backend)
        if same and result.environment.hostname == hostname and result.measured:
            alike.append(result)
    return tuple(alike)
