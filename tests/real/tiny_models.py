"""Tiny models for PyTorch, and short ways to run them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import JsonValue

from llenergymeasure.backends.pytorch import PytorchBackend
from llenergymeasure.backends.pytorch.session import opened
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import BackendError, LLEMError, PreFlightError
from llenergymeasure.records import Completion, Generation, Request

VOCAB = 97
HIDDEN = 32  # in four heads
LAYERS = 2
KV_HEADS = 2
HEAD_DIM = 8


class Log:
    def __init__(self) -> None:
        self.batches: list[tuple[list[int], int]] = []

    def batch(self, requests: Sequence[Request], t_ns: int) -> None:
        self.batches.append(([request.index for request in requests], t_ns))


def save_tiny_llama(
    folder: Path,
    *,
    eos: int | list[int] | None = None,
    hidden: int = HIDDEN,
    seed: int = 7,
    **decoding: Any,
) -> Path:
    """A random Llama of 20 thousand weights, wide enough in spread that its greedy choices differ."""
    import torch
    import transformers

    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=hidden,
            intermediate_size=2 * hidden,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            num_key_value_heads=KV_HEADS,
            head_dim=hidden // 4,
            max_position_embeddings=256,
            initializer_range=0.5,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=None,
        ),
        dtype=torch.float32,
    )
    model.generation_config = transformers.GenerationConfig(eos_token_id=eos, **decoding)
    model.save_pretrained(folder)
    return folder


def configured(
    model: Path | str,
    *,
    precision: str = "fp32",
    n: int = 100,
    decoder: dict[str, JsonValue] | None = None,
    also: dict[str, JsonValue] | None = None,
    **pytorch: JsonValue,
) -> ExperimentConfig:
    return ExperimentConfig.model_validate(
        {
            "model": str(model),
            "precision": precision,
            "n": n,
            "max_input_tokens": 32,
            "max_output_tokens": 16,
            "decoder": decoder or {},
            **(also or {}),
            # Threads that share busy cores wait for each other at every layer: ten times slower on 2 cores.
            "pytorch": {"device": "cpu", "threads": 1, **pytorch},
        }
    )


def prompt(length: int, *, start: int = 1) -> tuple[int, ...]:
    return tuple((start + 13 * place) % VOCAB for place in range(length))


def asked(lengths: Sequence[int], *, output: int = 8, exact: bool = True) -> list[Request]:
    return [
        Request(index, prompt(length, start=index + 1), output, exact) for index, length in enumerate(lengths)
    ]


def walk(config: ExperimentConfig, requests: Sequence[Request]) -> Generation:
    with opened(config) as session:
        return session.generate(requests, Log())


def tokens(config: ExperimentConfig, requests: Sequence[Request], *, batch: int) -> list[list[int]]:
    with opened(config) as session:
        return [
            row
            for start in range(0, len(requests), batch)
            for row in session._run(requests[start : start + batch]).tokens
        ]


def counts(generation: Generation) -> list[int]:
    return [done.output_tokens for done in generation.completions]


def assert_ordered(completions: Sequence[Completion]) -> None:
    for done in completions:
        assert done.t_first_ns is not None
        assert done.t_scheduled_ns == done.t_sent_ns < done.t_first_ns <= done.t_end_ns


def copied(tiny: Path, folder: Path) -> Path:
    return Path(shutil.copytree(tiny, folder / "model"))


def opening(config: ExperimentConfig) -> LLEMError:
    with pytest.raises((BackendError, PreFlightError)) as caught, PytorchBackend().open(config):
        pass
    return caught.value
