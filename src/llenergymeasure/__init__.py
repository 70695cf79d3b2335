"""llem: what LLM inference costs, with an honest interval on every number."""

from __future__ import annotations

from importlib.metadata import version

from llenergymeasure.api import run_experiment
from llenergymeasure.config.loader import load_experiment_config
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import (
    BackendError,
    ConfigError,
    EnergyError,
    ExperimentError,
    ExperimentInterrupted,
    ExperimentTimeout,
    LLEMError,
    PreFlightError,
    ResultError,
)
from llenergymeasure.measure.notebook import load_ipython_extension
from llenergymeasure.measure.own_code import Monitor
from llenergymeasure.records import Estimate
from llenergymeasure.results import ExperimentResult
from llenergymeasure.results.windows import WindowsResult

__all__ = [
    "BackendError",
    "ConfigError",
    "EnergyError",
    "Estimate",
    "ExperimentConfig",
    "ExperimentError",
    "ExperimentInterrupted",
    "ExperimentResult",
    "ExperimentTimeout",
    "LLEMError",
    "Monitor",
    "PreFlightError",
    "ResultError",
    "WindowsResult",
    "__version__",
    "load_experiment_config",
    "load_ipython_extension",
    "run_experiment",
]

__version__ = version("llenergymeasure")
