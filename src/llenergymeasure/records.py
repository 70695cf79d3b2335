"""Frozen facts that cross layers: what was read, what was done, what went wrong.

Units are SI and stand in the name; every `_ns` is a reading of CLOCK_MONOTONIC on the one kernel that parent
and worker share. Missing is None, with a reason beside it where a user will look for the value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from pydantic import JsonValue

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llenergymeasure.config.models import ExperimentConfig

    Integers: TypeAlias = NDArray[np.int64]

DomainKind: TypeAlias = Literal["gpu", "module", "cpu", "dram", "host"]
Method: TypeAlias = Literal["counter", "sampled", "modelled"]
Unit: TypeAlias = Literal["J", "W", "s", "bytes", "Hz", "degC", "count"]
FinishReason: TypeAlias = Literal["eos", "length", "error"]
Stage: TypeAlias = Literal["preflight", "load", "warmup", "measure", "save"]
FailureKind: TypeAlias = Literal["oom", "crash", "timeout", "interrupted", "config", "error"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and how far it can be trusted.

    `low` and `high` bound the 95 % interval from chance and sensor resolution, which repetition narrows.
    `systematic` bounds what an uncalibrated sensor or a model of power may hide, which it can't; both are in
    the unit of `value`. `reason` says why a part is None. NaN and infinity are refused.
    """

    value: float | None
    unit: str
    low: float | None = None
    high: float | None = None
    systematic: tuple[float, float] | None = None
    reason: str | None = None

    def __post_init__(self) -> None:
        numbers = [self.value, self.low, self.high, *(self.systematic or ())]
        if not all(number is None or math.isfinite(number) for number in numbers):
            raise ValueError(f"an estimate must be finite, got {self}")
        if (self.low is None) != (self.high is None):
            raise ValueError(f"an interval needs both ends, got {self}")
        if (self.value is None or self.low is None) and not self.reason:
            raise ValueError(f"a missing value or interval needs a reason, got {self}")

    @classmethod
    def missing(cls, unit: str, reason: str) -> Estimate:
        return cls(None, unit, reason=reason)


class Clock(Protocol):
    """The one clock of a run. The `time` module is one; the simulation's virtual clock is another."""

    def monotonic_ns(self) -> int: ...

    def sleep(self, seconds: float, /) -> None: ...


