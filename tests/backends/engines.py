"""How is each engine set up for the conformance tests, and what is known of it beforehand?"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import JsonValue

from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.models.resolve import resolve, weights_path
from llenergymeasure.records import Request

PICK = "LLEM_TEST_BACKENDS"
MODEL = "smollm2-135m"
CONTEXT = 256
END_OF_SEQUENCE = 2
VOCABULARY = 49_152
# The small model answers each of these in at most ten tokens, and at every step its first choice leads the
# second by 0.6 or more in the logits: sums in another order do not part two engines.
SHORT_ANSWERS = ("What is the capital of Germany?", "Hi!", "Bye!")


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine on the small model with a context of CONTEXT tokens, two requests at once where it batches.

    `takes` is the form of the model; `weights_bytes` the bounds of what the engine may say that they weigh;
    `too_large` are fields of an experiment that no test machine has memory for; `load_s` is about how long it
    loads; `own_processes` whether it runs in processes below the worker.
    """

    name: str
    section: Mapping[str, JsonValue]
    takes: Literal["directory", "gguf", "nothing"] = "directory"
    weights_bytes: tuple[int, int] | None = None
    too_large: Mapping[str, JsonValue] = field(default_factory=dict)
    load_s: float = 1.0
    own_processes: bool = False
    environ: Mapping[str, str] = field(default_factory=dict)


ENGINES = {
    engine.name: engine
    for engine in (
        Engine(
            "simulated",
            {"batch_size": 2, "load_s": 0.5, "decode_s_per_step": 1e-4, "eos_probability": 0.2},
            takes="nothing",
            too_large={"simulated": {"fault": {"kind": "oom", "at": "warmup"}}},
            load_s=0.5,
        ),
        Engine(
            "pytorch",
            {"batch_size": 2, "threads": 1},
            weights_bytes=(269_000_000, 270_000_000),
            too_large={"model": "random:llama-3.1-70b", "precision": "fp32"},
            load_s=4.0,
        ),
        Engine(
            "vllm",
            {"batch_size": 2, "engine": {"enforce_eager": True, "max_model_len": CONTEXT}},
            weights_bytes=(269_000_000, 330_000_000),
            too_large={"model": "random:llama-3.1-70b", "precision": "fp32"},
            load_s=20.0,
            own_processes=True,
            environ={"VLLM_CPU_KVCACHE_SPACE": "1"},
        ),
        Engine(
            "llamacpp",
            {"threads": 1, "threads_batch": 1, "context": CONTEXT},
            takes="gguf",
            weights_bytes=(80_000_000, 100_000_000),
            too_large={"llamacpp": {"context": 1_000_000_000}},
        ),
        Engine("tensorrt", {"batch_size": 2, "engine": {"max_seq_len": CONTEXT}}),
    )
}


@cache
def picked() -> tuple[list[str], bool]:
    """The engines to test, and whether they were picked by LLEM_TEST_BACKENDS: then each of them must run.

    The real ones are: each has a target of its own.
    """
    names = os.environ.get(PICK, "").replace(",", " ").split()
    return names or ["simulated"], bool(names)


def small_context(folder: Path) -> Path:
    """The small model as a directory of safetensors whose configuration ends its context at CONTEXT."""
    whole = weights_path(resolve(MODEL))
    assert whole is not None
    for file in whole.iterdir():
        (folder / file.name).symlink_to(file)
    shape = json.loads((whole / "config.json").read_text())
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps(shape | {"max_position_embeddings": CONTEXT}))
    return folder


def configured(engine: Engine, model: str, /, **changes: JsonValue) -> ExperimentConfig:
    """The engine's configuration; `changes` are fields of the experiment, whose own section is merged."""
    own = changes.pop(engine.name, {})
    assert isinstance(own, dict)
    fields: dict[str, JsonValue] = {
        "model": model,
        "backend": engine.name,
        "n": 8,
        "max_input_tokens": CONTEXT - 16,
        "max_output_tokens": 16,
        engine.name: {**engine.section, **own},
    }
    return ExperimentConfig.model_validate(fields | changes)


def asked(
    prompts: Sequence[int], outputs: int | Sequence[int] = 4, *, exact: bool = True, first: int = 0
) -> list[Request]:
    """Requests with prompts of these lengths, whose indices count from `first`."""
    wanted = [outputs] * len(prompts) if isinstance(outputs, int) else outputs
    return [
        Request(first + place, tuple(_text(length, start=place)), output, exact)
        for place, (length, output) in enumerate(zip(prompts, wanted, strict=True))
    ]


def replaced(requests: Sequence[Request], *, exact: bool, output: int) -> list[Request]:
    return [replace(request, exact=exact, max_output_tokens=output) for request in requests]


def _text(length: int, *, start: int) -> Iterator[int]:
    """Ordinary tokens, no two prompts alike: the ids up to 17 are the model's special ones."""
    for place in range(length):
        yield 1000 + (start * 7919 + place * 104_729) % (VOCABULARY - 2000)
