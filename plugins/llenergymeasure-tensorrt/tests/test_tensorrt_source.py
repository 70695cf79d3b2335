"""Does tensorrt_llm have every name that the adapter uses?

The adapter runs with a stand-in that notes each name. They are held against the list in
`tensorrt_llm_names.json` always, and against the package's own source where there is a copy: one
that is installed, one that TENSORRT_LLM_SOURCE names (a wheel, or a folder that holds tensorrt_llm), or the
wheel that pip finds. PyPI holds no wheel of it, only a placeholder that points to NVIDIA's index.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from fake_tensorrt import NAMES, Package, Used
from tensorrt_source import names, reader

from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.records import Request
from llenergymeasure_tensorrt import TensorrtBackend

VERSION = "1.2.1"
DOWNLOAD_S = 300.0


class Nobody:
    def batch(self, requests: object, t_ns: int) -> None:
        pass


def used() -> Used:
    """Every name of the package that the adapter touches, over all the ways it can take."""
    found: Used = {("tensorrt_llm", name) for name in ("LLM", "SamplingParams", "__version__", "llmapi")}
    found |= {("llmapi", name) for name in ("RequestError", "TorchLlmArgs", "QuantAlgo")}
    found |= {("tensorrt_llm", "_tensorrt_engine"), ("_tensorrt_engine", "LLM"), ("LLM", "args")}
    every: dict[str, Any] = {"model": "random:smollm2-135m", "backend": "tensorrt", "n": 1}
    sampled = {"temperature": 0.7, "repetition_penalty": 1.1}
    engine = {"sampler_type": "TRTLLMSampler", "tensor_parallel_size": 2, "pipeline_parallel_size": 2}
    quantised = {"backend": "tensorrt", "quant_config": {"quant_algo": "FP8"}}
    for changes in (
        {},
        {"output_length": "natural", "decoder": sampled, "tensorrt": {"engine": engine}},
        {"tensorrt": {"engine": quantised}},
    ):
        package = Package()
        config = ExperimentConfig.model_validate({**every, **changes})
        with TensorrtBackend(package, uuids=lambda _: ()).open(config) as session:
            exact = config.output_length == "exact"
            session.generate([Request(0, (1, 2), max_output_tokens=4, exact=exact)], Nobody())
            session.facts()
        found |= package.used
    # What the adapter makes for a model with several end tokens.
    found |= {("SamplingParams", "stop_token_ids"), ("SamplingParams", "include_stop_str_in_output")}
    return found


def test_the_list_has_every_name_that_the_adapter_uses() -> None:
    missing = {(kind, name) for kind, name in used() if name not in NAMES[kind]}
    assert not missing
    assert {("SamplingParams", "end_id"), ("KvCacheConfig", "enable_block_reuse")} <= used()


@pytest.mark.real
@pytest.mark.timeout(400)
def test_the_packages_own_source_has_every_name_that_the_adapter_uses() -> None:
    there = names(reader(_copy()))
    assert len(there["SamplingParams"]) > 20, "the copy was not read"
    missing = {(kind, name) for kind, name in used() if kind in there and name not in there[kind]}
    assert not missing


def test_names_are_read_from_source_inherited_nested_and_exported(tmp_path: Path) -> None:
    package = tmp_path / "tensorrt_llm"
    for folder in ("llmapi", "executor", "_tensorrt_engine", "bindings/executor"):
        (package / folder).mkdir(parents=True)
    sources = {
        "__init__.py": "from .llmapi import LLM\nfrom .version import __version__\n",
        "llmapi/__init__.py": "from .llm import LLM\n__all__ = ['LLM', 'KvCacheConfig']\n",
        "_tensorrt_engine/__init__.py": "from tensorrt_llm.llmapi.llm import _TrtLLM as LLM\n",
        "llmapi/llm.py": """
            class BaseLLM:
                def __init__(self, model, dtype: str = "auto", **kwargs):
                    self.args = kwargs
                def generate(self, inputs, sampling_params=None, use_tqdm=True): ...
                def shutdown(self): ...
            class LLM(BaseLLM):
                pass
        """,
        "llmapi/llm_args.py": """
            class BaseLlmArgs(StrictBaseModel):
                model: str = Field(description="x")
            class TorchLlmArgs(BaseLlmArgs):
                attn_backend: str = "TRTLLM"
        """,
        "executor/result.py": """
            class CompletionOutput:
                token_ids: list[int]
                @property
                def length(self): ...
        """,
        "bindings/executor/__init__.pyi": """
            class RequestPerfMetrics:
                class TimingMetrics:
                    first_token_time: timedelta
                timing_metrics: TimingMetrics
        """,
    }
    for name, text in sources.items():
        (package / name).write_text(dedent(text), encoding="utf-8")
    there = names(reader(tmp_path))
    assert there["LLM.__init__"] == {"self", "model", "dtype"}
    assert there["LLM.generate"] == {"self", "inputs", "sampling_params", "use_tqdm"}
    assert {"args", "shutdown", "generate"} <= there["LLM"]
    assert there["TorchLlmArgs"] == {"model", "attn_backend"}
    assert there["CompletionOutput"] == {"token_ids", "length"}
    assert there["TimingMetrics"] == {"first_token_time"}
    assert "KvCacheConfig" in there["llmapi"]
    assert there["_tensorrt_engine"] == {"LLM"}
    assert "TrtLlmArgs" not in there


def test_the_list_says_where_it_is_from() -> None:
    listed = json.loads(Path(__file__).with_name("tensorrt_llm_names.json").read_text())
    assert "NVIDIA/TensorRT-LLM" in listed["source"]


@cache
def _copy() -> Path:
    """A copy of the package; the test is skipped, with the reason, where there is none."""
    if named := os.environ.get("TENSORRT_LLM_SOURCE"):
        return Path(named)
    spec = importlib.util.find_spec("tensorrt_llm")
    if spec is not None and spec.origin is not None:
        return Path(spec.origin).parents[1]
    cache_home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache_home / "llem-tests"
    wheels = sorted(folder.glob("tensorrt_llm-*.whl"))
    return wheels[-1] if wheels else _downloaded(folder)


def _downloaded(folder: Path) -> Path:
    wanted = ["--only-binary=:all:", "--python-version=3.12", "--platform=linux_x86_64"]
    line = [sys.executable, "-m", "pip", "download", "--no-deps", *wanted, "-d", str(folder)]
    try:
        asked = subprocess.run(
            [*line, f"tensorrt-llm=={VERSION}"],
            capture_output=True,
            text=True,
            timeout=DOWNLOAD_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"the wheel of tensorrt-llm {VERSION} took more than {DOWNLOAD_S:.0f} s to download")
    if asked.returncode != 0:
        said = (asked.stderr.strip().splitlines() or ["no reason given"])[-1]
        pytest.skip(f"no wheel of tensorrt-llm {VERSION} here: {said}")
    return max(folder.glob("tensorrt_llm-*.whl"))
