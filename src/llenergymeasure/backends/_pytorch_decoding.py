"""What is transformers told for a batch, and what does it tell while it works?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.records import Request

if TYPE_CHECKING:
    from llenergymeasure.backends._pytorch_loading import Loaded


@dataclass(frozen=True, slots=True)
class Steps:
    """What one batch produced: per request its tokens, and when the tokens of each place were there.

    `stamps_ns` is None where only the end is told, `end_ns`: beam search settles its tokens at the end.
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
        longest = max(config.max_input_tokens + config.max_output_tokens, width + new_tokens)
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
