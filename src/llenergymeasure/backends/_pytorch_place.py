"""On which device and in which type does a process compute?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llenergymeasure.backends._pytorch_quantisation import BITS, way
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import BackendError


@dataclass(frozen=True, slots=True)
class Place:
    """Which of the `size` processes of a run this one is."""

    rank: int = 0
    size: int = 1


ALONE = Place()


def device_of(config: ExperimentConfig, place: Place) -> str:
    """A device of PyTorch's; BackendError where it is not there, or not one for every process."""
    import torch

    asked = config.pytorch.device
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if asked == "auto":
        asked = "cuda" if cuda else "mps" if mps else "cpu"
    if asked == "cuda" and cuda and place.size > 1:
        if torch.cuda.device_count() < place.size:
            raise BackendError(
                f"{place.size} processes want a GPU each, and PyTorch sees {torch.cuda.device_count()}",
                hint="lower pytorch.num_processes, or check CUDA_VISIBLE_DEVICES",
            )
        return f"cuda:{place.rank}"
    if asked == "cuda" and not cuda:
        raise BackendError(
            f"pytorch.device is cuda, but PyTorch {torch.__version__} sees no CUDA device",
            hint="check nvidia-smi and CUDA_VISIBLE_DEVICES, and that this PyTorch is not a CPU build; "
            "or --set pytorch.device=cpu",
        )
    if asked == "mps" and not mps:
        raise BackendError(
            f"pytorch.device is mps, but PyTorch {torch.__version__} sees no Apple GPU",
            hint="mps needs an Apple GPU and macOS 12.3 or newer; or --set pytorch.device=cpu",
        )
    return asked


def computing(config: ExperimentConfig, device: str) -> Any:
    """The type that is computed in, whatever the weights are stored as."""
    import torch

    kind, precision = device.partition(":")[0], config.precision
    emulated = kind == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
    if precision in BITS:
        # bitsandbytes multiplies 8-bit weights in fp16, and would cast at every matrix.
        half = emulated or (way(config), precision) == ("bitsandbytes", "int8")
        return torch.float16 if half else torch.bfloat16
    if precision == "bf16":
        if emulated:
            raise BackendError(
                f"{torch.cuda.get_device_name()} can't compute in bf16", hint="--precision fp16 or fp32"
            )
        if kind == "mps" and not torch.backends.mps.is_macos_or_newer(14, 0):
            raise BackendError(
                "bf16 on an Apple GPU needs macOS 14 or newer", hint="--precision fp16 or fp32"
            )
    return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
