"""What does the rest of llem ask of an engine's options, whichever engine it is?"""

from __future__ import annotations

from math import prod
from typing import ClassVar, NamedTuple, Self

from pydantic import Field

from llenergymeasure.config.section import Arguments, Positive, Section


class FileMemory(NamedTuple):
    """What an engine holds that computes with a file as it is: `wanted` tokens in a context of whole
    steps, bytes of a cached key and value together and the names of their types, and prompt tokens at once.
    """

    wanted: int
    context: int
    step: int
    cached_bytes: float
    cached_types: str
    at_once: int


class Engine(Section):
    """The section of an engine. The answers here are those of one that says nothing of itself."""

    is_simulated: ClassVar[bool] = False
    computes_as_filed: ClassVar[bool] = False  # takes a GGUF as it is, in the file's own precision
    keeps_freed_blocks: ClassVar[bool] = False  # what its cache frees on a CPU stays with the process
    takes: ClassVar[frozenset[str]] = frozenset()  # of `lora` and `passthrough_kwargs`
    checks_adapter: ClassVar[bool] = False  # the backend refuses an adapter that is not there
    revision_option: ClassVar[str] = "revision"
    why_no_batch_size: ClassVar[tuple[str, str] | None] = None  # and the way out

    def at_once(self, n: int) -> int:
        """Requests of `n` that are handed over at once."""
        return n

    def with_one_request(self) -> Self:
        """The same with the least memory, where the engine forms its own batches."""
        return self

    @property
    def static_batch(self) -> int | None:
        """Requests that each process takes in step; None where the engine forms its own batches."""
        return None

    @property
    def replicas(self) -> int:
        """Processes that hold the whole model: each on a GPU of its own, or all in the host's memory."""
        return 1

    @property
    def hub_revision(self) -> str | None:
        return None

    @property
    def assistant(self) -> str | None:
        """A second model, that guesses tokens ahead."""
        return None

    def on_gpus(self, *, present: bool) -> bool:
        """Whether it computes on GPUs, where there are some or not."""
        return present

    @property
    def gpus(self) -> int | None:
        """On how many GPUs it runs, where there are some; None for all that are visible."""
        return None

    @property
    def gpus_per_model(self) -> int | None:
        """Over how many GPUs one model is spread; None for all that are visible."""
        return 1

    @property
    def tensor_parallel(self) -> int:
        """Over how many GPUs each matrix is split, where the backend leaves the check to preflight."""
        return 1

    @property
    def quantises(self) -> bool:
        """Whether an argument of the engine's own makes the weights smaller than `precision` says."""
        return False

    @property
    def beams(self) -> int:
        return 1

    @property
    def is_eager(self) -> bool:
        """Whether attention writes its scores out."""
        return False

    def file_memory(self, tokens: int) -> FileMemory | None:  # noqa: ARG002  an answer for engines that differ
        """What it holds for requests of so many tokens, where it computes with a file as it is."""
        return None

    @property
    def guesses_ahead(self) -> bool:
        """Whether a step verifies several guessed tokens, so that tokens come several at once."""
        return False

    @property
    def searches_beams(self) -> bool:
        return self.beams > 1

    @property
    def why_other_work(self) -> str | None:
        """Why another amount is computed than the output tokens show, and the engine does not tell which."""
        if self.guesses_ahead:
            return "tokens that are guessed ahead are thrown away in a number that the engine does not tell"
        if self.searches_beams:
            return "beam search throws beams away, after a number of steps that the engine does not tell"
        return None


class OwnBatches(Engine):
    """An engine that forms its own batches, and whose arguments it checks itself."""

    batch_size: Positive | None = Field(
        None, description="requests handed to the engine at once; all of them when absent"
    )
    engine: Arguments = Field(default_factory=dict)

    revision_option: ClassVar[str] = "engine.revision"

    def at_once(self, n: int) -> int:
        return self.batch_size or n

    def with_one_request(self) -> Self:
        return self.model_copy(update={"batch_size": 1})

    @property
    def hub_revision(self) -> str | None:
        revision = self.engine.get("revision")
        return revision if isinstance(revision, str) else None

    @property
    def gpus(self) -> int | None:
        return self._product("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")

    @property
    def gpus_per_model(self) -> int | None:
        return self._product("tensor_parallel_size", "pipeline_parallel_size")

    @property
    def tensor_parallel(self) -> int:
        return self._product("tensor_parallel_size")

    @property
    def quantises(self) -> bool:
        return any("quant" in name for name in self.engine)

    @property
    def guesses_ahead(self) -> bool:
        # The last two are vLLM's own short forms of parts of the first.
        names = ("speculative_config", "spec_method", "spec_model")
        return any(self.engine.get(name) is not None for name in names)

    def _product(self, *names: str) -> int:
        sizes = [self.engine.get(name) for name in names]
        return prod(size for size in sizes if isinstance(size, int))


class PluginOptions(Engine):
    """The options of a plug-in's backend, of which llem knows the batch size alone."""

    takes: ClassVar[frozenset[str]] = frozenset({"lora", "passthrough_kwargs"})

    options: Arguments

    def at_once(self, n: int) -> int:
        size = self.options.get("batch_size")
        return size if isinstance(size, int) and size > 0 else n
