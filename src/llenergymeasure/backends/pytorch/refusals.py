"""What can be refused of a PyTorch configuration before torch is imported?"""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from llenergymeasure.backends import Refusal, why_too_many_threads
from llenergymeasure.backends.pytorch.adapter import why_no_adapter
from llenergymeasure.backends.pytorch.passthrough import why_no_passthrough
from llenergymeasure.backends.pytorch.quantisation import (
    BITS,
    is_installed,
    way,
    why_no_blocks,
    why_no_checkpoint,
    why_not_quantised,
)
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import PreFlightError
from llenergymeasure.models.resolve import ResolvedModel, resolve

FLASH_PACKAGES = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}


def why_refused(config: ExperimentConfig) -> Refusal | None:
    """The first reason that shows without torch; `open` finds the others."""
    device = _device(config)
    return (
        _why_not_there(config)
        or why_too_many_threads("pytorch.threads", config.pytorch.threads)
        or _why_not_compiled(config)
        or _why_no_attention(config, device)
        or why_no_cache(config, device)
        or why_not_quantised(config, device)
        or _why_not_searched(config)
        or _why_not_guessed(config)
        or _why_not_shared_out(config, device)
        or _why_not_split(config)
        or why_no_adapter(config)
        or why_no_passthrough(config)
        or _why_not_these_weights(config, device)
    )


def _device(config: ExperimentConfig) -> str:
    asked = config.pytorch.device
    if asked != "auto":
        return asked
    if not _is_cpu_build() and Path("/dev/nvidiactl").exists():
        return "cuda"
    return "mps" if sys.platform == "darwin" else "cpu"


def _why_not_there(config: ExperimentConfig) -> Refusal | None:
    asked = config.pytorch
    if asked.device != "auto" and asked.device_map is not None:
        return Refusal(
            f"pytorch.device {asked.device} and pytorch.device_map {asked.device_map} are both given",
            "leave one of them out",
        )
    if asked.device == "cuda" and (_is_cpu_build() or not Path("/dev/nvidiactl").exists()):
        what = "this PyTorch is a CPU build" if _is_cpu_build() else "this host has no NVIDIA driver"
        return Refusal(f"pytorch.device is cuda, but {what}", "--set pytorch.device=cpu")
    return None


def _why_not_compiled(config: ExperimentConfig) -> Refusal | None:
    asked, chosen = config.pytorch, way(config)
    if asked.compile_mode is not None and not asked.compile:
        return Refusal(
            f"pytorch.compile_mode is {asked.compile_mode}, but pytorch.compile is off",
            "--set pytorch.compile=true",
        )
    if not asked.compile:
        return None
    if asked.cache_implementation not in {None, "static"}:
        return Refusal(
            f"pytorch.compile needs the static cache, not cache_implementation {asked.cache_implementation}",
            "--set pytorch.cache_implementation=static, or leave it out",
        )
    against = {
        "transformers does not compile beam search": asked.num_beams > 1,
        "pytorch.compile is not measured together with pytorch.tp_plan": asked.tp_plan is not None,
        "flex_attention is compiled already": asked.attn_implementation == "flex_attention",
        f"transformers does not compile weights of {chosen}": chosen in {"bitsandbytes", "quanto"},
    }
    reason = next((reason for reason, holds in against.items() if holds), None)
    return None if reason is None else Refusal(reason, "--set pytorch.compile=false")


def _why_no_attention(config: ExperimentConfig, device: str) -> Refusal | None:
    asked = config.pytorch.attn_implementation
    sdpa = "--set pytorch.attn_implementation=sdpa"
    if asked in FLASH_PACKAGES:
        package = FLASH_PACKAGES[asked]
        if find_spec(package) is None:
            return Refusal(f"{asked} needs the package {package}, which is not installed", sdpa)
        if device != "cuda":
            return Refusal(f"{asked} runs on CUDA devices, not on {device}", sdpa)
        if config.precision == "fp32":
            return Refusal(f"{asked} computes in 16 bits, not in fp32", f"--precision bf16, or {sdpa}")
    if asked == "flex_attention" and device != "cuda":
        return Refusal(
            f"flex_attention on {device} is compiled anew for every length, inside the passes", sdpa
        )
    return None


def why_no_cache(config: ExperimentConfig, device: str) -> Refusal | None:
    """Why the cache can't be kept as asked on a device of this kind."""
    asked = config.pytorch.cache_implementation
    if asked == "quantized" and not is_installed("optimum.quanto"):
        return Refusal(
            "cache_implementation quantized needs the package optimum-quanto", "pip install optimum-quanto"
        )
    if asked == "offloaded" and device == "cpu":
        return Refusal(
            "cache_implementation offloaded moves the cache to the CPU, where this model is already",
            "--set pytorch.cache_implementation=dynamic",
        )
    return None


