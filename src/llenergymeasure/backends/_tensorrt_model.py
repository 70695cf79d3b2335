"""Which files does TensorRT-LLM load, and which tokens end an output?"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import BackendError
from llenergymeasure.models.resolve import ResolvedModel, fetched, resolve, weights_path
from llenergymeasure.models.shapes import hf_config


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """`path` is what is loaded: a checkpoint, a folder with a shape only, or a built engine.

    `end_ids` are the end-of-sequence tokens of the model, empty where it names none.
    """

    path: Path
    end_ids: tuple[int, ...]
    random_weights: bool
    revision: str | None


@contextmanager
def model_files(config: ExperimentConfig) -> Iterator[ModelFiles]:
    """The model as a folder; the one that stands for a published shape goes when this is left."""
    resolved = fetched(resolve(config.model, revision=config.revision))
    built = config.tensorrt.engine_dir
    if built is not None and resolved.kind == "random":
        raise BackendError(
            f"the engine in {built} has weights of its own: {config.model} can't be what it was built from",
            hint="name the model that it was built from, whose tokenizer makes the token ids",
        )
    if resolved.kind == "random" and resolved.path is None:
        with tempfile.TemporaryDirectory(prefix="llem-shape-") as made:
            _write_shape(Path(made), resolved)
            yield ModelFiles(Path(made), (), random_weights=True, revision=None)
        return
    folder = resolved.path if resolved.kind == "random" else weights_path(resolved)
    assert folder is not None, "a model that was fetched is a directory"
    random_weights = resolved.kind == "random"
    yield ModelFiles(built or folder, end_ids(folder), random_weights, resolved.revision)


def end_ids(folder: Path) -> tuple[int, ...]:
    """End-of-sequence tokens as `generation_config.json` names them, else `config.json`."""
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        described = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        ids = described.get("eos_token_id")
        if ids is not None:
            return tuple(ids) if isinstance(ids, list) else (int(ids),)
    return ()


def _write_shape(folder: Path, resolved: ResolvedModel) -> None:
    """The `config.json` of a published shape, from which the engine makes weights of its own."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    assert resolved.architecture is not None, "a random model is made from a shape"
    shape = AutoConfig.for_model(**hf_config(resolved.architecture))
    shape.architectures = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[shape.model_type]]
    # The engine would take the ids that transformers fills in for this family, which mean nothing here.
    shape.eos_token_id = shape.bos_token_id = None
    shape.save_pretrained(folder)
