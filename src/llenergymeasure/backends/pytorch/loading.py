"""Where and how does a model come into memory on PyTorch, and what can keep it from it?"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pydantic import JsonValue

from llenergymeasure.backends import refuse, summary_of
from llenergymeasure.backends.pytorch.adapter import adapted
from llenergymeasure.backends.pytorch.memory import memory_errors
from llenergymeasure.backends.pytorch.passthrough import check_names, taken
from llenergymeasure.backends.pytorch.quantisation import BITS, quantising, way
from llenergymeasure.backends.pytorch.refusals import FLASH_PACKAGES, why_no_cache, why_refused
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import BackendError
from llenergymeasure.models.resolve import ResolvedModel, fetched, resolve, weights_path
from llenergymeasure.models.shapes import hf_config

# Weights of that spread keep activations of a deep model finite and free of denormals.
RANDOM_WEIGHTS_SD = 0.02


@dataclass(frozen=True, slots=True)
class Place:
    """Which of the `size` processes of a run this one is."""

    rank: int = 0
    size: int = 1


ALONE = Place()


def device_of(config: ExperimentConfig, place: Place) -> str:
    """A device of PyTorch's; BackendError where it is not there, or not one for every process."""
    import torch

    asked = config.pytorch.device
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if asked == "auto":
        asked = "cuda" if cuda else "mps" if mps else "cpu"
    if asked == "cuda" and cuda and place.size > 1:
        if torch.cuda.device_count() < place.size:
            raise BackendError(
                f"{place.size} processes want a GPU each, and PyTorch sees {torch.cuda.device_count()}",
                hint="lower pytorch.num_processes, or check CUDA_VISIBLE_DEVICES",
            )
        return f"cuda:{place.rank}"
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


