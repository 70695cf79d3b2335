"""Can this machine run this experiment? Everything that can be refused without loading a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llenergymeasure.backends import load_backend
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.energy.selection import Selection
from llenergymeasure.exceptions import EnergyError, LLEMError, PreFlightError
from llenergymeasure.models.resolve import ResolvedModel, require_available, resolve
from llenergymeasure.results.store import preflight_output
from llenergymeasure.workload import load_prompts


@dataclass(frozen=True, slots=True)
class Cleared:
    """What preflight found on the way: the meters to use, and the model where the backend loads one."""

    meters: Selection
    model: ResolvedModel | None


def preflight(config: ExperimentConfig, choose: Callable[[], Selection]) -> Cleared:
    """Every reason against the run in one PreFlightError; ConfigError for what no machine could run."""
    load_prompts(config)
    reasons: list[str] = []
    model = None
    meters = None
    why = load_backend(config.backend).why_unavailable()
    if why:
        reasons.append(f"backend {config.backend}: {why}")
    if config.output_dir is not None and (why := preflight_output(config.output_dir)):
        reasons.append(f"output: {why}")
    if config.backend == "pytorch":
        try:
            model = resolve(config.model, revision=config.pytorch.revision)
            require_available(model)
        except PreFlightError as error:
            reasons.append(f"model: {_whole(error)}")
    try:
        meters = choose()
    except EnergyError as error:
        reasons.append(f"energy: {_whole(error)}")
    if reasons or meters is None:
        raise PreFlightError(_listed(reasons))
    return Cleared(meters, model)


def _whole(error: LLEMError) -> str:
    return f"{error.message} ({error.hint})" if error.hint else error.message


def _listed(reasons: Sequence[str]) -> str:
    if len(reasons) == 1:
        return reasons[0]
    return "\n".join([f"{len(reasons)} reasons against this run:", *(f"  - {reason}" for reason in reasons)])