def _why_not_searched(config: ExperimentConfig) -> Refusal | None:
    asked, guesses = config.pytorch, _guesses(config)
    if asked.num_beams == 1:
        return None
    if guesses:
        return Refusal(
            "beam search excludes guessing tokens ahead", f"--set pytorch.num_beams=1, or leave {guesses} out"
        )
    if asked.cache_implementation == "quantized":
        return Refusal(
            "a quantized cache can't be reordered as beam search needs", "another cache_implementation"
        )
    return None


def _why_not_guessed(config: ExperimentConfig) -> Refusal | None:
    asked, guesses = config.pytorch, _guesses(config)
    if guesses is None:
        return None
    if asked.prompt_lookup_num_tokens is not None and asked.assistant_model is not None:
        return Refusal(
            "prompt_lookup_num_tokens and assistant_model both guess tokens ahead", "leave one of them out"
        )
    if asked.batch_size > 1:
        return Refusal(
            f"{guesses} guesses for one request at a time", "--set pytorch.batch_size=1, or leave it out"
        )
    if asked.compile or asked.cache_implementation not in {None, "dynamic"}:
        return Refusal(
            f"{guesses} takes back wrong guesses, which needs the dynamic cache without compile",
            "leave one of them out",
        )
    return _why_no_assistant(config)


def _why_no_assistant(config: ExperimentConfig) -> Refusal | None:
    small = config.pytorch.assistant_model
    if small is None:
        return None
    try:
        shape = resolve(small).architecture
    except PreFlightError as error:
        return Refusal(f"pytorch.assistant_model: {error.message}", "name a smaller model of the same family")
    model = _resolved(config)
    large = None if model is None else model.architecture
    if shape is None or large is None or shape.vocab == large.vocab:
        return None
    return Refusal(
        f"{small} has a vocabulary of {shape.vocab} tokens and {config.model} one of {large.vocab}",
        "name a smaller model of the same family",
    )


def _why_not_shared_out(config: ExperimentConfig, device: str) -> Refusal | None:
    asked = config.pytorch
    if asked.num_processes == 1:
        if asked.tp_plan is None:
            return None
        return Refusal(
            "pytorch.tp_plan splits the model over pytorch.num_processes, which is 1",
            "--set pytorch.num_processes=2 or more, or leave tp_plan out",
        )
    one = "--set pytorch.num_processes=1"
    if asked.device_map is not None:
        return Refusal("pytorch.device_map spreads one process over devices, num_processes has one each", one)
    if device == "mps":
        return Refusal(f"an Apple GPU is one device, and {asked.num_processes} processes want one each", one)
    gpus = len(list(Path("/dev").glob("nvidia[0-9]*")))
    if device == "cuda" and gpus < asked.num_processes:
        return Refusal(
            f"pytorch.num_processes is {asked.num_processes}, but this host has {gpus} GPUs", "lower it"
        )
    return None


def _why_not_split(config: ExperimentConfig) -> Refusal | None:
    asked = config.pytorch
    if asked.tp_plan is None:
        return None
    also = {
        f"precision {config.precision}": config.precision in BITS,
        "lora": config.lora is not None,
        _guesses(config) or "": _guesses(config) is not None,
        f"{config.model}, which makes its weights": config.model.startswith("random:"),
    }
    for what, given in also.items():
        if given:
            return Refusal(f"pytorch.tp_plan is not measured together with {what}", "leave one of them out")
    model = _resolved(config)
    shape = model.architecture if model is not None else None
    for one in () if shape is None else shape.attentions:
        if one.heads % asked.num_processes or one.kv_heads % asked.num_processes:
            return Refusal(
                f"{config.model} has {one.heads} heads and {one.kv_heads} for keys and values, which "
                f"{asked.num_processes} processes can't share evenly",
                "another pytorch.num_processes",
            )
    return None


def _why_not_these_weights(config: ExperimentConfig, device: str) -> Refusal | None:
    model = _resolved(config)
    if model is None:
        return None
    return why_no_checkpoint(config, model) or why_no_blocks(config, model, device)


def _guesses(config: ExperimentConfig) -> str | None:
    """The option that makes several tokens come from one step, or None."""
    asked = config.pytorch
    if asked.assistant_model is not None:
        return "pytorch.assistant_model"
    return "pytorch.prompt_lookup_num_tokens" if asked.prompt_lookup_num_tokens is not None else None


def _resolved(config: ExperimentConfig) -> ResolvedModel | None:
    """None where the model can't be found, which preflight says by itself."""
    try:
        return resolve(config.model, revision=config.pytorch.revision)
    except PreFlightError:
        return None


def _is_cpu_build() -> bool:
    try:
        return version("torch").endswith("+cpu")
    except PackageNotFoundError:
        return False
