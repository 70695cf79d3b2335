"""How does a model get into vLLM's engine, and what can keep it from it?"""

from __future__ import annotations

import json
import math
import signal
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from llenergymeasure.backends import model_folder, refuse, summary_of
from llenergymeasure.backends.vllm.arguments import (
    engine_arguments,
    request_arguments,
    vllm_errors,
    why_refused,
)
from llenergymeasure.backends.vllm.processes import (
    ENDED_HINT,
    Said,
    Watch,
    children,
    cpu_cache,
    end_all,
    engine_environment,
    environment,
    is_aftermath,
    lacks_memory,
    shared_memory,
)
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import BackendError
from llenergymeasure.host.machine import memory_available_bytes
from llenergymeasure.models.formulas import ELEMENT_BYTES, kv_cache_bytes
from llenergymeasure.models.resolve import ResolvedModel, fetched, resolve

_GIB = 2**30
_AGAIN_S = 0.5  # how long a cancel is given before it is asked again
_CACHE_BLOCK = 128  # tokens of a block of vLLM's cache on a CPU
# Each of them says how large it is to be.
_CACHE_SIZES = {"kv_cache_memory_bytes", "gpu_memory_utilization"}
_UNKNOWN_CACHE_GIB = 4  # where the model's shape is not known
# The ranks that vLLM reserves memory for.
_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A running engine: its `LLM`, its processes, and the watch over them."""

    llm: Any
    processes: tuple[psutil.Process, ...]
    watch: Watch
    model: ResolvedModel
    lora: Any | None


@contextmanager
def loaded(config: ExperimentConfig) -> Iterator[Loaded]:
    """The engine with the model; leaving the context ends all of its processes.

    BackendError where vLLM can't load it or refuses an argument; MemoryError where it does not fit.
    """
    refuse(why_refused(config))
    resolved = fetched(resolve(config.model, revision=config.engine.revision))
    with model_folder(resolved) as folder, _on_this_machine(config, resolved):
        # A value that vLLM refuses is reported before a minute of loading.
        request_arguments(config)
        arguments = engine_arguments(config, is_cpu=is_cpu(), has_tokenizer=has_tokenizer(folder))
        lora = _lora(config)
        before = set(children())
        processes: set[psutil.Process] = set()
        memory: set[Path] = set()
        try:
            with _cancelled_at_once(before, memory):
                dummy = {"load_format": "dummy"} if resolved.kind == "random" else {}
                llm = _start(config, folder, dummy | _with_lora(config) | arguments)
            processes |= set(children()) - before
            memory |= shared_memory(tuple(processes))
            with closing(Watch(tuple(processes))) as watch:
                try:
                    yield Loaded(llm, tuple(processes), watch, resolved, lora)
                finally:
                    processes |= set(children()) - before
                    llm.llm_engine.engine_core.shutdown()
        finally:
            end_all([*processes | (set(children()) - before)])
            for path in memory:
                path.unlink(missing_ok=True)


@contextmanager
def _cancelled_at_once(before: set[psutil.Process], memory: set[Path]) -> Iterator[None]:
    """A cancel kills the engine's processes first, since vLLM waits for ever so long for those that load, and
    is asked again until vLLM is left: an interrupt is lost in some of its waits.

    What they share is added to `memory`. In another thread than the main one a cancel can't come.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    main_thread = threading.get_ident()
    over = threading.Event()

    def again() -> None:
        while not over.wait(_AGAIN_S):
            signal.pthread_kill(main_thread, signal.SIGINT)

    asking = threading.Thread(target=again, daemon=True)

    def cancel(number: int, frame: object) -> None:  # noqa: ARG001  a signal's handler
        if over.is_set():
            return
        started = tuple(set(children()) - before)
        memory.update(shared_memory(started))
        for process in started:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        with suppress(RuntimeError):  # it asks already
            asking.start()
        raise KeyboardInterrupt

    usual = signal.signal(signal.SIGINT, cancel)
    try:
        yield
    finally:
        over.set()
        if asking.is_alive():
            asking.join()
        signal.signal(signal.SIGINT, usual)


@contextmanager
def _on_this_machine(config: ExperimentConfig, resolved: ResolvedModel) -> Iterator[None]:
    """The environment in which vLLM runs here; on a CPU with a cache as large as the batch needs."""
    with environment(engine_environment()):
        size = None
        if is_cpu() and not _CACHE_SIZES & config.vllm.engine.keys():
            size = _cache_gib(config, resolved)
        with environment({} if size is None else cpu_cache(size)):
            yield


def is_cpu() -> bool:
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


def has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json"))


def _cache_gib(config: ExperimentConfig, resolved: ResolvedModel) -> int:
    """GiB that hold the keys and values of a whole batch, each request in blocks of its own; half of what
    the machine has left at most.
    """
    shape = resolved.architecture
    if shape is None:
        return _UNKNOWN_CACHE_GIB
    tokens = config.max_tokens
    needed = kv_cache_bytes(
        shape,
        batch=config.batch_size * config.engine.beams + 1,
        tokens=(tokens // _CACHE_BLOCK + 2) * _CACHE_BLOCK,
        bytes_per_element=ELEMENT_BYTES[config.precision],
    )
    left = memory_available_bytes()
    return math.ceil((needed if left is None else min(needed, left / 2)) / _GIB)


def _lora(config: ExperimentConfig) -> Any | None:
    if config.lora is None:
        return None
    from vllm.lora.request import LoRARequest

    return LoRARequest("llem", 1, str(Path(config.lora.path).expanduser().absolute()))


def _with_lora(config: ExperimentConfig) -> dict[str, Any]:
    """What vLLM must know of an adapter before it loads the model; BackendError where there is none."""
    if config.lora is None:
        return {}
    path = Path(config.lora.path).expanduser() / "adapter_config.json"
    try:
        rank = int(json.loads(path.read_text(encoding="utf-8"))["r"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BackendError(f"lora.path: {path} is not an adapter's configuration: {error}") from error
    return {
        "enable_lora": True,
        "max_loras": 1,
        "max_lora_rank": next((size for size in _LORA_RANKS if size >= rank), rank),
    }


def _start(config: ExperimentConfig, folder: Path, arguments: dict[str, Any]) -> Any:
    import vllm

    said = Said()
    python: tuple[type[Exception], ...] = (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        ImportError,
        RuntimeError,
    )
    try:
        return vllm.LLM(model=str(folder), **arguments)
    except python + vllm_errors() as error:
        cause = said.root_cause() if isinstance(error, RuntimeError) else None
        message = cause or summary_of(error)
        if lacks_memory(message):
            raise MemoryError(f"loading {config.model} into vLLM: {message}") from error
        hint = None
        if is_aftermath(message):
            message, hint = "a process of the engine ended meanwhile", ENDED_HINT
        elif "trust_remote_code" in message:
            hint = "--set vllm.engine.trust_remote_code=true runs the code that comes with it; read it first"
        elif config.vllm.engine:
            given = ", ".join(f"vllm.engine.{name}={value}" for name, value in config.vllm.engine.items())
            hint = f"look at what was given to it ({given})"
        raise BackendError(f"vLLM can't load {config.model}: {message}", hint=hint) from error
