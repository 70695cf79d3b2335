"""Can this machine run this experiment? Everything that can be refused without loading a model."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from llenergymeasure.analysis.footprint import why_no_grid
from llenergymeasure.backends import Refusal, why_not
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.energy.meters.selection import Selection
from llenergymeasure.exceptions import EnergyError, LLEMError, PreFlightError
from llenergymeasure.host.machine import address_space_bytes, memory_available_bytes
from llenergymeasure.measure.container import Found, container_gpus, look
from llenergymeasure.measure.gpus import gpu_facts
from llenergymeasure.measure.meters import FollowedDevice, meters_for
from llenergymeasure.models.resolve import ResolvedModel, require_available, resolve
from llenergymeasure.models.vram import estimate_vram
from llenergymeasure.records import GpuFacts
from llenergymeasure.results.store import preflight_output
from llenergymeasure.workload import load_prompts

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tokenizer_config.json")
# What the parent and a small PyTorch worker were seen to need, with room to spare.
LEAST_FILES = 64
LEAST_SPACE_SIMULATED, LEAST_SPACE = 1e9, 4e9
ADAPTER_FILE = "adapter_config.json"


@dataclass(frozen=True, slots=True)
class Cleared:
    """What preflight found on the way: the meters to use, the model where the backend loads one, and the
    container's engine and image where the worker lives in one.
    """

    meters: Selection
    model: ResolvedModel | None
    container: Found | None = None


def preflight(
    config: ExperimentConfig, choose: Callable[[], Selection], *, gpus: Sequence[GpuFacts]
) -> Cleared:
    """Every reason against the run in one PreFlightError; ConfigError for what no machine could run."""
    load_prompts(config)
    reasons, cleared = _examined(config, choose, gpus)
    if cleared is None:
        raise _against(reasons)
    return cleared


def reasons_against(config: ExperimentConfig) -> tuple[str, ...]:
    """Every reason for which `preflight` would refuse the run on this host now; ConfigError as there."""
    device = FollowedDevice(config, clock=time) if config.engine.is_simulated else None
    choose = partial(meters_for, config, processes=tuple, device=device)
    reasons, _ = _examined(config, choose, gpu_facts(None if device is None else device.nvml))
    return tuple(map(str, reasons))


def _examined(
    config: ExperimentConfig, choose: Callable[[], Selection], gpus: Sequence[GpuFacts]
) -> tuple[list[Refusal], Cleared | None]:
    reasons: list[Refusal] = []
    model = None
    meters = None
    container = _engine(config, gpus, reasons)
    reasons.extend(_limits(config))
    if config.output_dir is not None and (why := preflight_output(config.output_dir)):
        reasons.append(Refusal(f"output: {why}"))
    if why := why_no_grid(config.footprint):
        reasons.append(Refusal(f"footprint.zone: {why}"))
    if not config.engine.is_simulated:
        model = _model(config, gpus, reasons)
        if no_assistant := _why_no_assistant(config):
            reasons.append(_of(f"{config.backend}.assistant_model", no_assistant))
        if no_adapter := _why_no_adapter(config):
            reasons.append(no_adapter)
    try:
        meters = choose()
    except EnergyError as error:
        reasons.append(_of("energy", error))
    return reasons, None if reasons or meters is None else Cleared(meters, model, container)


def _limits(config: ExperimentConfig) -> Iterator[Refusal]:
    """Limits of this shell under which a run dies somewhere, of whatever asks first."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files != resource.RLIM_INFINITY and files < LEAST_FILES:
        yield Refusal(
            f"limits: ulimit -n allows {files} open files, and a run needs {LEAST_FILES}", "ulimit -n 1024"
        )
    space = address_space_bytes()
    least = LEAST_SPACE_SIMULATED if config.engine.is_simulated else LEAST_SPACE
    if space is not None and space < least:
        yield Refusal(
            f"limits: ulimit -v allows a process {space / 1e9:.2g} GB of address space, and libraries alone "
            f"map {least / 1e9:.0f} GB",
            "ulimit -v unlimited",
        )


def _model(
    config: ExperimentConfig, gpus: Sequence[GpuFacts], reasons: list[Refusal]
) -> ResolvedModel | None:
    """The model; add why it can't be had, does not take what is asked of it, or does not fit."""
    try:
        model = resolve(config.model, revision=config.engine.revision)
        require_available(model)
        whys = (
            _why_no_revision(config, model),
            _why_no_tokenizer(model) or _why_too_long(config, model),
            _why_not_shared(config, model),
        )
        reasons.extend(why for why in whys if why)
        if why := why_too_large(config, gpus, available_bytes=memory_available_bytes()):
            reasons.append(_of("memory", why))
    except PreFlightError as error:
        reasons.append(_refusal(error))
        return None
    return model


def _why_no_assistant(config: ExperimentConfig) -> Refusal | None:
    small = config.engine.assistant
    if small is None:
        return None
    try:
        model = resolve(small)
    except PreFlightError as error:
        # The backend says so itself, but is not asked where it runs in a container.
        return None if config.runner.kind == "local" else _refusal(error)
    try:
        require_available(model)
    except PreFlightError as error:
        return _refusal(error)
    return None


def _why_no_adapter(config: ExperimentConfig) -> Refusal | None:
    # A backend that says so itself is not asked where it runs in a container.
    is_said = config.engine.checks_adapter and config.runner.kind == "local"
    if config.lora is None or is_said:
        return None
    if (Path(config.lora.path).expanduser() / ADAPTER_FILE).is_file():
        return None
    return Refusal(
        f"lora.path {config.lora.path} is not a directory with {ADAPTER_FILE}",
        "name the one that peft saved the adapter to",
    )


