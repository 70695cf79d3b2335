"""What can be asked for, field by field, in one file that is read as one list; the descriptions are the
reference that users read.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError, PydanticKnownError

from llenergymeasure.config import plugins
from llenergymeasure.config.engines import (
    APART,
    BACKENDS,
    EngineSection,
    LoraConfig,
    Traits,
    backend_names,
    brought_options,
    brought_section,
    why_absent,
)
from llenergymeasure.config.engines.llamacpp import LlamacppConfig
from llenergymeasure.config.engines.pytorch import PytorchConfig
from llenergymeasure.config.engines.simulated import SimulatedConfig
from llenergymeasure.config.engines.vllm import VllmConfig
from llenergymeasure.config.load import LoadConfig, SloConfig
from llenergymeasure.config.runner import RunnerConfig
from llenergymeasure.config.section import (
    AboveZero,
    Arguments,
    NotNegative,
    Positive,
    PositiveSeconds,
    Precision,
    Section,
    Target,
)
from llenergymeasure.exceptions import LLEMError

SCHEMA_VERSION = "2"

# Fields outside the engines' sections that not every engine takes.
TAKEN_BY_SOME = frozenset({"lora", "load", "passthrough_kwargs"})
BUILTIN_METERS = (
    "auto",
    "nvml",
    "amd",
    "rapl",
    "apple",
    "hwmon",
    "battery",
    "ipmi",
    "redfish",
    "estimate",
)


def _known_name(name: str, builtin: Collection[str], *, group: plugins.Group, info: ValidationInfo) -> str:
    """The name if it is built in or of an installed plug-in.

    With `stored` in the validation context any name will do: a result outlives the plug-in that made it.
    """
    if name in builtin or (info.context or {}).get("stored"):
        return name
    names = sorted({*builtin} | group.names())
    if name in names:
        return name
    expected = ", ".join(f"'{choice}'" for choice in names)
    raise PydanticCustomError("unknown_name", "Input should be one of {expected}", {"expected": expected})


class DatasetConfig(Section):
    """Where prompts come from. A bare string stands for `name`."""

    name: str = Field(
        default="mixed",
        min_length=1,
        description="mixed, synthetic, ai-energy-score, the path of a JSON file, "
        "hf:<name>[:<config>][:<split>][:<column>], or lm-eval:<task>",
    )
    column: str | None = Field(
        default=None,
        min_length=1,
        description="key that holds the prompt, where it is none of the usual ones",
    )
    strict: bool = Field(
        default=False, description="refuse records without a prompt rather than skip and count them"
    )
    prompt_tokens: Positive = Field(default=128, description="length of every synthetic prompt, in tokens")
    turns: Literal["one", "all"] = Field(
        default="one",
        description="one: a prompt from each record; all: of a conversation one for each answer that it "
        "awaits, which holds the turns and the recorded answers before it",
    )
    answer: str | None = Field(
        default=None,
        min_length=1,
        description="key that holds the reference answer; by default answer, answers or answerKey",
    )
    matcher: Literal["auto", "exact", "number", "choice", "regex", "none"] = Field(
        default="auto",
        description="how answers are judged: auto by the kind of the reference, and then only where "
        "output_length is natural; none judges nothing",
    )
    keep_answers: bool = Field(
        default=False, description="keep the text of judged answers in events.jsonl of each run"
    )
    chat_template: Literal["auto", "off"] = Field(
        default="auto", description="auto wraps text prompts in the model's chat template where it has one"
    )


def _named_dataset(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


class DecoderConfig(Section):
    """How the next token is chosen. The default is greedy: the same work in every pass."""

    temperature: float = Field(default=0.0, ge=0, le=10, description="0 is greedy")
    top_p: float = Field(
        default=1.0, gt=0, le=1, description="sample among the likeliest tokens of this total probability"
    )
    top_k: int = Field(
        default=0, ge=0, description="sample among so many of the likeliest tokens; 0 switches it off"
    )
    repetition_penalty: float = Field(
        default=1.0, gt=0, description="above 1 makes tokens that occurred less likely"
    )


class WarmupConfig(Section):
    """Batches that run before the first measured one, with the measured settings, until times settle."""

    window: int = Field(default=5, ge=3, description="how many last batches must agree")
    variation: float = Field(
        default=0.05, gt=0, description="largest coefficient of variation that counts as steady"
    )
    min_batches: int = Field(default=3, ge=0, description="batches at least")
    max_seconds: PositiveSeconds = Field(
        default=30.0, description="no batch begins after this long, steady or not"
    )


class BudgetConfig(Section):
    """Where measuring stops although the interval is still wide; counted over all repeats."""

    passes: Positive = Field(default=90, description="passes at most")
    seconds: PositiveSeconds = Field(default=120.0, description="seconds of passes at most")
    joules: AboveZero | None = Field(default=None, description="joules at most; no limit when absent")


class PassesConfig(Section):
    """How long and how often the workload is walked within one run."""

    seconds: PositiveSeconds = Field(
        default=5.0, description="a pass repeats the walk until it has lasted this long"
    )
    count: Positive = Field(
        default=3, description="passes that follow one another in a block, between two silences"
    )
    prefill: int = Field(
        default=1,
        ge=0,
        description="passes with one output token each, which separate prefill from decode; 0 for none",
    )
    target: Target | None = Field(
        default=None,
        description="wanted half-width of joules per output token, relative, over the passes of a single run",
    )
    budget: BudgetConfig = Field(default_factory=BudgetConfig)


class RepeatsConfig(Section):
    """How often the whole run is repeated, each time in a fresh process."""

    count: Positive = Field(default=3, description="runs; an interval needs three")
    target: Target | None = Field(
        default=None,
        description="wanted half-width of joules per output token, relative; none: count is enough",
    )
    max: Positive = Field(default=30, description="runs at most where a target asks for more than count")


class BaselineConfig(Section):
    """Idle power before, between and after."""

    seconds: float = Field(
        default=3.0, ge=0, le=3600, description="length of each idle window; 0 leaves them out"
    )
    cooling_seconds: float = Field(
        default=0.0,
        ge=0,
        le=3600,
        description="longest wait for power to settle before a run; 0 does not wait",
    )
    net: Literal["loaded", "bare"] = Field(
        default="loaded", description="which idle power is taken off for net energy"
    )


class HostConfig(Section):
    """Another host that is measured beside this one, by a recorder that a command starts there."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="what its domains begin with: node2/gpu:…"
    )
    command: str | tuple[str, ...] = Field(
        min_length=1,
        description="starts llem record there and carries its input and output: ssh node2 llem record; "
        "every GPU that it records counts",
    )
    role: Literal["prefill", "decode", "router"] | None = Field(
        default=None, description="what its joules are also summed under"
    )

    @property
    def arguments(self) -> tuple[str, ...]:
        return tuple(shlex.split(self.command)) if isinstance(self.command, str) else self.command

    @field_validator("command")
    @classmethod
    def _can_be_split(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not (shlex.split(value) if isinstance(value, str) else value):
            raise ValueError("it names no program")
        return value


class EnergyConfig(Section):
    """Which meter, which GPUs, and whether a modelled figure will do."""

    meter: str = Field(
        default="auto",
        min_length=1,
        description=f"{', '.join(BUILTIN_METERS)}, or a plug-in's name",
    )
    gpus: Literal["auto", "all"] | tuple[str, ...] = Field(
        default="auto",
        description="auto: those the engine uses; all; or a list of UUIDs, their beginnings or indices",
    )
    boundary: Literal["auto", "gpu", "gpu+cpu+dram", "host", "wall"] = Field(
        default="auto",
        description="what the figures take in: auto is the sum of all parts that are read, else the host; "
        "what else was read is shown beside",
    )
    require_measured: bool = Field(
        default=False, description="refuse to run where energy could only be modelled"
    )
    hosts: tuple[HostConfig, ...] = Field(
        default=(), description="other hosts that do a part of the work; their joules are in the total"
    )

    @field_validator("hosts")
    @classmethod
    def _each_host_once(cls, hosts: tuple[HostConfig, ...]) -> tuple[HostConfig, ...]:
        names = [host.name for host in hosts]
        if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise ValueError(f"two hosts are named {twice[0]}: give each a name of its own")
        if "here" in names:
            raise ValueError("the host that llem runs on is named here: give the other another name")
        return hosts

    @field_validator("meter")
    @classmethod
    def _meter_exists(cls, name: str, info: ValidationInfo) -> str:
        return _known_name(name, BUILTIN_METERS, group=plugins.METERS, info=info)

    @field_validator("gpus", mode="before")
    @classmethod
    def _indices_as_text(cls, value: object) -> object:
        if isinstance(value, list | tuple) and value:
            return tuple(str(item) for item in value)
        if isinstance(value, list | tuple) or value not in ("auto", "all"):
            raise PydanticCustomError("gpus", "Input should be auto, all, or a list of UUIDs or indices")
        return value


class FootprintConfig(Section):
    """What the joules mean elsewhere: derived figures, never part of energy. Nothing by default."""

    grid_g_per_kwh: NotNegative | None = Field(
        default=None, description="grams of CO2-equivalent per kWh of the grid"
    )
    zone: str | None = Field(
        default=None,
        pattern=r"^[A-Z]{3}$",
        description="country (ISO 3166 alpha-3), by codecarbon's table if installed",
    )
    pue: float = Field(default=1.0, ge=1, le=5, description="power usage effectiveness of the building")
    price_per_kwh: NotNegative | None = Field(
        default=None, description="price of a kWh; no cost is derived when absent"
    )
    currency: str = Field(default="USD", pattern=r"^[A-Z]{3}$", description="of price_per_kwh (ISO 4217)")

    @model_validator(mode="after")
    def _one_intensity(self) -> FootprintConfig:
        if self.grid_g_per_kwh is not None and self.zone is not None:
            raise ValueError("give grid_g_per_kwh or zone, not both")
        return self


def why_not_in_force(section: str, backend: str) -> str:
    """What is wrong with options of another engine."""
    return (
        f"{section} has options, but the backend is {backend}; take them out, or choose --backend {section}"
    )


def _engine_name(name: str, info: ValidationInfo) -> str:
    if not (info.context or {}).get("stored") and name not in {*backend_names(), *APART}:
        raise PydanticKnownError("extra_forbidden")
    return name


class ExperimentConfig(Section):  # noqa: PLW1641  pydantic makes the hash of a frozen model
    """One experiment: one model on one backend with one workload.

    It holds the values that it is given: where it is made in Python, `preset` is a label. A file, flags, and
    a mapping that `run_experiment` is given have the preset's values below theirs.
    """

    model: str = Field(
        min_length=1, max_length=1024, description="hub id, directory, GGUF file, alias or random:<shape>"
    )
    backend: str = Field(default=next(iter(BACKENDS)), min_length=1, description="engine that runs the model")
    n: Positive = Field(
        default=100, description="number of prompts; each turn of a conversation is one; of a trace at most"
    )
    dataset: Annotated[DatasetConfig, BeforeValidator(_named_dataset)] = Field(default_factory=DatasetConfig)
    precision: Precision = Field(default="bf16", description="number format of the weights in memory")
    random_seed: int = Field(
        default=42, ge=0, lt=2**32, description="of sampled tokens, synthetic prompts and random weights"
    )
    max_input_tokens: Positive = Field(default=512, description="longer prompts are cut to this many tokens")
    max_output_tokens: Positive = Field(default=128, description="output tokens of a request at most")
    output_length: Literal["exact", "natural"] = Field(
        default="exact",
        description="exact: every request produces max_output_tokens, or the length that its record names; "
        "natural: it may stop at EOS",
    )
    decoder: DecoderConfig = Field(default_factory=DecoderConfig)
    load: LoadConfig | None = Field(
        default=None,
        description="a stream of requests to a server; when absent each pass walks the prompts, one at once",
    )
    slo: SloConfig = Field(default_factory=SloConfig)
    warmup: WarmupConfig = Field(default_factory=WarmupConfig)
    passes: PassesConfig = Field(default_factory=PassesConfig)
    repeats: RepeatsConfig = Field(default_factory=RepeatsConfig)
    baseline: BaselineConfig = Field(default_factory=BaselineConfig)
    energy: EnergyConfig = Field(default_factory=EnergyConfig)
    footprint: FootprintConfig = Field(default_factory=FootprintConfig)
    preset: Literal["smoke", "quick", "rigorous", "ai-energy-score", "mlperf-power"] = Field(
        default="quick", description="defaults of how long a run takes, in a file and on the command line"
    )
    timeout_s: PositiveSeconds = Field(default=3600.0, description="a run is ended after this long")
    runner: RunnerConfig = Field(default_factory=RunnerConfig)
    pytorch: PytorchConfig = Field(default_factory=PytorchConfig)
    vllm: VllmConfig = Field(default_factory=VllmConfig)
    llamacpp: LlamacppConfig = Field(default_factory=LlamacppConfig)
    simulated: SimulatedConfig = Field(default_factory=SimulatedConfig)
    lora: LoraConfig | None = Field(
        default=None, description="an adapter on top of the model; none when absent"
    )
    passthrough_kwargs: Arguments = Field(
        default_factory=dict, description="further arguments of transformers' from_pretrained, by their names"
    )
    output_dir: Path | None = Field(
        default=None, description="directory that results are stored in; nothing is kept when absent"
    )
    _brought: EngineSection | None = PrivateAttr(None)

    # What has no field is the section of an engine that brings its own: the options that are not defaults.
    model_config = ConfigDict(extra="allow")
    if not TYPE_CHECKING:  # type checkers take it for an argument
        __pydantic_extra__: dict[Annotated[str, AfterValidator(_engine_name)], Any]

    _origins: Mapping[str, str] = PrivateAttr(default_factory=dict)

    def __eq__(self, other: object) -> bool:
        """By its values, wherever they come from."""
        return isinstance(other, ExperimentConfig) and self.__dict__ == other.__dict__

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Without origins, which are those of the values as they were."""
        return super().model_copy(update=update, deep=deep).with_origins({})

    def with_origins(self, origins: Mapping[str, str]) -> Self:
        """The same, with where each value comes from, by dotted key."""
        same = super().model_copy()
        same._origins = origins  # noqa: SLF001  of a copy
        return same

    @property
    def origins(self) -> Mapping[str, str]:
        """Where each value comes from, by dotted key; empty where the configuration was made in Python."""
        return self._origins

    @field_validator("model")
    @classmethod
    def _printable(cls, value: str) -> str:
        if not value.isprintable() or value != value.strip():
            raise ValueError("a model's name must be printable, without spaces at its ends")
        return value

    @field_validator("backend")
    @classmethod
    def _backend_exists(cls, name: str, info: ValidationInfo) -> str:
        if (why := why_absent(name)) and not (info.context or {}).get("stored"):
            raise PydanticCustomError("not_installed", "{why}", {"why": why})
        return _known_name(name, BACKENDS, group=plugins.BACKENDS, info=info)

    @field_validator("output_dir", mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        # As a path it would be the working directory.
        if value == "":
            raise ValueError("it is empty; name a directory, or leave it out")
        return value

    @field_validator("output_dir")
    @classmethod
    def _home_expanded(cls, value: Path | None) -> Path | None:
        return value.expanduser() if value is not None and str(value).startswith("~") else value

    @model_validator(mode="after")
    def _engine_is_in_force(self, info: ValidationInfo) -> ExperimentConfig:
        """An option of an engine that does not run would be passed over in silence."""
        others: dict[str, Any] = self.model_extra or {}
        # This runs again where a result takes in a configuration that was read from another one.
        if self._brought is not None:
            return self
        if (info.context or {}).get("stored"):
            self._take_in_stored(others)
            return self
        if self.backend not in ENGINES:
            self._take_in_brought(others)
        given = [*others, *(name for name, section in ENGINES.items() if getattr(self, name) != section())]
        for name in given:
            if name != self.backend:
                raise ValueError(why_not_in_force(name, self.backend))
        for name in sorted(TAKEN_BY_SOME):
            if getattr(self, name) and name not in self.engine.takes:
                sections = {other: brought_section(other) or EngineSection for other in BACKENDS}
                takers = [other for other, engine in sections.items() if name in engine().traits.takes]
                raise ValueError(
                    f"{name} is given, but the backend {self.backend} takes none; remove it, "
                    f"or choose --backend {' or '.join(takers)}"
                )
        return self

    def _take_in_stored(self, others: dict[str, Any]) -> None:
        """A result outlives the plug-in that ran it. Older ones hold a section for each engine of their
        version, and the options of a plug-in under `options`.
        """
        sections = {name: value for name, value in others.items() if isinstance(value, dict)}
        Section.model_validate({name: value for name, value in others.items() if name not in sections})
        others.clear()
        if self.backend not in ENGINES:
            others[self.backend] = sections.get(self.backend) or sections.get("options", {})
            with suppress(LLEMError, ValidationError):
                self._take_in_brought(others)
            self._brought = self._brought or EngineSection()

    def _take_in_brought(self, others: dict[str, Any]) -> None:
        self._brought = brought_options(self.backend, others.get(self.backend, {}))
        others[self.backend] = self._brought.model_dump(mode="json", exclude_defaults=True)

    @model_validator(mode="after")
    def _one_target(self) -> ExperimentConfig:
        """A target over passes is one within a single process; over repeats it is one over processes."""
        if self.passes.target is not None and self.repeats.count > 1:
            raise ValueError(
                "passes.target is for a single run; remove it and give repeats.target, "
                "or set repeats.count to 1"
            )
        if self.repeats.max < self.repeats.count:
            raise ValueError(
                f"repeats.max {self.repeats.max} is less than repeats.count {self.repeats.count}; raise it"
            )
        if self.repeats.target is not None and self.repeats.count < 3:
            raise ValueError("repeats.target needs repeats.count of 3 or more: fewer give no interval")
        return self

    @model_validator(mode="after")
    def _fits_load(self) -> ExperimentConfig:
        if self.is_stream and self.passes.target is not None:
            raise ValueError(
                "passes.target asks for a second block of passes, and the windows of a running load are one; "
                "remove it, and set passes.count, or repeats.target"
            )
        if self.load is not None and self.load.finite and self.load.concurrency > self.n:
            raise ValueError(
                f"load.concurrency {self.load.concurrency} is larger than n {self.n}; lower it or raise n"
            )
        return self

    @model_validator(mode="after")
    def _batch_fits(self) -> ExperimentConfig:
        if self.load is None and self.batch_size > self.n:
            own = self.engine
            if own.replicas > 1:
                raise ValueError(
                    f"{own.replicas} processes take a batch of {own.static_batch} each, "
                    f"and n is {self.n}; lower {self.backend}.num_processes or the batch size, or raise n"
                )
            raise ValueError(
                f"{self.backend}.batch_size {self.batch_size} is larger than n {self.n}; "
                "lower the batch size or raise n"
            )
        return self

    @model_validator(mode="after")
    def _load_fits_prompts(self) -> ExperimentConfig:
        load = self.load
        if load is not None and load.trace is not None and self.dataset != DatasetConfig():
            raise ValueError("load.trace has requests of its own; remove dataset, or choose other arrivals")
        is_closed = load is None or load.arrivals == "closed"
        if load is not None and load.think_s and not is_closed and self.dataset.turns == "one":
            raise ValueError(
                f"load.think_s has no use with arrivals {load.arrivals} and prompts of one turn; "
                "remove it, or set dataset.turns to all"
            )
        return self

    @property
    def prompts_from(self) -> str:
        """What names the prompts: the trace of the load, else the dataset."""
        trace = None if self.load is None else self.load.trace
        return self.dataset.name if trace is None else str(trace)

    @property
    def options(self) -> EngineSection:
        """The section of the backend in force."""
        own: EngineSection = self._brought or getattr(self, self.backend)
        return own

    @property
    def engine(self) -> Traits:
        """What others ask of the backend in force with its options."""
        if type(self.options) is EngineSection:
            size = (self.model_extra or {}).get(self.backend, {}).get("batch_size")
            return Traits(batch_size=size if isinstance(size, int) and size > 0 else None)
        return self.options.traits

    @property
    def max_tokens(self) -> int:
        """What a request may have at most, prompt and output together."""
        return self.max_input_tokens + self.max_output_tokens

    @property
    def batch_size(self) -> int:
        """Requests handed to the engine at once.

        Engines that form their own batches are handed all `n`, unless a batch size is given. Of a load they
        are the users of a closed loop; by due times there may be any number.
        """
        if self.load is not None:
            return self.load.concurrency if self.load.arrivals == "closed" else self.n
        return self.engine.batch_size or self.n

    @property
    def is_stream(self) -> bool:
        """Whether passes are windows of a running load, rather than walks between two silences."""
        return self.load is not None and not self.load.finite

    @property
    def why_no_prefill(self) -> str | None:
        """Why no prefill passes are run; None where they are."""
        load = self.load
        if self.max_output_tokens == 1:
            return "every request has one output token: prefill is all there is (see energy per request)"
        if self.is_stream:
            return "under a running load prefill and decode of different requests overlap"
        if load is not None and (load.arrivals != "closed" or load.think_s):
            return "requests come at times of their own, and a pass of prefill would mostly wait for them"
        return None if self.passes.prefill else "no prefill passes were asked for: passes.prefill is 0"


# The engines whose sections are fields, for editors and type checkers; others bring theirs with the backend.
ENGINES: dict[str, type[EngineSection]] = {
    name: field.annotation
    for name, field in ExperimentConfig.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, EngineSection)
}


def identity(config: ExperimentConfig) -> dict[str, JsonValue]:
    """What makes two experiments the same: the fields that differ from their defaults.

    Left out is where the result goes and how well it is to be known: more repeats are the same experiment.
    """
    fields: dict[str, JsonValue] = config.model_dump(
        mode="json",
        exclude={
            "output_dir": True,
            "repeats": True,
            "passes": {"target": True, "budget": True},
            # By which way a host is reached is not what is measured.
            "energy": {"hosts": {"__all__": {"command"}}},
        },
        exclude_defaults=True,
    )
    return {name: value for name, value in fields.items() if value != {}}


def config_hash(config: ExperimentConfig) -> str:
    """SHA-256 (hex) of the canonical JSON of `identity` with the schema version."""
    canonical = json.dumps(
        {"schema": SCHEMA_VERSION, "config": identity(config)}, sort_keys=True, separators=(",", ":")
    )
    return hashlib.sha256(canonical.encode()).hexdigest()
