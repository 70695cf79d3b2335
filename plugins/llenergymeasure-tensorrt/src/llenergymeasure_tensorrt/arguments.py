"""With which arguments are TensorRT-LLM's `LLM` and its `SamplingParams` made?"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from llenergymeasure.backends import refuse, why_unknown
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import BackendError, ConfigError
from llenergymeasure.records import Request
from llenergymeasure_tensorrt.refusals import DTYPES, PACKAGE, QUANTISED, uses_engine
from llenergymeasure_tensorrt.section import options_of


def llm_class(package: Any, config: ExperimentConfig) -> Any:
    """The `LLM` that builds or loads a TensorRT engine, or the one that runs the model on PyTorch."""
    if not uses_engine(config):
        return package.LLM
    module = getattr(package, "_tensorrt_engine", None)
    if module is None:
        raise BackendError(
            f"{PACKAGE} {package.__version__} builds and loads no TensorRT engines any more",
            hint="take tensorrt.engine_dir and tensorrt.engine.backend out, or install an older version",
        )
    return module.LLM


def engine_arguments(
    package: Any, config: ExperimentConfig, *, model: Path, random_weights: bool
) -> dict[str, Any]:
    """Keyword arguments of `LLM`: what llem decides, then what is asked for.

    ConfigError for a name that the installed version does not know, with the one that is nearest.
    """
    known = _engine_names(package, config)
    asked = {name: value for name, value in options_of(config).engine.items() if name != "backend"}
    _check_names(asked, known, what="tensorrt.engine", of="LLM")
    # Ids go in and ids come out: no tokenizer and no detokenisation inside a measured window.
    arguments: dict[str, Any] = {"model": str(model), "skip_tokenizer_init": True}
    if options_of(config).engine_dir is None:
        arguments |= _built_for(config)
    if random_weights:
        arguments["load_format"] = "dummy"
    # Blocks that are kept from the pass before would skip its prefill, which is what is measured.
    kept = {"enable_block_reuse": False}
    given = asked.get("kv_cache_config")
    arguments = (
        arguments | asked | {"kv_cache_config": {**kept, **given} if isinstance(given, dict) else kept}
    )
    return {name: _as_object(package, name, value) for name, value in arguments.items()}


def _built_for(config: ExperimentConfig) -> dict[str, Any]:
    """Precision and sizes of a model that is loaded or built; an engine that is built brings its own."""
    arguments: dict[str, Any] = (
        {"dtype": DTYPES[config.precision]}
        if config.precision in DTYPES
        else {"quant_config": {"quant_algo": QUANTISED[config.precision]}}
    )
    # A build_config holds the sizes itself, and the engine lets it win with no more than a warning.
    if "build_config" not in options_of(config).engine:
        arguments |= {
            "max_batch_size": config.batch_size,
            "max_input_len": config.max_input_tokens,
            "max_seq_len": config.max_tokens,
        }
    return arguments


def sampling_parameters(
    package: Any, config: ExperimentConfig, request: Request, *, end_ids: Sequence[int]
) -> Any:
    """`SamplingParams` of one request. ConfigError for a name that the installed version does not know."""
    asked, decoder = options_of(config).sampling, config.decoder
    known = inspect.signature(package.SamplingParams).parameters
    _check_names(asked, known, what="tensorrt.sampling", of="SamplingParams")
    arguments: dict[str, Any] = {
        "max_tokens": request.max_output_tokens,
        # Without a tokenizer the engine asks for an id, and -1 is none.
        "end_id": end_ids[0] if end_ids else -1,
        "pad_id": end_ids[0] if end_ids else 0,
        "detokenize": False,
        "return_perf_metrics": True,
    }
    if request.exact:
        # No min_tokens beside it: ignoring makes the end id -1, and forbidding that forbids the last token.
        arguments["ignore_eos"] = True
    elif len(end_ids) > 1:
        arguments |= {"stop_token_ids": list(end_ids[1:]), "include_stop_str_in_output": True}
    if decoder.temperature > 0:
        arguments |= {
            "temperature": decoder.temperature,
            "top_p": decoder.top_p,
            "top_k": decoder.top_k,
            "seed": config.random_seed + request.index,
        }
    elif not asked.get("use_beam_search"):
        arguments["top_k"] = 1
    if decoder.repetition_penalty != 1:
        arguments["repetition_penalty"] = decoder.repetition_penalty
    return package.SamplingParams(**(arguments | asked))


def _engine_names(package: Any, config: ExperimentConfig) -> set[str]:
    """What the installed `LLM` takes: its own parameters and the fields of the class it hands the rest to."""
    named = inspect.signature(llm_class(package, config).__init__).parameters.values()
    fields = "TrtLlmArgs" if uses_engine(config) else "TorchLlmArgs"
    own = {one.name for one in named if one.kind is not inspect.Parameter.VAR_KEYWORD and one.name != "self"}
    return own | set(getattr(package.llmapi, fields).model_fields)


def _check_names(asked: Mapping[str, Any], known: Collection[str], *, what: str, of: str) -> None:
    for name in asked:
        reason = f"{what}.{name}: {PACKAGE}'s {of} takes no such argument"
        refuse(
            why_unknown(reason, name, known, otherwise=f"it takes {', '.join(sorted(known))}"), ConfigError
        )


def _as_object(package: Any, name: str, value: Any) -> Any:
    """A mapping as the class that its argument is named after: kv_cache_config as KvCacheConfig.

    Others, such as speculative_config, are made by the engine's own validation.
    """
    kind = getattr(package.llmapi, "".join(part.capitalize() for part in name.split("_")), None)
    if not isinstance(value, dict) or kind is None:
        return value
    known = getattr(kind, "model_fields", None) or inspect.signature(kind).parameters
    _check_names(value, known, what=f"tensorrt.engine.{name}", of=kind.__name__)
    if name == "quant_config":
        value = {key: _algorithm(package, one) for key, one in value.items()}
    return kind(**value)


def _algorithm(package: Any, value: Any) -> Any:
    return package.llmapi.QuantAlgo(value) if isinstance(value, str) else value
