"""How does a low-rank adapter come on top of a model, and what keeps it from it?"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from llenergymeasure.backends import Refusal
from llenergymeasure.backends.pytorch.quantisation import BITS, is_installed
from llenergymeasure.config.extras import install
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import BackendError

WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
DESCRIPTION = "adapter_config.json"


def why_no_adapter(config: ExperimentConfig) -> Refusal | None:
    """Why the adapter can't be used; only names and the description are read."""
    if config.lora is None:
        return None
    folder = Path(config.lora.path).expanduser()
    if not is_installed("peft"):
        return Refusal("lora needs the package peft, which is not installed", install("lora"))
    absent = not folder.is_dir() or _first(folder, (DESCRIPTION,)) is None or _first(folder, WEIGHTS) is None
    if absent:
        return Refusal(
            f"lora.path {config.lora.path} is not a directory with {DESCRIPTION} and {WEIGHTS[0]}",
            "name the one that peft saved the adapter to",
        )
    kind = _described(folder).get("peft_type")
    if kind != "LORA":
        return Refusal(f"{folder} holds an adapter of type {kind}, not LORA", "name a LoRA adapter")
    if config.lora.merged and config.precision in BITS:
        return Refusal(
            f"merging into {config.precision} weights would round the adapter away", "--set lora.merged=false"
        )
    return None


def adapted(model: Any, config: ExperimentConfig) -> Any:
    """The model with the adapter in its layers, or with its product added to the weights.

    BackendError where the adapter belongs to another model: what it lacks would be made up in silence.
    """
    if config.lora is None:
        return model
    import peft

    folder = Path(config.lora.path).expanduser()
    with warnings.catch_warnings():
        # What is missing is an error below.
        warnings.filterwarnings("ignore", "Found missing adapter keys")
        # Its own type is the model's, not the fp32 that training wants.
        wrapped = peft.PeftModel.from_pretrained(model, str(folder), autocast_adapter_dtype=False)
    wanted, given = set(peft.get_peft_model_state_dict(wrapped)), _names(folder)
    if wanted != given:
        odd = sorted(wanted ^ given)
        raise BackendError(
            f"the adapter {folder} is not one for {config.model}: {len(odd)} of its weights have no "
            f"counterpart, such as {odd[0]}",
            hint="name the model that the adapter was made for",
        )
    return wrapped.merge_and_unload() if config.lora.merged else wrapped.base_model.model


def adapter_in_force(model: Any, config: ExperimentConfig) -> dict[str, JsonValue] | None:
    """What of the adapter is in the loaded model; `parameters` is 0 once it is merged."""
    if config.lora is None:
        return None
    described = _described(Path(config.lora.path).expanduser())
    return {
        "path": config.lora.path,
        "merged": not any("lora_" in name for name, _ in model.named_parameters()),
        "rank": described.get("r"),
        "parameters": sum(weights.numel() for name, weights in model.named_parameters() if "lora_" in name),
    }


def _described(folder: Path) -> dict[str, Any]:
    described: dict[str, Any] = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    return described


def _first(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _names(folder: Path) -> set[str]:
    path = _first(folder, WEIGHTS)
    assert path is not None, "checked before loading"
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, "pt") as weights:
            return set(weights.keys())
    import torch

    return set(torch.load(path, map_location="cpu", weights_only=True))
