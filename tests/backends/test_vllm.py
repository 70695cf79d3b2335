"""What holds of vLLM alone: its own arguments, its own batches, its own processes."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from pydantic import JsonValue
from tests.backends.engines import MODEL, asked

from llenergymeasure.backends import load_backend
from llenergymeasure.backends.vllm import VllmBackend
from llenergymeasure.backends.vllm.arguments import engine_arguments
from llenergymeasure.backends.vllm.loading import Loaded, loaded
from llenergymeasure.backends.vllm.processes import shared_memory
from llenergymeasure.backends.vllm.session import VllmSession
from llenergymeasure.config.models import ExperimentConfig
from llenergymeasure.exceptions import BackendError
from llenergymeasure.records import Request
from llenergymeasure.workload.prepared import prepared

WHY = VllmBackend().why_unavailable()
pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(600),
    pytest.mark.skipif(WHY is not None, reason=WHY or "available"),
]

# Each differs from vLLM's default and from llem's.
ENGINE: dict[str, JsonValue] = {
    "max_num_seqs": 3,
    "max_num_batched_tokens": 96,
    "block_size": 64,
    "kv_cache_memory_bytes": 300_000_000,
    "max_model_len": 320,
    "enable_prefix_caching": True,
    "skip_tokenizer_init": False,
    "generation_config": "vllm",
    "long_prefill_token_threshold": 64,
    "max_logprobs": 7,
}
# A token of the model's vocabulary that no prompt here would bring about.
TOKEN = 5000


class Nobody:
    def batch(self, requests: Sequence[Request], t_ns: int) -> None:
        pass


def configured(**changes: Any) -> ExperimentConfig:
    fields: dict[str, Any] = {
        "model": MODEL,
        "backend": "vllm",
        "n": 8,
        "precision": "fp32",
        "max_input_tokens": 256,
        "max_output_tokens": 24,
    }
    return ExperimentConfig.model_validate(fields | changes)


@pytest.fixture(scope="module")
def engine() -> Iterator[Loaded]:
    """One engine, whose sessions differ in what does not concern its start."""
    options = {**ENGINE, "scheduling_policy": "priority"}
    with loaded(configured(vllm={"engine": options})) as running:
        yield running


def session(engine: Loaded, **changes: Any) -> VllmSession:
    own = {"engine": {**ENGINE, "scheduling_policy": "priority"}, **changes.pop("vllm", {})}
    return VllmSession(engine, configured(vllm=own, **changes))


def outputs(session: VllmSession, requests: Sequence[Request]) -> tuple[tuple[int, ...], ...]:
    ids = session.generate(requests, Nobody()).output_ids
    assert ids is not None
    return ids


def arguments(session: VllmSession, part: str) -> Mapping[str, JsonValue]:
    found = session.facts().arguments[part]
    assert isinstance(found, dict)
    return found


def workload(n: int, *, tokens: int, exact: bool = True) -> list[Request]:
    """The built-in prompts, of 32 tokens at most."""
    config = configured(n=n, max_input_tokens=32, max_output_tokens=tokens)
    return [replace(request, exact=exact) for request in prepared(config).workload.requests]


@pytest.mark.parametrize("name", ENGINE)
def test_an_engine_argument_is_in_force(engine: Loaded, name: str) -> None:
    assert arguments(session(engine), "engine")[name] == ENGINE[name]


def test_the_cache_has_the_size_that_was_asked_for(engine: Loaded) -> None:
    held = session(engine).facts().kv_cache_bytes
    assert held is not None
    assert 290_000_000 < held <= 300_000_000


def test_an_argument_that_can_not_be_read_back_is_named_as_such(engine: Loaded) -> None:
    assert arguments(session(engine), "engine")["not_read_back"] == ["scheduling_policy"]


def test_the_requests_of_a_batch_share_their_first_step(engine: Loaded) -> None:
    for _ in range(3):
        done = session(engine).generate(asked([8, 20, 5], 3), Nobody()).completions
        assert len({one.t_first_ns for one in done}) == 1


def test_a_request_beyond_the_slots_waits_until_one_is_free(engine: Loaded) -> None:
    generation = session(engine).generate(asked([8, 8, 8, 8], [6, 12, 12, 4]), Nobody())
    *running, waiting = generation.completions
    assert waiting.t_first_ns is not None
    assert waiting.t_first_ns > min(one.t_end_ns for one in running)
    assert waiting.t_first_ns < max(one.t_end_ns for one in running)
    assert {one.t_sent_ns for one in generation.completions} == {waiting.t_sent_ns}


def test_a_prompt_is_cached_within_a_walk_and_read_again_in_the_next(engine: Loaded) -> None:
    one_by_one = session(engine, vllm={"batch_size": 1})
    same = asked([150], 2)[0]
    for _ in range(2):
        one_by_one.generate([same, replace(same, index=1)], Nobody())
        # Whole blocks of 64 tokens, for the second of the two alone.
        assert one_by_one.facts().arguments["prefix_cached_tokens"] == 128


@pytest.mark.parametrize(
    ("sampling", "shown", "wanted"),
    [
        ({"logit_bias": {str(TOKEN): 100}}, {str(TOKEN): 100.0}, {TOKEN}),
        ({"allowed_token_ids": [TOKEN, TOKEN + 1]}, [TOKEN, TOKEN + 1], {TOKEN, TOKEN + 1}),
    ],
)
def test_a_sampling_argument_is_in_force(
    engine: Loaded, sampling: dict[str, JsonValue], shown: JsonValue, wanted: set[int]
) -> None:
    biased = session(engine, vllm={"sampling": sampling})
    (ids,) = outputs(biased, asked([12], 5))
    assert set(ids) <= wanted
    (name,) = sampling
    assert arguments(biased, "sampling")[name] == shown


def test_a_stop_string_ends_a_natural_output(engine: Loaded) -> None:
    requests = workload(1, tokens=24, exact=False)
    whole = session(engine, output_length="natural")
    (ids,) = outputs(whole, requests)
    text = engine.llm.get_tokenizer().decode(ids[2])
    stopped = session(engine, output_length="natural", vllm={"sampling": {"stop": [text]}})
    generation = stopped.generate(requests, Nobody())
    assert generation.completions[0].output_tokens == 1 + ids.index(ids[2])
    assert generation.completions[0].finish == "eos"


@pytest.mark.parametrize(
    "decoder",
    [
        {"temperature": 1.0},
        {"temperature": 1.0, "top_p": 0.5},
        {"temperature": 1.0, "top_k": 5},
        {"repetition_penalty": 1.5},
    ],
)
def test_a_decoder_setting_changes_what_is_written(engine: Loaded, decoder: dict[str, float]) -> None:
    requests = workload(4, tokens=16)
    *before, last = decoder
    without = session(engine, decoder={name: decoder[name] for name in before})
    with_it = session(engine, decoder=decoder)
    assert outputs(with_it, requests) != outputs(without, requests)
    assert arguments(with_it, "sampling")[last] == decoder[last]


def test_one_candidate_or_one_hair_of_probability_is_greedy(engine: Loaded) -> None:
    requests = workload(4, tokens=12)
    greedy = outputs(session(engine), requests)
    assert outputs(session(engine, decoder={"temperature": 1.0, "top_k": 1}), requests) == greedy
    assert outputs(session(engine, decoder={"temperature": 1.0, "top_p": 1e-6}), requests) == greedy


def test_beam_search_writes_exact_lengths_and_tells_no_first_token(engine: Loaded) -> None:
    beams = session(engine, vllm={"beam_search": {"beam_width": 2, "length_penalty": 0.8}})
    generation = beams.generate(workload(2, tokens=6), Nobody())
    assert [done.output_tokens for done in generation.completions] == [6, 6]
    assert [done.t_first_ns for done in generation.completions] == [None, None]
    shown = arguments(beams, "beam_search")
    assert (shown["beam_width"], shown["length_penalty"], shown["max_tokens"]) == (2, 0.8, 24)


def test_one_beam_is_greedy(engine: Loaded) -> None:
    requests = workload(2, tokens=6, exact=False)
    beams = session(engine, output_length="natural", vllm={"beam_search": {"beam_width": 1}})
    assert outputs(beams, requests) == outputs(session(engine, output_length="natural"), requests)


def test_greedy_output_is_that_of_pytorch(engine: Loaded) -> None:
    requests = workload(6, tokens=24)
    fields = configured().model_dump(exclude={"vllm", "backend"}, exclude_defaults=True)
    config = ExperimentConfig.model_validate(
        {**fields, "backend": "pytorch", "pytorch": {"batch_size": 2, "threads": 1}}
    )
    with load_backend("pytorch").open(config) as other:
        expected = other.generate(requests, Nobody()).output_ids
    assert expected is not None
    found = outputs(session(engine), requests)
    parts = [where_they_part(one, two) for one, two in zip(found, expected, strict=True)]
    assert min(parts) >= 16, f"they part after {parts} tokens"


def where_they_part(one: Sequence[int], two: Sequence[int]) -> int:
    return next((place for place, (a, b) in enumerate(zip(one, two, strict=True)) if a != b), len(one))


def test_two_workers_share_random_weights_and_a_dead_core_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Left alone, vLLM wants a memory node for each worker.
    first, *_, last = sorted(os.sched_getaffinity(0))
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", f"{first}|{last}")
    config = configured(
        model="random:gpt2",
        precision="bf16",
        max_output_tokens=700,
        vllm={"engine": {"tensor_parallel_size": 2}},
    )
    before = set(psutil.Process().children(recursive=True))
    with loaded(config) as running:
        workers = VllmSession(running, config)
        assert [len(ids) for ids in outputs(workers, asked([5, 9], 4))] == [4, 4]
        facts = workers.facts()
        assert facts.device == "cpu, cpu"
        assert arguments(workers, "engine")["tensor_parallel_size"] == 2
        assert arguments(workers, "engine")["load_format"] == "dummy"
        assert facts.weights_bytes == pytest.approx(2 * 124_439_808, rel=0.02)
        assert facts.peak_bytes is not None
        memory = shared_memory(running.processes)
        assert memory
        assert all(path.exists() for path in memory)
        core = next(process for process in running.processes if "EngineCore" in process.name())
        threading.Timer(1.0, core.kill).start()
        with pytest.raises(BackendError, match=r"process .*ended while"):
            workers.generate(asked([5, 5], 700), Nobody())
        with pytest.raises(BackendError, match="ended while it was asked for its memory"):
            workers.facts()
    assert [path for path in memory if path.exists()] == []
    left = set(psutil.Process().children(recursive=True)) - before
    assert [process for process in left if "tracker" not in " ".join(process.cmdline())] == []


def test_an_engine_that_dies_while_it_loads_is_one_error_and_leaves_nothing() -> None:
    this = psutil.Process()
    before = set(this.children(recursive=True))

    def engines() -> list[psutil.Process]:
        new = set(this.children(recursive=True)) - before
        return [one for one in new if "tracker" not in " ".join(one.cmdline())]

    def kill() -> None:
        while not engines():
            time.sleep(0.1)
        engines()[0].kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(BackendError, match="a process of the engine ended meanwhile"), loaded(configured()):
        pass
    killer.join()
    assert engines() == []


def test_an_adapter_changes_what_is_written(tmp_path: Path) -> None:
    adapter(tmp_path, rank=4)
    config = configured(lora={"path": str(tmp_path)}, max_output_tokens=8)
    with loaded(config) as running:
        changed = VllmSession(running, config)
        plain = VllmSession(replace(running, lora=None), config)
        requests = workload(2, tokens=8)
        assert outputs(changed, requests) != outputs(plain, requests)
        assert arguments(changed, "engine")["max_lora_rank"] == 8
        assert changed.facts().arguments["lora"] == str(tmp_path)


def adapter(folder: Path, *, rank: int) -> None:
    """An adapter as peft saves it, on the queries of the first layer, large enough to be seen."""
    from safetensors.numpy import save_file

    draws = np.random.default_rng(0)
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    weights = {
        f"{name}.lora_A.weight": draws.normal(0, 1, (rank, 576)).astype("float32"),
        f"{name}.lora_B.weight": draws.normal(0, 1, (576, rank)).astype("float32"),
    }
    save_file(weights, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": rank, "lora_alpha": 16, "target_modules": ["q_proj"]})
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"vllm": {"engine": {"max_num_seq": 2}}}, "no such argument; did you mean max_num_seqs?"),
        ({"vllm": {"sampling": {"min_pp": 0.1}}}, "no such argument; did you mean min_p?"),
        ({"vllm": {"beam_search": {"beam_witdh": 2}}}, "no such argument; did you mean beam_width?"),
        ({"vllm": {"sampling": {"_eos_token_id": 2}}}, "no such argument"),
        ({"vllm": {"engine": {"dtype": "float16"}}}, "vllm.engine.dtype is decided by precision"),
        ({"vllm": {"engine": {"seed": 1}}}, "vllm.engine.seed is decided by random_seed"),
        ({"vllm": {"engine": {"disable_log_stats": True}}}, "is decided by llem itself"),
        ({"vllm": {"sampling": {"max_tokens": 3}}}, "is decided by max_output_tokens"),
        ({"vllm": {"sampling": {"temperature": 1}}}, "is decided by decoder.temperature"),
        ({"vllm": {"sampling": {"n": 2}}}, "a request has one output"),
        ({"vllm": {"beam_search": {"beam_width": 2, "temperature": 1}}}, "decided by decoder.temperature"),
        ({"vllm": {"sampling": {"stop": "."}}}, "--set output_length=natural"),
        ({"vllm": {"beam_search": {"beam_width": 2}, "sampling": {"min_p": 0.1}}}, "remove one of the two"),
        ({"vllm": {"beam_search": {"beam_width": 2}}, "decoder": {"top_k": 5}}, "takes no decoder.top_p"),
        ({"vllm": {"engine": {"max_model_len": 279}}}, "max_model_len 279 is less than max_input_tokens 256"),
        ({"vllm": {"engine": {"max_model_len": "abc"}}}, "vllm.engine.max_model_len takes int, not 'abc'"),
        (
            {"vllm": {"engine": {"speculative_config": 3}}},
            "vllm.engine.speculative_config takes dict[str, Any]",
        ),
        ({"vllm": {"engine": {"tensor_parallel_size": True}}}, "tensor_parallel_size takes int, not True"),
        ({"vllm": {"sampling": {"presence_penalty": "high"}}}, "presence_penalty takes float, not 'high'"),
        ({"vllm": {"beam_search": {"beam_width": 2.5}}}, "vllm.beam_search.beam_width takes int, not 2.5"),
        ({"precision": "int8"}, "vllm.engine.quantization"),
        ({"lora": {"path": "adapter", "merged": True}}, "lora.merged is true"),
    ],
)
def test_what_would_be_passed_over_in_silence_is_refused(changes: dict[str, Any], reason: str) -> None:
    why = VllmBackend().why_refused(configured(**changes))
    assert why is not None
    assert reason in str(why)


def test_what_vllm_takes_is_not_refused() -> None:
    engine: dict[str, JsonValue] = {
        "max_num_seqs": 2,
        "kv_cache_dtype": "auto",
        "max_model_len": 280,
        "gpu_memory_utilization": 1,
        "compilation_config": 0,
        "hf_overrides": {},
        "quantization": None,
        "served_model_name": ["a", "b"],
    }
    taken = {"engine": engine, "sampling": {"min_p": 0.1, "presence_penalty": 1, "bad_words": None}}
    assert VllmBackend().why_refused(configured(vllm=taken)) is None
    assert VllmBackend().why_refused(configured(vllm={"beam_search": {"beam_width": 2}})) is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"vllm": {"sampling": {"min_p": 3.0}}}, "vllm.sampling: min_p must be in"),
        ({"vllm": {"sampling": {"bad_words": [3]}}}, "Expected `str`, got `int`"),
        ({"vllm": {"beam_search": {"length_penalty": 1.0}}}, "required field `beam_width`"),
        ({"vllm": {"engine": {"max_model_len": 100_000}}}, "max_model_len"),
        ({"vllm": {"engine": {"kv_cache_dtype": "int3"}}}, "Input should be"),
        ({"lora": {"path": "nowhere"}}, "nowhere/adapter_config.json"),
    ],
)
def test_a_value_that_vllm_refuses_is_one_line_before_anything_is_loaded(
    changes: dict[str, Any], said: str
) -> None:
    before = len(psutil.Process().children(recursive=True))
    with pytest.raises(BackendError) as refused, loaded(configured(**changes)):
        pass
    assert said in refused.value.message
    assert "\n" not in refused.value.message
    assert len(psutil.Process().children(recursive=True)) <= before + 1  # the tracker of shared memory


def test_a_cache_too_small_for_one_request_is_a_lack_of_memory() -> None:
    config = configured(vllm={"engine": {"kv_cache_memory_bytes": 1_000_000}})
    with pytest.raises(MemoryError, match="No available memory for the cache"), loaded(config):
        pass


def test_what_is_not_asked_for_is_chosen_for_passes_that_replay_their_prompts() -> None:
    arguments = engine_arguments(configured(), is_cpu=True, has_tokenizer=True)
    assert arguments["enable_prefix_caching"] is False
    assert arguments["max_model_len"] == 256 + 24
    assert arguments["enforce_eager"] is True
    assert arguments["skip_tokenizer_init"] is True
    on_gpu = engine_arguments(configured(), is_cpu=False, has_tokenizer=True)
    assert "enforce_eager" not in on_gpu
    asked_for = configured(vllm={"engine": {"enable_prefix_caching": True}})
    assert engine_arguments(asked_for, is_cpu=False, has_tokenizer=True)["enable_prefix_caching"] is True
    texts = configured(vllm={"sampling": {"bad_words": ["no"]}})
    assert engine_arguments(texts, is_cpu=False, has_tokenizer=True)["skip_tokenizer_init"] is False
    assert engine_arguments(texts, is_cpu=False, has_tokenizer=False)["skip_tokenizer_init"] is True
