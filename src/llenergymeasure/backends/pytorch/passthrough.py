"""Which further arguments does transformers' from_pretrained take, and were they taken?"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue

from llenergymeasure.backends import Refusal, refuse, why_unknown
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import BackendError

# What llem sets itself, by where it is asked for.
_SET_BY: Mapping[str, tuple[str, ...]] = {
    "model": (
        *("config", "gguf_file", "ignore_mismatched_sizes", "output_loading_info", "state_dict"),
        "pretrained_model_name_or_path",
    ),
    "precision": ("dtype", "load_in_4bit", "load_in_8bit", "torch_dtype"),
    "pytorch.attn_implementation": ("attn_implementation",),
    "pytorch.device_map": ("device_map",),
    "pytorch.num_processes": ("tp_size",),
    "pytorch.quantization": ("quantization_config",),
    "pytorch.revision": ("revision",),
    "pytorch.tp_plan": ("device_mesh", "distributed_config", "tp_plan"),
    "pytorch.trust_remote_code": ("trust_remote_code",),
}
OURS = {name: field for field, names in _SET_BY.items() for name in names}
_POPPED = re.compile(r'kwargs\.pop\(\s*"([a-z]\w*)"')


def why_no_passthrough(config: ExperimentConfig) -> Refusal | None:
    """Why these arguments can't be handed on, as far as their names tell without transformers."""
    given = config.passthrough_kwargs
    for name in given:
        if name in OURS:
            return Refusal(f"passthrough_kwargs.{name} is set by llem itself", f"use {OURS[name]}")
    if given and config.model.startswith("random:"):
        return Refusal(
            f"passthrough_kwargs {', '.join(given)} are for weights that are loaded, and {config.model} "
            "makes its own",
            "leave them out",
        )
    return None


def check_names(given: Mapping[str, JsonValue], model_config: Any) -> None:
    """BackendError for a name that this transformers would ignore, or that no model of this kind has.

    Known are the arguments in from_pretrained's signature, those that its source takes out of its keywords,
    and the fields of the model's own configuration, which the call overrides.
    """
    from transformers import PreTrainedModel

    function = PreTrainedModel.from_pretrained
    named = {
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind in {parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD}
    }
    known = named | set(_POPPED.findall(inspect.getsource(function))) | set(model_config.to_dict())
    for name in given:
        reason = f"transformers' from_pretrained has no argument {name}, nor this model's config such a field"
        refuse(why_unknown(reason, name, known - set(OURS), otherwise="leave it out of passthrough_kwargs"))


def taken(given: Mapping[str, JsonValue], model_config: Any) -> dict[str, JsonValue]:
    """The arguments in force: fields of the configuration as the loaded model has them, the others as given.

    BackendError where a field kept another value than the one handed over.
    """
    for name, value in given.items():
        kept = getattr(model_config, name, value)
        if kept != value:
            raise BackendError(
                f"passthrough_kwargs.{name} is {value!r}, but the loaded model has {kept!r}",
                hint="leave it out; this model does not take that value",
            )
    return dict(given)
