"""Which arguments does the installed vLLM take, and which does it get?

For the first vLLM is read, not imported.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import JsonValue

from llenergymeasure.backends import Refusal, why_context_too_short, why_decided, why_unknown
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import BackendError
from llenergymeasure.records import Request

Part: TypeAlias = Literal["engine", "sampling", "beam_search"]

# Where vLLM declares them: fields of these classes; LLM's constructor names some of EngineArgs' and its own.
_DECLARED: Mapping[Part, tuple[str, str]] = {
    "engine": ("engine/arg_utils.py", "EngineArgs"),
    "sampling": ("sampling_params.py", "SamplingParams"),
    "beam_search": ("sampling_params.py", "BeamSearchParams"),
}
_LLM = ("entrypoints/llm.py", "LLM")

# Which values each type takes. Of what is made up of others only the outermost counts.
_TAKES: Mapping[str, tuple[type, ...]] = {
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "dict": (dict,),
    "list": (list,),
    "set": (list,),
    "tuple": (list,),
}
# What llem decides, and by which field: said twice, one of the two would be passed over in silence.
_LENGTHS = "max_output_tokens and output_length"
_DECIDED: Mapping[Part, Mapping[str, str]] = {
    "engine": {
        "model": "model",
        "tokenizer": "model",
        "dtype": "precision",
        "seed": "random_seed",
        "enable_lora": "lora",
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


def accepted(part: Part) -> frozenset[str]:
    """The argument names that the installed vLLM's own source declares."""
    return frozenset(_annotations(part))


def _why_wrong_type(part: Part, name: str, value: JsonValue) -> Refusal | None:
    """Why an accepted argument does not take a value of that type.

    None where it does, and where vLLM declares a type of its own, which only vLLM can tell.
    """
    annotation = _annotations(part)[name]
    taken = None if annotation is None else _types(annotation)
    # What may be absent is declared with a plain type at times.
    if annotation is None or taken is None or value is None:
        return None
    # To Python true is also an int.
    if isinstance(value, taken) and (bool in taken or not isinstance(value, bool)):
        return None
    return Refusal(
        f"vllm.{part}.{name} takes {ast.unparse(annotation)}, not {value!r}",
        "give it a value of that type, or remove it",
    )


def _types(annotation: ast.expr) -> tuple[type, ...] | None:
    """The types of values that an annotation takes; None where it names one that is not plain."""
    match annotation:
        case ast.Constant(value=None):
            return ()
        case ast.Name(id=name) | ast.Subscript(value=ast.Name(id=name)) if name in _TAKES:
            return _TAKES[name]
        case ast.Subscript(value=ast.Name(id="Optional"), slice=inner):
            return _types(inner)
        case ast.Subscript(value=ast.Name(id="Union"), slice=ast.Tuple(elts=parts)):
            return _all_types(parts)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _all_types([left, right])
        case _:
            return None


def _all_types(parts: list[ast.expr]) -> tuple[type, ...] | None:
    found: tuple[type, ...] = ()
    for part in parts:
        types = _types(part)
        if types is None:
            return None
        found += types
    return found


@cache
def _annotations(part: Part) -> Mapping[str, ast.expr | None]:
    """The arguments with their types; those of LLM's constructor come before the fields that they fill."""
    fields = {name: kind for name, kind in _fields(*_DECLARED[part]) if not name.startswith("_")}
    return fields | dict(_constructor(*_LLM)) if part == "engine" else fields


def _tree(file: str, kind: str) -> ast.ClassDef:
    spec = find_spec("vllm")
    assert spec is not None, "asked only where vLLM is installed"
    for folder in spec.submodule_search_locations or ():
        path = Path(folder) / file
        if path.is_file():
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef) and node.name == kind:
                    return node
    raise BackendError(
        f"the installed vLLM declares no {kind} in {file}, so its arguments can't be checked",
        hint="install a version that fits this llem: vllm>=0.10",
    )


def _fields(file: str, kind: str) -> Iterator[tuple[str, ast.expr]]:
    for node in _tree(file, kind).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, node.annotation


def _constructor(file: str, kind: str) -> Iterator[tuple[str, ast.expr | None]]:
    for node in _tree(file, kind).body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            for argument in (*node.args.args, *node.args.kwonlyargs):
                if argument.arg != "self":
                    yield argument.arg, argument.annotation


def why_refused(config: ExperimentConfig) -> Refusal | None:
    """The first reason that shows without vLLM; `open` finds the others."""
    asked = config.vllm
    if config.precision not in _DTYPES:
        return Refusal(
            f"the vllm backend does not quantise to {config.precision} by precision",
            "leave it at bf16 and "
            "say how: --set vllm.engine.quantization=…, or name a checkpoint that is quantised already",
        )
    parts: tuple[tuple[Part, Mapping[str, JsonValue]], ...] = (
        ("engine", asked.engine),
        ("sampling", asked.sampling),
        ("beam_search", asked.beam_search or {}),
    )
    for part, given in parts:
        for name, value in given.items():
            if why := _why_not_taken(part, name) or _why_wrong_type(part, name, value):
                return why
    # -1 asks vLLM for as many as fit.
    if why := why_context_too_short("vllm.engine.max_model_len", asked.engine.get("max_model_len"), config):
        return why
    if config.lora is not None and config.lora.merged:
        return Refusal("vLLM keeps an adapter apart from the weights, but lora.merged is true", "remove it")
    ending = next((name for name in _ENDINGS if name in asked.sampling), None)
    if ending is not None and config.output_length == "exact":
        return Refusal(
            f"vllm.sampling.{ending} would end outputs that are to have an exact length",
            "--set output_length=natural",
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
        "max_model_len": config.max_tokens,
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
        "worker_extension_cls": "llenergymeasure.backends.vllm.probe.Probe",
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
    import msgspec

    plain = msgspec.to_builtins(params, str_keys=True, enc_hook=str)
    fields = {name: plain.get(name, getattr(params, name)) for name in params.__struct_fields__}
    return {
        name: value
        for name, value in fields.items()
        if not name.startswith("_") and isinstance(value, bool | int | float | str | list | dict | None)
    }


def _why_not_taken(part: Part, name: str) -> Refusal | None:
    where = f"vllm.{part}"
    reason = f"{where}.{name}: the installed vLLM has no such argument"
    return why_unknown(
        reason, name, accepted(part), otherwise="its documentation lists those it has"
    ) or why_decided(where, [name], _DECIDED[part])


def _why_no_beams(config: ExperimentConfig) -> Refusal | None:
    if config.vllm.sampling:
        return Refusal("vLLM's beam search takes none of vllm.sampling", "remove one of the two")
    decoder = config.decoder
    if (decoder.top_p, decoder.top_k, decoder.repetition_penalty) != (1.0, 0, 1.0):
        return Refusal(
            "vLLM's beam search takes no decoder.top_p, top_k or repetition_penalty",
            "take them or vllm.beam_search out",
        )
    return None
