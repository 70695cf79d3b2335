"""How does text become token ids, by which tokenizer?"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from string import ascii_letters
from typing import Any, Protocol

from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import BackendError, PreFlightError
from llenergymeasure.models.gguf import converted, digest
from llenergymeasure.models.resolve import ResolvedModel, fetched, resolve
from llenergymeasure.models.weights import read_json_object
from llenergymeasure.workload.formats import Turn

SIMULATED_VOCABULARY = 32_000
# The date for templates that ask for it: else prompts change with the day and the machine's language.
PINNED = datetime(2024, 7, 26, 12, 0, 0)  # noqa: DTZ001  a template's clock has no zone
# What strftime takes from the locale, the zone or the C library, as in the C locale and UTC.
_FIXED = {
    "a": "Fri",
    "A": "Friday",
    "b": "Jul",
    "h": "Jul",
    "B": "July",
    "c": "Fri Jul 26 12:00:00 2024",
    "x": "07/26/24",
    "X": "12:00:00",
    "r": "12:00:00 PM",
    "p": "PM",
    "P": "pm",
    "Z": "UTC",
    "z": "+0000",
    "s": "1721995200",
}
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


class ChatTemplateError(ValueError):
    """A chat template that raised, or is not a template; the message is its first line."""


class Tokenizer(Protocol):
    @property
    def ordinary_ids(self) -> Sequence[int]:
        """The ids that stand for text, in ascending order: special ones and gaps are left out."""

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of what decides the ids."""

    @property
    def chat_template_hash(self) -> str | None:
        """SHA-256 (hex) of the chat template; None where there is none."""

    @property
    def chat_template_date(self) -> str | None:
        """The date given to the template (ISO 8601); None where it asks for none."""

    def decode(self, ids: Sequence[int], *, special: bool = True) -> str:
        """The text of these ids, special ones included or left out."""

    def encode(self, text: str, *, chat: Sequence[Turn] = ()) -> list[int]:
        """The ids of `text`, or where there is a template those of the turns of `chat`, an answer awaited.

        ChatTemplateError where the template refuses them.
        """


@dataclass(frozen=True, slots=True)
class ByteTokenizer:
    """A token for each byte of UTF-8, folded into the vocabulary: for models without a tokenizer.

    Texts come out about four times as long as with a trained tokenizer; exact lengths need `synthetic`.
    """

    vocab_size: int
    special_ids: frozenset[int] = frozenset()
    chat_template_hash: str | None = None
    chat_template_date: str | None = None

    @property
    def ordinary_ids(self) -> list[int]:
        return [token for token in range(self.vocab_size) if token not in self.special_ids]

    @property
    def hash(self) -> str:
        return _sha256(f"bytes modulo {self.vocab_size}")

    def decode(self, ids: Sequence[int], *, special: bool = True) -> str:
        kept = [token for token in ids if special or token not in self.special_ids]
        return bytes(token % 256 for token in kept).decode(errors="replace")

    def encode(self, text: str, *, chat: Sequence[Turn] = ()) -> list[int]:  # noqa: ARG002  bytes have no template
        return [byte % self.vocab_size for byte in text.encode()]


