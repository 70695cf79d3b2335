"""What did the user mean by a name that does not exist?"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from functools import cache
from typing import Annotated, get_args, get_origin

from pydantic.fields import FieldInfo

from llenergymeasure.config.engines import brought_section
from llenergymeasure.config.models import ENGINES, ExperimentConfig
from llenergymeasure.config.section import Section

# keys of earlier versions, and what they are now
RENAMED = {
    "cycles": "repeats.count",
    "cycles.count": "repeats.count",
    "cycles.target": "repeats.target",
    "passes.minimum": "passes.count",
    "openai.concurrency": "load.concurrency",
}

# what transformers, vLLM, llama.cpp, optimum-benchmark and lm-eval call these, by the last word of the key
_PEERS = {
    **dict.fromkeys(
        ("torch_dtype", "dtype", "load_in_4bit", "load_in_8bit", "quantization_scheme"), "precision"
    ),
    **dict.fromkeys(
        ("model_id", "model_name", "model_path", "pretrained", "tokenizer", "processor"), "model"
    ),
    **dict.fromkeys(("pretrained_model_name_or_path", "hf_model"), "model"),
    **dict.fromkeys(("max_new_tokens", "min_new_tokens", "max_tokens", "output_len"), "max_output_tokens"),
    **dict.fromkeys(("max_completion_tokens", "num_new_tokens", "n_predict", "n_gen"), "max_output_tokens"),
    **dict.fromkeys(
        ("sequence_length", "max_seq_length", "input_len", "max_prompt_length"), "max_input_tokens"
    ),
    **dict.fromkeys(("dataset_name", "dataset_path", "prompts", "prompt_file"), "dataset.name"),
    **dict.fromkeys(("text_column", "text_column_name", "prompt_column"), "dataset.column"),
    **dict.fromkeys(("apply_chat_template", "use_chat_template"), "dataset.chat_template"),
    **dict.fromkeys(("num_prompts", "num_samples", "limit", "n_prompts", "request_count"), "n"),
    **dict.fromkeys(("seed", "manual_seed"), "random_seed"),
    **dict.fromkeys(("do_sample", "temp"), "decoder.temperature"),
    "repeat_penalty": "decoder.repetition_penalty",
    "ignore_eos": "output_length",
    **dict.fromkeys(("warmup_runs", "warmup_steps", "num_iters_warmup"), "warmup.min_batches"),
    **dict.fromkeys(("iterations", "num_iters", "repetitions", "num_runs"), "repeats.count"),
    **dict.fromkeys(("duration", "benchmark_duration"), "passes.seconds"),
    **dict.fromkeys(("request_rate", "qps", "arrival_rate"), "load.rate"),
    **dict.fromkeys(("max_concurrency", "num_users", "users"), "load.concurrency"),
    **dict.fromkeys(("goodput", "request_goodput"), "slo"),
}
_SAME_VALUES = {
    "float16": "fp16",
    "half": "fp16",
    "bfloat16": "bf16",
    "float32": "fp32",
    "float": "fp32",
    "8bit": "int8",
    "4bit": "int4",
}


@cache
def peer_keys() -> dict[str, str]:
    """Other tools' keys, and ours; those of an engine's options are in its section."""
    own = {key: f"{name}.{ours}" for name, one in ENGINES.items() for key, ours in one.peers.items()}
    return {**_PEERS, **own}


@cache
def _same_values() -> dict[str, str]:
    return {**_SAME_VALUES, **{other: name for name, one in ENGINES.items() for other in one.also}}


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate most like `name`, None where none is close."""
    options = list(candidates)
    if (same := _same_values().get(name.lower().removeprefix("torch."))) in options:
        return same
    by_lower = {option.lower(): option for option in options}
    if close := get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6):
        return by_lower[close[0]]
    by_word = {word: option for option in reversed(options) for word in option.lower().split("_")}
    if len(name) > 3 and (close := get_close_matches(name.lower(), by_word, n=1, cutoff=0.75)):
        return by_word[close[0]]
    within = [option for option in options if len(name) > 2 and name.lower() in option.lower()]
    return min(within, key=len, default=None)


def section_of(field: FieldInfo) -> type[Section] | None:
    """The section that a field holds, `Section` and `Section | None` alike; a list of them is one value."""
    if get_origin(field.annotation) is tuple:
        return None
    for kind in (field.annotation, *get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, Section):
            return kind
    return None


def is_free(field: FieldInfo) -> bool:
    """Whether a field is a mapping whose keys somebody else checks, such as an engine's arguments."""
    kinds = (field.annotation, *get_args(field.annotation))
    plain = (get_args(kind)[0] if get_origin(kind) is Annotated else kind for kind in kinds)
    return any(kind is dict or get_origin(kind) is dict for kind in plain)


@cache
def known_keys() -> dict[str, FieldInfo]:
    """Every dotted key of the configuration's own, sections included."""
    return dict(_walk(ExperimentConfig, ""))


def keys_beside(name: str) -> dict[str, FieldInfo]:
    """All `known_keys`, with those of the engine of that name where it brings its own section.

    ConfigError and BackendError where its plug-in is broken.
    """
    if name in known_keys() or (section := brought_section(name)) is None:
        return known_keys()
    whole = FieldInfo(annotation=section, default_factory=section)
    return known_keys() | {name: whole, **dict(_walk(section, f"{name}."))}


def _walk(model: type[Section], prefix: str) -> Iterable[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        yield prefix + name, field
        if section := section_of(field):
            yield from _walk(section, f"{prefix}{name}.")


def peer_key(key: str) -> str | None:
    """What a key of another program is here."""
    return peer_keys().get(key.rpartition(".")[2].lower().replace("-", "_"))


def nearest_key(key: str) -> str | None:
    """The valid dotted key most like `key`: as others call it, by the last word of one whose
    section was left out, then among siblings, then by a like last word.
    """
    parent, _, last = key.rpartition(".")
    if (meant := peer_key(key)) is not None:
        return meant
    if parent in known_keys() and section_of(known_keys()[parent]) is None:
        return last if last in known_keys() else parent  # it holds a single value
    if last in {"name", "id", "type"} and parent in known_keys():
        return parent
    prefix = f"{parent}." if parent else ""
    known = keys_beside(key.partition(".")[0])
    siblings = [
        name.removeprefix(prefix)
        for name in known
        if name.startswith(prefix) and "." not in name.removeprefix(prefix)
    ]
    by_last: dict[str, str] = {}
    for name in known:
        by_last.setdefault(name.rpartition(".")[2], name)
    if not parent and last in by_last:
        return by_last[last]  # its section was left out
    if (match := nearest(last, siblings)) is not None:
        return prefix + match
    match = nearest(last, by_last) if len(last) > 2 else None
    return by_last[match] if match is not None else None