def computing(config: ExperimentConfig, device: str) -> Any:
    """The type that is computed in, whatever the weights are stored as."""
    import torch

    kind, precision = device.partition(":")[0], config.precision
    emulated = kind == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
    if precision in BITS:
        # bitsandbytes multiplies 8-bit weights in fp16, and would cast at every matrix.
        half = emulated or (way(config), precision) == ("bitsandbytes", "int8")
        return torch.float16 if half else torch.bfloat16
    if precision == "bf16":
        if emulated:
            raise BackendError(
                f"{torch.cuda.get_device_name()} can't compute in bf16", hint="--precision fp16 or fp32"
            )
        if kind == "mps" and not torch.backends.mps.is_macos_or_newer(14, 0):
            raise BackendError(
                "bf16 on an Apple GPU needs macOS 14 or newer", hint="--precision fp16 or fp32"
            )
    return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in evaluation mode and the special tokens it came with; its own decoding defaults are gone.

    `context` is how many tokens it takes, prompt and output together; None where no length is
    stated.
    `revision` is the commit of a hub model. `assistant` guesses tokens ahead of the model; None without one.
    `passthrough` are the further arguments of from_pretrained in force.
    """

    model: Any
    eos_token_ids: tuple[int, ...]
    pad_token_id: int
    context: int | None
    revision: str | None
    assistant: Any = None
    passthrough: Mapping[str, JsonValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Target:
    """Where weights go and how: a device of PyTorch's, the type that is computed in, what quantises them, and
    the number of processes that share every matrix.
    """

    device: str
    dtype: Any
    quantising: Any = None
    size: int = 1


def load(config: ExperimentConfig, place: Place) -> Loaded:
    """The model, on the device of this process in its precision.

    BackendError says why this device, precision or checkpoint will not do; MemoryError that it does not fit.
    """
    import transformers

    refuse(why_refused(config))
    device = device_of(config, place)
    dtype = computing(config, device)
    _check_options(config, device)
    target = _Target(
        device,
        dtype,
        quantising(config, compute=dtype, device=device.partition(":")[0]),
        place.size if config.pytorch.tp_plan is not None else 1,
    )
    resolved = fetched(resolve(config.model, revision=config.pytorch.revision))
    model = _loaded(config, resolved, target)
    with _explained(f"the adapter {config.lora.path}" if config.lora else config.model):
        model = adapted(model, config)
    model.eval()
    _check_attention(config, model)
    passthrough = taken(config.passthrough_kwargs, model.config)
    own = model.generation_config
    eos = own.eos_token_id
    eos_ids = () if eos is None else tuple(eos) if isinstance(eos, list | tuple) else (eos,)
    # Checkpoints name ids that their embedding lacks, where a larger tokenizer was put beside them.
    rows = model.get_input_embeddings().num_embeddings
    eos_ids = tuple(token for token in eos_ids if token < rows)
    pad = own.pad_token_id
    if pad is None or not 0 <= pad < rows:
        # Padding is masked, so any token of the vocabulary will do; the embedding keeps its size.
        pad = eos_ids[0] if eos_ids else 0
    # generate() fills what a call leaves open from here: a checkpoint's temperature or penalty would leak in.
    model.generation_config = transformers.GenerationConfig()
    assistant = _assistant(config, target)
    return Loaded(model, eos_ids, pad, resolved.context, resolved.revision, assistant, passthrough)


def _loaded(config: ExperimentConfig, resolved: ResolvedModel, target: _Target) -> Any:
    with _explained(resolved.name), memory_errors(f"loading {resolved.name}"):
        if resolved.kind == "random":
            return _random(config, resolved, target)
        return _pretrained(config, resolved, target)


def _assistant(config: ExperimentConfig, target: _Target) -> Any:
    """The smaller model, in the type that the other computes in; it makes no choice of its own."""
    import transformers

    if config.pytorch.assistant_model is None:
        return None
    bare = config.model_copy(update={"passthrough_kwargs": {}})
    resolved = fetched(resolve(config.pytorch.assistant_model))
    assistant = _loaded(bare, resolved, _Target(target.device, target.dtype))
    assistant.eval()
    assistant.generation_config = transformers.GenerationConfig()
    return assistant


def _check_options(config: ExperimentConfig, device: str) -> None:
    """Refuse what transformers would only warn about, and then measure something else."""
    asked, kind = config.pytorch, device.partition(":")[0]
    refuse(why_no_cache(config, kind))
    if asked.attn_implementation in FLASH_PACKAGES and kind != "cuda":
        raise BackendError(
            f"{asked.attn_implementation} runs on CUDA devices, not on {kind}",
            hint="--set pytorch.attn_implementation=sdpa",
        )


def _check_attention(config: ExperimentConfig, model: Any) -> None:
    asked, found = config.pytorch.attn_implementation, model.config._attn_implementation  # noqa: SLF001  no public name
    if asked is not None and asked != found:
        raise BackendError(
            f"pytorch.attn_implementation is {asked}, but transformers took {found} for {config.model}",
            hint=f"--set pytorch.attn_implementation={found}, or leave it out",
        )


def _pretrained(config: ExperimentConfig, resolved: ResolvedModel, target: _Target) -> Any:
    import transformers

    folder = weights_path(resolved)
    assert folder is not None, "a model that was fetched is a directory"
    remote = config.pytorch.trust_remote_code
    if config.passthrough_kwargs:
        own = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=remote)
        check_names(config.passthrough_kwargs, own)
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=target.dtype,
        output_loading_info=True,
        trust_remote_code=remote,
        **_placement(config, target),
        **_attention(config),
        **config.passthrough_kwargs,
    )
    # transformers fills these with fresh random numbers and a log line; a number from such a model is void.
    absent = sorted({*loading["missing_keys"], *(str(key) for key in loading["mismatched_keys"])})
    if absent:
        raise BackendError(
            f"{folder} lacks {len(absent)} of the model's weights, such as {absent[0]}",
            hint="fetch or convert the checkpoint again",
        )
    return model


def _placement(config: ExperimentConfig, target: _Target) -> dict[str, Any]:
    placed: dict[str, Any] = {}
    if target.quantising is not None:
        placed["quantization_config"] = target.quantising
    if target.size == 1:
        return {**placed, "device_map": config.pytorch.device_map or {"": target.device}}
    from transformers.distributed import DistributedConfig

    return {**placed, "distributed_config": DistributedConfig(tp_plan="auto", tp_size=target.size)}


def _random(config: ExperimentConfig, resolved: ResolvedModel, target: _Target) -> Any:
    """Weights from the seed for a shape: a directory's `config.json`, or a published one."""
    import torch
    import transformers
    from transformers.initialization import no_init_weights

    remote = config.pytorch.trust_remote_code
    if config.pytorch.device_map is not None:
        raise BackendError(
            f"pytorch.device_map {config.pytorch.device_map} can't place random weights",
            hint="leave it out; --set pytorch.device=… chooses the one device",
        )
    if resolved.path is not None:
        shape = transformers.AutoConfig.from_pretrained(resolved.path, trust_remote_code=remote)
    else:
        assert resolved.architecture is not None, "a random model is made from a shape"
        shape = transformers.AutoConfig.for_model(**hf_config(resolved.architecture))
    # The usual initialisation draws several times per matrix: 10 s for what takes 3 with one draw.
    with no_init_weights(), torch.device(target.device):
        model = transformers.AutoModelForCausalLM.from_config(
            shape, dtype=target.dtype, trust_remote_code=remote, **_attention(config)
        )
    model.tie_weights()
    torch.manual_seed(config.random_seed)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if weights.ndim > 1:
                weights.normal_(0, RANDOM_WEIGHTS_SD)
            else:
                weights.fill_(0 if name.endswith("bias") else 1)
    if target.quantising is None:
        return model
    # transformers quantises while it loads, from these weights as it would from a file's.
    return type(model).from_pretrained(
        None,
        config=model.config,
        state_dict=model.state_dict(),
        dtype=target.dtype,
        device_map={"": target.device},
        quantization_config=target.quantising,
    )


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
            f"the weights of {model} are truncated or corrupt: {summary_of(error)}",
            hint="fetch or convert the checkpoint again",
        ) from error
    except refused as error:
        hint = None
        if "trust_remote_code" in str(error):
            hint = "--set pytorch.trust_remote_code=true runs the code that comes with it; read it first"
        raise BackendError(f"{model} can't be loaded: {summary_of(error)}", hint=hint) from error
