"""What makes a model's weights int8 or int4, and what keeps it from doing so on this device?"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from pydantic import JsonValue

from llenergymeasure.backends import Refusal
from llenergymeasure.config.extras import install
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.models.resolve import ResolvedModel

BITS = {"int8": 8, "int4": 4}
_MODULES = {"bitsandbytes": "bitsandbytes", "torchao": "torchao", "quanto": "optimum.quanto"}
_DISTRIBUTIONS = {"quanto": "optimum-quanto"}
# What transformers needs beside itself to load a checkpoint that is quantised already, by its `quant_method`.
_CHECKPOINT_MODULES: Mapping[str, tuple[str, ...]] = {
    **{
        name: (name,)
        for name in ("aqlm", "bitsandbytes", "eetq", "fp_quant", "hqq", "quark", "torchao", "vptq")
    },
    "auto-round": ("auto_round",),
    "awq": ("gptqmodel",),
    "compressed-tensors": ("compressed_tensors",),
    "fbgemm_fp8": ("fbgemm_gpu",),
    "gptq": ("optimum.gptq", "gptqmodel"),
    "higgs": ("flute",),
    "quanto": ("optimum.quanto",),
    "spqr": ("spqr_quant",),
}
GROUP = 128  # weights that share a scale in torchao's 4-bit matrices: its own default


def is_installed(module: str) -> bool:
    """Without importing it; looking up a submodule imports the parent, which may not be there."""
    parent, _, child = module.partition(".")
    return find_spec(parent) is not None and (not child or find_spec(module) is not None)


def way(config: ExperimentConfig) -> str | None:
    """The library that quantises, or None where nothing is to be quantised; `auto` takes what is there."""
    if config.precision not in BITS:
        return None
    asked = config.pytorch.quantization
    if asked != "auto":
        return asked
    torchao_alone = is_installed("torchao") and not is_installed("bitsandbytes")
    return "torchao" if torchao_alone else "bitsandbytes"


def why_not_quantised(config: ExperimentConfig, device: str) -> Refusal | None:
    """Why this precision can't be had on that device ("cpu", "cuda" or "mps")."""
    chosen, asked = way(config), config.pytorch.quantization
    if chosen is None:
        if asked == "auto":
            return None
        return Refusal(
            f"pytorch.quantization is {asked}, but precision is {config.precision}",
            "--precision int8 or int4, or leave pytorch.quantization out",
        )
    if not is_installed(_MODULES[chosen]):
        return Refusal(
            f"{config.precision} needs the package {_DISTRIBUTIONS.get(chosen, chosen)}, which is not "
            "installed",
            f"{install('quantization')}, or --precision bf16",
        )
    return _why_not_here(chosen, config.precision, device)


def _why_not_here(chosen: str, precision: str, device: str) -> Refusal | None:
    if device == "mps" and chosen != "quanto":
        return Refusal(f"{chosen} does not quantise on Apple GPUs", "--set pytorch.quantization=quanto")
    if (chosen, precision, device) == ("torchao", "int4", "cpu"):
        return Refusal("torchao packs 4-bit weights for GPUs only", "--set pytorch.quantization=bitsandbytes")
    if (chosen, precision) == ("quanto", "int4") and not _can_build():
        return Refusal(
            "quanto builds its 4-bit kernels on first use, which takes ninja and a C++ compiler on the path",
            "install both, or --set pytorch.quantization=bitsandbytes",
        )
    return None


def why_no_checkpoint(config: ExperimentConfig, model: ResolvedModel) -> Refusal | None:
    """Why weights that come quantised can't be loaded as asked, from the checkpoint's own description."""
    method = _method(model)
    if method is None:
        return None
    if model.kind == "random":
        return Refusal(
            f"{config.model} describes weights quantised with {method}, and random ones are not quantised",
            "take quantization_config out of its config.json, or name the checkpoint itself",
        )
    if config.precision in BITS:
        return Refusal(
            f"{config.model} is quantised already ({method}), so precision {config.precision} can't be made "
            "of it",
            "--precision bf16, which is what it computes in",
        )
    missing = [module for module in _CHECKPOINT_MODULES.get(method, ()) if not is_installed(module)]
    if not missing:
        return None
    names = " and ".join(_distribution(module) for module in missing)
    return Refusal(
        f"{config.model} is quantised with {method}, which transformers loads with {names}, not installed "
        f"here",
        f"pip install {names.replace(' and ', ' ')}, or name a checkpoint that is not quantised",
    )


