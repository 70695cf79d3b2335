"""How does transformers on PyTorch run a workload in one process: its batches, tokens and times?

Long because padding, masks, cache and stamps of one batch belong together.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue

from llenergymeasure.backends import (
    Answer,
    HandOver,
    Observer,
    decoding_in_force,
    installed_versions,
    run_batches,
)
from llenergymeasure.backends.pytorch.adapter import adapter_in_force
from llenergymeasure.backends.pytorch.loading import ALONE, Loaded, Place, load
from llenergymeasure.backends.pytorch.memory import (
    cache_bytes,
    gpu_uuids,
    memory_errors,
    parameter_count,
    peak,
    reset_peak,
    weight_bytes,
)
from llenergymeasure.backends.pytorch.quantisation import builds_kernels, in_force, is_countable
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import BackendError
from llenergymeasure.host.machine import threads
from llenergymeasure.records import FinishReason, Generation, Request, SessionFacts

PACKAGES = ("torch", "transformers", "accelerate", "bitsandbytes", "torchao", "optimum-quanto", "peft")


@dataclass(frozen=True, slots=True)
class Steps:
    """What one batch produced: per request its tokens, and when the tokens of each place were there.

    `stamps_ns` is None where only the end is known, `end_ns`: beam search settles its tokens at the end.
    Tokens that came together have the same stamp.
    """

    tokens: list[list[int]]
    stamps_ns: list[int] | None
    end_ns: int


class Stamps:
    """A transformers streamer: handed the prompt once, then the tokens of all rows at every step.

    On CUDA and CPU generate() copies a step's tokens to the host before it hands them over, and waits at this
    very place anyway to see whether all rows have ended: the stamp costs no further synchronisation, and
    unlike one in a stopping criterion it is not taken while the step is still queued. On MPS the hand-over
    runs one step behind: the stamp is taken once that step has ended and the next one is queued.
    """

    def __init__(self) -> None:
        self._puts: list[Any] = []
        self._stamps_ns: list[int] = []

    def put(self, tokens: Any) -> None:
        self._stamps_ns.append(time.monotonic_ns())
        self._puts.append(tokens)

    def end(self) -> None:
        """Called by transformers when the batch is done; its last step has a stamp already."""

    def steps(self) -> Steps:
        """Rows of tokens. A step is one token of every row, or several of the only row (1 × tokens)."""
        import torch

        columns = [put if put.ndim == 2 else put[:, None] for put in self._puts[1:]]
        stamps_ns = [
            stamp_ns
            for column, stamp_ns in zip(columns, self._stamps_ns[1:], strict=True)
            for _ in range(column.shape[1])
        ]
        return Steps(torch.cat(columns, dim=1).tolist(), stamps_ns, stamps_ns[-1])


def settled(output: Any, *, width: int) -> Steps:
    """The best beam of every row, once they have all come to the host."""
    sequences = getattr(output, "sequences", output)
    tokens = sequences[:, width:].tolist()
    return Steps(tokens, None, time.monotonic_ns())


def decoding(members: Sequence[Request], *, width: int, loaded: Loaded, config: ExperimentConfig) -> Any:
    """The GenerationConfig for a batch padded to `width`: as many steps as its longest request wants."""
    import transformers

    decoder, asked = config.decoder, config.pytorch
    new_tokens = max(request.max_output_tokens for request in members)
    settings: dict[str, Any] = {}
    if loaded.eos_token_ids and all(request.exact for request in members):
        settings["min_new_tokens"] = new_tokens
    if decoder.temperature > 0:
        settings |= {"temperature": decoder.temperature, "top_p": decoder.top_p, "top_k": decoder.top_k}
    if asked.compile or asked.cache_implementation == "static":
        # One size for all batches: a cache of another shape would be compiled again.
        longest = max(config.max_tokens, width + new_tokens)
        settings |= {"cache_implementation": "static", "max_cache_len": longest}
    elif asked.cache_implementation is not None:
        settings["cache_implementation"] = asked.cache_implementation
    if asked.compile:
        compiling = transformers.CompileConfig(**({"mode": asked.compile_mode} if asked.compile_mode else {}))
        # Without it transformers compiles on CUDA only, and elsewhere says so in its log alone.
        compiling._compile_all_devices = True  # noqa: SLF001  there is no public switch
        settings["compile_config"] = compiling
    return transformers.GenerationConfig(
        max_new_tokens=new_tokens,
        do_sample=decoder.temperature > 0,
        num_beams=asked.num_beams,
        prompt_lookup_num_tokens=asked.prompt_lookup_num_tokens,
        repetition_penalty=decoder.repetition_penalty,
        eos_token_id=list(loaded.eos_token_ids) or None,
        pad_token_id=loaded.pad_token_id,
        # A static cache alone makes transformers compile on CUDA, asked or not.
        disable_compile=not asked.compile,
        # The cache comes back to be sized. On MPS that would change how generate() waits.
        return_dict_in_generate=loaded.model.device.type != "mps",
        **settings,
    )


def own_ends(members: Sequence[Request], *, width: int) -> list[Any]:
    """The stopping criterion by which each row ends at its own length, where a batch padded to `width` wants
    several: without it a batch goes on for a row that has all it asked for.
    """
    import torch
    import transformers

    lengths = [request.max_output_tokens for request in members]
    if len(set(lengths)) == 1:
        return []

    class OwnEnds(transformers.StoppingCriteria):  # type: ignore[misc]  # transformers has no types
        def __call__(self, input_ids: Any, scores: Any, **others: Any) -> Any:  # noqa: ARG002  as the base has it
            done = input_ids.shape[1] - width
            return torch.tensor([done >= length for length in lengths], device=input_ids.device)

    return [OwnEnds()]


@contextmanager
def opened(config: ExperimentConfig, place: Place = ALONE) -> Iterator[PytorchSession]:
    """The model loaded, and whatever compiles compiled, in this process; leaving frees it."""
    import torch

    before = torch.get_num_threads()
    # PyTorch heeds affinity and not a quota, which would then hold all of its threads back.
    own = config.pytorch.threads or max(1, min(before, threads()) // place.size)
    if own != before:
        torch.set_num_threads(own)
    session = None
    try:
        session = PytorchSession(load(config, place), config)
        if config.pytorch.compile or compiles(config):
            session.compile_ahead()
        yield session
    finally:
        if session is not None:
            session.close()
        torch.set_num_threads(before)


def compiles(config: ExperimentConfig) -> bool:
    """Whether a first step compiles although `pytorch.compile` is off."""
    return builds_kernels(config) or config.pytorch.attn_implementation == "flex_attention"


class PytorchSession:
    """Static batches in the order of the requests, padded on the left to the longest prompt of the batch."""

    def __init__(self, loaded: Loaded, config: ExperimentConfig) -> None:
        self._loaded: Loaded | None = loaded
        self._config = config
        self._devices = sorted(
            {tensor.device for tensor in loaded.model.parameters()},
            key=lambda device: (device.type, device.index or 0),
        )
        self._cache_bytes: int | None = None
        self._cache_kind: str | None = None
        self._peak_was_reset = False

    def generate(self, requests: Sequence[Request], observe: Observer) -> Generation:
        """MemoryError when the device runs out of memory; BackendError as `run_batches` says."""
        import torch

        # Every walk starts from the seed: passes replay the same work, sampled or not.
        torch.manual_seed(self._config.random_seed)
        size, context = self._config.pytorch.batch_size, self._open().context
        return run_batches(requests, observe, self._answers, size=size, context=context)

    def synchronize(self) -> None:
        import torch

        for device in self._devices:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            elif device.type == "mps":
                torch.mps.synchronize()

    def facts(self) -> SessionFacts:
        loaded = self._open()
        models = [model for model in (loaded.model, loaded.assistant) if model is not None]
        peak_bytes, memory_source = peak(self._devices, was_reset=self._peak_was_reset)
        return SessionFacts(
            device=", ".join(str(device) for device in self._devices),
            arguments=self._arguments(loaded),
            versions=installed_versions(*PACKAGES),
            gpu_uuids=gpu_uuids(self._devices),
            parameters=parameter_count(loaded.model) if is_countable(loaded.model) else None,
            weights_bytes=sum(weight_bytes(model) for model in models),
            kv_cache_bytes=self._cache_bytes,
            peak_bytes=peak_bytes,
            memory_source=memory_source,
        )

    def reset_peak(self) -> None:
        self._peak_was_reset = reset_peak(self._devices)

    def compile_ahead(self) -> None:
        """Run every batch size that will come once, so that no measured window holds a compiler."""
        size = min(self._config.pytorch.batch_size, self._config.n)
        longest = self._config.max_input_tokens
        for members in {size, self._config.n % size or size}:
            # flex_attention compiles a length it has seen once, and after a second one any.
            for width in {8, longest // 2 + 1, longest} if compiles(self._config) else {8}:
                request = Request(0, (self._open().pad_token_id,) * width, max_output_tokens=3, exact=True)
                try:
                    self._run([request] * members)
                except RuntimeError as error:
                    raise BackendError(
                        f"compiling the model for a batch of {members} failed: {str(error).splitlines()[0]}",
                        hint="on a CPU it takes a C++ compiler (g++ or clang); "
                        "or --set pytorch.compile=false",
                    ) from error
        if self._config.pytorch.compile and not hasattr(self._open().model, "_compiled_call"):
            raise BackendError(
                f"transformers does not compile {self._config.model} as it is loaded here",
                hint="--set pytorch.compile=false; quantised weights and parts on the CPU are not compiled",
            )

    def close(self) -> None:
        import torch

        self._loaded = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        elif torch.backends.mps.is_available():
            torch.mps.empty_cache()

    def _open(self) -> Loaded:
        assert self._loaded is not None, "the session is closed"
        return self._loaded

    def _run(self, members: Sequence[Request]) -> Steps:
        """Generate for one batch; every request gets as many steps as the longest of them."""
        import torch

        loaded = self._open()
        width = max(len(request.prompt) for request in members)
        ids = torch.full((len(members), width), loaded.pad_token_id, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, request in enumerate(members):
            ids[row, width - len(request.prompt) :] = torch.tensor(request.prompt)
            mask[row, width - len(request.prompt) :] = 1
        device = loaded.model.device
        # transformers refuses a streamer where beams are only settled at the end.
        stamps = Stamps() if self._config.pytorch.num_beams == 1 else None
        with memory_errors(f"generating for a batch of {len(members)}"):
            output = loaded.model.generate(
                ids.to(device),
                attention_mask=mask.to(device),
                generation_config=decoding(members, width=width, loaded=loaded, config=self._config),
                assistant_model=loaded.assistant,
                stopping_criteria=own_ends(members, width=width) if stamps is not None else None,
                streamer=stamps,
            )
            steps = settled(output, width=width) if stamps is None else stamps.steps()
        self._see_cache(output)
        return steps

    def _see_cache(self, output: Any) -> None:
        cache = getattr(output, "cache", None)
        if cache is None:
            return
        self._cache_kind = type(cache).__name__
        if self._config.pytorch.cache_implementation == "quantized":
            # Its layers show only the part that is not packed yet.
            return
        seen = cache_bytes(cache)
        if seen is not None:
            self._cache_bytes = max(seen, self._cache_bytes or 0)

    def _answers(self, members: Sequence[Request], hand_over: HandOver) -> list[Answer]:
        hand_over()
        if self._config.pytorch.num_beams == 1:
            return self._answered(members)
        # The best beam of a length is not the beginning of the best one of another.
        answers: dict[int, Answer] = {}
        for length in dict.fromkeys(request.max_output_tokens for request in members):
            places = [at for at, request in enumerate(members) if request.max_output_tokens == length]
            answers |= zip(places, self._answered([members[at] for at in places]), strict=True)
        return [answers[at] for at in range(len(members))]

    def _answered(self, members: Sequence[Request]) -> list[Answer]:
        steps = self._run(members)
        answers = []
        for request, row in zip(members, steps.tokens, strict=True):
            tokens, finish = self._output(request, row)
            stamps_ns = steps.stamps_ns
            answers.append(
                Answer(tokens, None, steps.end_ns, finish)
                if stamps_ns is None
                else Answer(tokens, stamps_ns[0], stamps_ns[len(tokens) - 1], finish)
            )
        return answers

    def _output(self, request: Request, row: Sequence[int]) -> tuple[Sequence[int], FinishReason]:
        """The tokens of a row that are output: up to end-of-sequence, never the padding after it."""
        own = row[: request.max_output_tokens]
        ends = self._open().eos_token_ids
        for position, token in enumerate(own):
            if token in ends:
                return own[: position + 1], "eos"
        return own, "length"

    def _arguments(self, loaded: Loaded) -> dict[str, JsonValue]:
        import torch

        model, asked = loaded.model, self._config.pytorch
        placed = getattr(model, "hf_device_map", None)
        return {
            "batch_size": asked.batch_size,
            "num_processes": 1,
            "tp_plan": None,
            "dtype": str(model.dtype).removeprefix("torch."),
            "device_map": None if placed is None else {name: str(where) for name, where in placed.items()},
            "attn_implementation": model.config._attn_implementation,  # noqa: SLF001  no public name
            "cache": self._cache_kind,
            "compiled": hasattr(model, "_compiled_call"),
            "compile_mode": model._last_compile_config.mode if hasattr(model, "_compiled_call") else None,  # noqa: SLF001  the same
            "quantization": in_force(model),
            "revision": loaded.revision,
            "trust_remote_code": asked.trust_remote_code,
            "passthrough_kwargs": dict(loaded.passthrough),
            "lora": adapter_in_force(model, self._config),
            "num_beams": asked.num_beams,
            "prompt_lookup_num_tokens": asked.prompt_lookup_num_tokens,
            "assistant_model": asked.assistant_model,
            "threads": torch.get_num_threads(),
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
            "do_sample": self._config.decoder.temperature > 0,
            "eos_token_ids": list(loaded.eos_token_ids),
            "pad_token_id": loaded.pad_token_id,
            **decoding_in_force(self._config),
        }
