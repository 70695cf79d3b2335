"""How much memory did PyTorch take at most, and on which GPUs?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llenergymeasure.backends import is_out_of_memory
from llenergymeasure.backends.memory import reset_resident_peak, resident_peak


@contextmanager
def memory_errors(doing: str) -> Iterator[None]:
    """Turn every way PyTorch runs out of memory into MemoryError; other errors pass."""
    import torch

    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or is_out_of_memory(error):
            raise MemoryError(f"{doing}: {str(error).splitlines()[0]}") from error
        raise


def reset_peak(devices: Sequence[Any]) -> bool:
    """Forget the peak so far; False where the platform can't."""
    import torch

    cuda = [device for device in devices if device.type == "cuda"]
    for device in cuda:
        torch.cuda.reset_peak_memory_stats(device)
    if cuda:
        return True
    return reset_resident_peak()


def peak(devices: Sequence[Any], *, was_reset: bool) -> tuple[int | None, str | None]:
    """Peak bytes and where they were read: all CUDA devices together, or this process on a CPU.

    None on MPS, whose allocator keeps no peak.
    """
    import torch

    cuda = [device for device in devices if device.type == "cuda"]
    if cuda:
        since = "since the reset" if was_reset else "since the process began"
        return sum(torch.cuda.max_memory_allocated(device) for device in cuda), (
            f"torch.cuda.max_memory_allocated, {since}"
        )
    if any(device.type != "cpu" for device in devices):
        return None, None
    return resident_peak(was_reset=was_reset)


def gpu_uuids(devices: Sequence[Any]) -> tuple[str, ...]:
    """UUIDs of the CUDA devices, written as the driver's management library writes them."""
    import torch

    return tuple(
        f"GPU-{torch.cuda.get_device_properties(device).uuid}" for device in devices if device.type == "cuda"
    )


def weight_bytes(model: Any) -> int:
    """Bytes of parameters and buffers as they lie in this process's memory: packed where they are quantised,
    with their scales, and the own part where they are split over processes.
    """
    tensors = [*model.parameters(), *model.buffers()]
    scales = (getattr(getattr(module, "state", None), "SCB", None) for module in model.modules())
    # bitsandbytes moves the scales of 8 bits from a weight to its layer when that first runs.
    return sum(_stored_bytes(tensor) for tensor in tensors) + _plain_bytes(scales)


def parameter_count(model: Any) -> int:
    """Numbers that the weights stand for, however they are packed."""
    states = ((weights, getattr(weights, "quant_state", None)) for weights in model.parameters())
    return sum(weights.numel() if state is None else math.prod(state.shape) for weights, state in states)


def _stored_bytes(tensor: Any) -> int:
    if hasattr(tensor, "__tensor_flatten__"):
        # A wrapper that only looks like one tensor: torchao's, quanto's, a distributed one.
        names, _ = tensor.__tensor_flatten__()
        parts = (getattr(tensor, name) for name in names)
        return sum(_stored_bytes(part) for part in parts if hasattr(part, "element_size"))
    state = getattr(tensor, "quant_state", None)
    scales: list[Any] = [getattr(tensor, "SCB", None)]
    while state is not None:
        scales += [state.absmax, state.code]
        state = state.state2
    return tensor_bytes([tensor]) + _plain_bytes(scales)


def _plain_bytes(tensors: Iterable[Any]) -> int:
    return tensor_bytes([tensor for tensor in tensors if tensor is not None])


def tensor_bytes(tensors: Sequence[Any]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def cache_bytes(cache: Any) -> int | None:
    """Bytes of the key and value tensors of a transformers cache; None where they can't be seen."""
    tensors = [
        tensor
        for layer in getattr(cache, "layers", ())
        for tensor in (getattr(layer, "keys", None), getattr(layer, "values", None))
        if tensor is not None
    ]
    return tensor_bytes(tensors) if tensors else None
