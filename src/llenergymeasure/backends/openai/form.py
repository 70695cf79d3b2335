"""In which form does a server take requests: prompts as ids or text, and a pinned length by which fields?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pydantic import JsonValue

from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import BackendError
from llenergymeasure.models.resolve import ResolvedModel
from llenergymeasure.records import Request
from llenergymeasure.workload.formats import Prompt
from llenergymeasure.workload.prepared import prepared
from llenergymeasure.workload.tokenizer import (
    Tokenizer,
    tokenized_model,
    tokenizer_for,
    tokenizer_identity,
)

PATHS = {"chat": "/chat/completions", "completions": "/completions"}
# What llem decides, by the field of the configuration that does.
DECIDED = {
    "model": "openai.model",
    "prompt": "dataset",
    "messages": "dataset",
    "stream": "llem, which measures streams",
    "stream_options": "llem, which asks for the server's count",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "min_tokens": "output_length",
    "ignore_eos": "output_length",
    "generation_config": "output_length",
    "n": "llem: one answer to a request",
    "temperature": "decoder.temperature",
    "top_p": "decoder.top_p",
    "seed": "random_seed",
}


@dataclass(frozen=True, slots=True)
class Form:
    """`lengths` is how a length is pinned: by fields that vLLM, SGLang and llama.cpp know, by transformers'
    own, or not at all.
    """

    prompts: Literal["ids", "text", "messages"]
    lengths: Literal["ignore_eos", "generation_config", "none"]


def forms(config: ExperimentConfig, *, is_chat: bool) -> Iterator[Form]:
    """Those to try, the best first."""
    is_exact = config.output_length == "exact"
    if is_chat:
        if is_exact:
            yield Form("messages", "ignore_eos")
            yield Form("messages", "generation_config")
        yield Form("messages", "none")
        return
    if is_exact:
        yield Form("ids", "ignore_eos")
        yield Form("text", "ignore_eos")
        yield Form("text", "generation_config")
    yield Form("ids", "none")
    yield Form("text", "none")


class Bodies:
    """Requests as bytes. What is the same in all of them, and each prompt, is made once."""

    def __init__(self, config: ExperimentConfig, model: str, extra: dict[str, JsonValue]) -> None:
        decoder = config.decoder
        fields: dict[str, JsonValue] = {
            "model": model,
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": decoder.temperature,
        }
        if decoder.temperature > 0:
            fields["top_p"] = decoder.top_p
        self._same = json.dumps(fields | extra)[:-1]
        self._config = config
        self._resolved: ResolvedModel | None = tokenized_model(config)
        self._tokenizer: Tokenizer | None = None
        self._prompts: tuple[Prompt, ...] = ()
        self._made: dict[tuple[str, int, tuple[int, ...]], str] = {}
        self._counted: dict[str, int] = {}

    @property
    def tokenizer(self) -> Tokenizer:
        if self._tokenizer is None:
            self._tokenizer = tokenizer_for(self._config, self._resolved)
        return self._tokenizer

    def body(self, form: Form, request: Request) -> bytes:
        """BackendError where the prompt can't be put in that form."""
        parts = [self._same, self.prompt(form, request), f'"max_tokens": {request.max_output_tokens}']
        if self._config.decoder.temperature > 0:
            parts.append(f'"seed": {self._config.random_seed + request.index}')
        if request.exact and form.lengths == "ignore_eos":
            parts.append(f'"ignore_eos": true, "min_tokens": {request.max_output_tokens}')
        if request.exact and form.lengths == "generation_config":
            parts.append(f'"generation_config": {json.dumps(self._generation_config(request))}')
        return (", ".join(parts) + "}").encode()

    def _generation_config(self, request: Request) -> str:
        length = request.max_output_tokens
        sampled = self._config.decoder.temperature > 0
        return json.dumps({"max_new_tokens": length, "min_new_tokens": length, "do_sample": sampled})

    def prompt(self, form: Form, request: Request) -> str:
        key = (form.prompts, request.index, request.prompt)
        if key not in self._made:
            self._made[key] = self._prompt(form, request)
        return self._made[key]

    def _prompt(self, form: Form, request: Request) -> str:
        if form.prompts == "ids":
            return f'"prompt": {json.dumps(request.prompt)}'
        if form.prompts == "text":
            return f'"prompt": {json.dumps(self.tokenizer.decode(request.prompt))}'
        self._prompts = self._prompts or prepared(self._config).prompts
        prompt = self._prompts[request.index]
        assert prompt.text is not None, "synthetic prompts were refused"
        turns = prompt.turns or (("user", prompt.text),)
        if len(request.prompt) >= self._config.max_input_tokens:
            whole = len(self.tokenizer.encode(prompt.text, chat=turns))
            if whole > self._config.max_input_tokens:
                raise BackendError(
                    f"prompt {prompt.id} has {whole} tokens, max_input_tokens is "
                    f"{self._config.max_input_tokens}, and messages can't be cut",
                    hint="raise max_input_tokens, or --set openai.api=completions",
                )
        messages = [{"role": role, "content": content} for role, content in turns]
        return f'"messages": {json.dumps(messages)}'

    def count(self, text: str) -> int | None:
        """Tokens of an answer by the model's tokenizer, which may put some before every text; None where it
        has none.
        """
        if tokenizer_identity(self._resolved) is None:
            return None
        if text not in self._counted:
            self._counted[text] = len(self.tokenizer.encode(text)) - len(self.tokenizer.encode(""))
        return self._counted[text]
