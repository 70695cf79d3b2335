"""What does a worker process of vLLM say of its own memory and device?"""

from __future__ import annotations

from typing import Any, TypedDict


class Worker(TypedDict):
    """`peak_bytes` and `gpu_uuid` are None without CUDA; `packed` says that weights were put into a form
    that shows no size, as vLLM does on a CPU: then `weights_bytes` and `parameters` leave them out.
    """

    device: str
    gpu_uuid: str | None
    threads: int
    parameters: int
    weights_bytes: int
    packed: bool
    kv_cache_bytes: int
    peak_bytes: int | None


class Probe:
    """Methods that vLLM adds to its worker class (`worker_extension_cls`); they run in every worker."""

    model_runner: Any
    device: Any

    def llem_facts(self) -> Worker:
        import torch

        model = self.model_runner.model
        parameters = list(model.parameters())
        caches = {cache.data_ptr(): cache for cache in _tensors(self.model_runner.kv_caches)}
        is_cuda = self.device.type == "cuda"
        return Worker(
            device=str(self.device),
            gpu_uuid=f"GPU-{torch.cuda.get_device_properties(self.device).uuid}" if is_cuda else None,
            threads=torch.get_num_threads(),
            parameters=sum(tensor.numel() for tensor in parameters),
            weights_bytes=sum(
                tensor.numel() * tensor.element_size() for tensor in (*parameters, *model.buffers())
            ),
            packed=any(tensor.numel() == 0 for tensor in parameters),
            kv_cache_bytes=sum(cache.numel() * cache.element_size() for cache in caches.values()),
            peak_bytes=torch.cuda.max_memory_allocated(self.device) if is_cuda else None,
        )

    def llem_reset_peak(self) -> None:
        import torch

        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)


def _tensors(caches: Any) -> list[Any]:
    """The caches of all layers; some attention backends keep keys and values apart."""
    found: list[Any] = []
    for cache in caches:
        found += _tensors(cache) if isinstance(cache, list | tuple) else [cache]
    return found
