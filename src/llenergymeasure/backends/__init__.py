"""What an engine must offer to be measured, and what is the same for all of them.

Long because an author of an engine reads this file alone: protocols, the loop over batches, and completions.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Protocol, TypeAlias, cast

from pydantic import JsonValue, ValidationError

from llenergymeasure.config import engines, plugins
from llenergymeasure.config.extras import install
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.config.suggest import nearest
from llenergymeasure.exceptions import BackendError, ConfigError, LLEMError
from llenergymeasure.host.machine import threads
from llenergymeasure.models.resolve import ResolvedModel, weights_path
from llenergymeasure.models.shapes import hf_config
from llenergymeasure.records import (
    Clock,
    Completion,
    FinishReason,
    Generation,
    Request,
    RequestCounts,
    Served,
    SessionFacts,
)

if TYPE_CHECKING:
    # It brings numpy, which a plan does not need.
    from llenergymeasure.workload.arrivals import Arrival

_THREADS_EACH = 16


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an engine does not run a configuration here, and what to change; neither ends in a full stop."""

    reason: str
    way_out: str | None = None

    def __str__(self) -> str:
        return f"{self.reason}; {self.way_out}" if self.way_out else self.reason


def why_too_many_threads(option: str, asked: int | None) -> Refusal | None:
    """Engines die without a word where the system does not give them the threads they ask for. A few for each
    processor wait for each other, which may be what is to be measured.
    """
    available = threads()
    if asked is None or asked <= _THREADS_EACH * available:
        return None
    return Refusal(
        f"{option} is {asked}, and this process may use {available} processor{'s'[: available != 1]}",
        f"take {_THREADS_EACH * available} at most; more than {available} wait for each other",
    )


class Observer(Protocol):
    """What a session reports to while it works. Cheap, and the place where a cancelled run ends."""

    def batch(self, requests: Sequence[Request], t_ns: int) -> None:
        """Call just before `requests` go to the engine, at monotonic `t_ns`; let what it raises pass."""


class Session(Protocol):
    """A loaded model. It measures nothing: the harness holds the clock."""

    def generate(self, requests: Sequence[Request], observe: Observer) -> Generation:
        """One walk over all requests; the backend batches and stamps times with `time.monotonic_ns`.

        Completions come in the order of the requests, with `walk=0`; the caller numbers walks. BackendError,
        before any of them is handed over, where a request can't be answered. `run_batches` does all of that.
        """

    def synchronize(self) -> None:
        """Return when no work is left on the device."""

    def facts(self) -> SessionFacts:
        """Arguments in force, versions, GPU UUIDs of all its processes, weights, cache and peak bytes."""

    def reset_peak(self) -> None:
        """Forget the peak memory so far."""


@dataclass(frozen=True, slots=True)
class SoFar:
    """What a load has done since it began, at monotonic `t_ns`: the `chunks` of output that came, the
    requests that `ended`, and the request-nanoseconds that others waited (`in_flight_ns`: 4 users for 1 s are
    4e9).
    """

    t_ns: int
    chunks: int
    ended: int
    in_flight_ns: int


class Load(Protocol):
    """A stream of requests to an engine, that goes on by itself until it is drained or its context is left.

    Whatever waits raises BackendError where the stream has broken.
    """

    def so_far(self) -> SoFar: ...

    def cut(self, edges_ns: Sequence[int]) -> None:
        """Windows begin and end at these moments, which are still to come."""

    def wait(self, until_ns: int) -> None: ...

    def drain(self) -> None:
        """Send nothing more, wait for the answers, and cancel what does not come."""

    def windows(self) -> Sequence[tuple[Generation, Served]]:
        """What was served in each of them, once it is drained; the CPU time of the client is left at 0."""


class LoadedSession(Session, Protocol):
    """A session that can be put under a load."""

    def serve(self, arrivals: Iterator[Arrival], observe: Observer) -> AbstractContextManager[Load]:
        """The stream begins at once; leaving the context cancels what is still on its way."""

    def account(self) -> RequestCounts:
        """What became of all requests so far; needs no answer of the engine."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A model that is up for several runs: the options of the engine that each of them has instead of its
    own, and a question for why it has ended, None while it has not.
    """

    options: Mapping[str, JsonValue]
    why_ended: Callable[[], BackendError | None]


