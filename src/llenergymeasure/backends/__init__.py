"""What an engine must offer to be measured, and which engines there are."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from importlib import import_module
from importlib.metadata import entry_points
from typing import Protocol, cast

from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import ConfigError
from llenergymeasure.records import Generation, Request, SessionFacts

BACKENDS = {
    "pytorch": "llenergymeasure.backends.pytorch:PytorchBackend",
    "vllm": "llenergymeasure.backends.vllm:VllmBackend",
    "llamacpp": "llenergymeasure.backends.llamacpp:LlamacppBackend",
    "tensorrt": "llenergymeasure.backends.tensorrt:TensorrtBackend",
    "simulated": "llenergymeasure.backends.simulated:SimulatedBackend",
}


class Observer(Protocol):
    """What a session tells while it works. Cheap, and the place where a cancelled run ends."""

    def batch(self, requests: Sequence[Request], t_ns: int) -> None:
        """Call just before `requests` go to the engine, at monotonic `t_ns`; let what it raises pass."""


class Session(Protocol):
    """A loaded model. It measures nothing: the harness holds the clock."""

    def generate(self, requests: Sequence[Request], observe: Observer) -> Generation:
        """One walk over all requests; the backend batches and stamps times with `time.monotonic_ns`.

        Completions come in the order of the requests, with `walk=0`; the caller numbers walks.
        """

    def synchronize(self) -> None:
        """Return when no work is left on the device."""

    def facts(self) -> SessionFacts:
        """Arguments in force, versions, GPU UUIDs of all its processes, weights, cache and peak bytes."""

    def reset_peak(self) -> None:
        """Forget the peak memory so far."""


class Backend(Protocol):
    def why_unavailable(self) -> str | None:
        """One sentence with the way out, or None when it can run; imports nothing heavy."""

    def why_refused(self, config: ExperimentConfig) -> str | None:
        """One sentence why it can't run this configuration here, or None; imports nothing heavy."""

    def open(self, config: ExperimentConfig) -> AbstractContextManager[Session]:
        """Load the model; leaving the context frees it. BackendError where it can't be loaded."""


def backend_names() -> list[str]:
    return sorted({*BACKENDS, *(point.name for point in entry_points(group="llenergymeasure.backends"))})


def load_backend(name: str) -> Backend:
    """The backend of that name, built in or from an installed plug-in; ConfigError when there is none."""
    if name in BACKENDS:
        module, attribute = BACKENDS[name].split(":")
        return cast("Backend", getattr(import_module(module), attribute)())
    for point in entry_points(group="llenergymeasure.backends", name=name):
        return cast("Backend", point.load()())
    raise ConfigError(f"no backend is named {name!r}", hint=f"one of: {', '.join(backend_names())}")
