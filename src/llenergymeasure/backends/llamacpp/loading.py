"""How does a GGUF come into memory with llama.cpp, what can keep it from it, and what does its log tell?"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from llenergymeasure.backends import refuse
from llenergymeasure.backends.llamacpp.refusals import why_refused
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import BackendError
from llenergymeasure.host.machine import threads
from llenergymeasure.models.resolve import resolve

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
# Names of ours for the numbers of `ggml_type`, which are part of the file format and never change.
CACHE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "bf16": 30}
_PROBED_TOKENS = 32


@dataclass(frozen=True, slots=True)
class LoadReport:
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

    def report(self) -> LoadReport:
        text = "".join(self._said)
        self._said.clear()
        return parse_log(text)


def parse_log(text: str) -> LoadReport:
    buffers: dict[str, int] = {}
    for device, use, size in _BUFFER.findall(text):
        name = f"{device} {use}"
        buffers[name] = buffers.get(name, 0) + round(float(size) * 2**20)
    holding = {name.split()[0] for name in buffers}
    offloaded, cache, flash, mode = (
        pattern.search(text) for pattern in (_OFFLOADED, _CACHE, _FLASH, _LOAD_MODE)
    )
    return LoadReport(
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


@dataclass(frozen=True, slots=True)
class Loaded:
    """llama.cpp's model and its one context, as pointers that die with `loaded`'s context manager.

    `limit` is how many tokens a request may have: what the context holds, within what the model was trained
    for. `end_ids` are all tokens that end a generation.
    """

    path: Path
    model: Any
    context: Any
    memory: Any
    vocab: Any
    vocab_size: int
    batch: int
    limit: int
    end_ids: frozenset[int]
    report: LoadReport
    log: EngineLog


@contextmanager
def loaded(config: ExperimentConfig) -> Iterator[Loaded]:
    """The model with its context. BackendError says why it can't be; MemoryError that it does not fit."""
    from llama_cpp import llama_cpp

    refuse(why_refused(config))
    path = resolve(config.model).path
    assert path is not None, "anything but a file was refused"
    log = EngineLog()
    with ExitStack() as stack:
        # The default writes to stderr itself: after us nothing may call into Python any more.
        stack.callback(llama_cpp.llama_log_set, llama_cpp.llama_log_callback(), None)
        llama_cpp.llama_log_set(log.callback, None)
        llama_cpp.llama_backend_init()
        _check_abilities(config)
        model = _model(config, path, log=log, stack=stack)
        trained = llama_cpp.llama_model_n_ctx_train(model)
        wanted = config.llamacpp.context or min(config.max_tokens, trained)
        if wanted > trained:
            raise BackendError(
                f"llamacpp.context is {wanted}, but {path.name} was trained for {trained} tokens",
                hint=f"--set llamacpp.context={trained} or less, or leave it out",
            )
        context = _context(config, model, wanted, log=log)
        stack.callback(llama_cpp.llama_free, context)
        vocab = llama_cpp.llama_model_get_vocab(model)
        size = llama_cpp.llama_vocab_n_tokens(vocab)
        report = log.report()
        _check_report(config, report)
        if any(name.startswith("AMX ") for name in report.buffers):
            _probe(context, llama_cpp.llama_n_batch(context))
        yield Loaded(
            path=path,
            model=model,
            context=context,
            memory=llama_cpp.llama_get_memory(context),
            vocab=vocab,
            vocab_size=size,
            batch=llama_cpp.llama_n_batch(context),
            limit=min(llama_cpp.llama_n_ctx(context), trained),
            end_ids=frozenset(token for token in range(size) if llama_cpp.llama_vocab_is_eog(vocab, token)),
            report=report,
            log=log,
        )


def _check_abilities(config: ExperimentConfig) -> None:
    """Refuse what llama.cpp would only warn about, or pass over, and then measure something else."""
    from llama_cpp import llama_cpp

    asked = config.llamacpp
    for name, wanted, able in (
        ("gpu_layers", bool(asked.gpu_layers), llama_cpp.llama_supports_gpu_offload),
        ("mmap", asked.mmap, llama_cpp.llama_supports_mmap),
        ("mlock", asked.mlock, llama_cpp.llama_supports_mlock),
    ):
        if wanted and not able():
            raise BackendError(
                f"llamacpp.{name} is asked for, but this build of llama.cpp can't do it on this machine",
                hint=f"leave llamacpp.{name} out"
                if name != "mmap"
                else "--set llamacpp.mmap=false, and the file is read into memory",
            )


