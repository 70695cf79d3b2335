"""llem: what LLM inference costs, with an honest interval on every number."""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # as in `typing`, which takes longer to import than all else on the way to main()
if TYPE_CHECKING:
    from typing import Any

    from llenergymeasure.api import run_experiment, run_study
    from llenergymeasure.config.engines import LoraConfig
    from llenergymeasure.config.engines.llamacpp import LlamacppConfig
    from llenergymeasure.config.engines.pytorch import PytorchConfig
    from llenergymeasure.config.engines.simulated import SimulatedConfig
    from llenergymeasure.config.engines.vllm import VllmConfig
    from llenergymeasure.config.load import LoadConfig, SloConfig
    from llenergymeasure.config.loader import load_experiment_config
    from llenergymeasure.config.models import (
        BaselineConfig,
        BudgetConfig,
        DatasetConfig,
        DecoderConfig,
        EnergyConfig,
        ExperimentConfig,
        FootprintConfig,
        HostConfig,
        PassesConfig,
        RepeatsConfig,
        WarmupConfig,
    )
    from llenergymeasure.config.runner import RunnerConfig
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
    from llenergymeasure.results.study import StudyResult
    from llenergymeasure.results.windows import WindowsResult

__version__ = "0.12.0"

__all__ = [
    "BackendError",
    "BaselineConfig",
    "BudgetConfig",
    "ConfigError",
    "DatasetConfig",
    "DecoderConfig",
    "EnergyConfig",
    "EnergyError",
    "Estimate",
    "ExperimentConfig",
    "ExperimentError",
    "ExperimentInterrupted",
    "ExperimentResult",
    "ExperimentTimeout",
    "FootprintConfig",
    "HostConfig",
    "LLEMError",
    "LlamacppConfig",
    "LoadConfig",
    "LoraConfig",
    "Monitor",
    "PassesConfig",
    "PreFlightError",
    "PytorchConfig",
    "RepeatsConfig",
    "ResultError",
    "RunnerConfig",
    "SimulatedConfig",
    "SloConfig",
    "StudyResult",
    "VllmConfig",
    "WarmupConfig",
    "WindowsResult",
    "__version__",
    "load_experiment_config",
    "load_ipython_extension",
    "run_experiment",
    "run_study",
]

# Where these names are looked up once somebody asks for one, the lightest module first.
_MODULES = (
    "exceptions",
    "measure.own_code",
    "records.measuring",
    "measure.notebook",
    "config.models",
    "config.loader",
    "results.models",
    "results.windows",
    "results.study",
    "api",
)


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in _MODULES:
            if name in (there := vars(import_module(f"{__name__}.{module}"))):
                globals()[name] = there[name]
                return there[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