class Backend(Protocol):
    """An engine. A class attribute `section` is the kind of `EngineSection` that `config.options` holds.

    One whose traits have `standing_beside` also has `standing(config)`, a context manager that brings the
    model up, yields it as `Standing`, and ends it with all its processes.
    """

    def why_unavailable(self) -> str | None:
        """One sentence with the way out, or None when it can run; imports nothing heavy."""

    def why_refused(self, config: ExperimentConfig) -> Refusal | str | None:
        """Why it can't run this configuration here, or None; imports nothing heavy."""

    def open(self, config: ExperimentConfig) -> AbstractContextManager[Session]:
        """Load the model; leaving the context frees it. BackendError where it can't be loaded."""


class StandingBackend(Backend, Protocol):
    """An engine whose model can outlive a run."""

    def standing(self, config: ExperimentConfig) -> AbstractContextManager[Standing]:
        """Bring the model up for runs of `config` and of those that differ in `standing_beside` options."""


_METHODS = [name for name in vars(Backend) if not name.startswith("_")]


def load_backend(name: str) -> Backend:
    """The backend of that name, built in or from an installed plug-in.

    ConfigError where there is none or more than one; BackendError where a plug-in can't be loaded.
    """
    backend_class = engines.backend_class(name)
    if backend_class is None:
        hint = engines.why_absent(name) or f"one of: {', '.join(engines.backend_names())}"
        raise ConfigError(f"no backend is named {name!r}", hint=hint)
    if name in engines.BACKENDS:
        return cast("Backend", backend_class())
    with plugins.BACKENDS.blamed(name, "can't be loaded"):
        backend = backend_class()
    if missing := [method for method in _METHODS if not callable(getattr(backend, method, None))]:
        raise BackendError(
            f"{plugins.BACKENDS.described(name)} is not a backend: it lacks {', '.join(missing)}",
            hint=plugins.ASK,
        )
    if name in ExperimentConfig.model_fields or hasattr(ExperimentConfig, name):
        raise BackendError(
            f"{plugins.BACKENDS.described(name)} has the name of a field of the configuration",
            hint=plugins.ASK,
        )
    engines.brought_section(name)
    return cast("Backend", backend)


def why_not(name: str, config: ExperimentConfig | None = None) -> Refusal | None:
    """Why the backend can't run at all, or can't run `config`; None where it can.

    ConfigError and BackendError as `load_backend` says; BackendError where a plug-in breaks when asked.
    """
    backend = load_backend(name)

    def asked() -> Refusal | None:
        why = backend.why_unavailable() or (None if config is None else backend.why_refused(config))
        return why if why is None or isinstance(why, Refusal) else Refusal(why)

    if name in engines.BACKENDS:
        return asked()
    with plugins.BACKENDS.blamed(name, "broke when it was asked whether it can run"):
        return asked()


# What engines share

