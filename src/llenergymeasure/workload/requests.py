"""Which token ids does every engine get, and how much is wanted of it?"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import ConfigError, PreFlightError
from llenergymeasure.records import Request
from llenergymeasure.workload.formats import Prompt
from llenergymeasure.workload.tokenizer import ChatTemplateError, Tokenizer
from llenergymeasure.workload.traces import BLOCK_TOKENS


@dataclass(frozen=True, slots=True)
class Workload:
    """`cut` counts the prompts that were longer than max_input_tokens and lost their end. `places` are those
    of the requests' prompts, from 0: the later turns of a conversation that would be cut are left out.
    """

    requests: tuple[Request, ...]
    cut: int
    places: tuple[int, ...]


def build_requests(
    config: ExperimentConfig, prompts: Sequence[Prompt], tokenizer: Tokenizer, *, rows: int | None = None
) -> Workload:
    """Token ids for every prompt, in order; made once, so that every engine and pass gets the same.

    A text keeps its first `max_input_tokens` tokens. A synthetic prompt is exactly as long as asked for,
    drawn uniformly from the ordinary ids among the first `rows`, by seed and index alone, or by seed and
    name for each of its blocks. A turn that is longer than `max_input_tokens` ends its conversation unless it
    is the first one: cut, it would not begin as the turn before it. ConfigError when a prompt has no tokens
    at all; PreFlightError where the chat template refuses it.
    """
    ordinary = (
        [token for token in tokenizer.ordinary_ids if rows is None or token < rows]
        if any(prompt.text is None for prompt in prompts)
        else []
    )
    ids: dict[int, list[int]] = {}
    cut = 0
    is_over = False
    for index, prompt in enumerate(prompts):
        if prompt.turn > 1 and is_over:
            continue
        if prompt.text is None:
            tokens = _synthetic(config, index, prompt, ordinary)
        else:
            tokens = _encoded(config, prompt, prompt.text, tokenizer)
        if not tokens:
            raise ConfigError(
                f"prompt {prompt.id} of dataset {config.dataset.name} has no tokens",
                hint="give it a text, or remove it",
            )
        is_over = len(tokens) > config.max_input_tokens
        if prompt.turn == 1 or not is_over:
            cut += is_over
            ids[index] = tokens[: config.max_input_tokens]
    requests = as_requests(config, [prompts[place] for place in ids], list(ids.values()))
    return Workload(requests, cut, tuple(ids))


def _synthetic(config: ExperimentConfig, index: int, prompt: Prompt, ordinary: Sequence[int]) -> list[int]:
    length = prompt.length or 0
    if prompt.blocks is None:
        return _drawn(f"{config.random_seed}:{index}", ordinary, length)
    blocks = (_drawn(f"{config.random_seed}:block:{name}", ordinary, BLOCK_TOKENS) for name in prompt.blocks)
    return list(chain.from_iterable(blocks))[:length]


def _drawn(seed: str, ordinary: Sequence[int], count: int) -> list[int]:
    # Seeding with a string and `choices` are the parts of `random` that keep their sequence.
    return random.Random(seed).choices(ordinary, k=count)  # noqa: S311  repeatable, not secret


def _encoded(config: ExperimentConfig, prompt: Prompt, text: str, tokenizer: Tokenizer) -> list[int]:
    turns = prompt.turns or (("user", text),)
    try:
        return tokenizer.encode(text, chat=turns if config.dataset.chat_template == "auto" else ())
    except ChatTemplateError as error:
        raise PreFlightError(
            f"the chat template of {config.model} refuses prompt {prompt.id} of dataset "
            f"{config.dataset.name}: {error}",
            hint="--set dataset.chat_template=off hands the texts over as they are",
        ) from error


def as_requests(
    config: ExperimentConfig, prompts: Sequence[Prompt], ids: Sequence[Sequence[int]]
) -> tuple[Request, ...]:
    """A request for each prompt with its token ids, in order; it wants what the prompt says, or else the
    experiment.

    ValueError where there are not as many of the one as of the other.
    """
    return tuple(
        Request(
            index=index,
            prompt=tuple(tokens),
            max_output_tokens=prompt.output_tokens or config.max_output_tokens,
            exact=config.output_length == "exact",
            turn=prompt.turn,
        )
        for index, (prompt, tokens) in enumerate(zip(prompts, ids, strict=True))
    )


def check_ids(
    config: ExperimentConfig, prompts: Sequence[Prompt], workload: Workload, *, rows: int | None
) -> None:
    """PreFlightError where a prompt holds a token id that the model has no embedding for: engines read past
    their tables there, which on CUDA poisons the process.
    """
    for prompt, request in zip(prompts, workload.requests, strict=True):
        beyond = next((token for token in request.prompt if rows is not None and not 0 <= token < rows), None)
        if beyond is not None:
            raise PreFlightError(
                f"prompt {prompt.id} of dataset {config.dataset.name} holds token id {beyond}, and the "
                f"embedding of {config.model} has {rows} rows",
                hint="take that text out, or give the model the tokenizer that it was trained with",
            )


def workload_hash(requests: Sequence[Request]) -> str:
    """SHA-256 (hex) of the prompts' token ids, in order: equal where engines got identical work."""
    digest = hashlib.sha256()
    for request in requests:
        digest.update((",".join(map(str, request.prompt)) + "\n").encode())
    return digest.hexdigest()
