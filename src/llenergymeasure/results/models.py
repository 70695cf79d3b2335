"""What a result file holds, key by key.

History of the schema: 1, the first. 2: a result pools the runs of an experiment, which have their own part in
it; the uncertainty budget; `cycles` and the cross-check by regression are gone.

Long by its keys: one file is read as one list.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.records import (
    DatasetFacts,
    EnergyReading,
    Environment,
    Estimate,
    MeasurementWarning,
    RequestCounts,
    SessionFacts,
    Start,
    Throttling,
)

RESULT_SCHEMA_VERSION = "2"

Count: TypeAlias = Annotated[int, Field(ge=0)]
# It names a folder, so it can be neither hidden nor a way out of the output directory.
ExperimentId: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$")]


class Part(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        defer_build=True,
        json_schema_serialization_defaults_required=True,
    )


class Stored(Part):
    """What a file of its own holds."""

    def as_json(self) -> dict[str, JsonValue]:
        """The object in the file."""
        data: dict[str, JsonValue] = self.model_dump(mode="json")
        return data

    def to_frame(self) -> Any:
        """Rows as `llem export` has them, as a data frame of pandas or polars: one, of windows one for each
        name, of a study one for each experiment. ResultError where neither library is installed.
        """
        from llenergymeasure.results.frames import frame
        from llenergymeasure.results.rows import rows_of

        return frame(rows_of(self))


class PassWindow(Part):
    """`lead_in`: it differs from those after it and is left out of the figures per token."""

    start_ns: int
    end_ns: int
    lead_in: bool = False


class RunWindow(Part):
    """First start to last end of the passes; `duration_s` is the sum of the passes' own durations."""

    start_ns: int
    end_ns: int
    duration_s: float
    passes: tuple[PassWindow, ...]


class Tokens(Part):
    """Sums over the passes of all runs. `pinned_ok` is None when lengths were natural.

    `requests` were answered, and `failed` were not; the tokens are those of both. `input` and `output` are
    the engine's counts, `local_input` and `local_output` those of llem's own tokenizer, None where some
    request has none. `disputed`: the two are apart by more than 5 %. `cut_prompts` of the workload were
    longer than max_input_tokens and cut to it, None where it was not recorded.
    """

    input: Count
    output: Count
    total: Count
    requests: Count
    failed: Count = 0
    pinned_ok: bool | None
    disputed: bool
    local_input: Count | None = None
    local_output: Count | None = None
    cut_prompts: Count | None = None


class ServerPart(Part):
    """What the server itself counted, from before the first request of a run until its last answer: warm-up
    and what was between the passes included. Sums over all runs; None with the `reason` where it does not.

    `client` is what llem's client counted in the same time. `other_requests` are those that the server
    answered beyond the client's. `cache_hit_share` is of the prompt tokens that were looked for in the prefix
    cache; `acceptance_length` the mean tokens of a step of speculative decoding, one more than were accepted.
    """

    engine: str | None
    prompt_tokens: Count | None
    output_tokens: Count | None
    requests: Count | None
    cache_lookup_tokens: Count | None
    cache_hit_tokens: Count | None
    cache_hit_share: float | None
    drafts: Count | None
    draft_tokens: Count | None
    accepted_tokens: Count | None
    acceptance_length: float | None
    other_requests: Count | None
    client: RequestCounts
    reason: str | None = None


class IdlePower(Part):
    """Mean watts before the child existed, with the model loaded, and after the passes.

    `spinning` is the part of the loaded idle that the engine's own threads draw while they wait, where
    that is known: a fact about the engine, shown beside `net`.
    """

    bare: Estimate
    loaded: Estimate
    after: Estimate
    spinning: Estimate | None = None


class Term(Part):
    """One row of the uncertainty budget: a source of error and its 95 % half-width, in the figure's unit.

    `kind` is A where repetition showed it, B where it is from knowledge (JCGM 100). A `common` error is the
    same in every pass and run, so that repetition does not narrow it. `low` and `high` are given instead of
    `half_width` where the error is not symmetric: the ends of the range that the figure may have.
    `within_chance` rows are not added to the others: of the scatter of replicates (chance) and what it holds
    already, the larger counts.
    """

    name: str
    kind: Literal["A", "B"]
    half_width: float | None = None
    low: float | None = None
    high: float | None = None
    degrees: float | None = None
    common: bool
    cancels_in_ratio: bool
    within_chance: bool = False


class Closure(Part):
    """Sums that should agree: `parts` against `whole`, in joules, and how far they are apart (relative), None
    where the whole is 0.
    """

    name: str
    parts_j: float
    whole_j: float
    apart: float | None


class Uncertainty(Part):
    """The uncertainty budget in the manner of the GUM, for the total and for the cost of an output token."""

    total: tuple[Term, ...]
    per_output_token: tuple[Term, ...]
    closures: tuple[Closure, ...] = ()