_OUT_OF_MEMORY = (
    "out of memory",
    "outofmemory",
    "can't allocate memory",
    "not enough memory",
    "insufficient memory",
    "cudaerrormemoryallocation",
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one request.

    `tokens` are its output, end-of-sequence included and padding not, or their number where the engine gives
    no ids. `prompt_tokens` is the engine's own count of the prompt, where it has one.
    """

    tokens: Sequence[int] | int
    first_ns: int | None
    end_ns: int
    finish: FinishReason
    prompt_tokens: int | None = None


HandOver: TypeAlias = Callable[[], int]


def run_batches(
    requests: Sequence[Request],
    observe: Observer,
    answer: Callable[[Sequence[Request], HandOver], Sequence[Answer]],
    *,
    size: int,
    context: int | None = None,
    clock: Clock = time,
) -> Generation:
    """One walk over all requests in batches of `size`, in their order.

    `answer` gets a batch, and calls what it gets beside it once, right before the batch goes to the engine: a
    call that tells the observer and returns that monotonic time. BackendError before anything is handed over
    where a request has no prompt, or more tokens than `context` holds.
    """
    _check(requests, context)
    done: list[Completion] = []
    ids: list[tuple[int, ...]] = []
    for batch, start in enumerate(range(0, len(requests), size)):
        members = requests[start : start + size]
        sent_ns: list[int] = []

        def hand_over(members: Sequence[Request] = members, sent_ns: list[int] = sent_ns) -> int:
            sent_ns.append(clock.monotonic_ns())
            observe.batch(members, sent_ns[0])
            return sent_ns[0]

        for request, one in zip(members, answer(members, hand_over), strict=True):
            if not isinstance(one.tokens, int):
                ids.append(tuple(one.tokens))
            done.append(
                Completion(
                    index=request.index,
                    walk=0,
                    batch=batch,
                    prompt_tokens=len(request.prompt) if one.prompt_tokens is None else one.prompt_tokens,
                    output_tokens=one.tokens if isinstance(one.tokens, int) else len(one.tokens),
                    t_scheduled_ns=sent_ns[0],
                    t_sent_ns=sent_ns[0],
                    t_first_ns=one.first_ns,
                    t_end_ns=one.end_ns,
                    finish=one.finish,
                )
            )
    return Generation(tuple(done), output_ids=tuple(ids) if len(ids) == len(done) else None)


def _check(requests: Sequence[Request], context: int | None) -> None:
    """Asked before anything is handed over: past its position table a model indexes foreign memory, which on
    CUDA poisons the whole process, and engines cut, extend or drop what does not suit them.
    """
    for request in requests:
        if not request.prompt:
            raise BackendError(
                f"request {request.index} has no prompt tokens", hint="every prompt needs one token at least"
            )
        if context is not None and len(request.prompt) + request.max_output_tokens > context:
            raise BackendError(
                f"request {request.index} has {len(request.prompt)} prompt tokens and wants "
                f"{request.max_output_tokens} more, but the context holds {context} tokens",
                hint="lower max_input_tokens or max_output_tokens",
            )


def refuse(why: Refusal | None, kind: type[LLEMError] = BackendError) -> None:
    """Raise the refusal, if it is one, with its way out as the hint."""
    if why is not None:
        raise kind(why.reason, hint=why.way_out)


def why_missing(backend: str, *modules: str, use: str = "") -> str | None:
    """Which of these modules are not installed, with the way to install them; none is imported."""
    missing = " and ".join(name for name in modules if find_spec(name) is None)
    if not missing:
        return None
    return f"the {backend} backend needs {missing}{use}: run {install(backend)}"


def is_out_of_memory(error: object) -> bool:
    """Whether an error's text says that memory ran out, in the words of any allocator that engines use."""
    said = str(error).lower()
    return any(words in said for words in _OUT_OF_MEMORY)


@contextmanager
def model_folder(resolved: ResolvedModel, **more: JsonValue) -> Iterator[Path]:
    """The directory of a model that was fetched. For a published shape with random weights one that holds its
    `config.json` alone, with `more` fields; it is removed when this is left.
    """
    folder = resolved.path if resolved.kind == "random" else weights_path(resolved)
    if folder is not None:
        yield folder
        return
    assert resolved.architecture is not None, "a random model is made from a shape"
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    shape = hf_config(resolved.architecture)
    # Engines choose their own model by the name of transformers' class.
    shape["architectures"] = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[str(shape["model_type"])]]
    with TemporaryDirectory(prefix="llem-shape-") as made:
        (Path(made) / "config.json").write_text(json.dumps(shape | more), encoding="utf-8")
        yield Path(made)


def why_context_too_short(option: str, context: object, config: ExperimentConfig) -> Refusal | None:
    """Why a context of that many tokens can't hold a request; None too where the engine chooses it itself."""
    if not isinstance(context, int) or not 0 <= context < config.max_tokens:
        return None
    return Refusal(
        f"{option} {context} is less than max_input_tokens {config.max_input_tokens} and "
        f"max_output_tokens {config.max_output_tokens} together",
        f"leave it out, raise it to {config.max_tokens}, or lower one of them",
    )


def why_decided(where: str, given: Collection[str], decided: Mapping[str, str]) -> Refusal | None:
    """Why an engine's argument can't be given: llem decides it, by the field that `decided` names."""
    name = next((name for name in given if name in decided), None)
    return None if name is None else Refusal(f"{where}.{name} is decided by {decided[name]}", "remove it")


def why_unknown(reason: str, name: str, known: Collection[str], *, otherwise: str) -> Refusal | None:
    """The refusal of a name that the engine does not know, with the one that is nearest as the way out."""
    if name in known:
        return None
    near = nearest(name, sorted(known))
    return Refusal(reason, f"did you mean {near}?" if near else otherwise)


def installed_versions(*packages: str) -> dict[str, str]:
    """By distribution; those that are not installed are left out."""
    found: dict[str, str] = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def decoding_in_force(config: ExperimentConfig) -> dict[str, JsonValue]:
    """The arguments of an engine that decodes just as `config.decoder` says."""
    decoder = config.decoder
    sampled = decoder.temperature > 0
    return {
        "temperature": decoder.temperature if sampled else None,
        "top_p": decoder.top_p if sampled else None,
        "top_k": decoder.top_k if sampled else None,
        "repetition_penalty": decoder.repetition_penalty,
        "random_seed": config.random_seed,
    }


def summary_of(error: BaseException) -> str:
    """What an error says in one line; pydantic's first line only counts its errors."""
    if isinstance(error, ValidationError):
        return "; ".join(
            ": ".join(part for part in (".".join(map(str, one["loc"])), one["msg"]) if part)
            for one in error.errors()
        )
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
