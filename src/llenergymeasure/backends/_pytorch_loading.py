"""How does a model come into memory on PyTorch, and what can keep it from it?"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from llenergymeasure.backends._pytorch_memory import memory_errors
from llenergymeasure.backends._pytorch_refusals import FLASH_PACKAGES, why_refused
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import BackendError
from llenergymeasure.models.resolve import ResolvedModel, fetched, resolve, weights_path
from llenergymeasure.models.shapes import hf_config

# Weights of that spread keep activations of a deep model finite and free of denormals.
RANDOM_WEIGHTS_SD = 0.02


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in evaluation mode and the special tokens it came with; its own decoding defaults are gone.

    `context` is how many tokens it takes, prompt and output together; None where its shape is not known.
    `revision` is the commit of a hub model.
    """

    model: Any
    eos_token_ids: tuple[int, ...]
    pad_token_id: int
    context: int | None
    revision: str | None


def load(config: ExperimentConfig) -> Loaded:
    """The model, on its device in its precision.

    BackendError says why this device, precision or checkpoint will not do; MemoryError that it does not fit.
    """
    import transformers

    if why := why_refused(config):
        reason, _, hint = why.partition("; ")
        raise BackendError(reason, hint=hint)
    device = _device(config)
    dtype = _dtype(config.precision, device)
    _check_options(config, device)
    resolved = fetched(resolve(config.model, revision=config.pytorch.revision))
    with _explained(config.model), memory_errors(f"loading {config.model}"):
        if resolved.kind == "random":
            model = _random(config, resolved, device=device, dtype=dtype)
        else:
            model = _pretrained(config, resolved, device=device, dtype=dtype)
    model.eval()
    own = model.generation_config
    eos = own.eos_token_id
    eos_ids = () if eos is None else tuple(eos) if isinstance(eos, list | tuple) else (eos,)
    pad = own.pad_token_id
    if pad is None or pad < 0:
        # Padding is masked, so any token of the vocabulary will do; the embedding keeps its size.
        pad = eos_ids[0] if eos_ids else 0
    # generate() fills what a call leaves open from here: a checkpoint's temperature or penalty would leak in.
    model.generation_config = transformers.GenerationConfig()
    context = None if resolved.architecture is None else resolved.architecture.context
    return Loaded(model, eos_ids, pad, context, resolved.revision)


def _device(config: ExperimentConfig) -> str:
    import torch

    asked = config.pytorch.device
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if asked == "auto":
        return "cuda" if cuda else "mps" if mps else "cpu"
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


def _dtype(precision: str, device: str) -> Any:
    import torch

    if precision == "bf16":
        if device == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise BackendError(
                f"{torch.cuda.get_device_name()} can't compute in bf16", hint="--precision fp16 or fp32"
            )
        if device == "mps" and not torch.backends.mps.is_macos_or_newer(14, 0):
            raise BackendError(
                "bf16 on an Apple GPU needs macOS 14 or newer", hint="--precision fp16 or fp32"
            )
    return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]


def _check_options(config: ExperimentConfig, device: str) -> None:
    """Refuse what transformers would only warn about, and then measure something else."""
    asked = config.pytorch
    if asked.compile and asked.cache_implementation not in {None, "static"}:
        raise BackendError(
            f"pytorch.compile needs the static cache, not cache_implementation {asked.cache_implementation}",
            hint="--set pytorch.cache_implementation=static, or leave it out",
        )
    # The second look-up would import a parent that is not there.
    quanto = find_spec("optimum") is not None and find_spec("optimum.quanto") is not None
    if asked.cache_implementation == "quantized" and not quanto:
        raise BackendError(
            "cache_implementation quantized needs the package optimum-quanto",
            hint="pip install optimum-quanto",
        )
    if asked.cache_implementation == "offloaded" and device == "cpu":
        raise BackendError(
            "cache_implementation offloaded moves the cache to the CPU, where this model is already",
            hint="--set pytorch.cache_implementation=dynamic",
        )
    if asked.attn_implementation in FLASH_PACKAGES and device != "cuda":
        raise BackendError(
            f"{asked.attn_implementation} runs on CUDA devices, not on {device}",
            hint="--set pytorch.attn_implementation=sdpa",
        )


def _pretrained(config: ExperimentConfig, resolved: ResolvedModel, *, device: str, dtype: Any) -> Any:
    import transformers

    folder = weights_path(resolved)
    assert folder is not None, "a model that was fetched is a directory"
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        device_map=config.pytorch.device_map or {"": device},
        output_loading_info=True,
        trust_remote_code=config.pytorch.trust_remote_code,
        **_attention(config),
    )
    # transformers fills these with fresh random numbers and a log line; a number from such a model is void.
    absent = sorted({*loading["missing_keys"], *(str(key) for key in loading["mismatched_keys"])})
    if absent:
        raise BackendError(
            f"{folder} lacks {len(absent)} of the model's weights, such as {absent[0]}",
            hint="fetch or convert the checkpoint again",
        )
    return model


def _random(config: ExperimentConfig, resolved: ResolvedModel, *, device: str, dtype: Any) -> Any:
    """Weights from the seed for a shape: a directory's `config.json`, or a published one."""
    import torch
    import transformers
    from transformers.initialization import no_init_weights

    if config.pytorch.device_map is not None:
        raise BackendError(
            f"pytorch.device_map {config.pytorch.device_map} can't place random weights",
            hint="leave it out; --set pytorch.device=… chooses the one device",
        )
    if resolved.path is not None:
        shape = transformers.AutoConfig.from_pretrained(
            resolved.path, trust_remote_code=config.pytorch.trust_remote_code
        )
    else:
        assert resolved.architecture is not None, "a random model is made from a shape"
        shape = transformers.AutoConfig.for_model(**hf_config(resolved.architecture))
    # The usual initialisation draws several times per matrix: 10 s for what takes 3 with one draw.
    with no_init_weights(), torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(
            shape,
            dtype=dtype,
            trust_remote_code=config.pytorch.trust_remote_code,
            **_attention(config),
        )
    model.tie_weights()
    torch.manual_seed(config.random_seed)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if weights.ndim > 1:
                weights.normal_(0, RANDOM_WEIGHTS_SD)
            else:
                weights.fill_(0 if name.endswith("bias") else 1)
    return model


def _attention(config: ExperimentConfig) -> dict[str, str]:
    asked = config.pytorch.attn_implementation
    return {} if asked is None else {"attn_implementation": asked}


@contextmanager
def _explained(model: str) -> Iterator[None]:
    """Say which checkpoint failed and what to do, whatever its reader raised."""
    from safetensors import SafetensorError

    broken = (SafetensorError, pickle.UnpicklingError, EOFError)
    refused = (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError)
    try:
        yield
    except broken as error:
        raise BackendError(
            f"the weights of {model} are truncated or corrupt: {_first_line(error)}",
            hint="fetch or convert the checkpoint again",
        ) from error
    except refused as error:
        hint = None
        if "trust_remote_code" in str(error):
            hint = "--set pytorch.trust_remote_code=true runs the code that comes with it; read it first"
        raise BackendError(f"{model} can't be loaded: {_first_line(error)}", hint=hint) from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
