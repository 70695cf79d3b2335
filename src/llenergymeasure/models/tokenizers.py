"""How does text become token ids?"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from llenergymeasure.exceptions import PreFlightError

_FILES = {
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
}


class Tokenizer(Protocol):
    """`vocab_size` counts added tokens too; `special_ids` are those that stand for no text."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def special_ids(self) -> frozenset[int]: ...

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of what decides the ids."""

    @property
    def chat_template_hash(self) -> str | None:
        """SHA-256 (hex) of the chat template; None where there is none."""

    def encode(self, text: str, *, chat: bool) -> list[int]:
        """The ids of `text`; with `chat`, and where there is a template, as a turn that wants an answer."""


@dataclass(frozen=True, slots=True)
class ByteTokenizer:
    """A token for each byte of UTF-8, folded into the vocabulary: for models without a tokenizer.

    Texts come out about four times as long as with a trained tokenizer; exact lengths need `synthetic`.
    """

    vocab_size: int
    special_ids: frozenset[int] = frozenset()
    chat_template_hash: str | None = None

    @property
    def hash(self) -> str:
        return _sha256(f"bytes modulo {self.vocab_size}")

    def encode(self, text: str, *, chat: bool) -> list[int]:  # noqa: ARG002  bytes have no chat template
        return [byte % self.vocab_size for byte in text.encode()]


@dataclass(frozen=True, slots=True)
class _Pretrained:
    tokenizer: Any
    vocab_size: int
    special_ids: frozenset[int]
    hash: str
    chat_template_hash: str | None

    def encode(self, text: str, *, chat: bool) -> list[int]:
        if not chat or self.chat_template_hash is None:
            return [int(token) for token in self.tokenizer(text, verbose=False)["input_ids"]]
        ids = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
            # Llama 3's template else writes today's date into the prompt, and lengths change with the day.
            date_string="26 Jul 2024",
        )
        return [int(token) for token in ids]


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a model directory, from this disk alone and without running code that lies there.

    PreFlightError when there is none, or transformers can't read it.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        first = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise PreFlightError(
            f"{path} holds no tokenizer that transformers reads: {first[0]}",
            hint="put the model's tokenizer.json and tokenizer_config.json there",
        ) from error
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = backend.to_str() if backend else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    template = tokenizer.chat_template
    added = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    return _Pretrained(
        tokenizer=tokenizer,
        vocab_size=len(tokenizer),
        special_ids=frozenset({*map(int, tokenizer.all_special_ids), *map(int, added)}),
        hash=_sha256(content),
        chat_template_hash=None if template is None else _sha256(json.dumps(template, sort_keys=True)),
    )


def tokenizer_digest(path: Path) -> str:
    """SHA-256 (hex) of the files in a model directory that decide the token ids, by name and content."""
    found = hashlib.sha256()
    for file in sorted(path.iterdir()):
        if file.name in _FILES or file.suffix in {".jinja", ".tiktoken"}:
            found.update(f"{file.name}:{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return found.hexdigest()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
