"""How much memory is there for the model of a run?"""

from __future__ import annotations

import os


def get_gpu_vram_gb() -> float | None:
    """Memory of the first visible NVIDIA GPU in GB (10⁹ bytes); None without a driver or a visible GPU."""
    import pynvml

    wanted = first_visible(os.environ.get("CUDA_VISIBLE_DEVICES"))
    if wanted is None:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        if isinstance(wanted, int):
            handle = pynvml.nvmlDeviceGetHandleByIndex(wanted)
        else:
            handle = pynvml.nvmlDeviceGetHandleByUUID(wanted)
        return float(pynvml.nvmlDeviceGetMemoryInfo(handle).total) / 1e9
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()


def host_memory() -> tuple[int | None, str]:
    """Bytes that this process may still take of the host's memory, and a phrase that names them."""
    # Meters import numpy, which no other command needs.
    from llenergymeasure.host.machine import memory_available_bytes
    from llenergymeasure.measure.gpus import gpu_facts

    shared = any(gpu.unified_memory for gpu in gpu_facts())
    why = "unified memory: the GPU works in that of the host" if shared else "no GPU with memory was found"
    return memory_available_bytes(), f"the {{}} that this host has left ({why})"


def first_visible(variable: str | None) -> int | str | None:
    """The first device that CUDA_VISIBLE_DEVICES names, an index or a UUID; None when it hides them all."""
    if variable is None:
        return 0
    first = variable.split(",", 1)[0].strip()
    if not first or first.startswith("-"):
        return None
    return int(first) if first.isascii() and first.isdigit() else first