class Replicates(Part):
    """What was repeated independently: runs (a fresh process each), or passes within one process."""

    unit: Literal["run", "pass"]
    count: Count


class Lack(Part):
    """A domain that would count if it could be read, and why it can't."""

    domain: str
    reason: str


class HostEnergy(Part):
    """What the hosts of one role took, of hosts without a role each its own; `role` is None of those. Their
    joules sum to the total. The host that llem runs on is named `here`.
    """

    role: str | None
    hosts: tuple[str, ...]
    total: Estimate


class Boundary(Part):
    """What the same passes took within one boundary. Boundaries hold each other: they are never added.

    `to_gpu` is this boundary's energy over that of the GPUs, in the same windows; None where they are read by
    nothing, or are this boundary. `valid` is whether no flag of a reading forbids to rely on it.
    """

    boundary: str
    method: Literal["counter", "sampled", "modelled", "mixed"] | None
    valid: bool
    total: Estimate
    per_output_token: Estimate
    to_gpu: Estimate | None = None
    readings: tuple[EnergyReading, ...]


class Energy(Part):
    """`total` and `readings` are sums over the passes of all runs; per-token figures are what inference
    costs. `boundary` is the one that was asked for; `boundaries` has each that was read, where that are
    several. `hosts` is empty where all is of the host that llem runs on. `replicates` is the unit whose
    scatter makes the interval of the figures per token, and how many there are; `repeats_for_2_percent` how
    many runs ± 2 % of joules per output token would take.
    """

    boundary: str | None
    method: Literal["counter", "sampled", "modelled", "mixed"] | None
    valid: bool
    reasons: tuple[str, ...]
    total: Estimate
    net: Estimate
    net_of: Literal["loaded", "bare"]
    per_output_token: Estimate
    per_total_token: Estimate
    per_request: Estimate
    per_good_request: Estimate | None = Field(
        default=None,
        description="all joules per request that kept every objective of slo, where there are any",
    )
    per_correct_answer: Estimate | None = None
    prefill: Estimate
    decode: Estimate
    idle: IdlePower
    load: Estimate
    readings: tuple[EnergyReading, ...]
    lacks: tuple[Lack, ...] = ()
    hosts: tuple[HostEnergy, ...] = ()
    boundaries: tuple[Boundary, ...] = ()
    replicates: Replicates | None = None
    repeats_for_2_percent: Count | None = None
    uncertainty: Uncertainty | None = None


class Percentiles(Part):
    """Linear interpolation between order statistics, in seconds."""

    mean: Estimate
    p50: Estimate
    p90: Estimate
    p95: Estimate
    p99: Estimate
    method: Literal["linear"] = "linear"
    count: int


class Flops(Part):
    """Floating-point operations of all passes; None with the reason where the shape is unknown."""

    prefill: float | None
    decode: float | None
    total: float | None
    method: str | None
    reason: str | None = None


class Performance(Part):
    output_tokens_per_second: Estimate
    total_tokens_per_second: Estimate
    requests_per_second: Estimate
    goodput_per_s: Estimate | None = Field(
        default=None, description="requests that kept every objective of slo, where there are any"
    )
    throughput_window: Literal["full", "steady"] = "full"
    latencies_from: Literal["sent", "due"] = "sent"
    ttft_s: Percentiles
    tpot_s: Percentiles
    e2e_s: Percentiles
    itl_s: Percentiles | None = Field(
        default=None, description="between tokens of an answer, of a running load whose chunks carry one each"
    )
    chunk_s: Percentiles | None = Field(
        default=None, description="between chunks of an answer, where they carry several tokens"
    )
    in_flight_mean: float | None = Field(default=None, description="requests on their way, of a running load")
    in_flight_most: Count | None = None
    flops: Flops
    mfu: Estimate
    mbu: Estimate


class MatcherCount(Part):
    """Answers that were judged by one matcher, and how many of them were right."""

    matcher: str
    judged: Count
    correct: Count


class Quality(Part):
    """How many answers were right, of prompts with a reference answer.

    `judged` answers were given to `prompts` prompts; `accuracy` is over prompts, with Wilson's interval.
    `cut_or_padded`: every answer had the same length (output_length exact), and is not what the model would
    have said.
    """

    accuracy: Estimate
    prompts: Count
    judged: Count
    correct: Count
    matchers: tuple[MatcherCount, ...]
    cut_or_padded: bool


class Footprint(Part):
    """Carbon and money derived from the joules, with where each factor came from; never part of energy."""

    carbon_g: Estimate
    carbon_per_output_token_g: Estimate
    grid_g_per_kwh: float | None
    grid_source: str | None
    pue: float
    cost: Estimate
    cost_per_output_token: Estimate
    price_per_kwh: float | None


