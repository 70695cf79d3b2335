"""Which arguments does the installed vLLM take, and what is it told for an experiment?"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from pydantic import JsonValue

from llenergymeasure.backends._vllm_declared import Part, accepted, why_wrong_type
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.config.suggest import nearest
from llenergymeasure.exceptions import BackendError
from llenergymeasure.records import Request

# What llem decides, and by which field: said twice, one of the two would be passed over in silence.
_LENGTHS = "max_output_tokens and output_length"
_DECIDED: Mapping[Part, Mapping[str, str]] = {
    "engine": {
        "model": "model",
        "tokenizer": "model",
        "dtype": "precision",
        "seed": "random_seed",
        "enable_lora": "lora",
        "hf_token": "HF_TOKEN in the environment, since a result keeps its configuration",
        "disable_log_stats": "llem itself, which reads the times of requests there",
        "worker_extension_cls": "llem itself, which reads the memory of the workers through it",
    },
    "sampling": {
        "n": "llem itself: a request has one output",
        "max_tokens": _LENGTHS,
        "ignore_eos": _LENGTHS,
        "seed": "random_seed",
        "temperature": "decoder.temperature",
        "top_p": "decoder.top_p",
        "top_k": "decoder.top_k",
        "repetition_penalty": "decoder.repetition_penalty",
        "detokenize": "llem itself, which counts token ids",
        "output_kind": "llem itself, which waits for whole outputs",
    },
    "beam_search": {
        "max_tokens": _LENGTHS,
        "ignore_eos": _LENGTHS,
        "temperature": "decoder.temperature",
    },
}
# An output of an exact length can't end earlier.
_ENDINGS = ("min_tokens", "stop", "stop_token_ids")
_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def why_refused(config: ExperimentConfig) -> str | None:
    """The first reason that shows without vLLM, then `; ` and the way out; `open` finds the others."""
    asked = config.vllm
    if config.precision not in _DTYPES:
        return (
            f"the vllm backend does not quantise to {config.precision} by precision; leave it at bf16 and "
            "say how: --set vllm.engine.quantization=…, or name a checkpoint that is quantised already"
        )
    parts: tuple[tuple[Part, Mapping[str, JsonValue]], ...] = (
        ("engine", asked.engine),
        ("sampling", asked.sampling),
        ("beam_search", asked.beam_search or {}),
    )
    for part, given in parts:
        for name, value in given.items():
            if why := _why_not_taken(part, name) or why_wrong_type(part, name, value):
                return why
    if why := _why_too_short(config):
        return why
    if config.lora is not None and config.lora.merged:
        return "vLLM keeps an adapter apart from the weights, but lora.merged is true; take it out"
    ending = next((name for name in _ENDINGS if name in asked.sampling), None)
    if ending is not None and config.output_length == "exact":
        return (
            f"vllm.sampling.{ending} would end outputs that are to have an exact length; "
            "--set output_length=natural"
        )
    return None if asked.beam_search is None else _why_no_beams(config)


def engine_arguments(config: ExperimentConfig, *, is_cpu: bool, has_tokenizer: bool) -> dict[str, Any]:
    """What `vllm.LLM` is given beside its model: llem's choices under the user's.

    Prefix caching is off, since passes replay the same prompts: from the second on they would hardly be
    read. Beam search needs it and has it. The context holds what the experiment asks for and no more. A
    tokenizer is loaded only where an argument may name text: without one an output ends at the same tokens
    as with transformers, those of the model's generation configuration.
    """
    asked = config.vllm
    texts = bool(asked.sampling) or asked.beam_search is not None
    chosen: dict[str, Any] = {
        "max_model_len": config.max_input_tokens + config.max_output_tokens,
        "enable_prefix_caching": asked.beam_search is not None,
        "skip_tokenizer_init": not (has_tokenizer and texts),
    }
    if is_cpu:
        chosen["enforce_eager"] = True
    given = {name: value for name, value in asked.engine.items() if name != "revision"}
    decided = {
        "dtype": _DTYPES[config.precision],
        "seed": config.random_seed,
        "disable_log_stats": False,
        "worker_extension_cls": "llenergymeasure.backends._vllm_probe.Probe",
    }
    return chosen | given | decided


def sampling_params(config: ExperimentConfig, request: Request) -> Any:
    """The SamplingParams of one request; BackendError where vLLM refuses a value."""
    import vllm

    decoder = config.decoder
    fields: dict[str, Any] = {
        **config.vllm.sampling,
        "max_tokens": request.max_output_tokens,
        "temperature": decoder.temperature,
        "top_p": decoder.top_p,
        "top_k": decoder.top_k,
        "repetition_penalty": decoder.repetition_penalty,
        "detokenize": "stop" in config.vllm.sampling,
    }
    if request.exact:
        fields |= {"min_tokens": request.max_output_tokens, "ignore_eos": True}
    if decoder.temperature > 0:
        # A seed of its own makes a request's output the same in every walk, whatever runs beside it.
        fields["seed"] = config.random_seed + request.index
    return _converted("sampling", fields, vllm.SamplingParams)


def beam_params(config: ExperimentConfig, *, max_tokens: int, exact: bool) -> Any:
    """The BeamSearchParams of a batch; BackendError where vLLM refuses a value."""
    from vllm.sampling_params import BeamSearchParams

    fields = {
        **(config.vllm.beam_search or {}),
        "max_tokens": max_tokens,
        "ignore_eos": exact,
        "temperature": config.decoder.temperature,
    }
    return _converted("beam_search", fields, BeamSearchParams)


def vllm_errors() -> tuple[type[Exception], ...]:
    """The errors of vLLM's own kind, which are none of Python's; older versions have fewer."""
    found: list[type[Exception]] = []
    for module, name in (("vllm.exceptions", "VLLMError"), ("vllm.v1.engine.exceptions", "EngineDeadError")):
        try:
            found.append(getattr(import_module(module), name))
        except (ImportError, AttributeError):
            continue
    return tuple(found)


def request_arguments(config: ExperimentConfig) -> dict[str, JsonValue]:
    """What a request is handed over with, by the name of its part, as vLLM completed it."""
    exact = config.output_length == "exact"
    if config.vllm.beam_search is not None:
        return {"beam_search": _public(beam_params(config, max_tokens=config.max_output_tokens, exact=exact))}
    request = Request(0, (1,), config.max_output_tokens, exact=exact)
    return {"sampling": _public(sampling_params(config, request))}


def _converted(part: Part, fields: Mapping[str, Any], kind: type) -> Any:
    import msgspec

    try:
        return msgspec.convert(fields, kind, str_keys=True)
    except (msgspec.ValidationError, ValueError, *vllm_errors()) as error:
        raise BackendError(f"vllm.{part}: {error}") from error


def _public(params: Any) -> dict[str, JsonValue]:
    """The fields that are plain values."""
    import msgspec

    plain = msgspec.to_builtins(params, str_keys=True, enc_hook=str)
    fields = {name: plain.get(name, getattr(params, name)) for name in params.__struct_fields__}
    return {
        name: value
        for name, value in fields.items()
        if not name.startswith("_") and isinstance(value, bool | int | float | str | list | dict | None)
    }


def _why_not_taken(part: Part, name: str) -> str | None:
    if name not in accepted(part):
        near = nearest(name, accepted(part))
        meant = f"did you mean {near}?" if near else "its documentation lists those it has"
        return f"vllm.{part}.{name}: the installed vLLM has no such argument; {meant}"
    if field := _DECIDED[part].get(name):
        return f"vllm.{part}.{name} is decided by {field}; take it out"
    return None


def _why_too_short(config: ExperimentConfig) -> str | None:
    context, tokens = (
        config.vllm.engine.get("max_model_len"),
        config.max_input_tokens + config.max_output_tokens,
    )
    # -1 asks vLLM for as many as fit.
    if not isinstance(context, int) or not 0 <= context < tokens:
        return None
    return (
        f"vllm.engine.max_model_len {context} is less than max_input_tokens {config.max_input_tokens} and "
        f"max_output_tokens {config.max_output_tokens} together; raise it to {tokens}, or lower one of them"
    )


def _why_no_beams(config: ExperimentConfig) -> str | None:
    if config.vllm.sampling:
        return "vLLM's beam search takes none of vllm.sampling; take one of the two out"
    decoder = config.decoder
    if (decoder.top_p, decoder.top_k, decoder.repetition_penalty) != (1.0, 0, 1.0):
        return (
            "vLLM's beam search takes no decoder.top_p, top_k or repetition_penalty; "
            "take them or vllm.beam_search out"
        )
    return None
