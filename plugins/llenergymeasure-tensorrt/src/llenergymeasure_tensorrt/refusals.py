"""What keeps TensorRT-LLM from running, here or with a configuration, that shows without importing it?"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from llenergymeasure.backends import Refusal, installed_versions, why_decided
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure_tensorrt.section import options_of

PACKAGE = "tensorrt_llm"
# Before it the PyTorch engine took temperature and top_p only with a switch that 1.2 no longer knows.
OLDEST = (1, 2)
INSTALL = "pip install 'tensorrt-llm>=1.2'"
DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
# Weight-only quantisation that the TensorRT engine does itself while it is built.
QUANTISED = {"int8": "W8A16", "int4": "W4A16"}

_ENGINE = {
    "model": "model, or tensorrt.engine_dir for an engine that is built already",
    "dtype": "precision",
    "tokenizer": "model",
    "tokenizer_mode": "model",
    "tokenizer_revision": "tensorrt.engine.revision",
}
_SAMPLING = {
    "max_tokens": "max_output_tokens",
    "min_tokens": "output_length",
    "ignore_eos": "output_length",
    "temperature": "decoder.temperature",
    "top_p": "decoder.top_p",
    "top_k": "decoder.top_k",
    "repetition_penalty": "decoder.repetition_penalty",
    "seed": "random_seed",
    "n": "n (every prompt gives one output)",
    "truncate_prompt_tokens": "max_input_tokens",
    "return_perf_metrics": "nothing: the times of every request are always asked for",
}
_ENDS_EARLY = ("stop", "stop_token_ids", "end_id")
_PENALTIES = ("repetition_penalty", "presence_penalty", "frequency_penalty")


def why_unavailable(root: Path = Path("/")) -> str | None:
    """Everything that is missing, in one sentence: the package, the driver, a GPU."""
    missing: list[str] = []
    if sys.platform != "linux":
        missing.append("Linux")
    if find_spec(PACKAGE) is None:
        missing.append(f"the package {PACKAGE} ({INSTALL})")
    elif (found := installed_versions(PACKAGE).get(PACKAGE)) is not None and release(found) < OLDEST:
        missing.append(f"{PACKAGE} {'.'.join(map(str, OLDEST))} or newer, not {found} ({INSTALL})")
    if not any((root / name).exists() for name in ("dev/nvidiactl", "dev/dxg")):
        missing.append("the NVIDIA driver")
    elif not (root / "dev/dxg").exists() and not any((root / "dev").glob("nvidia[0-9]*")):
        missing.append("a CUDA GPU (the driver is there, but shows none)")
    return f"the tensorrt backend needs {', '.join(missing)}" if missing else None


def release(found: str) -> tuple[int, int]:
    """Major and minor number of a version such as 1.3.0rc5."""
    numbers = re.findall(r"\d+", found)
    return int(numbers[0]), int(numbers[1]) if len(numbers) > 1 else 0


def why_refused(config: ExperimentConfig) -> Refusal | None:
    """The first reason that shows without the package; `open` finds the others."""
    asked = options_of(config)
    if why := why_decided("tensorrt.engine", asked.engine, _ENGINE) or why_decided(
        "tensorrt.sampling", asked.sampling, _SAMPLING
    ):
        return why
    early = [name for name in _ENDS_EARLY if name in asked.sampling]
    if early and config.output_length == "exact":
        return Refusal(
            f"tensorrt.sampling.{early[0]} ends outputs early, but output_length is exact", "make it natural"
        )
    return _why_no_engine(config) or _why_too_small(config)


def uses_engine(config: ExperimentConfig) -> bool:
    """Whether a TensorRT engine is built or loaded; else TensorRT-LLM's PyTorch engine runs the model."""
    return options_of(config).engine_dir is not None or options_of(config).engine.get("backend") == "tensorrt"


def why_penalties_ignored(config: ExperimentConfig, found: str) -> Refusal | None:
    """The sampler of the PyTorch engine took penalties and passed over them in silence until 1.3
    (NVIDIA/TensorRT-LLM pull request 16485); pre-releases of 1.3 differ, so none of them is trusted.
    """
    asked = [name for name in _PENALTIES if name in options_of(config).sampling]
    if config.decoder.repetition_penalty != 1:
        asked.append("decoder.repetition_penalty")
    applied = release(found) > (1, 3) or (release(found) == (1, 3) and "rc" not in found)
    if not asked or applied or uses_engine(config):
        return None
    if options_of(config).engine.get("sampler_type") == "TRTLLMSampler":
        return None
    return Refusal(
        f"{asked[0]} has no effect with the sampler of {PACKAGE} {found}",
        "--set tensorrt.engine.sampler_type=TRTLLMSampler",
    )


def _why_no_engine(config: ExperimentConfig) -> Refusal | None:
    asked = options_of(config)
    if config.precision in QUANTISED and asked.engine_dir is None and not uses_engine(config):
        return Refusal(
            f"TensorRT-LLM's PyTorch engine does not quantise to {config.precision} itself",
            "--set tensorrt.engine.backend=tensorrt builds an engine that is, or name a checkpoint that is "
            "quantised already and leave precision at bf16",
        )
    if config.precision in QUANTISED and "quant_config" in asked.engine:
        return Refusal(
            f"precision {config.precision} and tensorrt.engine.quant_config are both given", "leave one out"
        )
    if asked.engine_dir is None:
        return None
    described = _described(asked.engine_dir)
    if described is None:
        return Refusal(
            f"tensorrt.engine_dir {asked.engine_dir} holds no engine",
            "it needs the config.json and rank0.engine that trtllm-build or LLM.save wrote",
        )
    built = described["pretrained_config"].get("dtype")
    if config.precision in DTYPES and built is not None and built != DTYPES[config.precision]:
        return Refusal(
            f"the engine in {asked.engine_dir} is built for {built}", f"precision {config.precision} is not"
        )
    return None


def _why_too_small(config: ExperimentConfig) -> Refusal | None:
    """Why requests of the asked lengths can't fit, by the engine's own build or by what is asked of it."""
    tokens = config.max_tokens
    asked = options_of(config)
    built = {} if asked.engine_dir is None else (_described(asked.engine_dir) or {}).get("build_config", {})
    own = asked.engine.get("build_config")
    limits: dict[str, Any] = {**built, **(own if isinstance(own, dict) else {}), **asked.engine}
    for name, needed, field in (
        ("max_seq_len", tokens, "max_input_tokens or max_output_tokens"),
        ("max_input_len", config.max_input_tokens, "max_input_tokens"),
    ):
        limit = limits.get(name)
        if isinstance(limit, int) and limit < needed:
            return Refusal(
                f"{name} of the engine is {limit}, but requests need {needed} tokens", f"lower {field}"
            )
    return None


def _described(engine_dir: Path) -> Mapping[str, Any] | None:
    """The `config.json` of a built engine; None where there is none, or no engine beside it."""
    try:
        described = json.loads((engine_dir / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(described, dict) and {"pretrained_config", "build_config"} <= described.keys()
    return described if whole and (engine_dir / "rank0.engine").is_file() else None
