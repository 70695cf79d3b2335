"""What an engine must offer to be measured, and which engines there are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Protocol, cast

from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import BackendError, ConfigError, LLEMError
from llenergymeasure.records import Generation, Request, SessionFacts

BACKENDS = {
    "pytorch": "llenergymeasure.backends.pytorch:PytorchBackend",
    "vllm": "llenergymeasure.backends.vllm:VllmBackend",
    "llamacpp": "llenergymeasure.backends.llamacpp:LlamacppBackend",
    "tensorrt": "llenergymeasure.backends.tensorrt:TensorrtBackend",
    "simulated": "llenergymeasure.backends.simulated:SimulatedBackend",
}


_GROUP = "llenergymeasure.backends"
_ASK = "install a version that fits this llem, or ask its author; -v shows the traceback"


class Observer(Protocol):
    """What a session tells while it works. Cheap, and the place where a cancelled run ends."""

    def batch(self, requests: Sequence[Request], t_ns: int) -> None:
        """Call just before `requests` go to the engine, at monotonic `t_ns`; let what it raises pass."""


class Session(Protocol):
    """A loaded model. It measures nothing: the harness holds the clock."""

    def generate(self, requests: Sequence[Request], observe: Observer) -> Generation:
        """One walk over all requests; the backend batches and stamps times with `time.monotonic_ns`.

        Completions come in the order of the requests, with `walk=0`; the caller numbers walks. BackendError,
        before any of them is handed over, where a request can't be answered (`_limits.check_requests`).
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


_METHODS = [name for name in vars(Backend) if not name.startswith("_")]


def backend_names() -> list[str]:
    return sorted({*BACKENDS, *(point.name for point in entry_points(group=_GROUP))})


def load_backend(name: str) -> Backend:
    """The backend of that name, built in or from an installed plug-in.

    ConfigError where there is none or more than one; BackendError where a plug-in can't be loaded.
    """
    if name in BACKENDS:
        module, attribute = BACKENDS[name].split(":")
        return cast("Backend", getattr(import_module(module), attribute)())
    point = _plug_in(name)
    with _blamed(point, "can't be loaded"):
        backend = point.load()()
    missing = [method for method in _METHODS if not callable(getattr(backend, method, None))]
    if missing:
        raise BackendError(f"{_named(point)} is no backend: it has no {', '.join(missing)}", hint=_ASK)
    return cast("Backend", backend)


def why_not(name: str, config: ExperimentConfig | None = None) -> str | None:
    """Why the backend can't run at all, or can't run `config`; None where it can.

    ConfigError and BackendError as `load_backend` says; BackendError where a plug-in breaks when asked.
    """
    backend = load_backend(name)

    def asked() -> str | None:
        return backend.why_unavailable() or (None if config is None else backend.why_refused(config))

    if name in BACKENDS:
        return asked()
    with _blamed(_plug_in(name), "broke when it was asked whether it can run"):
        return asked()


def _plug_in(name: str) -> EntryPoint:
    # The same package may lie on the path twice, as an editable install beside its build.
    points = {point.value: point for point in entry_points(group=_GROUP, name=name)}
    match list(points.values()):
        case [point]:
            return point
        case []:
            raise ConfigError(f"no backend is named {name!r}", hint=f"one of: {', '.join(backend_names())}")
        case several:
            packages = " and ".join(_named(point) for point in several)
            raise ConfigError(f"two backends have one name: {packages}", hint="uninstall one of the packages")


def _named(point: EntryPoint) -> str:
    package = f" of {point.dist.name} {point.dist.version}" if point.dist else ""
    return f"the backend {point.name!r} ({point.value}{package})"


@contextmanager
def _blamed(point: EntryPoint, what: str) -> Iterator[None]:
    try:
        yield
    except LLEMError:
        raise
    # A plug-in is other people's code: whatever it raises, this says whose it is. A script may even exit.
    except (Exception, SystemExit) as error:
        said = f"{type(error).__name__}: {error}".rstrip(": ")
        raise BackendError(f"{_named(point)} {what}: {said}", hint=_ASK) from error
