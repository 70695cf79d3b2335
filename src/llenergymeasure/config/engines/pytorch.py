"""What can be asked of transformers on PyTorch?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from llenergymeasure.config.engines import EngineSection, Traits
from llenergymeasure.config.section import Positive


class PytorchConfig(EngineSection):
    """transformers on PyTorch."""

    peers: ClassVar[Mapping[str, str]] = {
        "attn_impl": "attn_implementation",
        "attention_implementation": "attn_implementation",
        "use_flash_attention_2": "attn_implementation",
        "torch_compile": "compile",
        "per_device_batch_size": "batch_size",
        "max_batch_size": "batch_size",
    }
    also: ClassVar[tuple[str, ...]] = ("hf", "transformers")

    batch_size: Positive = Field(default=1, description="requests in one batch, padded to its longest prompt")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        default="auto", description="auto takes CUDA, else an Apple GPU, else the CPU"
    )
    device_map: str | None = Field(
        default=None, description="as transformers takes it, such as auto or balanced"
    )
    num_processes: Positive = Field(
        default=1,
        description="processes that share the requests, each with the whole model (tp_plan: with a part)",
    )
    tp_plan: Literal["auto"] | None = Field(
        default=None, description="auto splits every matrix over num_processes, by the model's own plan"
    )
    quantization: Literal["auto", "bitsandbytes", "torchao", "quanto"] = Field(
        default="auto",
        description="what makes precision int8 or int4; auto takes bitsandbytes, else torchao, if installed",
    )
    attn_implementation: (
        Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"] | None
    ) = Field(default=None, description="the model's own choice when absent")
    compile: bool = Field(default=False, description="torch.compile, outside the measured windows")
    compile_mode: (
        Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] | None
    ) = Field(default=None, description="the mode of torch.compile")
    cache_implementation: Literal["dynamic", "static", "offloaded", "quantized"] | None = Field(
        default=None, description="how keys and values are kept; transformers' choice when absent"
    )
    num_beams: Positive = Field(default=1, description="beams kept by beam search; 1 searches none")
    prompt_lookup_num_tokens: Positive | None = Field(
        default=None, description="tokens that are guessed at once from the prompt; off when absent"
    )
    assistant_model: str | None = Field(
        default=None,
        min_length=1,
        description="a smaller model that guesses tokens ahead, named as `model` is",
    )
    trust_remote_code: bool = Field(default=False, description="run the code that comes with the model")
    revision: str | None = Field(default=None, description="branch, tag or commit of a model on the hub")
    threads: Positive | None = Field(
        default=None, description="CPU threads of each process; when absent PyTorch's own choice, shared out"
    )

    @property
    def traits(self) -> Traits:
        # Processes that split a model share a batch.
        replicas = self.num_processes if self.tp_plan is None else 1
        on_cpu, spread = self.device in {"cpu", "mps"}, self.device_map is not None
        return Traits(
            is_sized=True,
            takes=frozenset({"lora", "passthrough_kwargs"}),
            checks_adapter=True,
            keeps_freed_blocks=True,
            batch_size=self.batch_size * replicas,
            static_batch=self.batch_size,
            replicas=replicas,
            revision=self.revision,
            assistant=self.assistant_model,
            uses_gpus=None if self.device == "auto" else self.device == "cuda",
            gpus=0 if on_cpu else None if spread else self.num_processes,
            gpus_per_model=None if spread else self.num_processes // replicas,
            beams=self.num_beams,
            is_eager=self.attn_implementation == "eager",
            guesses_ahead=self.assistant_model is not None or self.prompt_lookup_num_tokens is not None,
            searches_beams=self.num_beams > 1,
        )
