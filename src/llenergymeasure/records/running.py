"""What is asked of a model, what became of it, and what does the engine say of itself?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from pydantic import JsonValue

from llenergymeasure.records.completions import Completion, Completions
from llenergymeasure.records.counts import RequestCounts, ServerCounts
from llenergymeasure.records.windows import Window

# Each bin is wider than the one before by a factor of exp(1/250): 0.4 %.
GAP_BINS = 250


class Progress(Protocol):
    """Told of every step of a run as it goes: seconds done of seconds expected, None where unknown.

    `step` of `steps` within `run` of `runs`, each from 1; `left_s` is the forecast of all that is left of
    the experiment, this step included. `note` says what is worth knowing while the step runs, such as which
    batch of the warm-up is running, and `live` the same anew whenever it is asked. A block of `passes` says
    nothing until it is over. Each call replaces what the one before said.
    """

    def __call__(  # noqa: PLR0913  one call says all that a line of progress shows
        self,
        description: str,
        *,
        done: float | None = None,
        total: float | None = None,
        step: int | None = None,
        steps: int | None = None,
        run: int | None = None,
        runs: int | None = None,
        left_s: float | None = None,
        note: str | None = None,
        passes: int | None = None,
        live: Callable[[], str | None] | None = None,
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt and what is wanted of it.

    `prompt` are token ids, made once so that every engine gets the same. With `exact` the engine must
    produce just `max_output_tokens`; else it may stop at the end-of-sequence token. `turn` is its place in a
    conversation, from 1; the turn before it is the request before it.
    """

    index: int
    prompt: tuple[int, ...]
    max_output_tokens: int
    exact: bool
    turn: int = 1


@dataclass(frozen=True, slots=True)
class Generation:
    """What a walk gave, or all walks of a pass.

    `output_ids` are the generated token ids of every completion, end-of-sequence included and padding not:
    what tells two engines apart. None where the engine gives none, and in a pass, whose files hold counts.
    `texts` are what a server replied, of engines that give text instead; None where it was not kept.
    """

    completions: tuple[Completion, ...] | Completions
    output_ids: tuple[tuple[int, ...], ...] | None = None
    texts: tuple[str | None, ...] | None = None

    @property
    def answered(self) -> Iterator[Completion]:
        """Without those that failed."""
        return (done for done in self.completions if done.finish != "error")

    @property
    def prompt_tokens(self) -> int:
        return sum(done.prompt_tokens for done in self.completions)

    @property
    def output_tokens(self) -> int:
        return sum(done.output_tokens for done in self.completions)


@dataclass(frozen=True, slots=True)
class SessionFacts:
    """What the engine says of itself once loaded: the arguments in force, not those asked for.

    `pids` are processes beside the worker's that do the work; `why_unmetered` is why the meters of this host
    do not see who does. `requests` is None where the engine is not a server; `server` says which it is,
    where it may answer other runs too: its URL, and on this host when its process was started. `counted` is
    what it counted itself, from before the first of the `requests` on.
    `chat_template_date` is the pinned date (ISO 8601) given to a chat template that asks for today's.
    """

    device: str
    arguments: Mapping[str, JsonValue]
    versions: Mapping[str, str]
    gpu_uuids: tuple[str, ...] = ()
    pids: tuple[int, ...] = ()
    why_unmetered: str | None = None
    requests: RequestCounts | None = None
    counted: ServerCounts | None = None
    server: str | None = None
    parameters: int | None = None
    weights_bytes: int | None = None
    kv_cache_bytes: int | None = None
    peak_bytes: int | None = None
    memory_source: str | None = None
    tokenizer_hash: str | None = None
    chat_template_hash: str | None = None
    chat_template_date: str | None = None


@dataclass(frozen=True, slots=True)
class WarmUp:
    """`batch_s` are the durations of its batches in order; `steady` says whether they had settled; `walk_s`
    is how long one walk over the workload takes by them, None where that was not recorded.

    Of a running load `batch_s` are stretches of equal length, and `rates` the chunks of output per second
    that came in each.
    """

    window: Window
    batch_s: tuple[float, ...]
    steady: bool
    walk_s: float | None = None
    rates: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Served:
    """What came out of a running load in one window, whose requests reach over its edges.

    Output tokens count when their chunk came, prompt tokens when the first of their output did. `sent`
    requests were sent in the window, `in_flight_mean` and `in_flight_most` were on their way. `gaps` is a
    histogram of the time between the `chunks` of one answer: pairs of a number k and a count of gaps from
    exp(k/GAP_BINS) to exp((k+1)/GAP_BINS) ns. `client_cpu_s` is what the client took of a processor
    meanwhile.
    """

    prompt_tokens: int
    output_tokens: int
    sent: int
    in_flight_mean: float
    in_flight_most: int
    chunks: int
    gaps: tuple[tuple[int, int], ...]
    client_cpu_s: float


@dataclass(frozen=True, slots=True)
class Pass:
    """One measured pass: `walks` times over the same requests, or a window of a running load, with what it
    `served` and the requests that ended in it.
    """

    window: Window
    walks: int
    generation: Generation
    served: Served | None = None

    @property
    def prompt_tokens(self) -> int:
        return self.generation.prompt_tokens if self.served is None else self.served.prompt_tokens

    @property
    def output_tokens(self) -> int:
        return self.generation.output_tokens if self.served is None else self.served.output_tokens


BlockKind: TypeAlias = Literal["full", "prefill"]


@dataclass(frozen=True, slots=True)
class Block:
    """Passes without a pause between them, and the silences before the first and after the last.

    In a silence the model is loaded and the worker draws constant power. A `prefill` block walks the same
    prompts with one output token each. A silence is None where none was kept, as amid a running load and in
    results of version 0.8.
    """

    kind: BlockKind
    before: Window | None
    passes: tuple[Pass, ...]
    after: Window | None

    @property
    def window(self) -> Window:
        """From the start of the first pass to the end of the last."""
        return Window(self.passes[0].window.start_ns, self.passes[-1].window.end_ns)


@dataclass(frozen=True, slots=True)
class Idle:
    """The three idle windows of a run; None where one could not be taken."""

    bare: Window | None = None
    loaded: Window | None = None
    after: Window | None = None