@dataclass(frozen=True, slots=True)
class _Pretrained:
    tokenizer: Any
    hash: str
    chat_template_hash: str | None
    chat_template_date: str | None

    @property
    def ordinary_ids(self) -> list[int]:
        own = self.tokenizer
        added = {index for index, token in own.added_tokens_decoder.items() if token.special}
        return sorted(set(own.get_vocab().values()) - {*own.all_special_ids, *added})

    def decode(self, ids: Sequence[int], *, special: bool = True) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=not special))

    def encode(self, text: str, *, chat: Sequence[Turn] = ()) -> list[int]:
        if not chat or self.chat_template_hash is None:
            return [int(token) for token in self.tokenizer(text, verbose=False)["input_ids"]]
        from jinja2 import TemplateError

        try:
            template = self.tokenizer.get_chat_template()
            ids = self.tokenizer.apply_chat_template(
                [{"role": role, "content": content} for role, content in chat],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=False,
                date_string=pinned_date("%d %b %Y"),
                chat_template=_own_clock() + template if "strftime_now" in template else template,
            )
        # A template is a program: it may fail in any of the ways of one.
        except (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise ChatTemplateError((str(error).strip().splitlines() or [type(error).__name__])[0]) from error
        return [int(token) for token in ids]


def pinned_date(form: str) -> str:
    """The pinned date in a form of strftime, the same whatever the clock, the zone and the locale."""
    return PINNED.strftime(
        re.sub(r"%[-_0^#]?([a-zA-Z%])", lambda found: _FIXED.get(found[1], found[0]), form)
    )


@cache
def _own_clock() -> str:
    """A macro that stands for the function `strftime_now`, since transformers takes no other function.

    What is handed in beside a template loses its functions; a macro of that name hides the one that is there.
    The newline after it is not part of what is rendered: transformers renders with trim_blocks.
    """
    forms = [f"%{flag}{letter}" for letter in ascii_letters for flag in ("", "-")]
    known = [(form, pinned_date(form)) for form in forms]
    replaced = "".join(
        f"|replace({form!r}, {date!r})" for form, date in known if date not in {form, form[1:]}
    )
    # A sign that no template writes keeps the second of %% from being read as the start of a form.
    whole = f"format|replace('%%', '\x00'){replaced}|replace('\x00', '%')"
    return f"{{% macro strftime_now(format) %}}{{{{ {whole} }}}}{{% endmacro %}}\n"


def tokenizer_for(config: ExperimentConfig, model: ResolvedModel | None) -> Tokenizer:
    """The model's own where it has one; bytes for random weights, and where there is no model.

    BackendError when a model's vocabulary is not known.
    """
    if model is None:
        return ByteTokenizer(SIMULATED_VOCABULARY)
    if (folder := _folder(model)) is not None:
        return load_tokenizer(folder)
    rows = embedding_rows(model)
    if rows is None:
        raise BackendError(f"the vocabulary of {config.model} is not known", hint=model.reason)
    return ByteTokenizer(rows)


def tokenized_model(config: ExperimentConfig) -> ResolvedModel | None:
    """The model whose tokenizer makes the token ids, on this disk; None for the simulated engine."""
    if config.engine.is_simulated:
        return None
    return fetched(resolve(config.model, revision=config.engine.revision))


def tokenizer_identity(model: ResolvedModel | None) -> str | None:
    """What stands for the tokenizer of a run: the digest of its files; None where there are only bytes."""
    if model is None:
        return None
    if model.kind == "gguf" and model.path is not None:
        return digest(model.path)
    folder = _folder(model)
    return None if folder is None else _digest(folder)


def embedding_rows(model: ResolvedModel | None) -> int | None:
    """How many token ids the model has an embedding for; None where its files do not say."""
    if model is None:
        return None
    if model.architecture is not None:
        return model.architecture.vocab
    if model.path is None or not (model.path / "config.json").is_file():
        return None
    described = read_json_object(model.path / "config.json")
    inner = described.get("text_config")
    rows = described.get("vocab_size", inner.get("vocab_size") if isinstance(inner, dict) else None)
    return rows if isinstance(rows, int) and rows > 0 else None


def _folder(model: ResolvedModel) -> Path | None:
    """The directory of the tokenizer, which a GGUF gives up without its weights."""
    if model.kind == "gguf" and model.path is not None:
        return converted(model.path, only="tokenizer")
    if model.kind == "random" and not (model.path and (model.path / "tokenizer_config.json").is_file()):
        return None
    return model.path


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
    template = (
        None if tokenizer.chat_template is None else json.dumps(tokenizer.chat_template, sort_keys=True)
    )
    is_dated = template is not None and re.search(r"strftime_now|date_string", template) is not None
    return _Pretrained(
        tokenizer=tokenizer,
        hash=_sha256(content),
        chat_template_hash=None if template is None else _sha256(template),
        chat_template_date=pinned_date("%Y-%m-%d") if is_dated else None,
    )


def _digest(path: Path) -> str:
    """SHA-256 (hex) of the files in a model directory that decide the token ids, by name and content."""
    found = hashlib.sha256()
    for file in sorted(path.iterdir()):
        if file.name in _FILES or file.suffix in {".jinja", ".tiktoken"}:
            found.update(f"{file.name}:{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return found.hexdigest()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
