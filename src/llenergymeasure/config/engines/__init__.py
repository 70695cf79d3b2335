"""Which engines are there, and what does the rest of llem ask of one, whichever it is?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from math import prod
from typing import Any, ClassVar

from pydantic import Field, create_model

from llenergymeasure.config import plugins
from llenergymeasure.config.section import Arguments, Positive, Section
from llenergymeasure.exceptions import BackendError

# The built-in engines; the first is the default.
BACKENDS = {
    "pytorch": "llenergymeasure.backends.pytorch:PytorchBackend",
    "vllm": "llenergymeasure.backends.vllm:VllmBackend",
    "llamacpp": "llenergymeasure.backends.llamacpp:LlamacppBackend",
    "openai": "llenergymeasure.backends.openai:OpenaiBackend",
    "simulated": "llenergymeasure.backends.simulated:SimulatedBackend",
}
# What is run to check the client of the engine that is a server elsewhere.
CLIENT_CHECK = "llenergymeasure.backends.openai.selfcheck"
# Engines of this project in packages of their own, which lie in `plugins/` of a checkout.
APART = {"tensorrt": "llenergymeasure-tensorrt"}


def backend_names() -> list[str]:
    return sorted({*BACKENDS} | plugins.BACKENDS.names())


def backend_class(name: str) -> Any:
    """The class of that backend, None where no engine has the name.

    ConfigError where two plug-ins have it; BackendError where a plug-in can't be loaded.
    """
    if name in BACKENDS:
        module, attribute = BACKENDS[name].split(":")
        return getattr(import_module(module), attribute)
    return plugins.BACKENDS.load(name)


def why_absent(name: str) -> str | None:
    """How to get an engine that this project keeps apart, where it is not installed."""
    if name not in APART or name in plugins.BACKENDS.names():
        return None
    return f"needs the package {APART[name]}; in a checkout of llem: pip install ./plugins/{APART[name]}"


@dataclass(frozen=True, slots=True)
class FileMemory:
    """What an engine holds that computes with a file as it is. The context goes in whole steps, and is what a
    request needs where it is None; a cached key and value together take `cached_bytes`.
    """

    context: int | None
    step: int
    cached_bytes: float
    cached_types: str
    tokens_at_once: int


@dataclass(frozen=True, slots=True)
class Traits:
    """An engine with its options, as others see it. The defaults are those of one without any."""

    takes: frozenset[str] = frozenset()  # of the fields of TAKEN_BY_SOME
    is_simulated: bool = False
    is_sized: bool = False  # the estimate of memory holds for it, so that too little refuses a run
    checks_adapter: bool = False  # the backend refuses an adapter that is not there
    keeps_freed_blocks: bool = False  # what its cache frees on a CPU stays with the process
    filed: FileMemory | None = None  # where it takes a GGUF as it is, in the file's own precision
    batch_size: int | None = None  # requests handed over at once; None for all
    why_no_batch_size: tuple[str, str] | None = None  # and the way out
    static_batch: int | None = None  # requests that a process takes in step
    forms_batches: bool = False  # and so needs memory for one request at least
    replicas: int = (
        1  # processes that hold the whole model: each on a GPU of its own, or all in the host's memory
    )
    revision: str | None = None
    revision_option: str = "revision"
    assistant: str | None = None  # a second model, that guesses tokens ahead
    uses_gpus: bool | None = None  # None where there are some
    gpus: int | None = None  # on how many it runs, where there are some; None for all that are visible
    gpus_per_model: int | None = 1  # over how many one model is spread; None for all that are visible
    tensor_parallel: int = (
        1  # over how many each matrix is split, where the backend leaves the check to others
    )
    beams: int = 1
    is_eager: bool = False  # attention writes its scores out
    guesses_ahead: bool = False  # a step verifies several guessed tokens, so that tokens come several at once
    searches_beams: bool = False
    skips_prefixes: bool = False
    # Options that do not change what `Backend.standing` brings up; None where a model ends with its run.
    standing_beside: frozenset[str] | None = None

    @property
    def why_other_work(self) -> str | None:
        """Why another amount is computed than the output tokens show, and the engine does not tell which."""
        if self.guesses_ahead:
            return "speculative tokens are discarded in a number that the engine does not report"
        if self.searches_beams:
            return "beam search discards beams, after a number of steps that the engine does not report"
        return "a prefix that prompts share is computed once" if self.skips_prefixes else None


class EngineSection(Section):
    """The options of an engine; `peers` are other tools' names of them, `also` those of the engine."""

    peers: ClassVar[Mapping[str, str]] = {}
    also: ClassVar[tuple[str, ...]] = ()

    @property
    def traits(self) -> Traits:
        return Traits()


def brought_section(name: str) -> type[EngineSection] | None:
    """The class of the options that an engine brings with its backend, None where no engine has the name.

    BackendError where that is not a section, or needs more than what is given.
    """
    backend = backend_class(name)
    section = getattr(backend, "section", EngineSection)
    if isinstance(section, type) and issubclass(section, EngineSection):
        if bare := [field for field, about in section.model_fields.items() if about.is_required()]:
            raise BackendError(
                f"{plugins.BACKENDS.described(name)} has a section with options that lack a default: "
                f"{', '.join(bare)}",
                hint=plugins.ASK,
            )
        return None if backend is None else section
    raise BackendError(
        f"{plugins.BACKENDS.described(name)} has a section that is no EngineSection: {section!r}",
        hint=plugins.ASK,
    )


def brought_options(name: str, given: object) -> EngineSection:
    """The options of such an engine, checked.

    ValidationError, with the engine's name in its paths, where they are not allowed; BackendError where the
    section is broken.
    """
    fields: Any = {name: (brought_section(name), ...)}
    with plugins.BACKENDS.blamed(name, "has a broken section"):
        whole = create_model("ExperimentConfig", __base__=Section, **fields)
        options: EngineSection = getattr(whole.model_validate({name: given}), name)
        if not isinstance(options.traits, Traits):
            raise TypeError(f"its traits are {options.traits!r}")
    return options


class OwnBatches(EngineSection):
    """An engine that forms its own batches, and checks its arguments itself."""

    batch_size: Positive | None = Field(
        default=None, description="requests handed to the engine at once; all of them when absent"
    )
    engine: Arguments = Field(default_factory=dict)

    def traits_with(self, **more: Any) -> Traits:
        """What its arguments say, and `more` fields of the traits."""
        revision = self.engine.get("revision")
        # The last two are vLLM's own short forms of parts of the first.
        guesses = ("speculative_config", "spec_method", "spec_model")
        return Traits(
            batch_size=self.batch_size,
            forms_batches=True,
            revision=revision if isinstance(revision, str) else None,
            revision_option="engine.revision",
            gpus=self._ways("tensor", "pipeline", "data"),
            gpus_per_model=self._ways("tensor", "pipeline"),
            tensor_parallel=self._ways("tensor"),
            # An argument that quantises makes weights smaller than `precision` says.
            is_sized=not any("quant" in name for name in self.engine),
            guesses_ahead=any(self.engine.get(name) is not None for name in guesses),
            **more,
        )

    def _ways(self, *kinds: str) -> int:
        sizes = [self.engine.get(f"{kind}_parallel_size") for kind in kinds]
        return prod(size for size in sizes if isinstance(size, int))


class LoraConfig(Section):
    """A low-rank adapter on top of the model, as peft saves it."""

    path: str = Field(
        min_length=1, description="directory with adapter_config.json and the adapter's weights"
    )
    merged: bool = Field(
        default=False, description="true adds it to the weights once, so that a step costs nothing more"
    )
