"""Which token ids does every engine get? Made once for a tokenizer, prompts and a seed, and kept by hash."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.config.places import cache_dir
from llenergymeasure.records import Request
from llenergymeasure.workload import (
    Prompt,
    Workload,
    as_requests,
    build_requests,
    load_prompts,
    workload_hash,
)
from llenergymeasure.workload.tokenizer import tokenizer_for, tokenizer_identity

# Part of the key: another way to make token ids needs another number.
_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Prepared:
    """The requests of a run, the hash of their token ids, and what made them."""

    workload: Workload
    hash: str
    tokenizer_hash: str
    chat_template_hash: str | None


def prepared(config: ExperimentConfig) -> Prepared:
    """The token ids of this experiment, from the user's cache where some run has made them before.

    The key holds what decides the ids and no version of a library, so that engines in environments of their
    own get the same ones. ConfigError and PreFlightError as `load_prompts` and `tokenizer_for` say.
    """
    prompts = load_prompts(config)
    identity = tokenizer_identity(config)
    if identity is None:
        return _made(config, prompts)
    key = _key(config, prompts, identity)
    path = cache_dir() / "workloads" / f"{key}.json"
    kept = _read(path, config)
    if kept is not None:
        return kept
    made = _made(config, prompts)
    # A cache that can't be written costs the next run time, not this one its numbers.
    with suppress(OSError):
        _write(path, made)
    return made


def _made(config: ExperimentConfig, prompts: tuple[Prompt, ...]) -> Prepared:
    tokenizer = tokenizer_for(config)
    workload = build_requests(config, prompts, tokenizer)
    return Prepared(workload, workload_hash(workload.requests), tokenizer.hash, tokenizer.chat_template_hash)


def _key(config: ExperimentConfig, prompts: tuple[Prompt, ...], identity: str) -> str:
    facts = [
        _SCHEMA,
        identity,
        config.random_seed,
        config.max_input_tokens,
        config.dataset.chat_template,
        [[prompt.id, prompt.text, prompt.length] for prompt in prompts],
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _read(path: Path, config: ExperimentConfig) -> Prepared | None:
    """What is kept there; None where there is nothing, or something damaged that is made again."""
    try:
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        requests: tuple[Request, ...] = as_requests(config, kept["prompts"])
        if workload_hash(requests) != kept["hash"]:
            return None
        return Prepared(
            Workload(requests, int(kept["cut"])),
            kept["hash"],
            kept["tokenizer_hash"],
            kept["chat_template_hash"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(path: Path, made: Prepared) -> None:
    content = {
        "hash": made.hash,
        "tokenizer_hash": made.tokenizer_hash,
        "chat_template_hash": made.chat_template_hash,
        "cut": made.workload.cut,
        "prompts": [request.prompt for request in made.workload.requests],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        aside.write_text(json.dumps(content), encoding="utf-8")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
