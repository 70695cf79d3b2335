"""Which token ids does every engine get? Made once for a tokenizer, prompts and a seed, and kept by hash."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.config.places import cache_dir
from llenergymeasure.exceptions import BackendError, ConfigError, LLEMError, PreFlightError
from llenergymeasure.models.resolve import ResolvedModel
from llenergymeasure.records import DatasetFacts
from llenergymeasure.workload.formats import Prompt, Reference
from llenergymeasure.workload.prompts import Dataset, load_prompts
from llenergymeasure.workload.requests import (
    Workload,
    as_requests,
    build_requests,
    check_ids,
    workload_hash,
)
from llenergymeasure.workload.tokenizer import (
    embedding_rows,
    tokenized_model,
    tokenizer_for,
    tokenizer_identity,
)

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


if __name__ == "__main__":
    sys.exit(main())
