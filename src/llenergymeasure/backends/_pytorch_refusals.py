"""What can be refused of a PyTorch configuration before torch is imported?"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from llenergymeasure.config.models import ExperimentConfig

FLASH_PACKAGES = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}


def why_refused(config: ExperimentConfig) -> str | None:
    """The first reason that shows without torch, then `; ` and the way out; `open` finds the others."""
    asked = config.pytorch
    if config.precision in {"int8", "int4"}:
        return (
            f"the pytorch backend does not quantise to {config.precision} itself; "
            "name a checkpoint that is quantised already and leave precision at bf16"
        )
    if asked.compile_mode is not None and not asked.compile:
        return (
            f"pytorch.compile_mode is {asked.compile_mode}, but pytorch.compile is off; "
            "--set pytorch.compile=true"
        )
    if asked.device != "auto" and asked.device_map is not None:
        return (
            f"pytorch.device {asked.device} and pytorch.device_map {asked.device_map} are both given; "
            "leave one of them out"
        )
    if asked.device == "cuda" and (_is_cpu_build() or not Path("/dev/nvidiactl").exists()):
        what = "this PyTorch is a CPU build" if _is_cpu_build() else "this host has no NVIDIA driver"
        return f"pytorch.device is cuda, but {what}; --set pytorch.device=cpu"
    package = FLASH_PACKAGES.get(asked.attn_implementation or "")
    if package is not None and find_spec(package) is None:
        return (
            f"{asked.attn_implementation} needs the package {package}, which is not installed; "
            "--set pytorch.attn_implementation=sdpa"
        )
    return None


def _is_cpu_build() -> bool:
    try:
        return version("torch").endswith("+cpu")
    except PackageNotFoundError:
        return False