def why_no_blocks(config: ExperimentConfig, model: ResolvedModel, device: str) -> Refusal | None:
    """Why this shape's matrices can't be packed: where a CPU multiplies 4-bit weights by itself bitsandbytes
    packs 64 inputs and 32 outputs together, and fails at the first step if that leaves a rest.
    """
    shape = model.architecture
    if shape is None or device != "cpu" or (way(config), config.precision) != ("bitsandbytes", "int4"):
        return None
    matrices = (matrix for layer in shape.layers for matrix in layer.matrices)
    if any(inputs % 64 or outputs % 32 for inputs, outputs in matrices):
        return Refusal(
            f"{config.model} has matrices whose inputs are no multiples of 64 or whose outputs are none of "
            "32, which bitsandbytes can't pack into int4 on a CPU",
            "--precision int8",
        )
    return None


def quantising(config: ExperimentConfig, *, compute: Any, device: str) -> Any:
    """What transformers quantises with while it loads, or None. `compute` is a torch dtype."""
    import transformers

    match way(config), BITS.get(config.precision):
        case "bitsandbytes", 8:
            return transformers.BitsAndBytesConfig(load_in_8bit=True)
        case "bitsandbytes", 4:
            # NF4, what it recommends for weights of a normal spread; and what the memory estimate assumes.
            return transformers.BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute
            )
        case "quanto", _:
            return transformers.QuantoConfig(weights=config.precision)
        case "torchao", 8:
            from torchao.quantization import Int8WeightOnlyConfig

            return transformers.TorchAoConfig(Int8WeightOnlyConfig())
        case "torchao", 4:
            from torchao.quantization import Int4WeightOnlyConfig

            # The packing that PyTorch itself multiplies on CUDA; the default one needs a further package.
            packing = {"int4_packing_format": "tile_packed_to_4d"} if device == "cuda" else {}
            return transformers.TorchAoConfig(Int4WeightOnlyConfig(group_size=GROUP, **packing))
    return None


def in_force(model: Any) -> dict[str, JsonValue] | None:
    """How the loaded weights are quantised, as the model itself describes it; None where they are not."""
    description = getattr(model.config, "quantization_config", None)
    if description is None:
        return None
    # transformers writes torch types as text, and leaves what has no such form out of JSON.
    described = description if isinstance(description, dict) else description.to_dict()
    fields: dict[str, JsonValue] = json.loads(json.dumps(described, default=str))
    return {name: value for name, value in fields.items() if value is not None and not name.startswith("_")}


def is_countable(model: Any) -> bool:
    """Whether its parameters show how many numbers they stand for; other methods pack them into buffers."""
    return (in_force(model) or {}).get("quant_method") in {None, *_MODULES}


def builds_kernels(config: ExperimentConfig) -> bool:
    """Whether the first step compiles, which no measured window may hold."""
    return (way(config), config.precision) == ("quanto", "int4")


def _method(model: ResolvedModel) -> str | None:
    if model.kind == "gguf" or model.path is None:
        return None
    description = json.loads((model.path / "config.json").read_text(encoding="utf-8"))
    own = description.get("quantization_config")
    method = own.get("quant_method") if isinstance(own, dict) else None
    return method if isinstance(method, str) else None


def _distribution(module: str) -> str:
    names = {"optimum.gptq": "optimum", "optimum.quanto": "optimum-quanto"}
    return names.get(module, module.replace("_", "-"))


def _can_build() -> bool:
    return shutil.which("ninja") is not None and any(shutil.which(name) for name in ("c++", "g++", "clang++"))
