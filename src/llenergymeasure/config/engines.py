"""What can be asked of each engine, and of where it runs?"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from llenergymeasure.config.section import Arguments, Positive, PositiveSeconds, Section


class PytorchConfig(Section):
    """transformers on PyTorch."""

    batch_size: Positive = Field(1, description="requests in one batch, padded to its longest prompt")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="auto takes CUDA, else an Apple GPU, else the CPU"
    )
    device_map: str | None = Field(None, description="as transformers takes it, such as auto or balanced")
    num_processes: Positive = Field(
        1,
        description="processes that share the requests, each with the whole model (tp_plan: with a part)",
    )
    tp_plan: Literal["auto"] | None = Field(
        None, description="auto splits every matrix over num_processes, by the model's own plan"
    )
    quantization: Literal["auto", "bitsandbytes", "torchao", "quanto"] = Field(
        "auto",
        description="what makes precision int8 or int4; auto takes bitsandbytes, else torchao, if installed",
    )
    attn_implementation: (
        Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"] | None
    ) = Field(None, description="the model's own choice when absent")
    compile: bool = Field(False, description="torch.compile, outside the measured windows")
    compile_mode: (
        Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] | None
    ) = Field(None, description="the mode of torch.compile")
    cache_implementation: Literal["dynamic", "static", "offloaded", "quantized"] | None = Field(
        None, description="how keys and values are kept; transformers' choice when absent"
    )
    num_beams: Positive = Field(1, description="beams kept by beam search; 1 searches none")
    prompt_lookup_num_tokens: Positive | None = Field(
        None, description="tokens that are guessed at once from the prompt; off when absent"
    )
    assistant_model: str | None = Field(
        None, min_length=1, description="a smaller model that guesses tokens ahead, named as `model` is"
    )
    trust_remote_code: bool = Field(False, description="run the code that comes with the model")
    revision: str | None = Field(None, description="branch, tag or commit of a model on the hub")
    threads: Positive | None = Field(
        None, description="CPU threads of each process; when absent PyTorch's own choice, shared out"
    )


class LoraConfig(Section):
    """A low-rank adapter on top of the model, as peft saves it."""

    path: str = Field(
        min_length=1, description="directory with adapter_config.json and the adapter's weights"
    )
    merged: bool = Field(
        False, description="true adds it to the weights once, so that a step costs nothing more"
    )


class VllmConfig(Section):
    """vLLM in this process's child, through its offline `LLM`."""

    batch_size: Positive | None = Field(
        None, description="requests handed to the engine at once; all of them when absent"
    )
    engine: Arguments = Field(default_factory=dict, description="any argument of the installed vllm.LLM")
    sampling: Arguments = Field(
        default_factory=dict, description="any argument of the installed vllm.SamplingParams"
    )
    beam_search: Arguments | None = Field(
        None,
        description="any argument of the installed BeamSearchParams, such as beam_width; off when absent",
    )


class LlamacppConfig(Section):
    """llama.cpp through llama-cpp-python: one request after the other."""

    threads: Positive | None = Field(
        None, description="threads that generate; one for each physical core when absent"
    )
    threads_batch: Positive | None = Field(None, description="threads that read prompts; threads when absent")
    n_batch: Positive = Field(512, description="prompt tokens handed over at once")
    n_ubatch: Positive | None = Field(
        None, description="prompt tokens computed at once; n_batch, but at most 512, when absent"
    )
    gpu_layers: int = Field(0, ge=-1, description="layers on the GPU; -1 all of them")
    context: Positive | None = Field(
        None,
        description="tokens of context, which llama.cpp rounds up to a multiple of 256; "
        "max_input_tokens + max_output_tokens when absent",
    )
    cache_type_k: Literal["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1"] = Field(
        "f16", description="type of the cached keys"
    )
    cache_type_v: Literal["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1"] = Field(
        "f16", description="type of the cached values; a quantised one needs flash_attn"
    )
    flash_attn: bool = Field(False, description="flash attention")
    mmap: bool = Field(True, description="map the file instead of reading it")
    mlock: bool = Field(False, description="keep the model from being swapped out")
    repack: bool = Field(True, description="weights are laid out anew for this CPU where llama.cpp can")


class TensorrtConfig(Section):
    """TensorRT-LLM through its `LLM` interface."""

    batch_size: Positive | None = Field(
        None, description="requests handed to the engine at once; all of them when absent"
    )
    engine_dir: Path | None = Field(
        None, description="a TensorRT engine that is built already; `model` names what it was built from"
    )
    engine: Arguments = Field(
        default_factory=dict, description="any argument of the installed tensorrt_llm.LLM"
    )
    sampling: Arguments = Field(
        default_factory=dict, description="any argument of the installed tensorrt_llm.SamplingParams"
    )


class RunnerConfig(Section):
    """Where the process that runs the model lives: on this host as it is, or in a container on it."""

    kind: Literal["local", "container"] = "local"
    image: str | None = Field(
        None, description="image of the container, which holds the engine and the same llem as here"
    )
    engine: Literal["auto", "docker", "podman"] = Field(
        "auto", description="auto takes docker where it answers, else podman"
    )
    mounts: tuple[str, ...] = Field(
        (),
        description="further folders or files, as source:target or source:target:rw; read-only without rw",
    )
    env: tuple[str, ...] = Field((), description="names of this host's variables that the container gets")
    network: Literal["host", "none"] = Field(
        "host", description="none keeps the engine from reaching anything, the model's hub included"
    )

    @field_validator("mounts")
    @classmethod
    def _mounts_read(cls, mounts: tuple[str, ...]) -> tuple[str, ...]:
        for mount in mounts:
            match mount.split(":"):
                case [source, target] | [source, target, "rw"] if source and target.startswith("/"):
                    continue
            raise ValueError(f"{mount!r} is no mount: write source:/target or source:/target:rw")
        return mounts

    @field_validator("env")
    @classmethod
    def _names_only(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not name.isidentifier():
                # The value itself may be a secret, and would end up in every result.
                raise ValueError("env takes the names of variables, not their values")
        return names

    @model_validator(mode="after")
    def _image_in_force(self) -> RunnerConfig:
        if self.kind == "container" and not (self.image or "").strip():
            raise ValueError("runner.kind is container, but runner.image is empty; name the image to run")
        if self.kind == "local" and self != RunnerConfig.model_construct():
            raise ValueError("runner has options of a container, but runner.kind is local; make it container")
        return self


class SimulatedFault(Section):
    """Something that goes wrong on purpose."""

    kind: Literal["crash", "hang", "oom", "error"]
    at: Literal["open", "warmup", "pass"] = "pass"
    after_batches: int = Field(0, ge=0, description="how many batches of that stage still succeed")


class SimulatedConfig(Section):
    """No model: requested lengths and times, and a device whose true power is known."""

    batch_size: Positive = 1
    load_s: float = Field(0.2, ge=0, le=3600)
    prefill_s_per_token: float = Field(2e-5, ge=0, le=10)
    decode_s_per_step: float = Field(2e-3, ge=0, le=10)
    scatter: float = Field(0.01, ge=0, le=1, description="relative sd of a batch's duration and power")
    run_scatter: float = Field(0.0, ge=0, le=1, description="relative sd of power from run to run")
    eos_probability: float = Field(0.02, ge=0, le=1, description="per token, with output_length: natural")
    idle_w: float = Field(60.0, ge=0)
    context_w: float = Field(95.0, ge=0, description="power once the model is loaded")
    active_w: float = Field(400.0, ge=0)
    counter_step_s: PositiveSeconds = Field(0.1, description="update period of the energy counter")
    fault: SimulatedFault | None = None
