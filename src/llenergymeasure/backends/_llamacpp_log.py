"""What does llama.cpp say of itself while it loads a model, and what of an error?"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from typing import Any

_DEBUG, _ERROR = 1, 4
_BUFFER = re.compile(r"^\w+:\s+(\S+)\s+(\w+) buffer size =\s+([\d.]+) MiB", re.MULTILINE)
_DEVICE = re.compile(r"using device (\S+) \((.*)\) \(([^()]*)\) - ")
_OFFLOADED = re.compile(r"offloaded (\d+)/\d+ layers to GPU")
_CACHE = re.compile(r"\bK \((\w+)\):.*\bV \((\w+)\):")
_FLASH = re.compile(r"flash_attn\s+= (\w+)")
_LOAD_MODE = re.compile(r"\(load_mode = ([\w+]+)\)")
# `ggml_aligned_malloc`, the backends' buffers, the KV cache, `mmap` and C++ each in words of their own.
_MEMORY = re.compile(
    r"failed to allocate|unable to allocate|insufficient memory|out of memory|cannot allocate|bad_alloc",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Told:
    """What was in force by the engine's own words; None where it said nothing.

    `buffers` are bytes by device and use, such as `CPU_Mapped model`, to 0.01 MiB; `devices` the GPUs that
    hold any of them, name to (description, PCI bus id).
    """

    buffers: dict[str, int] = field(default_factory=dict)
    devices: dict[str, tuple[str, str]] = field(default_factory=dict)
    gpu_layers: int = 0
    cache_types: tuple[str, str] | None = None
    flash_attn: str | None = None
    load_mode: str | None = None
    locking_failed: bool = False


class EngineLog:
    """llama.cpp's log: to stderr, which is the worker's log, and kept as far as somebody will ask for it.

    llama.cpp holds a pointer to `callback`: keep the object for as long as it is set.
    """

    def __init__(self) -> None:
        from llama_cpp import llama_cpp

        self._said: list[str] = []
        self._errors: list[str] = []
        self.callback = llama_cpp.llama_log_callback(self._hear)

    def _hear(self, level: int, text: bytes, _: Any) -> None:
        said = text.decode(errors="replace")
        if level == _DEBUG:
            return
        sys.stderr.write(said)
        self._said.append(said)
        if level == _ERROR:
            self._errors.append(said.strip())

    def error(self) -> str:
        """The first error since the last time, without the name of the C function before it."""
        first = next((line for line in self._errors if line), "it gives no reason")
        self._errors.clear()
        return re.sub(r"^\w+: ", "", first)

    def lacks_memory(self) -> bool:
        return any(_MEMORY.search(line) for line in self._errors)

    def told(self) -> Told:
        text = "".join(self._said)
        self._said.clear()
        return told(text)


def told(text: str) -> Told:
    """What the log of a load says."""
    buffers: dict[str, int] = {}
    for device, use, size in _BUFFER.findall(text):
        name = f"{device} {use}"
        buffers[name] = buffers.get(name, 0) + round(float(size) * 2**20)
    holding = {name.split()[0] for name in buffers}
    offloaded, cache, flash, mode = (
        pattern.search(text) for pattern in (_OFFLOADED, _CACHE, _FLASH, _LOAD_MODE)
    )
    return Told(
        buffers=buffers,
        devices={
            name: (description, bus) for name, description, bus in _DEVICE.findall(text) if name in holding
        },
        gpu_layers=int(offloaded[1]) if offloaded else 0,
        cache_types=(cache[1], cache[2]) if cache else None,
        flash_attn=flash[1] if flash else None,
        load_mode=mode[1] if mode else None,
        locking_failed="failed to mlock" in text,
    )
