"""What can be asked of transformers on PyTorch?"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from llenergymeasure.config.engines import Engine
from llenergymeasure.config.section import Positive


class PytorchConfig(Engine):
    """transformers on PyTorch."""

    checks_adapter: ClassVar[bool] = True
    keeps_freed_blocks: ClassVar[bool] = True
    takes: ClassVar[frozenset[str]] = frozenset({"lora", "passthrough_kwargs"})

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

    def at_once(self, n: int) -> int:  # noqa: ARG002  the engine's own batches, whatever comes
        # Processes that split a model share a batch.
        return self.batch_size * self.replicas

    @property
    def static_batch(self) -> int | None:
        return self.batch_size

    @property
    def replicas(self) -> int:
        return 1 if self.tp_plan is not None else self.num_processes

    @property
    def hub_revision(self) -> str | None:
        return self.revision

    @property
    def assistant(self) -> str | None:
        return self.assistant_model

    def on_gpus(self, *, present: bool) -> bool:
        return self.device == "cuda" or (self.device == "auto" and present)

    @property
    def gpus(self) -> int | None:
        if not self.on_gpus(present=True):
            return 0
        return None if self.device_map else self.num_processes

    @property
    def gpus_per_model(self) -> int | None:
        if self.device_map is not None:
            return None
        return 1 if self.tp_plan is None else self.num_processes

    @property
    def beams(self) -> int:
        return self.num_beams

    @property
    def is_eager(self) -> bool:
        return self.attn_implementation == "eager"

    @property
    def guesses_ahead(self) -> bool:
        return self.assistant_model is not None or self.prompt_lookup_num_tokens is not None