def _model(config: ExperimentConfig, path: Path, *, log: EngineLog, stack: ExitStack) -> Any:
    from llama_cpp import llama_cpp

    asked = config.llamacpp
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = asked.gpu_layers
    params.use_extra_bufts = asked.repack
    params.load_mode = {
        (False, False): llama_cpp.LLAMA_LOAD_MODE_NONE,
        (True, False): llama_cpp.LLAMA_LOAD_MODE_MMAP,
        (False, True): llama_cpp.LLAMA_LOAD_MODE_MLOCK,
        (True, True): llama_cpp.LLAMA_LOAD_MODE_MMAP_MLOCK,
    }[asked.mmap, asked.mlock]
    with _interruptible() as interrupted:
        params.progress_callback = llama_cpp.llama_progress_callback(lambda *_: not interrupted())
        model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if model:
            stack.callback(llama_cpp.llama_model_free, model)
    if not model:
        raise _failure(
            f"llama.cpp can't load {path}",
            log,
            hint="check that the file is complete and that this llama.cpp supports its model",
        )
    return model


def _context(config: ExperimentConfig, model: Any, tokens: int, *, log: EngineLog) -> Any:
    from llama_cpp import llama_cpp

    asked = config.llamacpp
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = tokens
    params.n_batch = asked.n_batch
    params.n_ubatch = asked.tokens_at_once
    params.n_threads = asked.threads or _cores()
    params.n_threads_batch = asked.threads_batch or params.n_threads
    params.type_k = CACHE_TYPES[asked.cache_type_k]
    params.type_v = CACHE_TYPES[asked.cache_type_v]
    params.flash_attn_type = (
        llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        if asked.flash_attn
        else llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    )
    # Else a build for GPUs puts cache and large products there with no layer asked for.
    params.offload_kqv = params.op_offload = bool(asked.gpu_layers)
    context = llama_cpp.llama_init_from_model(model, params)
    if not context:
        raise _failure(
            f"llama.cpp can't make a context of {tokens} tokens", log, hint="lower llamacpp.context"
        )
    return context


def _failure(what: str, log: EngineLog, *, hint: str) -> Exception:
    if log.lacks_memory():
        return MemoryError(f"{what}: {log.error()}")
    return BackendError(f"{what}: {log.error()}", hint=hint)


def _check_report(config: ExperimentConfig, report: LoadReport) -> None:
    if report.locking_failed:
        raise BackendError(
            "llamacpp.mlock is asked for, but the system does not let this process lock the model's memory",
            hint="raise its limit (ulimit -l unlimited), or leave llamacpp.mlock out",
        )
    if config.llamacpp.flash_attn and report.flash_attn == "disabled":
        raise BackendError(
            f"llama.cpp does not run {config.model} with flash attention",
            hint="leave llamacpp.flash_attn out",
        )


def _cores() -> int:
    """Physical cores that affinity and quota leave this process: more threads wait for each other."""
    return min(psutil.cpu_count(logical=False) or threads(), threads())


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Note a SIGINT instead of raising it, as ctypes drops what a callback raises; raise it at the end."""
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, lambda number, _: seen.append(number))
    try:
        yield lambda: bool(seen)
    finally:
        signal.signal(signal.SIGINT, before)
    if seen:
        raise KeyboardInterrupt


def _probe(context: Any, batch: int) -> None:
    """Multiply once in a process that may die of it.

    GCC 12 leaves all but 8 bytes of AMX's tile configuration unwritten (its `_tile_loadconfig` tells the
    compiler that it reads no more), and llama.cpp built with it dies of the first product.
    """
    from llama_cpp import llama_cpp

    child = os.fork()
    if child == 0:
        llama_cpp.llama_set_n_threads(context, 1, 1)
        tokens = (llama_cpp.llama_token * _PROBED_TOKENS)()
        llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(tokens, min(_PROBED_TOKENS, batch)))
        os._exit(0)
    try:
        _, status = os.waitpid(child, 0)
    except BaseException:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    if os.WIFSIGNALED(status):
        raise BackendError(
            f"this build of llama.cpp crashes in its AMX code (signal {os.WTERMSIG(status)})",
            hint="--set llamacpp.repack=false; or build it again: CMAKE_ARGS=-DGGML_NATIVE=OFF pip install "
            "--force-reinstall --no-cache-dir --no-binary llama-cpp-python llama-cpp-python",
        )