def _why_no_revision(config: ExperimentConfig, model: ResolvedModel) -> Refusal | None:
    if config.engine.revision is None or model.kind == "hub":
        return None
    option = f"{config.backend}.{config.engine.revision_option}"
    what = {"gguf": "a GGUF file", "directory": "a directory", "random": "a shape with random weights"}
    return Refusal(
        f"{option} {config.engine.revision!r} names a revision on the hub, and {config.model} is "
        f"{what[model.kind]}, which has none",
        "remove it",
    )


def _engine(config: ExperimentConfig, gpus: Sequence[GpuFacts], reasons: list[Refusal]) -> Found | None:
    """Add why the engine can't run here; what was found of its container, where it runs in one."""
    if config.runner.kind == "local":
        if why := why_not(config.backend, config):
            reasons.append(_of(f"backend {config.backend}", why))
        return None
    # The engine is the image's affair: what is installed on this host says nothing of it.
    try:
        container_gpus(config, gpus)
        return look(config)
    except PreFlightError as error:
        reasons.append(_of("container", error))
        return None


def why_too_large(
    config: ExperimentConfig, gpus: Sequence[GpuFacts], *, available_bytes: int | None
) -> Refusal | None:
    """Why the model will not fit, by the estimate; None where it does, or that is unknown.

    On a GPU against the memory of the largest one, or of as many as share the model, else against
    `available_bytes`, what the host has left (None is unknown); so too on a GPU that works in that. An engine
    that forms its own batches needs room for one request.
    """
    own = config.engine
    estimate = estimate_vram(config, least=True).total_bytes
    # Where an engine holds a model in its own way the estimate is shown, and refuses nothing.
    if estimate is None or not own.is_sized:
        return None
    sizes = sorted((gpu.memory_bytes for gpu in gpus if gpu.memory_bytes is not None), reverse=True)
    where, there = "this host has left", available_bytes
    if sizes and own.uses_gpus is not False:
        sizes = sizes[: own.gpus_per_model]
        where, there = "the GPUs have" if len(sizes) > 1 else "the GPU has", sum(sizes)
    if there is None or estimate <= there:
        return None
    return Refusal(
        f"{config.model} needs about {estimate / 1e9:.1f} GB and {where} {there / 1e9:.1f} GB",
        "lower the batch size or the token limits, or take a smaller model; --dry-run shows the parts",
    )


def _why_no_tokenizer(model: ResolvedModel) -> Refusal | None:
    if model.kind not in {"directory", "hub"} or model.path is None:
        return None
    if any((model.path / name).is_file() for name in TOKENIZER_FILES):
        return None
    return Refusal(
        f"{model.path} holds no tokenizer", f"put the model's {' or '.join(TOKENIZER_FILES[:2])} there"
    )


def _why_too_long(config: ExperimentConfig, model: ResolvedModel) -> Refusal | None:
    tokens = config.max_tokens
    if model.context is None or tokens <= model.context:
        return None
    if config.load is not None and config.load.trace is not None:
        return _why_record_too_long(config, model.context)
    return Refusal(
        f"max_input_tokens {config.max_input_tokens} and max_output_tokens {config.max_output_tokens} are "
        f"more than the {model.context} tokens of {config.model}'s context",
        "lower one of them; prompts are cut to max_input_tokens, and the result says how many were",
    )


def _why_record_too_long(config: ExperimentConfig, context: int) -> Refusal | None:
    """By the longest request of a trace: each has lengths of its own, and the limits only hold them."""
    wanted, prompt = max(
        (((one.length or 0) + (one.output_tokens or 0), one) for one in load_prompts(config).prompts),
        key=lambda pair: pair[0],
    )
    if wanted <= context:
        return None
    return Refusal(
        f"{prompt.id} of {config.prompts_from} has {prompt.length} input and {prompt.output_tokens} output "
        f"tokens, more than the {context} tokens of {config.model}'s context",
        "remove that record",
    )


def _why_not_shared(config: ExperimentConfig, model: ResolvedModel) -> Refusal | None:
    """Why tensor parallelism of an engine can't share the heads; the pytorch backend says so itself."""
    ranks = config.engine.tensor_parallel
    attentions = () if model.architecture is None or ranks < 1 else model.architecture.attentions
    heads = next((one.heads for one in attentions if one.heads % ranks), None)
    if heads is None:
        return None
    option = f"{config.backend}.engine.tensor_parallel_size"
    return Refusal(
        f"{option} is {ranks}, and {config.model} has {heads} heads, which {ranks} "
        "processes can't share evenly",
        f"take another {option}",
    )


def _refusal(error: LLEMError) -> Refusal:
    return Refusal(error.message, error.hint)


def _of(what: str, why: Refusal | LLEMError) -> Refusal:
    found = why if isinstance(why, Refusal) else _refusal(why)
    return Refusal(f"{what}: {found.reason}", found.way_out)


def _against(reasons: Sequence[Refusal]) -> PreFlightError:
    if len(reasons) == 1:
        return PreFlightError(reasons[0].reason, hint=reasons[0].way_out)
    head = f"{len(reasons)} reasons against this run:"
    return PreFlightError("\n".join([head, *(f"  - {reason}" for reason in reasons)]))
