"""Which token ids does every engine get? Made once for a tokenizer, prompts and a seed, and kept by hash."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.config.places import cache_dir
from llenergymeasure.exceptions import BackendError, ConfigError, LLEMError, PreFlightError
from llenergymeasure.models.resolve import ResolvedModel
from llenergymeasure.records import DatasetFacts, Request
from llenergymeasure.workload.formats import Prompt, Reference
from llenergymeasure.workload.prompts import Dataset, load_prompts
from llenergymeasure.workload.tokenizer import (
    ChatTemplateError,
    Tokenizer,
    embedding_rows,
    tokenized_model,
    tokenizer_for,
    tokenizer_identity,
)
from llenergymeasure.workload.traces import BLOCK_TOKENS

# Part of the key: another way to make token ids needs another number.
_SCHEMA = 3
_REFUSED = 3


@dataclass(frozen=True, slots=True)
class Prepared:
    """The requests of a run with the prompt of each, the hash of their token ids, what made them, and what
    judges their answers.
    """

    workload: Workload
    prompts: tuple[Prompt, ...]
    hash: str
    tokenizer_hash: str
    chat_template_hash: str | None
    chat_template_date: str | None
    dataset: DatasetFacts
    references: tuple[Reference | None, ...] = ()


def prepared(config: ExperimentConfig) -> Prepared:
    """The token ids of this experiment, from the user's cache where some run has made them before.

    The key holds what decides the ids and no version of a library, so that engines in environments of their
    own get the same ones. ConfigError and PreFlightError as `load_prompts`, `build_requests` and `check_ids`
    say.
    """
    return _prepared(config, load_prompts(config), tokenized_model(config))


def _prepared(config: ExperimentConfig, dataset: Dataset, model: ResolvedModel | None) -> Prepared:
    path = _place(config, dataset, model)
    work = None if path is None else _read(path, config, dataset)
    if work is None:
        work = _made(config, dataset, model)
        # A cache that can't be written costs the next run time, not this one its numbers.
        with suppress(OSError):
            _write(path, work)
    check_ids(config, work.prompts, work.workload, rows=embedding_rows(model))
    left_out = len(dataset.prompts) - len(work.prompts)
    return replace(work, dataset=replace(dataset.facts, prompts=len(work.prompts), left_out=left_out))


def check_prompts(config: ExperimentConfig) -> None:
    """Refuse what `prepared` refuses, and leave the token ids where the worker finds them.

    They are made in a process of its own: what makes them takes memory and starts threads, which the process
    that measures must not hold. Where it ends for another reason, the worker will say which.
    """
    dataset, model = load_prompts(config), tokenized_model(config)
    path = _place(config, dataset, model)
    if path is None or path.is_file():
        _prepared(config, dataset, model)
        return
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        input=config.model_dump_json(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == _REFUSED:
        refusal: dict[str, Any] = json.loads(done.stdout)
        kinds: dict[str, type[LLEMError]] = {kind.__name__: kind for kind in (ConfigError, PreFlightError)}
        raise kinds.get(refusal["kind"], BackendError)(refusal["message"], hint=refusal["hint"])


def main() -> int:
    """Answer the process of `check_prompts`, and end with it."""
    if sys.platform == "linux":
        # PR_SET_PDEATHSIG of linux/prctl.h.
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
    config = ExperimentConfig.model_validate_json(sys.stdin.read())
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # Libraries print.
    os.dup2(2, 1)
    try:
        prepared(config)
    except LLEMError as error:
        json.dump({"kind": type(error).__name__, "message": error.message, "hint": error.hint}, out)
        out.close()
        return _REFUSED
    return 0


def _place(config: ExperimentConfig, dataset: Dataset, model: ResolvedModel | None) -> Path | None:
    """Where the token ids are kept; None where they are only bytes, which are made in no time."""
    identity = tokenizer_identity(model)
    if identity is None:
        return None
    key = _key(config, dataset.prompts, identity, embedding_rows(model))
    return cache_dir() / "workloads" / f"{key}.json"


def _made(config: ExperimentConfig, dataset: Dataset, model: ResolvedModel | None) -> Prepared:
    tokenizer = tokenizer_for(config, model)
    workload = build_requests(config, dataset.prompts, tokenizer, rows=embedding_rows(model))
    is_chat = config.dataset.chat_template == "auto"
    return Prepared(
        workload,
        tuple(dataset.prompts[place] for place in workload.places),
        workload_hash(workload.requests),
        tokenizer.hash,
        tokenizer.chat_template_hash,
        tokenizer.chat_template_date if is_chat else None,
        dataset.facts,
        tuple(prompt.reference for prompt in dataset.prompts),
    )


def _key(config: ExperimentConfig, prompts: Sequence[Prompt], identity: str, rows: int | None) -> str:
    facts = [
        _SCHEMA,
        identity,
        rows,
        config.random_seed,
        config.max_input_tokens,
        config.dataset.chat_template,
        [[one.id, one.text, one.length, one.turns, one.turn, one.blocks] for one in prompts],
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _read(path: Path, config: ExperimentConfig, dataset: Dataset) -> Prepared | None:
    """What is kept there; None where there is nothing, or something damaged that is made again."""
    try:
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        places = tuple(map(int, kept["places"]))
        prompts = tuple(dataset.prompts[place] for place in places)
        requests = as_requests(config, prompts, kept["prompts"])
        if workload_hash(requests) != kept["hash"]:
            return None
        return Prepared(
            Workload(requests, int(kept["cut"]), places),
            prompts,
            kept["hash"],
            kept["tokenizer_hash"],
            kept["chat_template_hash"],
            kept["chat_template_date"],
            dataset.facts,
            tuple(prompt.reference for prompt in dataset.prompts),
        )
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _write(path: Path | None, made: Prepared) -> None:
    if path is None:
        return
    content = {
        "hash": made.hash,
        "tokenizer_hash": made.tokenizer_hash,
        "chat_template_hash": made.chat_template_hash,
        "chat_template_date": made.chat_template_date,
        "cut": made.workload.cut,
        "places": made.workload.places,
        "prompts": [request.prompt for request in made.workload.requests],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        aside.write_text(json.dumps(content), encoding="utf-8")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


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


if __name__ == "__main__":
    sys.exit(main())
