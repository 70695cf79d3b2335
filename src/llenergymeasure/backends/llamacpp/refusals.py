"""What can be refused of a llama.cpp configuration before its library is loaded?"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from llenergymeasure.backends import Refusal, why_context_too_short, why_missing, why_too_many_threads
from llenergymeasure.config.extras import install
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import PreFlightError
from llenergymeasure.models.gguf import read_gguf
from llenergymeasure.models.resolve import resolve

QUANTISED = {"q8_0", "q4_0", "q4_1", "q5_0", "q5_1"}

# llama.cpp's `llama_ftype`, a file's `general.file_type`, as far as it is one of our precisions.
_PRECISIONS = {
    0: "fp32",
    1: "fp16",
    2: "int4",
    3: "int4",
    7: "int8",
    14: "int4",
    15: "int4",
    25: "int4",
    30: "int4",
    32: "bf16",
}
_GPU_LIBRARIES = ("cuda", "hip", "metal", "musa", "opencl", "sycl", "vulkan", "cann", "rpc")


def why_unavailable() -> str | None:
    if find_spec("llama_cpp") is None:
        return (
            f"the llamacpp backend needs llama-cpp-python: run {install('llamacpp')} "
            "(it is compiled, for minutes)"
        )
    return why_missing("llamacpp", "transformers", "gguf", use=" for token ids")


def why_refused(config: ExperimentConfig) -> Refusal | None:
    """The first reason that shows without the library; `open` finds the others."""
    return _why_not_the_options(config) or _why_not_the_model(config)


def _why_not_the_options(config: ExperimentConfig) -> Refusal | None:
    asked = config.llamacpp
    for name in ("threads", "threads_batch"):
        if why := why_too_many_threads(f"llamacpp.{name}", getattr(asked, name)):
            return why
    if asked.cache_type_v in QUANTISED and not asked.flash_attn:
        return Refusal(
            f"llamacpp.cache_type_v {asked.cache_type_v} needs flash attention",
            "--set llamacpp.flash_attn=true, or leave cache_type_v at f16",
        )
    if asked.n_ubatch is not None and asked.n_ubatch > asked.n_batch:
        return Refusal(
            f"llamacpp.n_ubatch {asked.n_ubatch} is more than n_batch {asked.n_batch}, which it divides",
            "lower n_ubatch or raise n_batch",
        )
    if why := why_context_too_short("llamacpp.context", asked.context, config):
        return why
    if asked.gpu_layers and _is_cpu_build():
        return Refusal(
            f"llamacpp.gpu_layers is {asked.gpu_layers}, but this llama-cpp-python is built without GPUs",
            "build it for your GPU (CMAKE_ARGS=-DGGML_CUDA=on pip install --no-cache-dir --force-reinstall "
            "llama-cpp-python), or leave gpu_layers out",
        )
    return None


def _why_not_the_model(config: ExperimentConfig) -> Refusal | None:
    try:
        resolved = resolve(config.model, revision=config.engine.revision)
    except PreFlightError:
        return None  # preflight resolves the model too, and says this in full
    if resolved.kind != "gguf" or resolved.path is None:
        what = {"directory": "a directory", "random": "a shape of random weights"}
        return Refusal(
            f"the llamacpp backend takes a GGUF file, and {config.model} is "
            f"{what.get(resolved.kind, 'a model of the hub')}",
            f"name a .gguf file{_nearby(resolved.path)}",
        )
    kind = read_gguf(resolved.path).metadata.get("general.file_type")
    own = _PRECISIONS.get(kind) if isinstance(kind, int) else None
    # bf16 is the default, and can't be distinguished from being asked for.
    if config.precision not in {"bf16", own}:
        holds = f"holds {own}" if own else "holds none of llem's precisions"
        return Refusal(
            f"precision is {config.precision}, but llama.cpp computes with what the file has, and "
            f"{resolved.path.name} {holds}",
            "leave precision out, or name a file that is quantised so",
        )
    return None


def _nearby(path: Path | None) -> str:
    files = sorted(path.glob("*.gguf")) if path is not None and path.is_dir() else []
    return f", such as {files[0]}" if files else " (llama.cpp's convert_hf_to_gguf.py makes one)"


def _is_cpu_build() -> bool:
    """Whether no library for a GPU lies beside llama.cpp's; False where that can't be seen."""
    spec = find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        return False
    libraries = [file.name for file in (Path(spec.origin).parent / "lib").glob("*ggml*")]
    return bool(libraries) and not any(kind in name for name in libraries for kind in _GPU_LIBRARIES)
