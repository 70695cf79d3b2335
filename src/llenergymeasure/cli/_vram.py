"""How much memory does the GPU have that a run would use?"""

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


def first_visible(variable: str | None) -> int | str | None:
    """The first device that CUDA_VISIBLE_DEVICES names, an index or a UUID; None when it hides them all."""
    if variable is None:
        return 0
    first = variable.split(",", 1)[0].strip()
    if not first or first.startswith("-"):
        return None
    return int(first) if first.isascii() and first.isdigit() else first
