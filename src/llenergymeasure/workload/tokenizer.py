"""Which tokenizer makes the token ids of a run?"""

from __future__ import annotations

from pathlib import Path

from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import BackendError
from llenergymeasure.models.gguf import converted, digest
from llenergymeasure.models.resolve import ResolvedModel, fetched, resolve
from llenergymeasure.models.tokenizers import ByteTokenizer, Tokenizer, load_tokenizer, tokenizer_digest

SIMULATED_VOCABULARY = 32_000


def tokenizer_for(config: ExperimentConfig) -> Tokenizer:
    """The model's own where it has one; bytes for random weights and for the simulated engine.

    BackendError when a model's vocabulary is not known.
    """
    if config.engine.is_simulated:
        return ByteTokenizer(SIMULATED_VOCABULARY)
    model = _model(config)
    if (folder := _folder(model)) is not None:
        return load_tokenizer(folder)
    if model.architecture is None:
        raise BackendError(f"the vocabulary of {config.model} is not known", hint=model.reason)
    return ByteTokenizer(model.architecture.vocab)


def tokenizer_identity(config: ExperimentConfig) -> str | None:
    """What stands for the tokenizer of a run: the digest of its files; None where there are only bytes."""
    if config.engine.is_simulated:
        return None
    model = _model(config)
    if model.kind == "gguf" and model.path is not None:
        return digest(model.path)
    folder = _folder(model)
    return None if folder is None else tokenizer_digest(folder)


def _model(config: ExperimentConfig) -> ResolvedModel:
    return fetched(resolve(config.model, revision=config.engine.revision))


def _folder(model: ResolvedModel) -> Path | None:
    """The directory of the tokenizer, which a GGUF gives up without its weights."""
    if model.kind == "gguf" and model.path is not None:
        return converted(model.path, only="tokenizer")
    if model.kind == "random" and not (model.path and (model.path / "tokenizer_config.json").is_file()):
        return None
    return model.path
