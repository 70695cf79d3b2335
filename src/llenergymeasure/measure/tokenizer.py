"""Which tokenizer makes the token ids of a run?"""

from __future__ import annotations

from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import BackendError
from llenergymeasure.models.resolve import resolve, weights_path
from llenergymeasure.models.tokenizers import ByteTokenizer, Tokenizer, load_tokenizer

SIMULATED_VOCABULARY = 32_000


def tokenizer_for(config: ExperimentConfig) -> Tokenizer:
    """The model's own where it has one; bytes for random weights and for the simulated engine.

    BackendError when a model's vocabulary is not known.
    """
    if config.backend == "simulated":
        return ByteTokenizer(SIMULATED_VOCABULARY)
    model = resolve(config.model, revision=config.pytorch.revision)
    folder = model.path if model.kind == "random" else weights_path(model)
    if folder is not None and (model.kind != "random" or (folder / "tokenizer_config.json").is_file()):
        return load_tokenizer(folder)
    if model.architecture is None:
        raise BackendError(f"the vocabulary of {config.model} is not known", hint=model.reason)
    return ByteTokenizer(model.architecture.vocab)
