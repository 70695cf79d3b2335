"""How much memory did PyTorch take at most, and on which GPUs?"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# What allocators other than CUDA's say in a plain RuntimeError.
OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "not enough memory")


@contextmanager
def memory_errors(doing: str) -> Iterator[None]:
    """Turn every way PyTorch runs out of memory into MemoryError; other errors pass."""
    import torch

    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in OUT_OF_MEMORY):
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
    try:
        # 5 sets the high-water mark of resident memory to its present value: proc_pid_clear_refs(5).
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak(devices: Sequence[Any], *, was_reset: bool) -> tuple[int | None, str | None]:
    """Peak bytes and where they were read: all CUDA devices together, or this process on a CPU.

    None on MPS, whose allocator keeps no peak.
    """
    import torch

    cuda = [device for device in devices if device.type == "cuda"]
    since = "since the reset" if was_reset else "since the process began"
    if cuda:
        return sum(torch.cuda.max_memory_allocated(device) for device in cuda), (
            f"torch.cuda.max_memory_allocated, {since}"
        )
    if any(device.type != "cpu" for device in devices):
        return None, None
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, "ru_maxrss, since the process began"
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024, f"VmHWM of the worker, {since}"
    return None, None


def gpu_uuids(devices: Sequence[Any]) -> tuple[str, ...]:
    """UUIDs of the CUDA devices, written as the driver's management library writes them."""
    import torch

    return tuple(
        f"GPU-{torch.cuda.get_device_properties(device).uuid}" for device in devices if device.type == "cuda"
    )


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
