"""A stand-in for the package tensorrt_llm: it takes only names that the real one has, and notes which.

The names are those of `tensorrt_llm_names.json`.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

NAMES: dict[str, list[str]] = json.loads(
    (Path(__file__).parent / "tensorrt_llm_names.json").read_text(encoding="utf-8")
)
END = 7

Used = set[tuple[str, str]]


class RequestError(RuntimeError):
    pass


class Noted:
    """An object of the real package's class `kind`; whoever reads another attribute than it has fails."""

    def __init__(self, kind: str, used: Used, values: dict[str, Any]) -> None:
        self._kind, self._used, self._values = kind, used, values

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in NAMES[self._kind]:
            raise AttributeError(f"{self._kind} has no {name}")
        self._used.add((self._kind, name))
        return self._values.get(name)


def _fields_class(kind: str, used: Used) -> type:
    """Like a strict pydantic model: the fields of that class, None where they are not given."""

    def init(self: Any, **given: Any) -> None:
        for name in given:
            if name not in NAMES[kind]:
                raise ValueError(f"{kind} has no field {name}")
            used.add((kind, name))
        for name in NAMES[kind]:
            setattr(self, name, given.get(name))

    return type(kind, (), {"__init__": init, "model_fields": dict.fromkeys(NAMES[kind])})


def _sampling_class(used: Used) -> type:
    def post_init(self: Any) -> None:
        used.update(
            ("SamplingParams", field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) is not None
        )

    fields: list[tuple[str, Any, Any]] = [
        (name, Any, dataclasses.field(default=None)) for name in NAMES["SamplingParams"]
    ]
    return dataclasses.make_dataclass(
        "SamplingParams", fields, kw_only=True, namespace={"__post_init__": post_init}
    )


def answer(prompt: Sequence[int], parameters: Any) -> dict[str, Any]:
    """As many tokens as may be, or three where the end is heeded; times within the call."""
    tokens = [len(prompt) % 5 + 10] * parameters.max_tokens
    finish = "length"
    if not parameters.ignore_eos and parameters.end_id != -1 and parameters.max_tokens > 2:
        tokens, finish = [*tokens[:2], parameters.end_id], "stop"
    first_us = time.monotonic_ns() // 1000
    time.sleep(0.002)
    return {
        "token_ids": tokens,
        "finish_reason": finish,
        "first": timedelta(microseconds=first_us),
        "last": timedelta(microseconds=time.monotonic_ns() // 1000),
    }


class Package:
    """The module. `answers` makes one output of a prompt and its parameters; `fails` is raised by loading."""

    def __init__(
        self,
        *,
        answers: Callable[[Sequence[int], Any], dict[str, Any]] = answer,
        fails: Exception | None = None,
        version: str = "1.2.0",
        has_engines: bool = True,
    ) -> None:
        self.used: Used = set()
        self.llms: list[Any] = []
        self.prompts: list[list[int]] = []
        self.parameters: list[Any] = []
        self.__version__ = version
        self.SamplingParams = _sampling_class(self.used)
        config_classes = ("BuildConfig", "KvCacheConfig", "QuantConfig", "TorchLlmArgs", "TrtLlmArgs")
        self.llmapi = SimpleNamespace(
            RequestError=RequestError,
            QuantAlgo=enum.Enum("QuantAlgo", {"FP8": "FP8", "W8A16": "W8A16", "W4A16": "W4A16"}),
            **{kind: _fields_class(kind, self.used) for kind in config_classes},
        )
        self.LLM = self._llm_class("TorchLlmArgs", answers, fails)
        if has_engines:
            self._tensorrt_engine = SimpleNamespace(LLM=self._llm_class("TrtLlmArgs", answers, fails))

    def _llm_class(
        self,
        fields: str,
        answers: Callable[[Sequence[int], Any], dict[str, Any]],
        fails: Exception | None,
    ) -> Any:
        package = self

        class LLM:
            def __init__(
                self, model: str, dtype: str = "auto", skip_tokenizer_init: bool = False, **kwargs: Any
            ) -> None:
                if fails is not None:
                    raise fails
                package.used.update(
                    ("LLM.__init__", name) for name in ("model", "dtype", "skip_tokenizer_init")
                )
                self.args = getattr(package.llmapi, fields)(
                    model=model, dtype=dtype, skip_tokenizer_init=skip_tokenizer_init, **kwargs
                )
                self.is_open = True
                package.llms.append(self)

            def generate(self, inputs: Any, sampling_params: Any, use_tqdm: bool = True) -> list[Any]:
                package.used.update(
                    ("LLM.generate", name) for name in ("inputs", "sampling_params", "use_tqdm")
                )
                assert not use_tqdm, "a progress bar has no place in a measured window"
                package.prompts += inputs
                package.parameters += sampling_params
                return [
                    package.output(answers(prompt, one))
                    for prompt, one in zip(inputs, sampling_params, strict=True)
                ]

            def shutdown(self) -> None:
                package.used.add(("LLM", "shutdown"))
                self.is_open = False

        return LLM

    def output(self, made: dict[str, Any]) -> Noted:
        metrics = None
        if "first" in made:
            timing = {"first_token_time": made["first"], "last_token_time": made["last"]}
            metrics = Noted(
                "RequestPerfMetrics",
                self.used,
                {"timing_metrics": Noted("TimingMetrics", self.used, timing)},
            )
        values = {**made, "request_perf_metrics": metrics}
        return Noted("RequestOutput", self.used, {"outputs": [Noted("CompletionOutput", self.used, values)]})