class Progress(Protocol):
    """Told of every phase of a run as it goes: seconds done of seconds expected, None where unknown."""

    def __call__(
        self, description: str, *, done: float | None = None, total: float | None = None
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class Window:
    start_ns: int
    end_ns: int

    def __post_init__(self) -> None:
        if self.end_ns < self.start_ns:
            raise ValueError(f"a window can't end before it starts: {self.start_ns} > {self.end_ns}")

    @property
    def duration_s(self) -> float:
        return (self.end_ns - self.start_ns) / 1e9


# What a meter reads


@dataclass(frozen=True, slots=True)
class Quantity:
    """One field of a domain. A raw count times `scale` is in `unit`.

    Unit "J" or "s" is a cumulative counter (energy, CPU time, throttled time), which starts again at 0 after
    `wrap` counts when `wrap` is given; any other is a level. `source` is the name a reading carries, such as
    `nvml.total_energy`. `step_ns` is the sensor's update period, `window_ns` what it averages over and
    `lag_ns` how far it is behind, each where it was found out before (by `llem doctor --characterise`).
    """

    name: str
    source: str
    unit: Unit
    scale: float
    wrap: int | None = None
    step_ns: int | None = None
    window_ns: int | None = None
    lag_ns: int | None = None


@dataclass(frozen=True, slots=True)
class PowerModel:
    """Watts from CPU time: what stands in where no sensor does.

    `w_per_busy_vcpu` is the central figure for one vCPU-second of work and `w_per_busy_vcpu_range` what it
    may be; `w_per_byte` the same for resident memory. `name` and `citation` say where they come from.
    """

    name: str
    citation: str
    w_per_busy_vcpu: float
    w_per_busy_vcpu_range: tuple[float, float]
    w_per_byte: float
    w_per_byte_range: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Domain:
    """What a meter sees: `gpu:<uuid>`, `module:<uuid>`, `cpu:<package>`, `dram:<package>` or `host`.

    `resolution_j` is the smallest step of its energy counter where it has one. `systematic_gain` and
    `systematic_offset_w` bound the sensor's own error (true = gain × read + offset); None when calibrated:
    then `gain` and `offset_w` are its calibration. `flags` are codes that hold for all of its readings, such
    as `mig_shared`.
    """

    name: str
    kind: DomainKind
    quantities: tuple[Quantity, ...]
    resolution_j: float | None = None
    model: PowerModel | None = None
    systematic_gain: tuple[float, float] | None = None
    systematic_offset_w: tuple[float, float] | None = None
    gain: float = 1.0
    offset_w: float = 0.0
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """One field read once: the raw count, and the two clock readings around the call."""

    domain: str
    quantity: str
    t_before_ns: int
    t_after_ns: int
    raw: int
    stamp_ns: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """All samples of one quantity, in order: int64 arrays of one length."""

    quantity: Quantity
    t_before_ns: Integers
    t_after_ns: Integers
    raw: Integers


@dataclass(frozen=True, slots=True)
class Gap:
    """A stretch in which a meter gave nothing. `domain` is None when the recorder itself was late."""

    window: Window
    reason: str
    domain: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Everything the recorder saw in one run; `series` is keyed by (domain name, quantity name)."""

    domains: tuple[Domain, ...]
    series: Mapping[tuple[str, str], Series]
    gaps: tuple[Gap, ...] = ()

    def domain(self, name: str) -> Domain:
        return next(domain for domain in self.domains if domain.name == name)


@dataclass(frozen=True, slots=True)
class EnergyReading:
    """The energy of one window in one domain from one source."""

    domain: str
    source: str
    method: Method
    window: Window
    energy: Estimate
    resolution_j: float | None = None
    flags: tuple[str, ...] = ()


# What a model does


@dataclass(frozen=True, slots=True)
class Architecture:
    """The shape of a decoder: all that parameter, FLOP and memory formulas need.

    `ffn_matrices` is 3 for a gated feed-forward (SwiGLU) and 2 for a plain one. `experts` is 0 for a dense
    model. `positions` is the size of a learnt position table, 0 with rotary positions. `norm_parameters`
    is 1 per channel for RMSNorm and 2 for LayerNorm; `layer_norms` is how many of them a layer has beside
    `qk_norm`, a norm over each head's queries and keys. `source` says where the shape was read.
    """

    name: str
    source: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    ffn_matrices: Literal[2, 3]
    vocab: int
    tied_embeddings: bool
    context: int
    experts: int = 0
    active_experts: int = 0
    attention_bias: tuple[bool, bool] = (False, False)
    ffn_bias: bool = False
    positions: int = 0
    norm_parameters: Literal[1, 2] = 1
    layer_norms: Literal[2, 4] = 2
    qk_norm: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt and what is wanted of it.

    `prompt` are token ids, made once so that every engine gets the same. With `exact` the engine must
    produce just `max_output_tokens`; else it may stop at the end-of-sequence token.
    """

    index: int
    prompt: tuple[int, ...]
    max_output_tokens: int
    exact: bool


@dataclass(frozen=True, slots=True)
class Completion:
    """What became of one request in one walk over the workload.

    `output_tokens` counts generated tokens up to and including end-of-sequence, never padding. `t_sent_ns`
    is when its batch was handed to the engine; `t_scheduled_ns` when the load plan wanted it sent. Both token
    counts are the engine's; the `local_` ones are llem's own by the model's tokenizer, None where it has
    none.
    """

    index: int
    walk: int
    batch: int
    prompt_tokens: int
    output_tokens: int
    t_scheduled_ns: int
    t_sent_ns: int
    t_first_ns: int | None
    t_end_ns: int
    finish: FinishReason
    local_prompt_tokens: int | None = None
    local_output_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Generation:
    """What a walk gave, or all walks of a pass.

    `output_ids` are the generated token ids of every completion, end-of-sequence included and padding not:
    what tells two engines apart. None where the engine gives none, and in a pass, whose files hold counts.
    """

    completions: tuple[Completion, ...]
    output_ids: tuple[tuple[int, ...], ...] | None = None

    @property
    def prompt_tokens(self) -> int:
        return sum(done.prompt_tokens for done in self.completions)

    @property
    def output_tokens(self) -> int:
        return sum(done.output_tokens for done in self.completions)


@dataclass(frozen=True, slots=True)
class SessionFacts:
    """What the engine says of itself once loaded: the arguments in force, not those asked for."""

    device: str
    arguments: Mapping[str, JsonValue]
    versions: Mapping[str, str]
    gpu_uuids: tuple[str, ...] = ()
    parameters: int | None = None
    weights_bytes: int | None = None
    kv_cache_bytes: int | None = None
    peak_bytes: int | None = None
    memory_source: str | None = None
    tokenizer_hash: str | None = None
    chat_template_hash: str | None = None


@dataclass(frozen=True, slots=True)
class WarmUp:
    """`batch_s` are the durations of its batches in order; `steady` says whether they had settled."""

    window: Window
    batch_s: tuple[float, ...]
    steady: bool


@dataclass(frozen=True, slots=True)
class Pass:
    """One measured pass: `walks` times over the same requests, in the `cycle`-th process of the run."""

    window: Window
    walks: int
    generation: Generation
    cycle: int = 0


@dataclass(frozen=True, slots=True)
class Idle:
    """The three idle windows of a run; None where one could not be taken."""

    bare: Window | None = None
    loaded: Window | None = None
    after: Window | None = None


# Where it ran


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """A visible GPU. A field that the driver does not give is None: unknown, not absent."""

    uuid: str
    index: int
    name: str | None = None
    memory_bytes: int | None = None
    driver: str | None = None
    power_limit_w: float | None = None
    sm_clock_mhz: int | None = None
    temperature_c: int | None = None
    ecc: bool | None = None
    mig: bool | None = None
    persistence: bool | None = None
    foreign_pids: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Environment:
    """The machine and the software a number came from."""

    hostname: str
    os: str
    kernel: str
    python: str
    llem: str
    cpu: str | None
    logical_cpus: int
    memory_bytes: int
    virtualization: str | None
    container: str | None
    swap_used_bytes: int | None
    load_1min: float | None
    git_commit: str | None
    gpus: tuple[GpuFacts, ...]
    versions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Start:
    utc: str
    monotonic_ns: int
    boot_id: str | None


@dataclass(frozen=True, slots=True)
class Overhead:
    """What measuring itself cost."""

    recorder_cpu_s: float
    recorder_samples: int
    setup_s: float


# What the user is told

WarningCode: TypeAlias = Literal[
    "no_energy_source",
    "energy_modelled",
    "window_too_short",
    "counter_power_mismatch",
    "counter_reset",
    "sensor_stuck",
    "sensor_uncharacterised",
    "part_time_sensor",
    "thermal_throttle",
    "power_cap_active",
    "clock_changed",
    "temperature_drift",
    "idle_drift",
    "foreign_gpu_process",
    "cannot_exclude_foreign_processes",
    "mig_shared",
    "host_busy",
    "not_steady",
    "target_not_met",
    "single_pass",
    "tokens_disputed",
    "output_not_pinned",
    "schedule_lag",
    "recorder_gap",
    "swap_active",
    "suspended",
    "passes_correlated",
]

REMEDIES: Mapping[WarningCode, str] = {
    "no_energy_source": "run on a machine with NVML or readable RAPL, or allow the model: --meter estimate",
    "energy_modelled": "for measured joules use a machine with NVML or readable RAPL; "
    "to refuse modelled ones: --set energy.require_measured=true",
    "window_too_short": "lengthen the passes: --set passes.seconds=10, or a larger n",
    "counter_power_mismatch": "trust neither until the sensor is known; compare with an external meter",
    "counter_reset": "the driver was reloaded during the run; run again",
    "sensor_stuck": "reload the driver or choose another meter: --meter",
    "sensor_uncharacterised": "lengthen the passes to at least 5 s so that the sensor's habits matter less",
    "part_time_sensor": "use the energy counter where there is one, and more passes",
    "thermal_throttle": "improve cooling or lower the load; numbers hold for this throttled state only",
    "power_cap_active": "raise the power limit, or report it with the number",
    "clock_changed": "lock the clocks (nvidia-smi -lgc) and run again",
    "temperature_drift": "let the machine warm up or cool down first; raise warmup.max_seconds",
    "idle_drift": "stop other load, wait until idle power is steady, and run again",
    "foreign_gpu_process": "end the other processes on this GPU and run again",
    "cannot_exclude_foreign_processes": "run where the GPU's processes are visible: outside the "
    "container, or with the host's pid namespace",
    "mig_shared": "the whole GPU is measured: keep the other instances idle",
    "host_busy": "stop other load on this host and run again",
    "not_steady": "raise warmup.max_seconds, or stop what disturbs this machine",
    "target_not_met": "raise passes.budget, or accept the wider interval",
    "single_pass": "raise passes.budget, or make a walk over the prompts shorter: a lower -n",
    "tokens_disputed": "check that the tokenizer belongs to the model",
    "output_not_pinned": "set output_length: exact, or choose a model whose context holds the output",
    "schedule_lag": "send less, or from a machine with more cores",
    "recorder_gap": "stop other load on this host, so that the recorder gets its turn",
    "swap_active": "free memory before the run, or choose a smaller model",
    "suspended": "keep the machine awake during a run and run again",
    "passes_correlated": "use longer passes, or repeat the whole run: --preset rigorous",
}


@dataclass(frozen=True, slots=True)
class MeasurementWarning:
    """Something that weakens a number: which of the closed list, what was seen, what to do about it."""

    code: WarningCode
    message: str
    remedy: str

    @classmethod
    def of(cls, code: WarningCode, message: str) -> MeasurementWarning:
        return cls(code, message, REMEDIES[code])


@dataclass(frozen=True, slots=True)
class RunFailure:
    """Why a run has no result."""

    run_id: str
    stage: Stage
    kind: FailureKind
    message: str
    traceback: str | None = None
    log_tail: str | None = None


@dataclass(frozen=True, slots=True)
class Measurement:
    """All that `analysis` needs to make a result, and all that a later version needs to make it again."""

    experiment_id: str
    config: ExperimentConfig
    origins: Mapping[str, str]
    started: Start
    environment: Environment
    facts: SessionFacts
    architecture: Architecture | None
    idle: Idle
    load: Window
    warm_up: WarmUp
    passes: Sequence[Pass]
    trace: Trace
    overhead: Overhead
    warnings: tuple[MeasurementWarning, ...] = ()
    simulated: bool = False
    notes: tuple[str, ...] = field(default=())
    workload_hash: str | None = None