class Memory(Part):
    peak_bytes: int | None
    weights_bytes: int | None
    kv_cache_bytes: int | None
    source: str | None
    reason: str | None = None


class DeviceState(Part):
    """What a GPU was like during the passes: means, sums and the most at once. None is unknown, not none."""

    domain: str
    sm_clock_hz: float | None
    temperature_c: float | None
    power_limit_w: float | None
    throttled_thermal_s: float | None
    throttled_power_s: float | None
    foreign_processes: int | None


class OverheadPart(Part):
    """`client_cpu_share` is what the client of a running load took of one processor, `schedule_lag_…` by how
    much it sent requests later than they were due.
    """

    recorder_cpu_s: float
    recorder_samples: int
    setup_s: float
    load_s: float
    warmup_s: float
    client_cpu_share: float | None = None
    schedule_lag_p50_s: float | None = None
    schedule_lag_p99_s: float | None = None


class RunFigures(Part):
    """What one run alone gave: the replicates from which intervals and comparisons are made."""

    energy_per_output_token_j: float | None
    output_tokens_per_second: float | None
    ttft_p50_s: float | None
    tpot_p50_s: float | None
    e2e_p50_s: float | None


class RunEnergyPart(Part):
    """Joules of one run's passes, with what its windows alone leave open."""

    total: Estimate
    prefill: Estimate
    decode: Estimate
    idle: IdlePower


class RunPart(Part):
    """One run: a process of its own. `outcome` says whether it was measured; `reason` why not. `place` is the
    host with the GPUs that were used. `server` answered, where it may have answered other runs too.
    """

    index: Annotated[int, Field(ge=1)]
    outcome: Literal["measured", "failed", "interrupted"]
    reason: str | None = None
    started_at: Start | None = None
    place: str | None = None
    server: str | None = None
    window: RunWindow | None = None
    steady: bool | None = None
    tokens: Tokens | None = None
    energy: RunEnergyPart | None = None
    figures: RunFigures | None = None
    overhead: OverheadPart | None = None


class ExperimentResult(Stored):
    """What one experiment cost. `simulated` results have a known truth and never mix with measured ones.

    The fields at the top sum or pool the measured `runs`; `environment` and `session` are the first's.
    """

    schema_version: Literal["2"] = "2"
    kind: Literal["inference"] = "inference"
    experiment_id: ExperimentId
    simulated: bool
    config: ExperimentConfig
    config_hash: str
    origins: dict[str, str]
    started_at: Start
    environment: Environment
    session: SessionFacts
    steady: bool
    runs: tuple[RunPart, ...]
    tokens: Tokens
    energy: Energy
    performance: Performance
    memory: Memory
    server: ServerPart | None = Field(default=None, description="a server's own counters beside the client's")
    quality: Quality | None = Field(
        default=None, description="only of prompts with a reference answer that was judged"
    )
    footprint: Footprint | None = Field(default=None, description="only where it was asked for")
    devices: tuple[DeviceState, ...] = Field(default=(), description="the GPUs whose energy counts")
    throttling: Throttling | None = Field(
        default=None, description="what a CPU quota did in the passes of all runs; null without one"
    )
    dataset: DatasetFacts | None = Field(default=None, description="what the prompts were read from")
    workload_hash: str | None = Field(default=None, description="SHA-256 of all prompts' token ids")
    warnings: tuple[MeasurementWarning, ...]
    overhead: OverheadPart
    notes: tuple[str, ...] = Field(default=(), description="facts about the run that weaken nothing")

    @property
    def measured(self) -> tuple[RunPart, ...]:
        """The runs that were measured."""
        return tuple(run for run in self.runs if run.outcome == "measured")

    @property
    def duration_s(self) -> float:
        """Seconds of all passes of all runs."""
        return sum(run.window.duration_s for run in self.measured if run.window is not None)

    __hash__ = None  # type: ignore[assignment]  # its mappings have none either

    def save(self, output_dir: str | Path) -> Path:
        """Write `result.json` to `output_dir/<experiment_id>/` and return that folder.

        The files of its runs are there where it was measured with that `output_dir`, else a note in the file
        says that they are not. Saving it where it is saved already does nothing. ResultError where another
        result is there, or it can't be written.
        """
        from llenergymeasure.results import store

        return store.save(self, Path(output_dir))

    @classmethod
    def load(cls, path: str | Path) -> ExperimentResult:
        """Read a `result.json`, or the folder that holds one. ResultError says what is wrong with it."""
        from llenergymeasure.results import store

        return store.load(Path(path))

    def __repr__(self) -> str:
        return f"<ExperimentResult {self.experiment_id}: {self.energy.per_output_token}>"

    def __str__(self) -> str:
        from llenergymeasure.results import summary

        return summary.as_text(self)

    def _repr_html_(self) -> str:
        from llenergymeasure.results import notebook

        return notebook.as_html(self)
