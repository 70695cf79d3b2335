"""Which token ids does every engine get, and how much is wanted of it?"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import ConfigError
from llenergymeasure.models.tokenizers import Tokenizer
from llenergymeasure.records import Request
from llenergymeasure.workload.prompts import Prompt


@dataclass(frozen=True, slots=True)
class Workload:
    """`cut` counts the prompts that were longer than max_input_tokens and lost their end."""

    requests: tuple[Request, ...]
    cut: int


def build_requests(config: ExperimentConfig, prompts: Sequence[Prompt], tokenizer: Tokenizer) -> Workload:
    """Token ids for every prompt, in order; made once, so that every engine and pass gets the same.

    A text keeps its first `max_input_tokens` tokens. A synthetic prompt is exactly as long as asked for,
    drawn uniformly from the vocabulary without special ids, by seed and index alone. ConfigError when a
    prompt comes to no token at all.
    """
    chat = config.dataset.chat_template == "auto"
    ordinary = (
        [token for token in range(tokenizer.vocab_size) if token not in tokenizer.special_ids]
        if any(prompt.text is None for prompt in prompts)
        else []
    )
    ids: list[list[int]] = []
    cut = 0
    for index, prompt in enumerate(prompts):
        if prompt.text is None:
            # Seeding with a string and `choices` are the parts of `random` that keep their sequence.
            source = random.Random(f"{config.random_seed}:{index}")  # noqa: S311  repeatable, not secret
            tokens = source.choices(ordinary, k=prompt.length or 0)
        else:
            tokens = tokenizer.encode(prompt.text, chat=chat)
        if not tokens:
            raise ConfigError(
                f"prompt {prompt.id} of dataset {config.dataset.name} comes to no token",
                hint="give it a text, or remove it",
            )
        cut += len(tokens) > config.max_input_tokens
        ids.append(tokens[: config.max_input_tokens])
    return Workload(as_requests(config, ids), cut)


def as_requests(config: ExperimentConfig, prompts: Sequence[Sequence[int]]) -> tuple[Request, ...]:
    """A request for each prompt's token ids, in order, that wants what the experiment says."""
    return tuple(
        Request(
            index=index,
            prompt=tuple(prompt),
            max_output_tokens=config.max_output_tokens,
            exact=config.output_length == "exact",
        )
        for index, prompt in enumerate(prompts)
    )


def workload_hash(requests: Sequence[Request]) -> str:
    """SHA-256 (hex) of the prompts' token ids, in order: equal where engines got identical work."""
    digest = hashlib.sha256()
    for request in requests:
        digest.update((",".join(map(str, request.prompt)) + "\n").encode())
    return digest.hexdigest()
